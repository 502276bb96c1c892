"""Fitting a model: the report's protocol and ours, resumed where it was interrupted."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from tqdm.keras import TqdmCallback

from mura_utils import features, report
from mura_utils.checkpoints import read_checkpoint, to_numpy, write_checkpoint
from mura_utils.cpu_kernels import use_cpu_adam, use_cpu_kernels
from mura_utils.errors import UserError
from mura_utils.experiments import Experiment, owner
from mura_utils.generators import Augmentation, make_dataset
from mura_utils.models import in_float32, parameter_counts
from mura_utils.notebook import versions
from mura_utils.paths import atomic_write
from mura_utils.terminal import hide_bars, to_the_terminal

_CURVES = ("loss", "accuracy", "val_loss", "val_accuracy")
_CHECKPOINT_SECONDS = 10  # of training, at most, that a kill loses beside the epoch at hand


# --- devices ------------------------------------------------------------------------------------


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


def strategy(experiment: Experiment) -> tf.distribute.Strategy:
    """How a batch is spread: whole on one device, or in equal parts over several GPUs.

    Build the model inside its `scope()`. With `deterministic`, GPU kernels are asked to give the
    same result each time.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus and experiment.deterministic:
        tf.config.experimental.enable_op_determinism()
    return tf.distribute.MirroredStrategy() if len(gpus) > 1 else tf.distribute.get_strategy()


def dtype_policy(experiment: Experiment) -> str:
    """Keras's policy to train with: float16 arithmetic only where `mixed` meets a GPU."""
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    return "mixed_float16" if experiment.precision == "mixed" and on_gpu else "float32"


# --- what is trained, and on what ---------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A network to train and its batches.

    Attributes:
        network: the whole model, or its tail where activations are stored.
        train: makes the training batches from an epoch (0 for the first) on, or of the epochs that
            an iterator names.
        validation: batches to choose the best epoch by.
        class_weights: factor of each class's loss, by its index; None weighs all alike.
        steps: training steps an epoch.
        fingerprint: of the images, labels and split, to tell another task's checkpoint.
    """

    network: keras.Model
    train: Callable[[int | Iterator[int]], tf.data.Dataset]
    validation: tf.data.Dataset
    class_weights: dict[int, float] | None
    steps: int
    fingerprint: str


def make_task(
    model: keras.Model,
    pixels: np.ndarray,
    manifest: pd.DataFrame,
    classes: Sequence[str],
    experiment: Experiment,
    stored: features.Plan | None = None,
) -> Task:
    """Batches to train on, shuffled and augmented as the experiment says, and to validate on.

    Args:
        model: of `models.build_model`.
        pixels: (N, S, S) uint8, of `generators.load_pixels`.
        manifest: N rows in the same order, with path, label and split.
        classes: K labels in the order of the model's outputs.
        experiment: batch_size, augmentation, class_weights and seed are used.
        stored: where it is `on`, the tail is trained on its activations, see `features.extract`.
    """
    one_hot = manifest["label"].to_numpy()[:, None] == np.asarray(classes)
    rows = {split: np.flatnonzero(manifest["split"] == split) for split in ("train", "validation")}
    common = {
        "class_weights": _balanced(one_hot[rows["train"]]) if experiment.class_weights else None,
        "steps": -(-len(rows["train"]) // experiment.batch_size),
        "fingerprint": hashlib.sha256(manifest.to_csv(index=False).encode()).hexdigest(),
    }
    options = {"batch_size": experiment.batch_size, "seed": experiment.seed}
    if stored is not None and stored.on:
        train, held_out = stored.train, stored.held_out

        def stored_batches(first_epoch: int | Iterator[int]) -> tf.data.Dataset:
            return features.make_dataset(
                train,
                np.arange(len(train.rows)),
                one_hot[train.rows],
                shuffle=True,
                first_iteration=first_epoch,
                **options,
            )

        positions = np.flatnonzero(np.isin(held_out.rows, rows["validation"]))
        validation = features.make_dataset(held_out, positions, one_hot[held_out.rows], **options)
        return Task(stored.cut.tail, stored_batches, validation, **common)

    augmentation = Augmentation.of(experiment) if experiment.augment else None

    def batches(first_epoch: int | Iterator[int]) -> tf.data.Dataset:
        return make_dataset(
            pixels,
            rows["train"],
            one_hot,
            augmentation=augmentation,
            shuffle=True,
            first_iteration=first_epoch,
            **options,
        )

    return Task(
        model, batches, make_dataset(pixels, rows["validation"], one_hot, **options), **common
    )


def _balanced(one_hot: np.ndarray) -> dict[int, float]:
    """Weights inverse to the classes' frequencies; their mean over the images is 1."""
    counts = one_hot.sum(axis=0)
    present = counts > 0
    weights = np.ones(len(counts))
    weights[present] = len(one_hot) / (present.sum() * counts[present])
    return dict(enumerate(weights.tolist()))


