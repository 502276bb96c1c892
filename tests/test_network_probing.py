from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from mura_utils.data.dataset import Images
from mura_utils.experiments import validate_parameters
from mura_utils.network.probing import linear_probe, probe_images, untrained_features

SMALL = {"backbone": "mobilenet", "alpha": 0.25, "weights": "none", "image_size": 64}


def manifest(patients=60, images=4):
    """Half of the patients are abnormal, in all their images."""
    patient = np.repeat(np.arange(patients), images)
    abnormality = np.where(patient % 2 == 1, "Abnormal", "Normal")
    split = np.where(patient % 3 == 0, "test", "train")
    return pd.DataFrame({"patient": patient, "abnormality": abnormality, "split": split})


def test_features_that_show_the_finding_score_high_and_noise_at_chance():
    rows, rng = manifest(), np.random.default_rng(0)
    noise = rng.normal(size=(len(rows), 8))
    seen = noise.copy()
    seen[:, 3] += 4 * (rows["abnormality"] == "Abnormal")
    assert linear_probe(seen, rows)["low"] > 0.95
    chance = linear_probe(noise, rows)
    assert chance["low"] < 0.5 < chance["high"]


def test_features_that_only_recognize_a_patient_score_at_chance():
    rows = manifest()
    features = np.eye(60)[rows["patient"]]
    assert linear_probe(features, rows)["value"] < 0.6


def test_too_few_patients_give_no_number():
    rows = manifest(patients=7)
    assert linear_probe(np.zeros((len(rows), 2)), rows)["value"] is None
    normal = rows[rows["abnormality"] == "Normal"]
    assert linear_probe(np.zeros((len(normal), 2)), normal)["value"] is None


def test_training_images_are_drawn_at_random_and_no_others():
    rows = manifest()
    images = Images(Path(), rows, np.zeros((len(rows), 1, 1), np.uint8))
    drawn = probe_images(images, 50)
    assert len(drawn) == len(set(drawn)) == 50 and (np.diff(drawn) > 0).all()
    assert set(rows["split"].iloc[drawn]) == {"train"}
    assert not np.array_equal(drawn, probe_images(images, 50, seed=1))
    assert len(probe_images(images, 1000)) == (rows["split"] == "train").sum()


def test_pooled_features_are_those_of_the_rows_and_of_the_weights():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 64, 64), np.uint8)
    images = Images(Path(), pd.DataFrame(index=range(5)), pixels)
    experiment = validate_parameters(SMALL, "test")
    every = untrained_features(experiment, images, np.arange(5))
    assert every.shape == (5, 256) and np.ptp(every, axis=0).max() > 0
    np.testing.assert_allclose(
        untrained_features(experiment, images, np.array([3, 1])), every[[3, 1]], rtol=1e-3
    )
    both = untrained_features(experiment, images, np.arange(5), maximum=True)
    assert both.shape == (5, 512) and (both[:, 256:] >= both[:, :256]).all()
    np.testing.assert_allclose(both[:, :256], every, rtol=1e-3)
    other = untrained_features(experiment.model_copy(update={"seed": 1}), images, np.arange(5))
    assert not np.allclose(every, other, rtol=0.1, atol=0)
