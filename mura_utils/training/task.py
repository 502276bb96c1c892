"""What is trained, and on what: the network, its batches, its loss."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from mura_utils import devices, frozen, report
from mura_utils.augmentation import Augmentation
from mura_utils.data.dataset import Images
from mura_utils.experiments import Experiment
from mura_utils.generators import make_dataset
from mura_utils.network.cpu_kernels import use_cpu_adam, use_cpu_kernels
from mura_utils.network.heads import FINDING
from mura_utils.network.mask_loss import MaskLoss
from mura_utils.sections import Training


@dataclass(frozen=True)
class Task:
    """A network to train and its batches.

    Attributes:
        network: the whole model, or its tail where activations are stored; where masks teach an
            attention map, that is a second output.
        train: makes the training batches from an epoch (0 for the first) on, or of the epochs that
            an iterator names.
        validation: batches to choose the best epoch by.
        class_weights: factor of each class's loss, by its index; None weighs all alike.
        steps: training steps an epoch.
        fingerprint: of the images, labels, split and what computed stored activations, to tell
            another task's checkpoint.
    """

    network: keras.Model
    train: Callable[[int | Iterator[int]], tf.data.Dataset]
    validation: tf.data.Dataset
    class_weights: dict[int, float] | None
    steps: int
    fingerprint: str


def make_task(
    model: keras.Model,
    images: Images,
    experiment: Experiment,
    stored: frozen.Plan | None = None,
) -> Task:
    """Batches to train on, shuffled and augmented as the experiment says, and to validate on.

    Args:
        model: as returned by `build.build_model`, one output for each of the images' classes.
        images: what is trained on and validated with.
        experiment: batch_size, augmentation, sampling, class_weights, mask_supervision and seed are
            used.
        stored: where it is `on`, the tail is trained on its activations, see `frozen.extract`.
    """
    one_hot = images.one_hot
    training_rows, validation_rows = images.positions("train"), images.positions("validation")
    weights = _class_weights(one_hot[training_rows])
    common = {
        "class_weights": dict(enumerate(weights.tolist())) if experiment.class_weights else None,
        "steps": -(-len(training_rows) // experiment.batch_size),
        "fingerprint": _fingerprint(images, stored),
    }
    options = {
        "batch_size": experiment.batch_size,
        "seed": experiment.seed,
        "tabular": images.tabular,
    }
    shares = None
    if experiment.sampling == "balanced":
        shares = weights[one_hot[training_rows].argmax(axis=1)] / len(training_rows)
    network, masks, grid = model, None, 0
    if experiment.mask_supervision:
        watched = np.concatenate([training_rows, validation_rows])
        masks = images.masks(watched)
        print(f"Masks of training and validation images: {masks.describe(watched)}.")
        finding = model.get_layer(FINDING).output
        grid = finding.shape[1]
        network = keras.Model(model.inputs, [*model.outputs, finding], name=model.name)
    if stored is not None and stored.on:
        network = stored.cut.tail if network is model else frozen.split_network(network).tail
        train, held_out = stored.train, stored.held_out
        taught = masks and [frozen.variant_targets(each, masks, grid) for each in (train, held_out)]
        train_targets, held_out_targets = taught or (None, None)

        def stored_batches(first_epoch: int | Iterator[int]) -> tf.data.Dataset:
            return frozen.make_dataset(
                train,
                np.arange(len(train.rows)),
                one_hot[train.rows],
                shuffle=True,
                first_iteration=first_epoch,
                targets=train_targets,
                shares=shares,
                **options,
            )

        positions = np.flatnonzero(np.isin(held_out.rows, validation_rows))
        validation = frozen.make_dataset(
            held_out, positions, one_hot[held_out.rows], targets=held_out_targets, **options
        )
        return Task(network, stored_batches, validation, **common)

    augmentation = Augmentation.of(experiment) if experiment.augment else None

    def batches(first_epoch: int | Iterator[int]) -> tf.data.Dataset:
        return make_dataset(
            images.pixels,
            training_rows,
            one_hot,
            augmentation=augmentation,
            shuffle=True,
            first_iteration=first_epoch,
            shares=shares,
            **options,
        )

    options |= {"masks": masks, "grid": grid}
    validation = make_dataset(images.pixels, validation_rows, one_hot, **options)
    return Task(network, batches, validation, **common)


def _fingerprint(images: Images, stored: frozen.Plan | None) -> str:
    digest = hashlib.sha256(images.rows.to_csv(index=False).encode())
    if images.tabular is not None:
        digest.update(images.tabular.numbers.tobytes())
    if stored is not None and stored.on:  # `extractor: auto` can choose another in between
        digest.update(stored.train.about["computed_by"].encode())
    return digest.hexdigest()


def _class_weights(one_hot: np.ndarray) -> np.ndarray:
    """(K,) weights inverse to the classes' frequencies; their mean over the images is 1."""
    counts = np.count_nonzero(one_hot, axis=0)
    present = counts > 0
    weights = np.ones(len(counts))
    weights[present] = len(one_hot) / (present.sum() * counts[present])
    return weights


