"""Intervals over patients hold the truth as often as they promise; those over images do not."""

from __future__ import annotations

import sys

import pytest

from mura_utils.paths import REPOSITORY


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(REPOSITORY / "benchmarks"), *sys.path])
    import interval_coverage

    return interval_coverage


def test_the_truth_is_that_of_many_patients(script, monkeypatch):
    import numpy as np
    from sklearn.metrics import roc_auc_score

    monkeypatch.setattr(script, "PATIENTS", 100_000)
    images = script.simulate(np.random.default_rng(0))
    abnormal = images.abnormality == "Abnormal"
    right = abnormal == (images.scores > script.SHIFT / 2)
    assert right.mean() == pytest.approx(script.TRUTH["accuracy"], abs=0.005)
    auroc = roc_auc_score(abnormal, images.scores)
    assert auroc == pytest.approx(script.TRUTH["auroc"], abs=0.005)


def test_patients_are_the_unit_that_keeps_the_promise(script):
    held = script.coverage(data_sets=120, resamples=200)
    assert held.loc["patients"].between(0.9, 0.99).all()
    assert (held.loc["images"] < 0.88).all()
