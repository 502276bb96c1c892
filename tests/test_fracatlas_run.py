"""Transfer learning on real radiographs, where the checkout has them: the notebooks 01 to 06."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mura_utils.evaluation import evaluate
from mura_utils.experiments import load_experiment
from mura_utils.external import evaluate_run
from mura_utils.paths import read_json, read_table
from mura_utils.runs.pipeline import run_experiment


@pytest.fixture(autouse=True)
def folders():
    """The session's folders, not one for each test: the run is shared."""


@pytest.fixture(scope="module")
def run(real_fracatlas, real_weights):
    experiment = load_experiment(
        "fracatlas",
        data_dir=str(real_fracatlas),
        weights=str(real_weights),
    )
    return run_experiment(experiment, stop="06", progress=False)


def test_the_originals_faults_are_listed(run):
    quality = read_json(run / "quality.json")
    assert quality["counts"]["excluded"]["truncated"] == 19
    assert {row["fault"] for row in quality["excluded"]} == {"truncated"}
    (missing,) = quality["remarks"]["missing-file"]
    assert "IMG0003298" in missing["path"]
    assert len(quality["remarks"]["several-body-parts"]) == 144


def test_eight_classes_are_split_by_the_given_shares(run):
    rows = read_table(run / "manifest.csv").merge(read_table(run / "splits.csv"), on="path")
    assert rows["label"].nunique() == 8
    shares = rows["split"].value_counts(normalize=True)
    assert shares.to_dict() == pytest.approx(
        {"train": 0.6, "validation": 0.1, "test": 0.3}, abs=0.01
    )
    assert (rows.groupby("split")["label"].nunique() == 8).all()


def test_a_frozen_mobilenet_does_as_well_as_a_logistic_regression_on_its_features(run):
    """Four-fold logistic regression: accuracy 0.847, kappa 0.760, AUROC 0.851.

    The bounds leave room for one seed and one split of 371 test images.
    """
    metrics = read_json(run / "metrics.json")
    assert metrics["image"]["accuracy"]["value"] >= 0.80
    assert metrics["image"]["kappa"]["value"] >= 0.68
    assert metrics["binary_image"]["auroc"]["value"] >= 0.80
    assert metrics["body_part"]["accuracy"]["value"] >= 0.93


def part_of(fracatlas: Path, names: set[str], folder: Path) -> Path:
    """A FracAtlas of some images: links, the table's rows of them, and all annotations."""
    table = pd.read_csv(fracatlas / "dataset.csv")
    for image in fracatlas.glob("images/*/*"):
        (folder / "images" / image.parent.name).mkdir(parents=True, exist_ok=True)
        if image.name in names:
            (folder / "images" / image.parent.name / image.name).symlink_to(image)
    table[table["image_id"].isin(names)].to_csv(folder / "dataset.csv", index=False)
    shutil.copytree(fracatlas / "Annotations", folder / "Annotations")
    return folder


def test_on_images_left_out_of_training_it_has_the_numbers_that_the_run_has(
    run, real_fracatlas, tmp_path
):
    """Stored activations are float16, so that probabilities differ by a few thousandths."""
    predictions = read_table(run / "predictions.csv")
    own = predictions[predictions["split"] == "test"].reset_index(drop=True)
    names = {Path(path).name for path in own["path"]}
    other = part_of(real_fracatlas, names, tmp_path / "FracAtlas")
    out = evaluate_run(run, other, out=tmp_path / "out", progress=False)
    found = read_table(out / "predictions.csv")
    facts = ["path", "patient", "label"]
    pd.testing.assert_frame_equal(found[facts], own[facts])
    np.testing.assert_allclose(found.filter(like="p:"), own.filter(like="p:"), atol=0.01)
    metrics = read_json(out / "metrics.json")
    assert metrics["left_out"] == {"excluded": {}, "trained_on": 0, "without_a_class": {}}
    assert metrics["binary_image"] == evaluate(found, metrics["threshold"])["binary_image"]
    for level, metric in (("image", "accuracy"), ("binary_image", "auroc")):
        ours, theirs = (each[level][metric]["value"] for each in (metrics, metrics["internal"]))
        assert ours == pytest.approx(theirs, abs=0.01)
