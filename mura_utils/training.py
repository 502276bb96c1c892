"""Fitting a model by the report's protocol."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from tqdm.keras import TqdmCallback

from mura_utils.experiments import Experiment, read_parameters
from mura_utils.generators import Augmentation, make_dataset
from mura_utils.models import parameter_counts
from mura_utils.notebook import versions
from mura_utils.paths import atomic_write, read_json
from mura_utils.terminal import hide_bars, to_the_terminal

_CURVES = ("loss", "accuracy", "val_loss", "val_accuracy")


@dataclass(frozen=True)
class Training:
    """What one fit gave.

    Attributes:
        history: one row an epoch: epoch (from 1), loss, accuracy, val_loss, val_accuracy,
            learning_rate.
        best_epoch: the epoch whose weights were kept, by validation loss.
        seconds: wall-clock time of the fit.
    """

    history: pd.DataFrame
    best_epoch: int
    seconds: float


def use_device() -> str:
    """Let TensorFlow grow its GPU memory as needed, and say in words what it computes on."""
    with to_the_terminal():
        gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if not gpus:
        return "CPU"
    names = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus
    ]
    return ", ".join(names)


def compile_model(model: keras.Model, experiment: Experiment) -> None:
    """Adam and categorical cross-entropy (report Fig. 27)."""
    model.compile(
        optimizer=keras.optimizers.Adam(experiment.learning_rate),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,
    )


def fit(
    model: keras.Model,
    train: tf.data.Dataset,
    validation: tf.data.Dataset,
    experiment: Experiment,
    model_path: Path,
    progress: bool = True,
) -> Training:
    """Train a compiled model and keep the epoch with the lowest validation loss.

    Callbacks as in the report: checkpoint on the best validation loss, early stopping, a learning
    rate reduced on plateaus. The model in memory and the one at `model_path` are the best epoch's;
    the file appears only when training has ended.

    Args:
        model: compiled, see `compile_model`; changed in place.
        train: batches of (radiographs, one-hot labels).
        validation: the same.
        experiment: epochs and the callbacks' parameters are used.
        model_path: where the trained model goes, ``*.keras``.
        progress: whether to show a bar that counts epochs.
    """
    checkpoints = model_path.parent / ".checkpoint"
    best = checkpoints / "best.weights.h5"
    shutil.rmtree(checkpoints, ignore_errors=True)
    checkpoints.mkdir(parents=True)
    callbacks = [
        keras.callbacks.ModelCheckpoint(
            best, monitor="val_loss", mode="min", save_best_only=True, save_weights_only=True
        ),
        keras.callbacks.EarlyStopping(
            monitor="val_loss", mode="min", patience=experiment.early_stopping_patience
        ),
        keras.callbacks.ReduceLROnPlateau(
            monitor="val_loss",
            mode="min",
            factor=experiment.reduce_lr_factor,
            patience=experiment.reduce_lr_patience,
            min_lr=experiment.min_learning_rate,
        ),
        _LearningRate(),
    ]
    if not hide_bars(progress):
        callbacks.append(TqdmCallback(verbose=0, desc="epochs"))
    started = time.perf_counter()
    with to_the_terminal():
        result = model.fit(
            train,
            validation_data=validation,
            epochs=experiment.epochs,
            callbacks=callbacks,
            shuffle=False,  # the data set shuffles itself
            verbose=0,
        )
    seconds = time.perf_counter() - started
    model.load_weights(best)
    with atomic_write(model_path) as temporary:
        model.save(temporary)
    shutil.rmtree(checkpoints)

    history = pd.DataFrame(result.history)
    history.insert(0, "epoch", range(1, len(history) + 1))
    best_epoch = int(history.loc[history["val_loss"].idxmin(), "epoch"])
    return Training(history, best_epoch, seconds)


class _LearningRate(keras.callbacks.Callback):
    """Record the rate that each epoch was trained with.

    Keras's own ReduceLROnPlateau logs it after the reduction, an epoch early.
    """

    def on_epoch_begin(self, epoch, logs=None):
        self._rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def on_epoch_end(self, epoch, logs=None):
        logs["learning_rate"] = self._rate


def make_datasets(
    pixels: np.ndarray, manifest: pd.DataFrame, classes: Sequence[str], experiment: Experiment
) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    """Batches to train on, shuffled and augmented as the experiment says, and to validate on.

    Args:
        pixels: (N, S, S) uint8, of `generators.load_pixels`.
        manifest: N rows in the same order, with label and split.
        classes: K labels in the order of the model's outputs.
        experiment: batch_size, augmentation and seed are used.
    """
    one_hot = manifest["label"].to_numpy()[:, None] == np.asarray(classes)
    train, validation = (
        np.flatnonzero(manifest["split"] == split) for split in ("train", "validation")
    )
    augmentation = Augmentation.of(experiment) if experiment.augment else None
    options = {"batch_size": experiment.batch_size, "seed": experiment.seed}
    return (
        make_dataset(pixels, train, one_hot, augmentation=augmentation, shuffle=True, **options),
        make_dataset(pixels, validation, one_hot, **options),
    )


def hyper_parameters(experiment: Experiment) -> pd.DataFrame:
    """The experiment's values beside those that the report prints (Fig. 27)."""
    report = {
        "optimiser": "Adam",
        "loss": "categorical cross-entropy",
        "learning_rate": "1e-05",
        "batch_size": "64",
        "epochs": "150",
        "early_stopping_patience": "10 (the text also says 5)",
        "reduce_lr_factor": "0.2",
        "reduce_lr_patience": "5",
        "min_learning_rate": "1e-07",
        "l1": "not printed",
        "l2": "not printed",
    }
    constant = {name: report[name] for name in ("optimiser", "loss")}
    ours = {name: constant.get(name) or str(getattr(experiment, name)) for name in report}
    return pd.DataFrame({experiment.name: ours, "report": report}).rename_axis("parameter")


