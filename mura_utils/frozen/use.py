"""Batches of stored activations, and predictions from them."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from mura_utils import generators
from mura_utils.cache import read_soon
from mura_utils.data.dataset import Images, Masks
from mura_utils.data.tabular import Tabular
from mura_utils.experiments import Experiment
from mura_utils.frozen.store import FeatureSet, Plan, feature_sets
from mura_utils.generators import STILL, beside, mask_targets, stream
from mura_utils.network.backbone import FEATURES
from mura_utils.network.cut import Cut, split_network
from mura_utils.network.second_look import answer
from mura_utils.terminal import to_the_terminal

_AT_ONCE = 64  # masks
_COMPARED = 32  # images that `predict` also runs through the whole network


def make_dataset(
    features: FeatureSet,
    positions: np.ndarray,
    labels_onehot: np.ndarray,
    batch_size: int,
    shuffle: bool = False,
    seed: int = 0,
    first_iteration: int | Iterator[int] = 0,
    targets: np.ndarray | None = None,
    shares: np.ndarray | None = None,
    tabular: Tabular | None = None,
) -> tf.data.Dataset:
    """Batches of stored activations and labels, in the order of `generators.make_dataset`.

    Each image starts at a variant of its own and takes the next one in every iteration, so that a
    batch mixes variants and `features.views` iterations show each of them once.

    Args:
        features: a complete set.
        positions: (n,) which of the set's images to use.
        labels_onehot: (len(features.rows), K), image for image.
        batch_size: images a batch.
        shuffle: a new order at each iteration; some of `tabular` is hidden then.
        seed: of order and variants; not negative.
        first_iteration: epochs that an earlier data set has served; an iterator numbers each pass.
        targets: (features.views, len(features.rows), h, w, 1), see `variant_targets`.
        shares: how often each of `positions` is drawn, see `generators.stream`.
        tabular: what else is read of all images of the run.

    Returns:
        Data set of known length with elements (activations, labels (B, K) float32); activations
        are a tuple of float32 tensors (B, *shape), the last one (B, F) with `tabular`. With
        targets, labels and targets are a tuple.
    """
    variants = features.load()
    labels = np.asarray(labels_onehot, np.float32)
    offsets = np.random.default_rng([seed, len(variants)]).integers(len(variants), size=len(labels))
    others = beside(tabular, features.rows[:0]).shape[1]

    def take(rows: np.ndarray, rng: np.random.Generator, iteration: int) -> tuple[np.ndarray, ...]:
        chosen = (offsets[rows] + iteration) % len(variants)
        places = list(zip(chosen, rows, strict=True))
        for variant, row in places:
            read_soon(variants[variant], row)
        values = np.stack([variants[variant][row] for variant, row in places])
        said = beside(tabular, features.rows[rows], rng if shuffle else None)
        batch = values, said, labels[rows]
        return batch if targets is None else (*batch, targets[chosen, rows])

    def unpack(values: tf.Tensor, said: tf.Tensor, labels: tf.Tensor, *taught: tf.Tensor) -> tuple:
        maps = features.encoding.decode(values, features.shapes)
        inputs = (*maps, said) if tabular else maps
        if not taught:
            return inputs, labels
        return inputs, (labels, tf.cast(taught[0], tf.float32))

    signature = (
        tf.TensorSpec((None, features.width), features.encoding.tensor),
        tf.TensorSpec((None, others), tf.float32),
        tf.TensorSpec((None, labels.shape[1]), tf.float32),
    )
    if targets is not None:
        signature += (tf.TensorSpec((None, *targets.shape[2:]), tf.int8),)
    return stream(
        positions,
        batch_size,
        take,
        signature,
        unpack,
        shuffle=shuffle,
        seed=seed,
        first_iteration=first_iteration,
        shares=shares,
    )


def variant_targets(features: FeatureSet, masks: Masks, grid: int) -> np.ndarray:
    """The masks of a set's images, in every variant.

    Returns:
        (features.views, n, grid, grid, 1) int8, see `generators.mask_targets`.
    """
    size = masks.maps.shape[1]
    found = np.empty((features.views, len(features.rows), grid, grid, 1), np.int8)
    for variant in range(features.views):
        transforms = features.transforms(variant, size)
        for start in range(0, len(features.rows), _AT_ONCE):
            batch = slice(start, start + _AT_ONCE)
            maps, known = masks.take(features.rows[batch])
            moved = transforms[batch] if features.augmentation else STILL
            found[variant, batch] = mask_targets(maps, moved, known, grid)
    return found


@to_the_terminal()
def predict(model: keras.Model, images: Images, experiment: Experiment) -> tuple[np.ndarray, str]:
    """Probabilities of the images that are not trained on, from stored activations if there are.

    Args:
        model: a trained network, whole.
        images: their path, sha256 and split are used besides the pixels.
        experiment: of the run that trained the model.

    Returns:
        (n, K) probabilities of the images of validation and test, in their order, and a sentence on
        how they were computed.
    """
    held_out = images.positions("validation", "test")
    if experiment.second_look:
        probabilities = answer(model, images, held_out, experiment.batch_size, second_look=True)
        return probabilities, (
            f"{len(held_out):,} images through the whole network, each twice: as it is, and its "
            "hottest region from nearer."
        )
    cut = split_network(model) if experiment.cache_features != "off" else None
    if cut is not None:
        _, features = feature_sets(cut, images, experiment)
        if features.complete:
            labels = np.zeros((len(held_out), 1))
            batches = make_dataset(
                features,
                np.arange(len(held_out)),
                labels,
                experiment.batch_size,
                tabular=images.tabular,
            )
            probabilities = cut.tail.predict(batches, verbose=0)
            compared = min(_COMPARED, len(held_out))
            difference = largest_difference(features, cut, model, images, compared)
            return probabilities, (
                f"{len(held_out):,} images from their stored activations "
                f"({features.about['computed_by']}). Over {compared} of them run through the whole "
                f"network as well, the largest difference of a probability is {difference:.2g}."
            )
    probabilities = answer(model, images, held_out, experiment.batch_size)
    return probabilities, f"{len(held_out):,} images through the whole network."


@to_the_terminal()
def backbone_features(
    chosen: Plan, model: keras.Model, images: Images, batch_size: int
) -> np.ndarray:
    """The backbone's last feature map of every image, averaged over its positions.

    With stored activations only what follows the cut is run, and a training image is one of its
    augmented versions. Without, every image runs through the backbone: about a third of the work of
    an epoch in which all layers are trained.

    Args:
        chosen: as returned by `plan`, its activations stored.
        model: the network that the plan was made for, not trained yet.
        images: all images of the run.
        batch_size: images a batch.

    Returns:
        (N, C) float32, in the images' order. Where the last map itself lies before the cut: what is
        stored instead, averaged as well.
    """
    labels = np.zeros((len(images), 1), np.float32)
    if chosen.on:
        sets = (chosen.train, chosen.held_out)
        numbers = [np.arange(len(features.rows)) for features in sets]
        parts = [
            (features.rows, make_dataset(features, number, labels[features.rows], batch_size))
            for features, number in zip(sets, numbers, strict=True)
        ]
    else:
        rows = np.arange(len(images))
        parts = [(rows, generators.make_dataset(images.pixels, rows, labels, batch_size))]
    network = _up_to_features(model, chosen.cut.prefix if chosen.on else None)
    # Not `predict`, whose tracing TensorFlow finds excessive in a notebook of many networks.
    run = tf.function(lambda batch: network(batch, training=False), reduce_retracing=True)
    found = np.empty((len(images), network.output_shape[-1]), np.float32)
    for rows, batches in parts:
        found[rows] = np.concatenate([run(batch).numpy() for batch, _ in batches])
    return found


def _up_to_features(model: keras.Model, prefix: keras.Model | None) -> keras.Model:
    """From a prefix's activations, or from radiographs, to the backbone's averaged features."""
    last = model.get_layer(FEATURES)
    inputs = model.inputs[:1] if prefix is None else prefix.outputs
    maps = inputs if prefix is not None and last in prefix.layers else [last.output]
    average = keras.layers.GlobalAveragePooling2D
    pooled = [average()(each) if len(each.shape) == 4 else each for each in maps]
    joined = keras.layers.Concatenate()(pooled) if len(pooled) > 1 else pooled[0]
    return keras.Model(inputs, keras.layers.Activation("linear", dtype="float32")(joined))


def largest_difference(
    features: FeatureSet, cut: Cut, model: keras.Model, images: Images, count: int
) -> float:
    """How far stored activations lead away: the largest difference of any probability.

    Compares the whole network in TensorFlow with the tail on what is stored, over a set's first
    `count` images; its first variant must be plain.
    """
    positions = np.arange(count)
    labels = np.zeros((len(features.rows), 1))
    batch = make_dataset(features, positions, labels, count, tabular=images.tabular)
    stored = cut.tail.predict(batch, verbose=0)
    whole = model.predict(images.inputs(features.rows[positions]), verbose=0)
    return float(np.abs(stored - whole).max())
