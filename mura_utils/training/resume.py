"""The checkpoint of an epoch: all that the next one depends on."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from mura_utils.checkpoints import read_checkpoint, to_numpy, write_checkpoint
from mura_utils.experiments import Experiment, owner
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


class Checkpoint(keras.callbacks.Callback):
    """After an epoch, write all that the next one depends on; at the start, read it back.

    Epochs of a second or two are not all written: what a kill loses of them is trained again, to
    the same bytes. Keras's BackupAndRestore leaves out what the callbacks and dropout remember.
    Two kinds of file, each renamed into place when whole: ``state.npz`` (the last epoch) and
    ``best-<epoch>.npz``, which the state refers to by its best epoch.
    """

    def __init__(
        self,
        folder: Path,
        watching: Sequence[keras.callbacks.Callback],
        task: Task,
        experiment: Experiment,
    ) -> None:
        """Read the checkpoint in `folder`, if it belongs to this task; else start again."""
        super().__init__()
        self.rows: list[dict[str, float]] = []
        self.best_epoch = 0
        self.seconds = 0.0
        self._folder = folder
        self._watching = watching
        self._network = task.network
        self._epochs = experiment.epochs
        self._key = _checkpoint_key(task, experiment)
        self._stopped = False
        self._arrays: list[np.ndarray] = []
        self._best_weights: list[np.ndarray] = []  # of an epoch that is not on disk
        self._read()
        self._written = self.seconds

    @property
    def finished(self) -> bool:
        """Whether no epoch is left to train."""
        return len(self.rows) >= self._epochs or self._stopped

    @property
    def diverged(self) -> bool:
        """Whether the loss of the last epoch is not finite."""
        return bool(self.rows) and not np.isfinite(losses_of(self.rows[-1:])).all()

    def _read(self) -> None:
        path = self._folder / "state.npz"
        if path.is_file():
            arrays, record = read_checkpoint(path)
            if record["key"] == self._key:
                self.rows, self.best_epoch = record["rows"], record["best_epoch"]
                self.seconds, self._stopped = record["seconds"], record["stopped"]
                self._arrays = arrays
                return
            print(f"{path} belongs to other parameters or data: training starts again.")
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)

    def on_train_begin(self, logs=None):
        """Put network, optimizer and callbacks where the last epoch left them."""
        self._began = time.perf_counter() - self.seconds
        self.model.optimizer.build(self.model.trainable_variables)
        if not self.rows:
            return
        # What the callbacks remember follows from the epochs that they have seen.
        for epoch, row in enumerate(self.rows):
            for callback in self._watching:
                callback.on_epoch_end(epoch, dict(row))
        for variable, value in zip(self._variables(), self._arrays, strict=True):
            variable.assign(value)
        self._arrays = []

    def on_epoch_end(self, epoch, logs=None):
        """Keep the epoch's values, its weights if it is the best, and a checkpoint now and then."""
        self.rows.append({name: float(value) for name, value in logs.items()})
        previous, self.best_epoch = self.best_epoch, 1 + int(np.argmin(losses_of(self.rows)))
        self.model.stop_training |= self.diverged
        if self.best_epoch != previous:
            self._best_weights = to_numpy(self._network.weights)
        self.seconds = time.perf_counter() - self._began
        if self.seconds - self._written >= _CHECKPOINT_SECONDS:
            self._save()
            self._written = self.seconds

    def _save(self) -> None:
        best = self._best(self.best_epoch)
        if self._best_weights:
            write_checkpoint(best, self._best_weights)
            self._best_weights = []
        write_checkpoint(
            self._folder / "state.npz",
            to_numpy(self._variables()),
            key=self._key,
            rows=self.rows,
            best_epoch=self.best_epoch,
            seconds=self.seconds,
            stopped=bool(self.model.stop_training),
        )
        for path in self._folder.glob("best-*.npz"):
            if path != best:
                path.unlink()

    def load_best(self) -> None:
        """Give the network the weights of the best epoch."""
        weights = self._best_weights
        if not weights:
            weights, _ = read_checkpoint(self._best(self.best_epoch))
        self._network.set_weights(weights)

    def discard(self) -> None:
        """Remove the files: training has ended and the model is saved."""
        shutil.rmtree(self._folder)

    def _best(self, epoch: int) -> Path:
        return self._folder / f"best-{epoch}.npz"

    def _variables(self) -> list[keras.Variable]:
        """Weights, dropout's random states, and the optimizer's variables with its rate."""
        counters = {id(variable) for variable in self._network.metrics_variables}
        own = [v for v in self._network.variables if id(v) not in counters]
        return own + self._network.optimizer.variables


def _checkpoint_key(task: Task, experiment: Experiment) -> str:
    """What must be the same for a training to go on: its parameters, its data, its network."""
    parameters = {
        name: value
        for name, value in experiment.model_dump().items()
        if owner(name) <= "05" and name not in ("name", "data_dir")
    }
    shapes = [tuple(variable.shape) for variable in task.network.weights]
    key = json.dumps([parameters, task.fingerprint, shapes], sort_keys=True)
    return hashlib.sha256(key.encode()).hexdigest()
