"""What simple methods score on the same test images."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd
import pytest

from mura_utils import evaluation
from mura_utils.evaluation.baselines import SHOWN

CLASSES = ["Abnormal-ELBOW", "Abnormal-HAND", "Normal-ELBOW", "Normal-HAND"]


@pytest.fixture(scope="module")
def rows():
    """Two hundred patients with two images each, half of them for training."""
    rng = np.random.default_rng(0)
    label = rng.choice(CLASSES, 200, p=[0.1, 0.2, 0.2, 0.5]).repeat(2)
    rows = pd.DataFrame({"label": label, "patient": np.arange(400) // 2})
    rows[["abnormality", "body_part"]] = rows["label"].str.split("-", expand=True)
    rows["split"] = np.where(rows["patient"] < 100, "train", "test")
    rows.loc[rows["patient"] >= 160, "split"] = "validation"
    rows = rows.assign(study=rows["patient"], path=[f"{row}.png" for row in range(400)])
    return rows.sample(frac=1, random_state=0).reset_index(drop=True)


def informative(rows, noise=1.0):
    """Twelve numbers an image, of which two tell the body part and one the abnormality."""
    features = np.random.default_rng(1).normal(0, noise, (len(rows), 12))
    features[:, 3] += 3 * (rows["body_part"] == "HAND")
    features[:, 5] -= 3 * (rows["body_part"] == "HAND")
    features[:, 8] += 3 * (rows["abnormality"] == "Abnormal")
    return features


def test_the_majority_class_is_that_of_the_training_images(rows):
    answers = evaluation.majority_class(rows, CLASSES)
    assert set(answers["predicted"]) == {"Normal-HAND"}
    assert set(answers["split"]) == {"validation", "test"} and len(answers) == 200
    scored = evaluation.baseline_metrics({"majority_class": answers}, 0.5, 50)["majority_class"]
    test = rows[rows["split"] == "test"]
    assert scored["image"]["kappa"]["value"] == 0
    assert scored["image"]["accuracy"]["value"] == (test["label"] == "Normal-HAND").mean()
    assert scored["binary_image"]["accuracy"]["value"] == (test["abnormality"] == "Normal").mean()
    assert scored["binary_image"]["auroc"]["value"] == 0.5
    constant = evaluation.constant_answer(rows, CLASSES, 0.5)
    assert scored["binary_study"]["accuracy"]["value"] == constant["accuracy"]["binary_study"]


def test_a_regression_finds_what_the_features_tell_and_no_more(rows):
    good, _ = evaluation.logistic_regression(informative(rows), rows, CLASSES)
    noise = np.random.default_rng(2).normal(size=(len(rows), 12))
    bad, _ = evaluation.logistic_regression(noise, rows, CLASSES)
    scored = evaluation.baseline_metrics({"good": good, "bad": bad}, 0.5, 200)
    assert scored["good"]["body_part"]["accuracy"]["low"] > 0.9
    assert scored["good"]["binary_image"]["auroc"]["low"] > 0.85
    chance = scored["bad"]["binary_image"]["auroc"]
    assert chance["low"] < 0.5 < chance["high"]
    assert list(good["path"]) == list(rows.loc[rows["split"] != "train", "path"])


def test_neither_weights_nor_strength_depend_on_test_images(rows):
    features = informative(rows)
    ours, strength = evaluation.logistic_regression(features, rows, CLASSES)
    turned = features.copy()
    turned[rows["split"] == "test"] *= -1
    labels = rows["label"].where(rows["split"] != "test", "Normal-ELBOW")
    theirs, same = evaluation.logistic_regression(turned, rows.assign(label=labels), CLASSES)
    assert strength == same
    columns = [f"p:{label}" for label in CLASSES]
    kept = (ours["split"] == "validation").to_numpy()
    np.testing.assert_allclose(ours.loc[kept, columns], theirs.loc[kept, columns])


def test_the_strength_is_chosen_on_validation(rows):
    """Features that mislead on validation, and nowhere else, take the least weight."""
    features = informative(rows, noise=0.1)
    assert evaluation.logistic_regression(features, rows, CLASSES)[1] == 0.1
    features[rows["split"] == "validation"] *= -1
    assert evaluation.logistic_regression(features, rows, CLASSES)[1] == 0.001


def test_odd_data_give_answers_without_warnings(rows):
    few = rows[rows["split"] != "validation"]
    one = pd.concat([few, rows[rows["split"] == "validation"].head(1)], ignore_index=True)
    lacking = rows[(rows["split"] != "train") | (rows["label"] != "Abnormal-ELBOW")]
    hand = rows[rows["body_part"] == "HAND"]
    for table in (one, lacking.reset_index(drop=True), hand.reset_index(drop=True)):
        pixels = np.zeros((len(table), 40), np.uint8)  # black borders do not differ
        pixels[:, :12] = 100 + 10 * informative(table)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            answers, _ = evaluation.logistic_regression(pixels, table, CLASSES)
            scored = evaluation.baseline_metrics({"thumbnails": answers}, 0.5, 20)
        assert np.isfinite(answers.filter(like="p:")).all(axis=None)
        json.dumps(scored, allow_nan=False)


def test_the_table_has_a_row_for_each_method_and_says_what_is_undefined(rows):
    normal = rows[(rows["split"] != "test") | (rows["abnormality"] == "Normal")]
    answers = evaluation.majority_class(normal, CLASSES)
    scored = evaluation.baseline_metrics({"majority_class": answers, "run": answers}, 0.5, 20)
    table = evaluation.baselines_table(scored, {"run": "exp6"})
    assert list(table.index) == ["most common label", "exp6"]
    assert list(table.columns) == list(SHOWN.values())
    assert table.loc["exp6", "AUROC of abnormal"] == "undefined"
    assert table.loc["exp6", "accuracy, binary"].endswith(", 1.000] W")