def compile_task(task: Task, training: Training) -> None:
    """Adam and categorical cross-entropy (report Fig. 27), or what the parameters ask for instead.

    With `weight_decay` the optimizer is AdamW, with `focal_gamma` the loss is the focal loss (Lin
    et al. 2017), and with `mask_supervision` the loss on masks is added.
    """
    rate: float | keras.optimizers.schedules.LearningRateSchedule = training.learning_rate
    if training.schedule == "cosine":
        rate = _cosine(training, task.steps)
    smoothing = {"label_smoothing": training.label_smoothing}
    loss = keras.losses.CategoricalCrossentropy(**smoothing)
    if training.focal_gamma > 0:
        loss = keras.losses.CategoricalFocalCrossentropy(
            alpha=1.0, gamma=training.focal_gamma, **smoothing
        )
    taught = training.mask_supervision > 0
    fast = training.kernels == "fast"
    if fast:
        use_cpu_kernels(task.network)
    with task.network.distribute_strategy.scope():
        optimizer: keras.optimizers.Optimizer = (
            keras.optimizers.AdamW(rate, weight_decay=training.weight_decay)
            if training.weight_decay
            else keras.optimizers.Adam(rate)
        )
        if fast:
            use_cpu_adam(optimizer)
        if any(layer.dtype_policy.name == "mixed_float16" for layer in task.network.layers):
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        task.network.compile(
            optimizer=optimizer,
            auto_scale_loss=False,
            loss=[loss, MaskLoss()] if taught else loss,
            loss_weights=[1.0, training.mask_supervision] if taught else None,
            metrics=[["accuracy"], []] if taught else ["accuracy"],
            steps_per_execution=training.steps_per_execution,
            jit_compile=devices.uses_xla(training),
        )


def _cosine(training: Training, steps: int) -> keras.optimizers.schedules.CosineDecay:
    """From the learning rate to 0, or from 0 to it in the first epochs and then back."""
    rate, warmup = training.learning_rate, training.warmup_epochs * steps
    after = training.epochs * steps - warmup
    if not warmup:
        return keras.optimizers.schedules.CosineDecay(rate, after)
    return keras.optimizers.schedules.CosineDecay(
        0.0, after, warmup_target=rate, warmup_steps=warmup
    )


def hyper_parameters(experiment: Experiment) -> pd.DataFrame:
    """The experiment's values next to those that the report prints (Fig. 27).

    With the schedule cosine nothing is reduced on a plateau: those values are "–".

    Example:
        >>> hyper_parameters(Experiment(name="mine", batch_size=32)).loc["batch_size"].to_dict()
        {'mine': '32', 'report': '64'}
    """
    printed = {name: str(value) for name, value in report.FIG_27.items()}
    focal = f"focal loss, gamma {experiment.focal_gamma}"
    ours = {name: str(getattr(experiment, name, value)) for name, value in printed.items()}
    ours["optimizer"] = "AdamW" if experiment.weight_decay else printed["optimizer"]
    if experiment.schedule == "cosine":
        ours |= dict.fromkeys(("reduce_lr_factor", "reduce_lr_patience", "min_learning_rate"), "–")
    ours["loss"] = focal if experiment.focal_gamma > 0 else printed["loss"]
    printed["early_stopping_patience"] += f" (the text also says {report.EARLY_STOPPING_IN_TEXT})"
    return pd.DataFrame({experiment.name: ours, "report": printed}).rename_axis("parameter")
