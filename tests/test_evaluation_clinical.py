"""Studies set aside, and the decision curve."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from mura_utils.evaluation import clinical
from mura_utils.evaluation.clinical import decision_curve, set_aside, set_aside_threshold


def studies(truth, p, patients=None) -> pd.DataFrame:
    names = np.arange(len(truth)).astype(str) if patients is None else patients
    kinds = np.where(np.asarray(truth, bool), "Abnormal", "Normal")
    return pd.DataFrame(
        {"patient": names, "abnormality": kinds, "p_abnormal": np.asarray(p, float)}
    )


def random_studies(count: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    truth = rng.random(count) < 0.3
    p = np.round(1 / (1 + np.exp(-rng.normal(2 * truth - 1, 1))), 2)  # with ties
    return studies(truth, p, rng.integers(count // 2, size=count).astype(str))


# --- set aside ----------------------------------------------------------------------------------


@pytest.mark.parametrize("npv", [0.8, 0.9, 0.95])
def test_the_threshold_sets_aside_the_most_that_keep_the_value(npv):
    table = random_studies(300)
    threshold = set_aside_threshold(table["abnormality"], table["p_abnormal"], npv)

    def reached(at):
        return (table.loc[table["p_abnormal"] <= at, "abnormality"] == "Normal").mean()

    assert reached(threshold) >= npv
    higher = [p for p in table["p_abnormal"].unique() if p > threshold]
    assert higher
    assert all(reached(p) < npv for p in higher)


def test_a_share_that_is_met_exactly_is_met():
    truth = [0] * 19 + [1] + [1] * 5
    p = np.linspace(0.1, 0.9, 25)
    table = studies(truth, p)
    assert set_aside_threshold(table["abnormality"], table["p_abnormal"], 0.95) == p[19]


@pytest.mark.parametrize("truth", [[0, 0, 0], [1, 1, 1], [1, 0, 0]])
def test_without_both_kinds_or_with_the_surest_normal_abnormal_nothing_is_set_aside(truth):
    validation = studies(truth, [0.1, 0.2, 0.3])
    found = set_aside(validation, random_studies(50), 0.95, bootstrap=50)
    assert found["threshold"] is None
    assert not found["supported"]
    assert (found["test"]["studies"], found["test"]["npv"]["value"]) == (0, None)
    assert found["test"]["share"]["value"] == 0
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("npv", "enough"), [(0.95, 147), (0.98, 377), (0.99, 762)], ids=["95", "98", "99"]
)
def test_validation_supports_a_value_from_so_many_patients_on(npv, enough):
    for patients, supported in ((enough, True), (enough - 1, False)):
        validation = studies([0] * patients + [1] * 30, [0.1] * patients + [0.9] * 30)
        found = set_aside(validation, random_studies(50), npv, bootstrap=20)
        assert found["supported"] is supported
    twice = studies([0] * enough * 2 + [1] * 30, [0.1] * enough * 2 + [0.9] * 30)
    twice["patient"] = [str(row // 4) for row in range(len(twice))]
    assert not set_aside(twice, random_studies(50), npv, bootstrap=20)["supported"]


def test_a_value_that_is_missed_everywhere_is_seldom_supported():
    rng = np.random.default_rng(0)
    supported = 0
    for _ in range(300):
        truth = rng.random(400) < 0.051
        validation = studies(truth, rng.random(400))
        found = set_aside(validation, random_studies(50), 0.95, bootstrap=1)
        supported += found["supported"]
    assert supported <= 0.05 * 300


def test_misses_count_a_patient_once_and_support_does_not_hang_on_the_chosen_threshold():
    truth = [0] * 200 + [1] * 60
    validation = studies(truth, [0.1] * 200 + [0.2] * 60)
    validation.loc[:9, ["p_abnormal", "abnormality"]] = [0.15, "Abnormal"]
    found = set_aside(validation, random_studies(50), 0.95, bootstrap=20)
    assert found["threshold"] == 0.15
    assert found["validation"]["low"] < 0.95, "190 of 200 are normal, just enough"
    assert found["supported"], "up to 0.1 all 190 are normal"
    validation.loc[validation["p_abnormal"] == 0.1, "p_abnormal"] = 0.15
    assert not set_aside(validation, random_studies(50), 0.95, bootstrap=20)["supported"]
    validation.loc[:9, "patient"] = "one"
    assert set_aside(validation, random_studies(50), 0.95, bootstrap=20)["supported"]


def test_the_test_set_is_counted_and_not_chosen_on():
    validation = studies([0, 0, 0, 1], [0.1, 0.2, 0.3, 0.8])
    test = studies([0, 1, 0, 1, 0], [0.1, 0.25, 0.3, 0.31, 0.9])
    found = set_aside(validation, test, 0.95, bootstrap=200)
    assert found["threshold"] == 0.3
    assert (found["test"]["studies"], found["test"]["missed"]) == (3, 1)
    assert found["test"]["npv"]["value"] == pytest.approx(2 / 3)
    assert found["test"]["share"]["value"] == pytest.approx(0.6)


def test_without_a_miss_the_interval_has_a_width():
    validation = studies([0, 0, 0, 1], [0.1, 0.2, 0.3, 0.8])
    test = studies([0] * 20 + [1], [0.1] * 20 + [0.9])
    npv = set_aside(validation, test, 0.95, bootstrap=200)["test"]["npv"]
    assert npv["value"] == npv["high"] == 1
    assert npv["low"] == pytest.approx(20 / (20 + 1.96**2), abs=1e-3)


# --- decision curve -----------------------------------------------------------------------------


def test_the_net_benefit_is_that_of_the_definition():
    table = random_studies(200)
    truth = table["abnormality"] == "Abnormal"
    for row in decision_curve(table, bootstrap=0):
        t = row["threshold"]
        called = table["p_abnormal"] > t
        by_hand = (called & truth).mean() - (called & ~truth).mean() * t / (1 - t)
        everyone = truth.mean() - (~truth).mean() * t / (1 - t)
        assert row["model"]["value"] == pytest.approx(by_hand)
        assert row["treat_all"]["value"] == pytest.approx(everyone)
        assert row["gain"]["value"] == pytest.approx(by_hand - max(everyone, 0))


def test_a_perfect_model_has_the_prevalence_and_a_flipped_one_is_worse_than_none():
    truth = np.arange(40) < 10
    perfect = decision_curve(studies(truth, truth), bootstrap=0)
    assert {round(row["model"]["value"], 9) for row in perfect} == {0.25}
    flipped = decision_curve(studies(truth, ~truth), bootstrap=0)
    assert all(row["model"]["value"] < 0 for row in flipped)


def test_the_gains_interval_is_paired():
    row = decision_curve(random_studies(300), [0.1], bootstrap=400)[0]
    width = {name: row[name]["high"] - row[name]["low"] for name in ("model", "gain")}
    assert 0 < width["gain"] < width["model"]


# --- metrics.json -------------------------------------------------------------------------------


def test_clinical_use_is_json_without_nan_for_a_validation_of_one_image():
    rng = np.random.default_rng(0)
    names = [str(row) for row in range(31)]
    rows = pd.DataFrame({"path": names, "patient": names, "study": names, "body_part": "HAND"})
    rows["abnormality"] = ["Normal", *["Normal", "Abnormal"] * 15]
    rows["split"] = ["validation"] + ["test"] * 30
    rows["p:Abnormal-HAND"] = rng.random(31)
    rows["p:Normal-HAND"] = 1 - rows["p:Abnormal-HAND"]
    use = clinical.clinical_use(rows, bootstrap=20)
    json.dumps(use, allow_nan=False)
    assert {"worklist", "set_aside", "decision_curve"} == use.keys()
    assert [row["target"] for row in use["set_aside"]] == [0.95, 0.98, 0.99]
    assert use == clinical.clinical_use(rows, bootstrap=20)
