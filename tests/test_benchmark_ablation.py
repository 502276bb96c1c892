"""What benchmarks/ablation.py takes away from a recipe."""

from __future__ import annotations

import sys

import pytest

from mura_utils.experiments import load_experiment
from mura_utils.paths import REPOSITORY


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(REPOSITORY / "benchmarks"), *sys.path])
    import ablation

    return ablation


@pytest.mark.parametrize("size", [64, 224, 384])
def test_each_removal_is_an_experiment_and_none_is_all_of_them(script, size):
    whole = load_experiment("best_fracatlas", image_size=size)
    changes = script.removals(whole)
    assert next(iter(changes)) == script.WHOLE
    assert list(changes)[-1] == script.BARE
    assert changes[script.WHOLE] == {}
    for change in changes.values():
        experiment = load_experiment("best_fracatlas", **{"image_size": size} | change)
        assert (experiment == whole) == (change == {})
    bare = load_experiment("best_fracatlas", **changes[script.BARE])
    assert (bare.weights, bare.pooling, bare.mask_supervision) == ("none", ["average"], 0)
    assert not bare.augment
    assert bare.image_size == {64: 32, 224: 128, 384: 224}[size]


def test_what_a_recipe_does_not_have_cannot_be_taken_away(script):
    changes = script.removals(load_experiment("best_fracatlas", mask_supervision=0.0))
    assert "no masks" not in changes
    assert "average pooling only" in changes
