"""From cached pixels to training batches: the report's augmentation, tf.data.

Keras's `ImageDataGenerator` decodes, resizes and warps one image at a time in Python. Here files
are decoded and resized once (`data.pixels`), and a batch is warped by one TensorFlow op with the
same matrices.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from mura_utils.augmentation import Augmentation
from mura_utils.data.dataset import Masks
from mura_utils.data.tabular import Tabular

STILL = np.array([[1, 0, 0, 0, 1, 0, 0, 0]], np.float32)
"""A transform that changes nothing."""

_PARALLEL_BATCHES = 4  # made ahead of training, at the same time where there are cores


def augment(
    images: np.ndarray | tf.Tensor, transforms: np.ndarray | tf.Tensor, size: int | None = None
) -> tf.Tensor:
    """Warp a batch with one bilinear op; what lies outside repeats the nearest edge pixel.

    Args:
        images: (N, H, W, C) uint8 or float32, 0 to 255.
        transforms: (N, 8) or (N, 11) float32, as returned by `Augmentation.transforms`; or one row
            for the whole batch.
        size: side of the result, in pixels; None leaves H and W.

    Returns:
        (N, H, W, C) or (N, size, size, C) float32, 0 to 255.

    Example:
        >>> images = np.array([[[0, 1], [2, 3]]], np.uint8)[..., None]
        >>> mirror = np.array([[-1, 0, 1, 0, 1, 0, 0, 0]], np.float32)
        >>> augment(images, mirror)[0, ..., 0].numpy().tolist()
        [[1.0, 0.0], [3.0, 2.0]]
    """
    warped = _warp(tf.cast(images, tf.float32), transforms[:, :8], "NEAREST", size)
    if transforms.shape[1] == 8:
        return warped
    gamma, contrast, brightness = (transforms[:, 8 + k, None, None, None] for k in range(3))
    gray = (warped / 255) ** tf.exp(gamma)
    gray = (gray - 0.5) * (1 + contrast) + 0.5 + brightness / 2
    return 255 * tf.clip_by_value(gray, 0, 1)


def mask_targets(
    masks: np.ndarray | tf.Tensor,
    transforms: np.ndarray | tf.Tensor,
    known: np.ndarray | tf.Tensor,
    grid: int,
) -> tf.Tensor:
    """Warp masks with their images, and shrink them by their maximum.

    Args:
        masks: (N, S, S) uint8, 1 where a finding is.
        transforms: as of `augment`.
        known: (N,) bool, false where it is unknown where the finding is.
        grid: cells a side of the result.

    Returns:
        (N, grid, grid, 1) float32: 1 where a cell touches a finding, 0 elsewhere, -1 if unknown.

    Example:
        >>> mask = np.eye(4, dtype=np.uint8)[None]
        >>> mask_targets(mask, STILL, np.array([True]), 2)[0, ..., 0].numpy()
        array([[1., 0.],
               [0., 1.]], dtype=float32)
    """
    masks = tf.cast(masks[..., None], tf.float32)
    masks = _warp(masks, transforms[:, :8], "CONSTANT")
    cell = -(-masks.shape[1] // grid)
    missing = grid * cell - masks.shape[1]
    masks = tf.pad(masks, [[0, 0], *[[missing // 2, missing - missing // 2]] * 2, [0, 0]])
    cells = tf.nn.max_pool2d(masks, cell, cell, "VALID")
    return tf.where(known[:, None, None, None], tf.cast(cells >= 0.5, tf.float32), -1.0)


def _warp(
    images: tf.Tensor, matrices: tf.Tensor, fill_mode: str, size: int | None = None
) -> tf.Tensor:
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=matrices,
        output_shape=(size, size) if size else images.shape[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode=fill_mode,
    )


def stream(
    indices: np.ndarray,
    batch_size: int,
    take: Callable[[np.ndarray, np.random.Generator, int], tuple],
    signature: tuple[tf.TensorSpec, ...],
    finish: Callable[..., tuple],
    shuffle: bool = False,
    seed: int = 0,
    first_iteration: int | Iterator[int] = 0,
    shares: np.ndarray | None = None,
) -> tf.data.Dataset:
    """Batches of whatever `take` reads, in an order that depends on (seed, iteration) alone.

    Args:
        indices: (n,) rows to use.
        batch_size: rows a batch.
        take: from a batch's rows, the iteration's random numbers and its number to arrays.
        signature: of those arrays.
        finish: from them, as tensors, to the elements of the data set; runs in parallel.
        shuffle: a new order at each iteration, otherwise that of `indices`.
        seed: not negative.
        first_iteration: number of the first pass, after which they count; or an iterator that
            numbers each pass.
        shares: (n,) how often each row is drawn, summing to 1; an iteration then draws n rows with
            replacement, whatever `shuffle` says. None takes each row once.
    """
    indices = np.asarray(indices)
    steps = -(-len(indices) // batch_size)
    counts = isinstance(first_iteration, int)
    iterations = itertools.count(first_iteration) if counts else first_iteration

    def batches() -> Iterator[tuple]:
        iteration = next(iterations)
        rng = np.random.default_rng([seed, iteration])
        if shares is not None:
            order = rng.choice(indices, len(indices), p=shares)
        else:
            order = rng.permutation(indices) if shuffle else indices
        for step in range(steps):
            yield take(order[step * batch_size : (step + 1) * batch_size], rng, iteration)

    # Autotuning sleeps for 10, 20, 40 ... ms, and an iterator that ends waits for it to wake: an
    # epoch of 1.3 s can take 2.5.
    options = tf.data.Options()
    options.autotune.enabled = False
    return (
        tf.data.Dataset.from_generator(batches, output_signature=signature)
        .apply(tf.data.experimental.assert_cardinality(steps))
        .map(finish, num_parallel_calls=_PARALLEL_BATCHES)
        .prefetch(_PARALLEL_BATCHES)
        .with_options(options)
    )


def beside(
    tabular: Tabular | None, rows: np.ndarray, rng: np.random.Generator | None = None
) -> np.ndarray:
    """What is read beside some images: (n, F) float32, F being 0 without `tabular`.

    With `rng` some of it is hidden, as in training.
    """
    if tabular is None:
        return np.zeros((len(rows), 0), np.float32)
    return tabular.numbers[rows] if rng is None else tabular.hiding(rows, rng)


def make_dataset(
    pixels: np.ndarray,
    indices: np.ndarray,
    labels_onehot: np.ndarray,
    batch_size: int,
    augmentation: Augmentation | None = None,
    shuffle: bool = False,
    seed: int = 0,
    first_iteration: int | Iterator[int] = 0,
    masks: Masks | None = None,
    grid: int = 0,
    shares: np.ndarray | None = None,
    tabular: Tabular | None = None,
) -> tf.data.Dataset:
    """Batches of images and labels, in a new order and with new draws at each iteration.

    Iteration e (`first_iteration` for the first pass over this data set, then counting) depends on
    (seed, e) alone and on no global random state, so that two data sets made alike give the same
    batches, and a training that goes on sees what it would have seen.

    Args:
        pixels: (N, S, S) uint8, such as the memory map returned by `load_pixels`.
        indices: (n,) rows of `pixels` to use.
        labels_onehot: (N, K), row for row with `pixels`.
        batch_size: images a batch.
        augmentation: None leaves the images as they are.
        shuffle: a new order at each iteration, otherwise that of `indices`; some of `tabular` is
            hidden then.
        seed: not negative.
        first_iteration: epochs that an earlier data set has served; an iterator numbers each pass.
        masks: row for row with `pixels`, see `data.dataset.Images.masks`.
        grid: cells a side of what they are shrunk to.
        shares: how often each of `indices` is drawn, see `stream`.
        tabular: row for row with `pixels`, what is read beside them.

    Returns:
        Data set of known length with elements (images (B, S, S, 1) float32 0 to 255,
        labels (B, K) float32). With tabular, images and its values (B, F) are a tuple; with masks,
        labels and `mask_targets` are.

    Raises:
        ValueError: `labels_onehot` and `pixels` differ in length.

    Example:
        >>> pixels, labels = np.zeros((5, 8, 8), np.uint8), np.eye(5)
        >>> batches = make_dataset(pixels, np.arange(5), labels, batch_size=3, shuffle=True)
        >>> [(images.shape.as_list(), targets.shape.as_list()) for images, targets in batches]
        [([3, 8, 8, 1], [3, 5]), ([2, 8, 8, 1], [2, 5])]
    """
    if len(labels_onehot) != len(pixels):
        raise ValueError(f"{len(labels_onehot)} rows of labels for {len(pixels)} images")
    labels = np.asarray(labels_onehot, dtype=np.float32)
    size, others = pixels.shape[1], beside(tabular, indices[:0]).shape[1]

    def take(rows: np.ndarray, rng: np.random.Generator, _: int) -> tuple[np.ndarray, ...]:
        transforms = np.empty((0, 8), np.float32)
        if augmentation:
            transforms = augmentation.transforms(len(rows), size, rng)
        said = beside(tabular, rows, rng if shuffle else None)
        batch = pixels[rows][..., np.newaxis], transforms, said, labels[rows]
        return (*batch, *masks.take(rows)) if masks else batch

    def warp(
        images: tf.Tensor, transforms: tf.Tensor, said: tf.Tensor, labels: tf.Tensor, *masked
    ) -> tuple:
        warped = augment(images, transforms) if augmentation else tf.cast(images, tf.float32)
        inputs = (warped, said) if tabular else warped
        if not masked:
            return inputs, labels
        maps, known = masked
        moved = transforms if augmentation else STILL
        return inputs, (labels, mask_targets(maps, moved, known, grid))

    columns = augmentation.columns if augmentation else 8
    signature = (
        tf.TensorSpec((None, size, size, 1), tf.uint8),
        tf.TensorSpec((None, columns), tf.float32),
        tf.TensorSpec((None, others), tf.float32),
        tf.TensorSpec((None, labels.shape[1]), tf.float32),
    )
    if masks:
        signature += (
            tf.TensorSpec((None, size, size), tf.uint8),
            tf.TensorSpec((None,), tf.bool),
        )
    return stream(
        indices,
        batch_size,
        take,
        signature,
        warp,
        shuffle=shuffle,
        seed=seed,
        first_iteration=first_iteration,
        shares=shares,
    )
