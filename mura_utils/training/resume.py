"""The checkpoint of an epoch: all that the next one depends on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mura_utils.checkpoints import TrainingState, read_checkpoint, to_numpy, write_checkpoint
from mura_utils.experiments import Experiment, owner, weights_digest
from mura_utils.training.task import Task

_CHECKPOINT_SECONDS = 10  # of training, at most, that a kill loses besides the current epoch


def losses_of(rows: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Validation losses, infinite where an epoch's loss on either split is not finite.

    Example:
        >>> losses_of([{"loss": 1.0, "val_loss": 1.25}, {"loss": float("nan"), "val_loss": 0.5}])
        array([1.25,  inf])
    """
    losses = np.array([(row["val_loss"], row["loss"]) for row in rows])
    return np.where(np.isfinite(losses).all(axis=1), losses[:, 0], np.inf)


class Checkpoint(keras.callbacks.Callback, TrainingState):
    """After an epoch, write all that the next one depends on; at the start, read it back.

    Epochs of a second or two are not all written: what a kill loses of them is trained again, to
    the same bytes. Keras's BackupAndRestore leaves out what the callbacks and dropout remember.
    Two kinds of file, each renamed into place when whole: ``state.npz`` (the last epoch) and
    ``kept-<epoch>.npz``, which the state refers to by the epoch that is kept.
    """

    def __init__(
        self,
        folder: Path,
        watching: Sequence[keras.callbacks.Callback],
        task: Task,
        experiment: Experiment,
    ) -> None:
        """Read the checkpoint in `folder`, if it belongs to this task; else start again."""
        keras.callbacks.Callback.__init__(self)
        self.network = task.network
        self._watching = watching
        self._epochs, self._keep = experiment.epochs, experiment.keep_epoch
        self.weights_sha256 = weights_digest(experiment)
        self._key = _checkpoint_key(task, experiment, self.weights_sha256)
        TrainingState.__init__(self, folder / "state.npz", _CHECKPOINT_SECONDS, self._fits)
        if not self.record:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        self.rows: list[dict[str, float]] = self.record.get("rows", [])
        self.kept_epoch: int = self.record.get("kept_epoch", 0)
        self._stopped: bool = self.record.get("stopped", False)
        self._kept_weights: list[np.ndarray] = []  # of an epoch that is not on disk

    @property
    def finished(self) -> bool:
        """Whether no epoch is left to train."""
        return len(self.rows) >= self._epochs or self._stopped

    @property
    def diverged(self) -> bool:
        """Whether the loss of the last epoch is not finite."""
        return bool(self.rows) and not np.isfinite(losses_of(self.rows[-1:])).all()

    def _fits(self, record: dict[str, Any]) -> bool:
        if record["key"] != self._key:
            print(f"{self.path} belongs to other parameters or data: training starts again.")
        return record["key"] == self._key

    def on_train_begin(self, logs=None):
        """Put network, optimizer and callbacks where the last epoch left them."""
        # What the callbacks remember follows from the epochs that they have seen.
        for epoch, row in enumerate(self.rows):
            for callback in self._watching:
                callback.on_epoch_end(epoch, dict(row))
        self.restore(self.network)

    def on_epoch_end(self, epoch, logs=None):
        """Note the values, copy the weights if they are to be kept, write a checkpoint if due."""
        self.rows.append({name: float(value) for name, value in logs.items()})
        previous, self.kept_epoch = self.kept_epoch, self._to_keep()
        self.model.stop_training |= self.diverged
        if self.kept_epoch != previous:
            self._kept_weights = to_numpy(self.network.weights)
        if not self.due():
            return
        kept = self._kept(self.kept_epoch)
        if self._kept_weights:
            write_checkpoint(kept, self._kept_weights)
            self._kept_weights = []
        stopped = bool(self.model.stop_training)
        self.save(key=self._key, rows=self.rows, kept_epoch=self.kept_epoch, stopped=stopped)
        for path in kept.parent.glob("kept-*.npz"):
            if path != kept:
                path.unlink()

    def _to_keep(self) -> int:
        """The epoch with the lowest loss, or the last one with a finite loss."""
        losses = losses_of(self.rows)
        if self._keep == "last" and np.isfinite(losses).any():
            return 1 + int(np.flatnonzero(np.isfinite(losses))[-1])
        return 1 + int(np.argmin(losses))

    def load_kept(self) -> None:
        """Give the network the weights of the epoch that is kept."""
        weights = self._kept_weights
        if not weights:
            kept = self._kept(self.kept_epoch)
            weights, _ = read_checkpoint(kept, f"remove {kept.parent} to start again")
        self.network.set_weights(weights)

    def discard(self) -> None:
        """Remove the files: training has ended and the model is saved."""
        shutil.rmtree(self.path.parent)

    def _kept(self, epoch: int) -> Path:
        return self.path.with_name(f"kept-{epoch}.npz")


def _checkpoint_key(task: Task, experiment: Experiment, weights: str | None) -> str:
    """What must be the same for a training to go on: its parameters, data, weights, network."""
    parameters = {
        name: value
        for name, value in experiment.model_dump().items()
        if owner(name) <= "05" and name not in ("name", "data_dir")
    }
    shapes = [tuple(variable.shape) for variable in task.network.weights]
    # What "mixed" is depends on the machine, and with it the optimizer's variables.
    policies = sorted({layer.dtype_policy.name for layer in task.network.layers})
    key = json.dumps([parameters, task.fingerprint, weights, shapes, policies], sort_keys=True)
    return hashlib.sha256(key.encode()).hexdigest()