def compile_task(task: Task, experiment: Experiment) -> None:
    """Adam and categorical cross-entropy (report Fig. 27), or focal loss (Lin et al. 2017)."""
    rate: float | keras.optimizers.schedules.LearningRateSchedule = experiment.learning_rate
    if experiment.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, experiment.epochs * task.steps)
    smoothing = {"label_smoothing": experiment.label_smoothing}
    loss = keras.losses.CategoricalCrossentropy(**smoothing)
    if experiment.focal_gamma > 0:
        loss = keras.losses.CategoricalFocalCrossentropy(
            alpha=1.0, gamma=experiment.focal_gamma, **smoothing
        )
    use_cpu_kernels(task.network)
    with task.network.distribute_strategy.scope():
        optimizer: keras.optimizers.Optimizer = keras.optimizers.Adam(rate)
        use_cpu_adam(optimizer)
        if any(layer.dtype_policy.name == "mixed_float16" for layer in task.network.layers):
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        task.network.compile(
            optimizer=optimizer,
            auto_scale_loss=False,
            loss=loss,
            metrics=["accuracy"],
            steps_per_execution=experiment.steps_per_execution,
            jit_compile=features.uses_xla(experiment),
        )


# --- fitting ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """What one fit gave.

    Attributes:
        history: one row an epoch: epoch (from 1), loss, accuracy, val_loss, val_accuracy,
            learning_rate.
        best_epoch: the epoch whose weights were kept, by validation loss.
        seconds: wall-clock time of the epochs, those before an interruption included.
        resumed_after: epochs that an interrupted call had completed.
    """

    history: pd.DataFrame
    best_epoch: int
    seconds: float
    resumed_after: int = 0


def fit(
    model: keras.Model,
    task: Task,
    experiment: Experiment,
    model_path: Path,
    progress: bool = True,
) -> Training:
    """Train a compiled task and keep the epoch with the lowest validation loss.

    Callbacks as in the report: the weights of the best validation loss, early stopping, a learning
    rate reduced on plateaus (not with the cosine schedule). The model in memory and the one at
    `model_path`, in float32, are the best epoch's; the file appears only when training has ended.

    Each epoch leaves a checkpoint in ``.checkpoint/`` beside it. After an interruption the same
    call goes on with the epoch that was interrupted, with weights, optimizer, learning rate,
    random states and callbacks as they were; a checkpoint of other parameters or data is discarded.

    A training whose loss is not finite ends there.

    Args:
        model: the whole network, which is saved; changed in place.
        task: of `make_task`, compiled by `compile_task`.
        experiment: epochs and the callbacks' parameters are used.
        model_path: where the trained model goes, ``*.keras``.
        progress: whether to show a bar that counts epochs.

    Raises:
        UserError: no epoch has a finite loss, or a checkpoint is damaged.
    """
    watching: list[keras.callbacks.Callback] = [
        keras.callbacks.EarlyStopping(
            monitor="val_loss", mode="min", patience=experiment.early_stopping_patience
        )
    ]
    if experiment.schedule == "plateau":
        watching.append(
            keras.callbacks.ReduceLROnPlateau(
                monitor="val_loss",
                mode="min",
                factor=experiment.reduce_lr_factor,
                patience=experiment.reduce_lr_patience,
                min_lr=experiment.min_learning_rate,
            )
        )
    checkpoint = _Checkpoint(model_path.parent / ".checkpoint", watching, task, experiment)
    resumed_after = len(checkpoint.rows)
    clock = _Clock(resumed_after)
    callbacks = [
        clock,
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
    checkpoint.load_best()
    with atomic_write(model_path) as temporary:
        in_float32(model).save(temporary)
    checkpoint.discard()

    history = pd.DataFrame(checkpoint.rows)
    history.insert(0, "epoch", range(1, len(history) + 1))
    return Training(history, checkpoint.best_epoch, checkpoint.seconds, resumed_after)


def _report_divergence(checkpoint: _Checkpoint, experiment: Experiment) -> None:
    """Say which epoch is kept of a training whose loss ceased to be finite.

    Raises:
        UserError: there is none.
    """
    last = len(checkpoint.rows)
    if not np.isfinite(_losses(checkpoint.rows)).any():
        checkpoint.discard()
        raise UserError(
            f"The training diverged: the loss of epoch {last} is not finite, and there is none "
            f"before it to keep. Lower learning_rate (it is {experiment.learning_rate:g}) and run "
            "05_modeling again."
        )
    print(
        f"The training diverged: the loss of epoch {last} is not finite. It ended there, and epoch "
        f"{checkpoint.best_epoch} is kept."
    )


def _losses(rows: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Validation losses, infinite where an epoch's loss on either split is not finite."""
    losses = np.array([(row["val_loss"], row["loss"]) for row in rows])
    return np.where(np.isfinite(losses).all(axis=1), losses[:, 0], np.inf)


