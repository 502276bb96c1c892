"""From files to training batches: a uint8 pixel cache, the report's augmentation, tf.data.

Keras's `ImageDataGenerator` decodes, resizes and warps one image at a time in Python. Here files
are decoded and resized once, and a batch is warped by one TensorFlow op with the same matrices.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf
from tqdm.contrib.concurrent import thread_map

from mura_utils import paths
from mura_utils.cache import map_array
from mura_utils.errors import UserError
from mura_utils.experiments import Experiment
from mura_utils.images import read_hashed_image, resize
from mura_utils.terminal import hide_bars

# Part of the caches' keys; raise it when read_image or resize give other pixels than before.
CACHE_VERSION = 2
_PARALLEL_BATCHES = 4  # made ahead of training, at the same time where there are cores
_REMEDY = "restore it or make the manifest again (notebook 02)"


def load_pixels(
    root: Path,
    manifest: pd.DataFrame,
    size: int,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> np.ndarray:
    """Decode and resize all images of a manifest once; later calls map the stored file.

    Args:
        root: folder that the manifest's paths are relative to.
        manifest: one row an image, with path and sha256 (empty where pixels were not read; the
            file's length and time of change then stand for its content).
        size: side of the square images, in pixels.
        cache_dir: folder of the stored file, `pixels-<digest>.npy`; None is `paths.cache_dir()`.
        progress: show a progress bar while decoding.

    Returns:
        Read-only memory map (N, size, size) uint8, in the order of the manifest.

    Raises:
        UserError: a file vanished or changed since the manifest was made, or the disk is too small.
        ImageFault: an image cannot be decoded.
    """
    root = paths.resolve(root)
    contents = content_keys(root, manifest)
    key = repr((CACHE_VERSION, size, list(zip(manifest["path"], contents, strict=True)))).encode()
    folder = paths.cache_dir() if cache_dir is None else Path(cache_dir)
    target = folder / f"pixels-{hashlib.sha256(key).hexdigest()[:16]}.npy"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        needed, free = len(manifest) * size * size, shutil.disk_usage(folder).free
        if needed > free:
            raise UserError(
                f"The pixel cache needs {needed / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB "
                "free; make room or point MURA_CACHE_DIR to a larger disk."
            )
        with paths.atomic_write(target) as temporary:
            pixels = np.lib.format.open_memmap(
                temporary, mode="w+", dtype=np.uint8, shape=(len(manifest), size, size)
            )

            def store(row: int, path: str, content: str | tuple) -> None:
                file = root / path
                image, found = read_hashed_image(file)
                if isinstance(content, str) and found != content:
                    raise UserError(f"{file} has changed since the manifest was made; {_REMEDY}.")
                pixels[row] = resize(image, size)

            # Threads: Pillow decodes and resizes, and hashlib hashes, outside the interpreter lock.
            thread_map(
                store,
                range(len(manifest)),
                manifest["path"],
                contents,
                desc=f"decoding at {size} px",
                unit="image",
                disable=hide_bars(progress),
            )
            pixels.flush()
    return map_array(target)


def content_keys(root: Path, manifest: pd.DataFrame) -> list[str | tuple]:
    """What stands for each image's content in a cache's key.

    The SHA-256 of the file, or, where the manifest was made without reading files, path, length
    and time of change.

    Raises:
        UserError: a file without SHA-256 is missing.
    """
    hashes = manifest["sha256"].astype(object).fillna("")
    return [
        sha256 or _stat_key(root / path)
        for path, sha256 in zip(manifest["path"], hashes, strict=True)
    ]


def _stat_key(file: Path) -> tuple[str, int, int]:
    try:
        stat = file.stat()
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing; {_REMEDY}.") from error
    return str(file), stat.st_size, stat.st_mtime_ns


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the augmentation, with the draws of Keras's `ImageDataGenerator`.

    ``Augmentation(**report.AUGMENTATION)`` is the report's (III.E); 0 or False turns a part off.

    Attributes:
        rotation_range: degrees to either side.
        width_shift_range: share of the side, to either side.
        height_shift_range: share of the side, to either side.
        shear_range: degrees (not radians, and not a share) to either side, as Keras reads it.
        zoom_range: zoom factors are drawn from [1 - zoom_range, 1 + zoom_range], per axis.
        horizontal_flip: mirror left-right half of the images.
    """

    rotation_range: float
    width_shift_range: float
    height_shift_range: float
    shear_range: float
    zoom_range: float
    horizontal_flip: bool

    @classmethod
    def of(cls, experiment: Experiment) -> Augmentation:
        """The augmentation whose ranges an experiment gives."""
        return cls(**{field.name: getattr(experiment, field.name) for field in fields(cls)})

    def draw(self, count: int, size: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draw the parameters of `count` images of `size` x `size` pixels.

        Returns:
            Arrays (count,) under the names that `ImageDataGenerator.apply_transform` takes: theta
            and shear in degrees, tx and ty in pixels, zx and zy as factors, flip_horizontal bool.
        """

        def uniform(limit: float) -> np.ndarray:
            return rng.uniform(-limit, limit, count)

        return {
            "theta": uniform(self.rotation_range),
            "tx": uniform(self.height_shift_range) * size,
            "ty": uniform(self.width_shift_range) * size,
            "shear": uniform(self.shear_range),
            "zx": 1 + uniform(self.zoom_range),
            "zy": 1 + uniform(self.zoom_range),
            "flip_horizontal": (rng.random(count) < 0.5) & self.horizontal_flip,
        }

    @staticmethod
    def matrices(parameters: dict[str, np.ndarray], size: int) -> np.ndarray:
        """Compose the parameters of each image into one matrix from output to input pixels.

        Keras composes rotation · shift · shear · zoom about the image's centre and then mirrors the
        result, which about that centre is one more factor diag(-1, 1) on the right. x is the column
        and y the row. As in Keras 3, tx moves along x although it is drawn from
        `height_shift_range`; with equal ranges, as in the report, that makes no difference.

        Args:
            parameters: what `draw` returned.
            size: side of the square images, in pixels.

        Returns:
            (N, 8) float32 for `tf.raw_ops.ImageProjectiveTransformV3`.
        """
        theta = np.deg2rad(parameters["theta"])
        sheared = theta + np.deg2rad(parameters["shear"])
        mirror = np.where(parameters["flip_horizontal"], -1.0, 1.0)
        xx = np.cos(theta) * parameters["zx"] * mirror
        xy = -np.sin(sheared) * parameters["zy"]
        yx = np.sin(theta) * parameters["zx"] * mirror
        yy = np.cos(sheared) * parameters["zy"]
        tx, ty = parameters["tx"], parameters["ty"]
        centre = (size - 1) / 2
        x0 = centre * (1 - xx - xy) + np.cos(theta) * tx - np.sin(theta) * ty
        y0 = centre * (1 - yx - yy) + np.sin(theta) * tx + np.cos(theta) * ty
        zero = np.zeros_like(xx)
        return np.stack([xx, xy, x0, yx, yy, y0, zero, zero], axis=1).astype(np.float32)


def augment(images: np.ndarray | tf.Tensor, matrices: np.ndarray | tf.Tensor) -> tf.Tensor:
    """Warp a batch with one bilinear op; what lies outside repeats the nearest edge pixel.

    Args:
        images: (N, H, W, C) uint8 or float32, 0 to 255.
        matrices: (N, 8) float32 from `Augmentation.matrices`, or (1, 8) for the whole batch.

    Returns:
        (N, H, W, C) float32, 0 to 255.
    """
    images = tf.cast(images, tf.float32)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=matrices,
        output_shape=images.shape[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
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
    drop_remainder: bool = False,
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
        drop_remainder: leave out a last batch that is not full.
    """
    indices = np.asarray(indices)
    steps = len(indices) // batch_size if drop_remainder else -(-len(indices) // batch_size)
    counts = isinstance(first_iteration, int)
    iterations = itertools.count(first_iteration) if counts else first_iteration

    def batches() -> Iterator[tuple]:
        iteration = next(iterations)
        rng = np.random.default_rng([seed, iteration])
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


def make_dataset(
    pixels: np.ndarray,
    indices: np.ndarray,
    labels_onehot: np.ndarray,
    batch_size: int,
    augmentation: Augmentation | None = None,
    shuffle: bool = False,
    seed: int = 0,
    first_iteration: int | Iterator[int] = 0,
    drop_remainder: bool = False,
) -> tf.data.Dataset:
    """Batches of images and labels, in a new order and with new draws at each iteration.

    Iteration e (`first_iteration` for the first pass over this data set, then counting) depends on
    (seed, e) alone and on no global random state, so that two data sets made alike give the same
    batches, and a training that goes on sees what it would have seen.

    Args:
        pixels: (N, S, S) uint8, an array or the memory map of `load_pixels`.
        indices: (n,) rows of `pixels` to use.
        labels_onehot: (N, K), row for row with `pixels`.
        batch_size: images a batch.
        augmentation: None leaves the images as they are.
        shuffle: a new order at each iteration, otherwise that of `indices`.
        seed: not negative.
        first_iteration: epochs that an earlier data set has served; an iterator numbers each pass.
        drop_remainder: leave out a last batch that is not full.

    Returns:
        Data set of known length with elements (images (B, S, S, 1) float32 0 to 255,
        labels (B, K) float32).

    Raises:
        ValueError: `labels_onehot` and `pixels` differ in length.
    """
    if len(labels_onehot) != len(pixels):
        raise ValueError(f"{len(labels_onehot)} rows of labels for {len(pixels)} images")
    labels = np.asarray(labels_onehot, dtype=np.float32)
    size = pixels.shape[1]

    def take(rows: np.ndarray, rng: np.random.Generator, _: int) -> tuple[np.ndarray, ...]:
        matrices = np.empty((0, 8), np.float32)
        if augmentation:
            matrices = augmentation.matrices(augmentation.draw(len(rows), size, rng), size)
        return pixels[rows][..., np.newaxis], matrices, labels[rows]

    def warp(images: tf.Tensor, matrices: tf.Tensor, labels: tf.Tensor) -> tuple:
        images = augment(images, matrices) if augmentation else tf.cast(images, tf.float32)
        return images, labels

    count = batch_size if drop_remainder else None
    signature = (
        tf.TensorSpec((count, size, size, 1), tf.uint8),
        tf.TensorSpec((None, 8), tf.float32),
        tf.TensorSpec((count, labels.shape[1]), tf.float32),
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
        drop_remainder=drop_remainder,
    )
