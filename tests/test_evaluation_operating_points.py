"""Thresholds that a rule chooses on validation, and what is said where it cannot."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mura_utils.evaluation import (
    choose_operating_point,
    evaluate,
    judge_operating_point,
    operating_point,
    predictions_frame,
)

CLASSES = ["Abnormal-HAND", "Normal-HAND"]
RULES = ("threshold", "youden", "sensitivity", "specificity")
SHARES = st.floats(0.01, 1) | st.sampled_from([0.1, 0.25, 0.5, 0.9, 1.0])
VALUES = st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0]) | st.floats(0, 1), min_size=1, max_size=30)


def rates(abnormal, normal, threshold) -> tuple[float, float]:
    return np.mean(np.array(abnormal) > threshold), np.mean(np.array(normal) <= threshold)


@given(VALUES, VALUES, SHARES)
@settings(max_examples=200, deadline=None)
def test_no_other_threshold_serves_a_rule_better(abnormal, normal, target):
    truth = pd.Series(["Abnormal"] * len(abnormal) + ["Normal"] * len(normal))
    p = pd.Series([*abnormal, *normal])
    others = [(t, *rates(abnormal, normal, t)) for t in [-1.0, *abnormal, *normal]]

    chosen = operating_point(truth, p, "specificity", target)
    assert rates(abnormal, normal, chosen)[1] >= target
    assert all(t >= chosen for t, _, specificity in others[1:] if specificity >= target)

    chosen = operating_point(truth, p, "sensitivity", target)
    assert rates(abnormal, normal, chosen)[0] >= target
    assert all(t <= chosen for t, sensitivity, _ in others if sensitivity >= target)

    chosen = operating_point(truth, p, "youden")
    best = max(sensitivity + specificity for _, sensitivity, specificity in others)
    assert sum(rates(abnormal, normal, chosen)) == pytest.approx(best)


@pytest.mark.parametrize("rule", ["specificity", "youden"])
def test_without_normal_rows_no_threshold_is_offered(rule):
    assert operating_point(pd.Series(["Abnormal"]), pd.Series([0.4]), rule) == np.inf


def studies(labels: str, p: list[float]) -> pd.DataFrame:
    """One image a study and a study a patient; A abnormal, N normal."""
    names = [{"A": CLASSES[0], "N": CLASSES[1]}[kind] for kind in labels]
    numbers = [str(number) for number in range(len(labels))]
    rows = pd.DataFrame({"path": numbers, "patient": numbers, "study": numbers, "label": names})
    rows["abnormality"] = rows["label"].str.partition("-")[0]
    rows = rows.assign(body_part="HAND", split="validation")
    return predictions_frame(rows, CLASSES, np.stack([p, 1 - np.array(p)], axis=1))


def test_the_record_says_what_was_chosen_where_and_by_which_rule():
    point = choose_operating_point(studies("NNNAA", [0.1, 0.2, 0.3, 0.25, 0.8]), "youden", 0.9, 0.5)
    assert point == {
        "rule": "youden",
        "target": None,
        "threshold": pytest.approx(0.2),
        "split": "validation",
        "level": "binary_study",
        "note": None,
    }


@pytest.mark.parametrize(
    ("labels", "rules", "lacks"),
    [("AA", ("youden", "specificity"), "normal"), ("NN", ("youden", "sensitivity"), "abnormal")],
)
def test_a_rule_that_validation_cannot_serve_says_so_and_keeps_the_convention(labels, rules, lacks):
    for rule in RULES:
        point = choose_operating_point(studies(labels, [0.3, 0.4]), rule, 0.9, 0.5)
        if rule in rules:
            assert (point["rule"], point["target"], point["threshold"]) == ("threshold", None, 0.5)
            assert point["note"].startswith(f"Validation has no {lacks} study")
        else:
            assert (point["rule"], point["note"]) == (rule, None)
        json.dumps(point, allow_nan=False)


def test_an_empty_validation_keeps_the_convention():
    nothing = studies("AN", [0.3, 0.4]).head(0)
    assert {choose_operating_point(nothing, rule, 0.9, 0.5)["threshold"] for rule in RULES} == {0.5}


def test_the_metrics_at_it_are_those_of_evaluate_per_study():
    test = studies("NANANAANNA", np.linspace(0.1, 0.9, 10))
    point = choose_operating_point(test, "sensitivity", 0.8, 0.5)
    judged = judge_operating_point(test, point, bootstrap=50)
    expected = evaluate(test, point["threshold"], bootstrap=50)["binary_study"]
    assert judged == {**point, "metrics": expected}
    assert judged["metrics"]["sensitivity"]["value"] >= 0.8