REPORT_RUNS = pd.DataFrame(
    [
        ("exp1", "nothing unfrozen", 0.72, 0.71, 0.72, 0.70),
        ("exp2", "last layer unfrozen", 0.68, 0.72, 0.69, 0.72),
        ("exp3", "last 4, strong L1 and L2", 0.25, 0.91, 0.64, 0.80),
        ("exp4", "last 5, L1 and L2", 0.41, 0.82, 0.55, 0.81),
        ("exp5", "last 5, 3 attention heads, strong L1 and L2", 0.61, 0.84, 0.79, 0.77),
        ("exp6", "exp5 with squeeze-and-excite", 0.37, 0.88, 0.59, 0.81),
    ],
    columns=["run", "model", "loss", "accuracy", "val_loss", "val_accuracy"],
).set_index("run")
"""Report Fig. 28, on MURA; validation by an image-level split."""


def compare_runs(folder: Path) -> pd.DataFrame:
    """The best epoch of every trained run in a folder beside the report's value (Fig. 28).

    Args:
        folder: of the runs; what has no trained model is left out.

    Returns:
        One row a run, best validation accuracy first: source, backbone, protocol, epochs, loss,
        accuracy, val_loss, val_accuracy, report (its val_accuracy; NaN for other runs).
    """
    rows = {}
    for path in sorted(folder.glob("*/training.json")):
        experiment = read_parameters(path.with_name("experiment.yaml"))
        described = read_json(path)
        rows[path.parent.name] = {
            "source": experiment["source"],
            "backbone": experiment["backbone"],
            "protocol": experiment["protocol"],
            "epochs": described["epochs"],
            **described["best"],
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("run")
    table["report"] = REPORT_RUNS["val_accuracy"].reindex(table.index)
    return table.sort_values("val_accuracy", ascending=False)


def describe_training(
    training: Training, model: keras.Model, classes: Sequence[str], model_path: Path
) -> dict[str, Any]:
    """The content of training.json: what was trained, how long, with which versions."""
    best = training.history.set_index("epoch").loc[training.best_epoch]
    total, trainable, frozen = parameter_counts(model)
    return {
        "classes": list(classes),
        "parameters": {"total": total, "trainable": trainable, "non_trainable": frozen},
        "epochs": len(training.history),
        "best_epoch": training.best_epoch,
        "best": {name: float(best[name]) for name in _CURVES},
        "seconds": round(training.seconds, 1),
        "device": use_device(),
        "versions": versions(),
        "model_sha256": hashlib.sha256(model_path.read_bytes()).hexdigest(),
    }
