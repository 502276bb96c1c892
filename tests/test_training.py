from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mura_utils.experiments import validate_parameters
from mura_utils.models import build_model, load_model
from mura_utils.paths import write_json, write_text
from mura_utils.training import (
    REPORT_RUNS,
    compare_runs,
    compile_model,
    describe_training,
    fit,
    make_datasets,
)

CLASSES = ["Abnormal-HAND", "Normal-HAND"]


@pytest.fixture
def data():
    """Bright and dark squares: learnt in a few steps."""
    rng = np.random.default_rng(0)
    bright = np.arange(48) % 2
    pixels = (rng.integers(0, 60, (48, 32, 32)) + 150 * bright[:, None, None]).astype("uint8")
    split = np.repeat(["train", "validation"], (32, 16))
    return pixels, pd.DataFrame({"label": np.take(CLASSES, bright), "split": split})


def experiment(**changes):
    small = {
        "image_size": 32, "head": "dense", "dense_units": [16], "dropout": [0.0], "batch_size": 8,
        "epochs": 4, "learning_rate": 1e-3,
    }  # fmt: skip
    return validate_parameters({**small, **changes}, "test")


def train(data, path, **changes):
    settings = experiment(**changes)
    datasets = make_datasets(*data, CLASSES, settings)
    model = build_model(settings, CLASSES)
    compile_model(model, settings)
    return model, fit(model, *datasets, settings, path, progress=False), datasets


def test_the_saved_model_is_the_best_epochs(data, tmp_path):
    _, training, (_, validation) = train(data, tmp_path / "model.keras")
    saved = load_model(tmp_path / "model.keras")
    saved.compile(loss="categorical_crossentropy", metrics=["accuracy"])
    loss, accuracy = saved.evaluate(validation, verbose=0)
    best = training.history.set_index("epoch").loc[training.best_epoch]
    assert best["val_loss"] == training.history["val_loss"].min()
    assert loss == pytest.approx(best["val_loss"], abs=1e-5)
    assert accuracy == pytest.approx(best["val_accuracy"])
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


def test_the_same_seed_gives_the_same_history(data, tmp_path):
    first, second, other = (
        train(data, tmp_path / f"{number}.keras", seed=seed, epochs=2)[1].history
        for number, seed in enumerate((3, 3, 4))
    )
    pd.testing.assert_frame_equal(first, second)
    assert not np.allclose(first["loss"], other["loss"])


def test_the_history_records_the_rate_that_an_epoch_was_trained_with(data, tmp_path):
    history = train(
        data, tmp_path / "m.keras", epochs=6, learning_rate=1e-7, min_learning_rate=1e-9,
        reduce_lr_patience=1, reduce_lr_factor=0.5, early_stopping_patience=5, augment=False,
        batch_norm_momentum=0.99,
    )[1].history  # fmt: skip
    better = history["val_loss"].diff() < -1e-4  # ReduceLROnPlateau's own threshold
    halved = history["learning_rate"].diff() < 0
    assert history["learning_rate"].iloc[0] == pytest.approx(1e-7)
    assert not (halved.shift(-1, fill_value=False) & better).any(), "no cut after a better epoch"


def test_early_stopping_ends_a_training_without_progress(data, tmp_path):
    history = train(
        data, tmp_path / "m.keras", epochs=30, learning_rate=1.0, early_stopping_patience=1
    )[1].history
    assert len(history) < 30


def test_runs_stand_beside_the_reports(data, tmp_path):
    for name in ("exp6", "mine"):
        folder = tmp_path / name
        model, training, _ = train(data, folder / "model.keras", epochs=1)
        described = describe_training(training, model, CLASSES, folder / "model.keras")
        write_json(folder / "training.json", described)
        write_text(
            folder / "experiment.yaml", "source: phantom\nbackbone: mobilenet\nprotocol: patient\n"
        )
    (tmp_path / "untrained").mkdir()
    table = compare_runs(tmp_path)
    assert set(table.index) == {"exp6", "mine"}
    assert table.loc["exp6", "report"] == REPORT_RUNS.loc["exp6", "val_accuracy"] == 0.81
    assert np.isnan(table.loc["mine", "report"])