class _Clock(keras.callbacks.Callback):
    """The number of the epoch at hand, for each pass over the training batches.

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


class _LearningRate(keras.callbacks.Callback):
    """Record the rate that each epoch began with, whatever the schedule."""

    def on_epoch_begin(self, epoch, logs=None):
        self._rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def on_epoch_end(self, epoch, logs=None):
        logs["learning_rate"] = self._rate


class _Checkpoint(keras.callbacks.Callback):
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
        return bool(self.rows) and not np.isfinite(_losses(self.rows[-1:])).all()

    def _read(self) -> None:
        path = self._folder / "state.npz"
        if path.is_file():
            arrays, record = read_checkpoint(path)
            if record["key"] == self._key:
                self.rows, self.best_epoch = record["rows"], record["best_epoch"]
                self.seconds, self._stopped = record["seconds"], record["stopped"]
                self._arrays = arrays
                return
            print(f"{path} belongs to other parameters or data: training starts anew.")
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)

    def on_train_begin(self, logs=None):
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
        self.rows.append({name: float(value) for name, value in logs.items()})
        previous, self.best_epoch = self.best_epoch, 1 + int(np.argmin(_losses(self.rows)))
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


# --- describing ---------------------------------------------------------------------------------


def hyper_parameters(experiment: Experiment) -> pd.DataFrame:
    """The experiment's values beside those that the report prints (Fig. 27)."""
    printed = {name: str(value) for name, value in report.FIG_27.items()}
    focal = f"focal loss, gamma {experiment.focal_gamma}"
    ours = {name: str(getattr(experiment, name, value)) for name, value in printed.items()}
    ours["loss"] = focal if experiment.focal_gamma > 0 else printed["loss"]
    printed["early_stopping_patience"] += f" (the text also says {report.EARLY_STOPPING_IN_TEXT})"
    return pd.DataFrame({experiment.name: ours, "report": printed}).rename_axis("parameter")


def describe_training(
    training: Training,
    model: keras.Model,
    classes: Sequence[str],
    model_path: Path,
    stored: features.Plan,
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
        "stored_activations": stored.on,
        "device": use_device(),
        "versions": versions(),
        "model_sha256": hashlib.sha256(model_path.read_bytes()).hexdigest(),
    }
