"""Intervals where the bootstrap cannot move."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from mura_utils.evaluation import evaluate_abnormality, interval_table, side_by_side


def judged(truth: str, p: list[float], patients: str) -> dict:
    """Metrics of rows named by letters: A abnormal, N normal; a letter a patient."""
    abnormality = pd.Series([{"A": "Abnormal", "N": "Normal"}[kind] for kind in truth])
    return evaluate_abnormality(abnormality, np.array(p), pd.Series([*patients]), bootstrap=200)


def by_wilson(successes: int, patients: int) -> dict:
    low, high = binomtest(successes, patients).proportion_ci(method="wilson")
    return {"low": low, "high": high, "interval": "wilson"}


@pytest.fixture
def perfect() -> dict:
    """Nine rows of six patients; three have abnormal rows, four have normal ones."""
    return judged("AAAAANNNN", [0.9] * 5 + [0.1] * 4, "aabbccdef")


def test_a_share_without_an_error_gets_wilsons_interval_over_its_patients(perfect):
    for name, patients in {"accuracy": 6, "sensitivity": 3, "specificity": 4, "ppv": 3}.items():
        assert perfect[name] == {"value": 1, "undefined": perfect[name]["undefined"]} | by_wilson(
            patients, patients
        ), name
    # three patients with abnormal rows, four with normal ones: three pairs that share no patient
    assert perfect["auroc"] == perfect["sensitivity"] | {"undefined": perfect["auroc"]["undefined"]}


def test_a_share_of_nothing_gets_it_from_below():
    nothing = judged("AANN", [0.1, 0.2, 0.1, 0.2], "abcd")
    assert nothing["sensitivity"]["value"] == 0
    assert {k: nothing["sensitivity"][k] for k in ("low", "high", "interval")} == by_wilson(0, 2)


def test_what_is_no_share_gets_no_interval_rather_than_certainty(perfect):
    for name in ("kappa", "mcc", "f1", "auprc", "partial_auroc", "balanced_accuracy"):
        record = perfect[name]
        assert record["value"] == pytest.approx(1)
        assert (record["low"], record["high"], record["interval"]) == (None, None, "none"), name


def test_an_interval_with_width_and_a_constant_auroc_stay_the_bootstraps():
    mixed = judged("AAANNN", [0.9, 0.9, 0.1, 0.1, 0.1, 0.9], "abcdef")
    assert "interval" not in mixed["sensitivity"]
    assert mixed["sensitivity"]["low"] < mixed["sensitivity"]["high"]
    constant = judged("AAANNN", [0.7] * 6, "abcdef")["auroc"]
    assert (constant["low"], constant["value"], constant["high"]) == (0.5, 0.5, 0.5)


def test_one_patient_gives_no_interval():
    alone = judged("AANN", [0.9, 0.1, 0.1, 0.1], "aaaa")
    assert alone["accuracy"]["value"] == 0.75
    assert (alone["accuracy"]["low"], alone["accuracy"]["interval"]) == (None, "none")
    specificity = {k: alone["specificity"][k] for k in ("low", "high", "interval")}
    assert specificity == by_wilson(1, 1)


def test_without_resamples_there_is_no_interval_of_any_kind():
    found = evaluate_abnormality(
        pd.Series(["Abnormal"]), np.array([0.9]), pd.Series(["a"]), bootstrap=0
    )
    assert found["sensitivity"] == {"value": 1, "low": None, "high": None, "undefined": 0}


def test_tables_say_which_interval_it_is(perfect):
    table = interval_table({"test": perfect}, "split").set_index("metric")
    assert table.loc[["ppv", "kappa"], "interval"].tolist() == ["wilson", "none"]
    shown = side_by_side(interval_table({"test": perfect}, "split"), "split")["test"]
    low = perfect["ppv"]["low"]
    assert (shown["ppv"], shown["kappa"]) == (f"1.000 [{low:.3f}, 1.000] W", "1.000")
