"""Fitting a model: the report's protocol and ours, resumed where it was interrupted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from tqdm.keras import TqdmCallback

from mura_utils import frozen
from mura_utils.devices import use_device
from mura_utils.errors import UserError
from mura_utils.experiments import Experiment
from mura_utils.network.build import in_float32, parameter_counts
from mura_utils.paths import atomic_write
from mura_utils.runs.record import versions
from mura_utils.terminal import hide_bars, to_the_terminal
from mura_utils.training.resume import Checkpoint, losses_of
from mura_utils.training.task import Task

_CURVES = ("loss", "accuracy", "val_loss", "val_accuracy")


@dataclass(frozen=True)
class Training:
    """What one fit gave.

    Attributes:
        history: one row an epoch: epoch (from 1), loss, accuracy, val_loss, val_accuracy,
            learning_rate.
        kept_epoch: the epoch whose weights were kept.
        seconds: wall-clock time of the epochs, those before an interruption included.
        resumed_after: epochs that an interrupted call had completed.
        weights_sha256: of the file that the initial weights came from; None without one.
    """

    history: pd.DataFrame
    kept_epoch: int
    seconds: float
    resumed_after: int = 0
    weights_sha256: str | None = None


def fit(
    model: keras.Model,
    task: Task,
    experiment: Experiment,
    model_path: Path,
    progress: bool = True,
) -> Training:
    """Train a compiled task and keep the epoch that `keep_epoch` names.

    Callbacks as in the report: the weights of the best validation loss, early stopping, a learning
    rate reduced on plateaus (not with the cosine schedule). The model in memory and the one at
    `model_path`, in float32, are the kept epoch's; the file appears only when training has ended.

    Each epoch leaves a checkpoint in ``.checkpoint/`` next to it. After an interruption the same
    call goes on with the epoch that was interrupted, with weights, optimizer, learning rate,
    random states and callbacks as they were; a checkpoint of other parameters or data is discarded.

    A training whose loss is not finite ends there.

    Args:
        model: the whole network, which is saved; changed in place.
        task: as returned by `make_task`, compiled by `compile_task`.
        experiment: epochs and the callbacks' parameters are used.
        model_path: where the trained model goes, ``*.keras``.
        progress: whether to show a bar that counts epochs.

    Raises:
        UserError: no epoch has a finite loss, or a checkpoint is damaged.
    """
    watching = watchers(experiment)
    checkpoint = Checkpoint(model_path.parent / ".checkpoint", watching, task, experiment)
    resumed_after = len(checkpoint.rows)
    clock = _Clock(resumed_after)
    callbacks = [
        clock,
        *([_Curves()] if experiment.mask_supervision else []),
        *watching,
        _LearningRate(),
        keras.callbacks.TerminateOnNaN(),  # within an epoch; the checkpoint sees its end
        checkpoint,
    ]
    if not hide_bars(progress):
        callbacks.append(TqdmCallback(verbose=0, desc="epochs", initial=resumed_after))
    if not checkpoint.finished:
        with to_the_terminal():
            task.network.fit(
                task.train(clock),
                validation_data=task.validation,
                initial_epoch=resumed_after,
                epochs=experiment.epochs,
                callbacks=callbacks,
                class_weight=task.class_weights,
                shuffle=False,  # the data set shuffles itself
                verbose=0,
            )
    if checkpoint.diverged:
        _report_divergence(checkpoint, experiment)
    checkpoint.load_kept()
    with atomic_write(model_path) as temporary:
        in_float32(model).save(temporary)
    checkpoint.discard()

    history = pd.DataFrame(checkpoint.rows)
    history.insert(0, "epoch", range(1, len(history) + 1))
    return Training(
        history,
        checkpoint.kept_epoch,
        checkpoint.seconds,
        resumed_after,
        checkpoint.weights_sha256,
    )


def watchers(experiment: Experiment) -> list[keras.callbacks.Callback]:
    """The callbacks that watch the validation loss, but for the one that keeps weights."""
    watched = {"monitor": "val_loss", "mode": "min"}
    stop = keras.callbacks.EarlyStopping(patience=experiment.early_stopping_patience, **watched)
    if experiment.schedule != "plateau":
        return [stop]
    slow = keras.callbacks.ReduceLROnPlateau(
        factor=experiment.reduce_lr_factor,
        patience=experiment.reduce_lr_patience,
        min_lr=experiment.min_learning_rate,
        **watched,
    )
    return [stop, slow]


def _report_divergence(checkpoint: Checkpoint, experiment: Experiment) -> None:
    """Say which epoch is kept of a training whose loss stopped being finite.

    Raises:
        UserError: there is none.
    """
    last = len(checkpoint.rows)
    if not np.isfinite(losses_of(checkpoint.rows)).any():
        checkpoint.discard()
        raise UserError(
            f"The training diverged: the loss of epoch {last} is not finite, and there is none "
            f"before it to keep. Lower learning_rate (it is {experiment.learning_rate:g}) and run "
            "05_modeling again."
        )
    print(
        f"The training diverged: the loss of epoch {last} is not finite. It ended there, and epoch "
        f"{checkpoint.kept_epoch} is kept."
    )


class _Clock(keras.callbacks.Callback):
    """The number of the current epoch, for each pass over the training batches.

    They cannot count for themselves: Keras begins other passes to build a network, and
    MirroredStrategy to look ahead.
    """

    def __init__(self, first: int) -> None:
        super().__init__()
        self._epoch = first

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        return self._epoch


class _Curves(keras.callbacks.Callback):
    """Name the curves of two outputs as those of one, and the second one's loss mask_loss.

    It comes before the callbacks that watch val_loss: the class decides which epoch is best.
    """

    def on_epoch_end(self, epoch, logs=None):
        first, second = self.model.output_names
        for prefix in ("", "val_"):
            del logs[f"{prefix}loss"]  # their weighted sum
            logs[f"{prefix}loss"] = logs.pop(f"{prefix}{first}_loss")
            logs[f"{prefix}accuracy"] = logs.pop(f"{prefix}{first}_accuracy")
            logs[f"{prefix}mask_loss"] = logs.pop(f"{prefix}{second}_loss")


class _LearningRate(keras.callbacks.Callback):
    """Record the rate at the start of each epoch, whatever the schedule."""

    def on_epoch_begin(self, epoch, logs=None):
        self._rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def on_epoch_end(self, epoch, logs=None):
        logs["learning_rate"] = self._rate


def describe_training(
    training: Training,
    model: keras.Model,
    classes: Sequence[str],
    stored: frozen.Plan,
) -> dict[str, Any]:
    """The content of training.json: what was trained, how long, with which versions.

    ``model_sha256`` is of the network's weights in their order, not of its file: that holds the
    time when it was saved, and two trainings that gave the same network should show it.
    """
    kept = training.history.set_index("epoch").loc[training.kept_epoch]
    total, trainable, frozen = parameter_counts(model)
    return {
        "classes": list(classes),
        "parameters": {"total": total, "trainable": trainable, "non_trainable": frozen},
        "epochs": len(training.history),
        "kept_epoch": training.kept_epoch,
        "best": {name: float(kept[name]) for name in _CURVES},
        "seconds": round(training.seconds, 1),
        "stored_activations": stored.on,
        "weights_sha256": training.weights_sha256,
        "device": use_device(),
        "versions": versions(),
        "model_sha256": _digest(model),
    }


def _digest(model: keras.Model) -> str:
    digest = hashlib.sha256()
    for weights in model.get_weights():
        digest.update(f"{weights.dtype} {weights.shape}".encode())
        digest.update(np.ascontiguousarray(weights).tobytes())
    return digest.hexdigest()
