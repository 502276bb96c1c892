"""Temperature scaling and errors of calibration, on predictions whose calibration is planted."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from mapie.metrics.calibration import expected_calibration_error
from planted import CLASSES, both_splits, planted
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from mura_utils.evaluation.calibration import (
    at_temperature,
    calibration_metrics,
    calibration_record,
    calibration_table,
    fit_temperature,
)
from mura_utils.evaluation.metrics import evaluate
from mura_utils.labels import p_abnormal, probabilities_of


@pytest.mark.parametrize("question", ["abnormal", "top_label"])
def test_a_planted_calibrated_model_is_within_its_chance_range_and_an_extreme_one_is_not(question):
    calibrated = calibration_metrics(planted(2000), bootstrap=0)[question]
    chance = calibrated["ece_if_calibrated"]
    assert 0 < chance["low"] < calibrated["ece"]["value"] < chance["high"]
    extreme = calibration_metrics(planted(2000, temperature=2.5), bootstrap=0)[question]
    assert extreme["ece"]["value"] > 3 * extreme["ece_if_calibrated"]["high"]


def test_the_chance_range_holds_95_percent_of_calibrated_models():
    inside = 0
    for seed in range(100):
        found = calibration_metrics(planted(300, seed=seed), bootstrap=0)["abnormal"]
        chance = found["ece_if_calibrated"]
        inside += chance["low"] <= found["ece"]["value"] <= chance["high"]
    assert 89 <= inside <= 100


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_planted_temperature_is_recovered(temperature):
    fitted = fit_temperature(planted(2000, temperature, "validation"))
    assert fitted["temperature"] == pytest.approx(temperature, rel=0.08)
    assert fitted == fitted | {"split": "validation", "not_fitted": None}


def test_a_class_without_validation_images_does_not_move_the_fit():
    frame = planted(4000, 2.0, "validation")
    frame = frame[frame["label"] != CLASSES[0]]
    expected = min(
        np.arange(0.5, 4, 0.01),
        key=lambda t: log_loss(
            frame["label"],
            at_temperature(probabilities_of(frame).to_numpy(), t),
            labels=CLASSES,
        ),
    )
    assert fit_temperature(frame)["temperature"] == pytest.approx(expected, abs=0.01)


def test_one_body_part_has_two_classes():
    frame = planted(3000, 2.0, "validation", classes=["Abnormal-HAND", "Normal-HAND"])
    assert fit_temperature(frame)["temperature"] == pytest.approx(2, rel=0.1)


def test_a_temperature_that_cannot_be_fitted_is_one_and_says_why():
    few = fit_temperature(planted(19, name="validation"))
    assert few["temperature"] == 1
    assert few["not_fitted"] == "validation has 19 patients, fewer than 20"
    frame = planted(200, name="validation")
    one_patient = fit_temperature(frame.assign(patient="1"))
    assert one_patient["not_fitted"] == "validation has 1 patient, fewer than 20"
    right = fit_temperature(frame[frame["label"] == frame["predicted"]])
    assert (right["temperature"], right["not_fitted"]) == (
        1,
        "no temperature from 0.05 to 20 is best on validation",
    )
    alone = fit_temperature(frame[frame["label"] == CLASSES[0]])
    assert alone["not_fitted"] == "validation has images of one class only"


def test_a_temperature_changes_no_answer():
    probabilities = probabilities_of(planted(500)).to_numpy(copy=True)
    probabilities[0] = [1, 0, 0, 0]
    for temperature in (0.3, 4):
        scaled = at_temperature(probabilities, temperature)
        assert (scaled.argmax(axis=1) == probabilities.argmax(axis=1)).all()
        np.testing.assert_allclose(scaled.sum(axis=1), 1)
    assert at_temperature(probabilities, 4)[1].max() < probabilities[1].max()
    np.testing.assert_allclose(at_temperature(probabilities, 1), probabilities, atol=1e-9)


def test_errors_equal_those_of_libraries():
    frame = planted(500, 2.0)
    found = calibration_metrics(frame, bootstrap=0)
    p, abnormal = p_abnormal(frame), frame["abnormality"] == "Abnormal"
    share, mean = calibration_curve(abnormal, p, n_bins=10, strategy="quantile")
    bins = pd.DataFrame(found["abnormal"]["bins"])
    np.testing.assert_allclose(bins[["p", "value"]], np.column_stack([mean, share]))
    assert bins["images"].tolist() == [50] * 10
    assert found["abnormal"]["ece"]["value"] == pytest.approx(np.abs(share - mean).mean())
    in_order = np.argsort(p.to_numpy())
    theirs = expected_calibration_error(
        abnormal.to_numpy(int)[in_order], p.to_numpy()[in_order], 10, "array split"
    )
    assert found["abnormal"]["ece"]["value"] == pytest.approx(theirs)
    assert found["abnormal"]["brier"]["value"] == pytest.approx(brier_score_loss(abnormal, p))
    expected = log_loss(frame["label"], probabilities_of(frame), labels=CLASSES)
    assert found["log_loss"]["value"] == pytest.approx(expected)
    assert found["log_loss"] == evaluate(frame, bootstrap=0)["image"]["log_loss"]


def test_the_parts_of_the_brier_score_are_murphys_where_few_probabilities_occur():
    p = np.repeat([0.2, 0.5, 0.9], 100)
    y = np.concatenate([np.arange(100) < count for count in (10, 60, 80)])
    frame = pd.DataFrame({"patient": np.arange(300).astype(str)})
    frame["abnormality"] = np.where(y, "Abnormal", "Normal")
    frame["label"] = frame["abnormality"] + "-HAND"
    frame = frame.assign(predicted="Normal-HAND", **{"p:Abnormal-HAND": p, "p:Normal-HAND": 1 - p})
    found = calibration_metrics(frame, bootstrap=0)["abnormal"]
    observed = np.array([0.1, 0.6, 0.8])
    assert found["reliability"] == pytest.approx(((observed - [0.2, 0.5, 0.9]) ** 2).mean())
    assert found["resolution"] == pytest.approx(((observed - 0.5) ** 2).mean())
    assert found["uncertainty"] == pytest.approx(0.25)
    total = found["reliability"] - found["resolution"] + found["uncertainty"]
    assert found["brier"]["value"] == pytest.approx(total)


def test_equal_probabilities_share_a_bin_whatever_the_order_of_rows():
    frame = planted(60)
    frame["p:Abnormal-HAND"], frame["p:Abnormal-WRIST"] = np.repeat([0.1, 0.3], 30), 0.0
    found = calibration_metrics(frame, bootstrap=0)["abnormal"]
    again = calibration_metrics(frame.sample(frac=1, random_state=0), bootstrap=0)["abnormal"]
    assert [row["images"] for row in found["bins"]] == [30, 30]
    assert found["ece"]["value"] == pytest.approx(again["ece"]["value"])


def test_a_bin_without_abnormal_images_has_wilsons_interval():
    frame = planted(200).assign(abnormality="Normal", label="Normal-HAND")
    for row in calibration_metrics(frame, bootstrap=50)["abnormal"]["bins"]:
        assert (row["value"], row["low"], row["interval"]) == (0, 0, "wilson")
        assert row["high"] == pytest.approx(0.161, abs=0.001)


def test_intervals_count_patients():
    one = calibration_metrics(planted(300), bootstrap=500)
    many = planted(300)
    copies = pd.concat([many] * 4, ignore_index=True)
    same = calibration_metrics(copies, bootstrap=500)
    for score in ("ece", "brier"):
        for end in ("value", "low", "high"):
            assert same["abnormal"][score][end] == pytest.approx(one["abnormal"][score][end])


def test_an_overconfident_model_is_better_after_its_temperature_in_the_record():
    validation, test = both_splits(3.0)
    record = calibration_record(test, fit_temperature(validation), bootstrap=50)
    for question in ("abnormal", "top_label"):
        before, after = (record[when][question] for when in ("before", "after"))
        assert after["ece"]["high"] < before["ece"]["low"]
        assert after["brier"]["value"] < before["brier"]["value"]
    for name in ("log_loss", "classwise_ece"):
        assert record["after"][name]["value"] < record["before"][name]["value"]
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    table = calibration_table(record)
    row = table.loc[("P(abnormal)", "ece, if calibrated")]
    assert row["after", "high"] == record["after"]["abnormal"]["ece_if_calibrated"]["high"]


def test_without_validation_images_the_record_is_the_same_before_and_after():
    test = planted(50)
    record = calibration_record(test, fit_temperature(test.head(0)), bootstrap=10)
    assert record["not_fitted"] == "validation has 0 patients, fewer than 20"
    for name in ("log_loss", "classwise_ece"):
        assert record["after"][name]["value"] == pytest.approx(record["before"][name]["value"])
