"""Prediction sets, and risk against coverage."""

from __future__ import annotations

import json
import sys

import numpy as np
import pandas as pd
import pytest
from mapie.metrics.uncertainty import auarc
from planted import CLASSES, both_splits, planted

from mura_utils.evaluation.conformal import (
    SET_KINDS,
    conformal_record,
    conformal_table,
    one_image_a_patient,
    prediction_sets,
    set_kinds,
)
from mura_utils.evaluation.metrics import evaluate
from mura_utils.evaluation.selective import risk_coverage
from mura_utils.labels import probabilities_of
from mura_utils.paths import REPOSITORY


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(REPOSITORY / "benchmarks"), *sys.path])
    import conformal

    return conformal


def test_the_benchmarks_coverage_is_what_was_asked_with_one_image_a_patient_only(script):
    found = script.simulate(60, hard_have_more=True).groupby("way")
    coverage, spread = found["coverage"].mean(), found["coverage"].std()
    assert coverage["one image a patient"] == pytest.approx(0.9, abs=0.02)
    assert coverage["all images"] > 0.93
    assert spread["one image a patient"] == pytest.approx(
        found["promised"].mean()["one image a patient"], rel=0.4
    )
    equal = script.simulate(60, hard_have_more=False).groupby("way")
    ratio = equal["coverage"].std() / equal["promised"].mean()
    assert ratio["all images"] > 1.5 * ratio["one image a patient"]


def test_the_threshold_is_the_order_statistic_of_the_true_labels_probabilities():
    rows = planted(30)
    true = probabilities_of(rows).to_numpy()[np.arange(30), [*map(CLASSES.index, rows["label"])]]
    least = np.sort(true)[::-1][27]  # ceil(31 * 0.9) = 28
    sets = prediction_sets(rows, rows)
    np.testing.assert_array_equal(sets, probabilities_of(rows) >= least - 1e-9)


@pytest.mark.parametrize(("patients", "everything"), [(0, True), (9, True), (10, False)])
def test_with_too_few_patients_every_set_holds_every_label_and_the_record_says_so(
    patients, everything
):
    validation = planted(10, name="validation").head(patients)
    record = conformal_record(validation, planted(40), bootstrap=10)
    assert record["too_few_patients"] is everything
    assert (record["size"]["value"] == len(CLASSES)) is everything
    assert (record["expected_low"] is None) is everything
    assert record["calibration_patients"] == patients


def test_one_image_of_each_patient_is_drawn_and_the_seed_chooses_it():
    rows = planted(60).assign(patient=np.repeat([*"abc"], 20))
    drawn = one_image_a_patient(rows, seed=1)
    assert drawn["patient"].tolist() == [*"abc"]
    assert drawn.index.tolist() == one_image_a_patient(rows, seed=1).index.tolist()
    assert drawn.index.tolist() != one_image_a_patient(rows, seed=2).index.tolist()


def test_the_record_covers_what_it_promises_and_is_json():
    validation, test = both_splits()
    record = conformal_record(validation, test, bootstrap=50)
    assert record["coverage"]["value"] == pytest.approx(0.9, abs=0.02)
    assert record["expected_low"] < 0.9 < record["expected_high"]
    assert sum(row["images"] for row in record["body_parts"]) == 2000
    assert [row["set"] for row in record["kinds"]] == list(SET_KINDS)
    assert sum(row["images"] for row in record["kinds"]) == 2000
    covered = sum(row["images"] * (row["covered"] or 0) for row in record["kinds"])
    assert covered == pytest.approx(2000 * record["coverage"]["value"])
    sets = prediction_sets(validation, test)
    assert record["size"]["value"] == pytest.approx(sets.sum(axis=1).mean())
    hands = sets[test["body_part"] == "HAND"]
    by_part = {row["body_part"]: row for row in record["body_parts"]}
    assert by_part["HAND"]["size"]["value"] == pytest.approx(hands.sum(axis=1).mean())
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    table = conformal_table(record)
    assert table.index.tolist() == ["all", "HAND", "WRIST"]
    assert table.loc["all", ("coverage", "value")] == record["coverage"]["value"]


def test_a_body_part_without_errors_has_wilsons_interval():
    validation, test = both_splits(images=200)
    row = conformal_record(validation.head(5), test, bootstrap=20)["coverage"]
    assert (row["value"], row["high"], row["interval"]) == (1, 1, "wilson")
    assert 0.97 < row["low"] < 0.99


def test_sets_are_named_by_what_they_leave_open():
    columns = CLASSES  # Abnormal-HAND, Abnormal-WRIST, Normal-HAND, Normal-WRIST
    rows = [(1, 0, 0, 0), (1, 0, 1, 0), (1, 1, 0, 0), (0, 0, 0, 0)]
    sets = pd.DataFrame(np.array(rows, bool), columns=columns)
    assert set_kinds(sets).tolist() == list(SET_KINDS)


def test_the_area_equals_mapies_and_the_last_error_rate_is_that_of_all():
    rows = planted(300)
    right, certainty = rows["label"] == rows["predicted"], probabilities_of(rows).max(axis=1)
    record = risk_coverage(rows, bootstrap=100)
    assert record["area"]["value"] == pytest.approx(1 - auarc(right, certainty))
    everything, *_, half = record["shares"]
    assert everything["value"] == pytest.approx(1 - right.mean())
    most_certain = certainty.rank(ascending=False) <= 150
    assert half["value"] == pytest.approx(1 - right[most_certain].mean())
    assert half["least_probability"] == certainty[most_certain].min()
    for row in record["shares"]:
        assert row["low"] < row["value"] < row["high"]
    assert record["curve"]["share"][-1] == 1
    assert len(record["curve"]["share"]) == 200
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_a_resample_that_lacks_the_most_certain_patients_is_measured_on_the_others():
    rows = planted(4, seed=3).assign(patient=[*"aabb"], label="Normal-HAND")
    rows["predicted"] = ["Normal-HAND", "Normal-HAND", "Abnormal-HAND", "Abnormal-HAND"]
    rows["p:Normal-HAND"] = [0.9, 0.8, 0.1, 0.1]
    rows["p:Abnormal-HAND"] = [0.1, 0.2, 0.5, 0.6]
    rows[["p:Abnormal-WRIST", "p:Normal-WRIST"]] = 0.0
    record = risk_coverage(rows, bootstrap=200)
    half = record["shares"][-1]
    assert (half["value"], half["low"], half["high"]) == (0, 0, 1)


def test_equally_certain_images_share_their_errors():
    rows = planted(100)
    rows["p:Abnormal-HAND"] = 1.0
    record = risk_coverage(rows, bootstrap=0)
    assert record["curve"]["error"] == pytest.approx([record["shares"][0]["value"]] * 100, abs=1e-5)


def test_equally_certain_images_have_an_interval():
    rows = planted(400)
    rows["p:Abnormal-HAND"] = 1.0
    record = risk_coverage(rows, bootstrap=500)
    accuracy = evaluate(rows, bootstrap=500)["image"]["accuracy"]
    everything, *_, half = record["shares"]
    ends = [1 - accuracy["high"], 1 - accuracy["low"]]
    for row in (everything, half):
        assert [row["low"], row["high"]] == pytest.approx(ends, abs=1e-9)
