"""Compute the activations of the frozen part once, and go on where that was interrupted."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from mura_utils import paths
from mura_utils.data.close_ups import FINE, on_fine_square
from mura_utils.data.dataset import Images
from mura_utils.errors import UserError
from mura_utils.experiments import Experiment
from mura_utils.frozen.encoding import LARGEST
from mura_utils.frozen.extractors import extractor, sample
from mura_utils.frozen.store import FeatureSet, Plan
from mura_utils.generators import augment
from mura_utils.locks import waiting
from mura_utils.terminal import hide_bars, to_the_terminal

_BATCH = 64  # images a step of the extraction; also the unit of going on after an interruption


@dataclass(frozen=True)
class Extraction:
    """What one call of `extract` did.

    Attributes:
        computed: images run through the prefix, each augmented version counted.
        stored: images (augmented versions) that were there already.
        seconds: wall-clock time, waiting for another process included.
        computed_by: library and precision that were used.
        difference: mean absolute difference from TensorFlow in float32 over eight training images,
            in standard deviations of the activations; 0 where that computed.
    """

    computed: int
    stored: int
    seconds: float
    computed_by: str
    difference: float = 0.0

    @property
    def sentence(self) -> str:
        """What was done, for a reader."""
        if not self.computed_by:
            return "Every batch runs through the whole network."
        if not self.computed:
            return f"All {self.stored:,} activations ({self.computed_by}) were stored already."
        sentence = (
            f"{self.computed:,} activations computed with {self.computed_by} in "
            f"{self.seconds:.0f} s ({self.computed / self.seconds:.0f} a second); "
            f"{self.stored:,} were stored already."
        )
        if self.difference:
            sentence += (
                f" On average they differ from float32 in TensorFlow by {self.difference:.2g} of "
                "their standard deviation."
            )
        return sentence


@to_the_terminal()
def extract(
    chosen: Plan, images: Images, experiment: Experiment, progress: bool = True
) -> Extraction:
    """Compute and store what is missing of a plan's sets.

    Rows are appended to a partial file batch by batch; after an interruption the next call goes on
    at the batch that was reached, and gives the same file. One process computes a set at a time,
    others wait for it.

    Args:
        chosen: as returned by `plan`; where it is off, nothing is done.
        images: those that the plan was made for.
        experiment: extractor, precision and deterministic are used.
        progress: show a bar that counts images.

    Raises:
        UserError: a package is not installed; an activation is too large for float16.
    """
    if not chosen.on:
        return Extraction(0, 0, 0.0, "")
    sets = (chosen.train, chosen.held_out)
    total = sum(features.views * len(features.rows) for features in sets)
    began = time.perf_counter()
    if all(features.complete for features in sets):
        return Extraction(0, total, 0.0, chosen.train.about["computed_by"])
    computed = 0
    some = images.pixels[sample(images)][..., np.newaxis]
    run, computed_by, difference = extractor(chosen.cut, experiment, some)
    with tqdm(total=total, desc="frozen part", unit="image", disable=hide_bars(progress)) as bar:
        for features in sets:
            features.folder.mkdir(parents=True, exist_ok=True)
            paths.write_json(features.folder / "about.json", features.about)
            with waiting(features.folder / ".lock", "computes the same activations"):
                for variant in range(features.views):
                    computed += _store_variant(features, variant, images, run, bar)
    seconds = time.perf_counter() - began
    return Extraction(computed, total - computed, seconds, computed_by, difference)


def _store_variant(
    features: FeatureSet,
    variant: int,
    images: Images,
    run: Callable[[tf.Tensor], np.ndarray],
    bar: tqdm,
) -> int:
    """Store one variant; returns how many of its images were computed now."""
    count = len(features.rows)
    if features.path(variant).is_file():
        bar.update(count)
        return 0
    header = _header(count, features.width, features.encoding.dtype)
    row_bytes = features.row_bytes
    partial = features.partial(variant)
    written = partial.stat().st_size - len(header) if partial.is_file() else 0
    done = max(0, written) // (row_bytes * _BATCH) * _BATCH
    bar.update(done)
    transforms, pixels, size = features.transforms(variant, images.size), images.pixels, images.size
    if variant in features.close_ups:
        transforms, pixels = on_fine_square(transforms), images.pixels_at(FINE * size)
    # Unbuffered: what a batch wrote outlives the process.
    with partial.open("r+b" if partial.is_file() else "xb", buffering=0) as stream:
        paths.write_all(stream, header)
        stream.seek(len(header) + done * row_bytes)
        stream.truncate()
        for start in range(done, count, _BATCH):
            batch = slice(start, start + _BATCH)
            gray = pixels[features.rows[batch]][..., np.newaxis]
            if features.augmentation:
                gray = augment(gray, transforms[batch], size)
            else:
                gray = tf.cast(gray, tf.float32)
            values = run(gray)
            if not np.abs(values).max() <= LARGEST:
                raise UserError(
                    f"An activation of {features.about['network']} is larger than float16 can "
                    f"hold ({LARGEST:.0f}): train with cache_features = off."
                )
            paths.write_all(stream, features.encoding.encode(values, features.shapes).tobytes())
            bar.update(len(values))
        os.fsync(stream.fileno())
    partial.replace(features.path(variant))
    return count - done


def _header(rows: int, width: int, dtype: str) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": dtype, "fortran_order": False, "shape": (rows, width)}
    )
    return stream.getvalue()
