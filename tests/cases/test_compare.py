"""Runs side by side: `mura compare` believes complete records only, and names the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mura_utils.experiments import load_experiment, save_experiment
from mura_utils.paths import runs_dir, write_json
from mura_utils.runs.record import write_completed
from mura_utils.runs.stages import NOTEBOOKS


def trained(name: str, accuracy: float) -> Path:
    """A run whose record says that it is trained and tested."""
    folder = runs_dir() / name
    save_experiment(load_experiment("demo", name=name), folder / "experiment.yaml")
    best = {"loss": 0.1, "accuracy": 0.9, "val_loss": 0.2, "val_accuracy": accuracy}
    write_json(folder / "training.json", {"best": best, "epochs": 3, "seconds": 1.5})
    level = {key: {"value": 0.5} for key in ("accuracy", "kappa", "auroc")}
    levels = dict.fromkeys(("image", "binary_image", "binary_study"), level)
    write_json(folder / "metrics.json", {"source": "phantom", **levels})
    write_completed(folder, list(NOTEBOOKS[:6]))
    return folder


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("state.json", "[]"),
        ("state.json", '{"completed": ["06_evaluation"]}'),
        ("training.json", "{"),
        ("training.json", '{"best": null, "epochs": 1, "seconds": 1}'),
        ("training.json", json.dumps({"best": {}, "epochs": 10**400, "seconds": 1})),
        ("metrics.json", '{"source": "phantom", "image": 3}'),
        ("experiment.yaml", "epoch: 3\n"),
        ("experiment.yaml", "name: &a [*a]\n"),
        ("experiment.yaml", "seed: 1\nseed: 2\n"),
    ],
)
def test_a_damaged_record_is_named_and_the_other_runs_are_compared(mura, file, content):
    trained("good", 0.75)
    bad = trained("bad", 0.99) / file
    bad.write_text(content)
    said = mura("compare", "good", "bad")
    assert said.status == 0 and "0.750" in said.out and "0.990" not in said.out
    (line,) = said.err.splitlines()
    assert line.startswith("Left out, bad: ") and str(bad) in line
    assert str(bad) in mura("compare", "bad").sentence


@pytest.mark.parametrize(
    ("complete", "shown"), [(4, ""), (5, "validation accuracy"), (6, "test ac")]
)
def test_only_what_the_record_calls_complete_is_shown(mura, complete, shown):
    write_completed(trained("mine", 0.75), list(NOTEBOOKS[:complete]))
    said = mura("compare", "mine")
    if complete < 5:
        assert "mine: not trained" in said.sentence
    else:
        assert shown in said.out and ("test accuracy" in said.out) == (complete == 6)


def test_what_is_no_run_is_one_sentence(mura, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for place in ("file", "loop", "nowhere"):
        assert place in mura("compare", tmp_path / place).sentence
