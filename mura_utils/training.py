"""Fitting a model by the report's protocol."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import keras
import pandas as pd
import tensorflow as tf
from tqdm.keras import TqdmCallback

from mura_utils.experiments import Experiment
from mura_utils.paths import atomic_write


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
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if not gpus:
        return "CPU"
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus]
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
        TqdmCallback(verbose=0, desc="epochs"),
    ]
    started = time.perf_counter()
    result = model.fit(
        train, validation_data=validation, epochs=experiment.epochs, callbacks=callbacks, verbose=0
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


def predict(model: keras.Model, dataset: tf.data.Dataset):
    """Class probabilities, (N, K) float32, in the dataset's order."""
    return model.predict(dataset, verbose=0)
