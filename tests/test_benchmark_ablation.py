"""What benchmarks/ablation.py takes away from a recipe."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest

from mura_utils.experiments import load_experiment
from mura_utils.paths import REPOSITORY, runs_dir
from mura_utils.runs.record import NOTEBOOKS, begin, write_completed


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
    assert list(changes)[-1] == "none of them"
    assert changes[script.WHOLE] == {}
    for change in changes.values():
        experiment = load_experiment("best_fracatlas", **{"image_size": size} | change)
        assert (experiment == whole) == (change == {})
    bare = load_experiment("best_fracatlas", **changes["none of them"])
    assert (bare.weights, bare.pooling, bare.mask_supervision) == ("none", ["average"], 0)
    assert not bare.augment
    assert bare.image_size == {64: 32, 224: 128, 384: 224}[size]


def test_what_a_recipe_does_not_have_cannot_be_taken_away(script):
    changes = script.removals(
        load_experiment("best_fracatlas", mask_supervision=0.0, second_look=False)
    )
    assert "no masks" not in changes and "no second look" not in changes
    assert "average pooling only" in changes


def test_a_run_is_made_once_and_goes_on_where_it_was_interrupted(script, monkeypatch):
    calls = []

    def run_experiment(experiment, start, stop, overwrite, progress):
        calls.append((start, stop, overwrite))

    monkeypatch.setattr(script, "run_experiment", run_experiment)
    experiment = load_experiment("demo", name="ablation-x-seed0")
    folder = runs_dir() / experiment.name
    script.tested_run(experiment)
    begin(folder, experiment, "01_data_understanding")
    script.tested_run(experiment)
    write_completed(folder, list(NOTEBOOKS[:4]))
    script.tested_run(experiment)
    script.tested_run(experiment.model_copy(update={"seed": 1}))
    assert calls == [
        ("01", "06", False),
        ("01", "06", True),
        ("05", "06", False),
        ("01", "06", False),  # which refuses the folder, as it was made with another seed
    ]
    write_completed(folder, list(NOTEBOOKS[:6]))
    assert script.tested_run(experiment) == folder
    assert len(calls) == 4


def test_changes_are_written_one_by_one_and_printed(script, monkeypatch, tmp_path, capsys):
    made = []

    def tested_run(experiment):
        made.append(experiment)
        folder = tmp_path / experiment.name
        folder.mkdir()
        rng = np.random.default_rng(experiment.seed)
        abnormal = np.arange(60) % 2 == 1
        p = 0.2 + 0.4 * abnormal + 0.3 * rng.random(60)
        frame = pd.DataFrame({"path": map(str, range(60)), "patient": map(str, range(60))})
        frame["split"] = np.where(np.arange(60) < 20, "validation", "test")
        frame["abnormality"] = np.where(abnormal, "Abnormal", "Normal")
        frame["label"] = frame["abnormality"] + "-HAND"
        frame["predicted"] = np.where(p > 0.5, "Abnormal-HAND", "Normal-HAND")
        frame = frame.assign(**{"p:Abnormal-HAND": p, "p:Normal-HAND": 1 - p})
        frame.to_csv(folder / "predictions.csv", index=False)
        return folder

    monkeypatch.setattr(script, "tested_run", tested_run)
    out = tmp_path / "ablation.csv"
    words = ["--quick", "--seeds", "2", "--only", "no masks", "--out", str(out), "-p", "epochs=3"]
    monkeypatch.setattr(sys, "argv", ["ablation.py", *words])
    script.main()
    assert [(each.name, each.seed, each.split_seed, each.epochs) for each in made] == [
        ("ablation-all-together-seed0", 0, 0, 2),
        ("ablation-all-together-seed1", 1, 1, 2),
        ("ablation-no-masks-seed0", 0, 0, 2),
        ("ablation-no-masks-seed1", 1, 1, 2),
    ]
    assert [each.mask_supervision for each in made] == [4, 4, 0, 0]
    frame = pd.read_csv(out)
    assert set(frame["change"]) == {"all together", "no masks"}
    assert set(frame["seed"]) == {"0", "1", "mean"}
    assert "| no masks | " in capsys.readouterr().out


def test_an_unknown_change_is_one_sentence(script, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ablation.py", "--only", "masks"])
    with pytest.raises(SystemExit, match="--only masks: give one of all together"):
        script.main()
