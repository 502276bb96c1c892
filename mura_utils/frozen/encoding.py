"""How activations are stored: as 16-bit numbers, or as 8-bit ones scaled channel by channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import tensorflow as tf

from mura_utils.network.cut import sizes

Shapes = Sequence[tuple[int, ...]]

LARGEST = float(np.finfo(np.float16).max)
"""What either encoding can hold."""


class Encoding(Protocol):
    """From one image's activations to a row of a file, and back.

    Attributes:
        dtype: of the file, in NumPy's words.
        tensor: the same, in TensorFlow's.
    """

    dtype: str
    tensor: tf.DType

    def width(self, shapes: Shapes) -> int:
        """Numbers a row, for activations of these shapes."""

    def encode(self, values: np.ndarray, shapes: Shapes) -> np.ndarray:
        """(n, values an image) float32, at most `LARGEST`, to rows (n, width)."""

    def decode(self, rows: tf.Tensor, shapes: Shapes) -> tuple[tf.Tensor, ...]:
        """Rows (n, width) to float32 tensors (n, *shape), one a shape."""


@dataclass(frozen=True)
class Float16:
    """Each value by itself, to three digits."""

    dtype: str = "<f2"
    tensor: tf.DType = tf.float16

    def width(self, shapes: Shapes) -> int:
        """See `Encoding`."""
        return sum(sizes(shapes))

    def encode(self, values: np.ndarray, shapes: Shapes) -> np.ndarray:
        """See `Encoding`."""
        return values.astype(self.dtype)

    def decode(self, rows: tf.Tensor, shapes: Shapes) -> tuple[tf.Tensor, ...]:
        """See `Encoding`."""
        parts = zip(tf.split(rows, sizes(shapes), axis=1), shapes, strict=True)
        return tuple(tf.reshape(tf.cast(part, tf.float32), (-1, *shape)) for part, shape in parts)


@dataclass(frozen=True)
class Uint8:
    """Each channel of each image in 255 steps from its least value to its largest.

    A row holds, map after map, the steps (one byte a value), then each channel's least value and
    the size of its step (float16 each). A value is off by at most half a step, and by what float16
    rounds.

    Example:
        >>> shapes = [(2, 2, 1)]
        >>> row = Uint8().encode(np.array([[0.0, 1.0, 2.0, 255.0]], np.float32), shapes)
        >>> row.shape, Uint8().decode(tf.constant(row), shapes)[0].numpy().ravel().tolist()
        ((1, 8), [0.0, 1.0, 2.0, 255.0])
    """

    dtype: str = "|u1"
    tensor: tf.DType = tf.uint8

    def width(self, shapes: Shapes) -> int:
        """See `Encoding`."""
        return sum(size + 4 * shape[-1] for size, shape in zip(sizes(shapes), shapes, strict=True))

    def encode(self, values: np.ndarray, shapes: Shapes) -> np.ndarray:
        """See `Encoding`."""
        parts = []
        bounds = np.cumsum(sizes(shapes))[:-1]
        for part, shape in zip(np.split(values, bounds, axis=1), shapes, strict=True):
            cells = part.reshape(len(part), -1, shape[-1])
            low = cells.min(axis=1, keepdims=True).astype("<f2")
            span = cells.max(axis=1, keepdims=True) - low
            step = (span / 255).astype("<f2")
            # Where float16 has rounded a step to 0, the channel is as good as constant.
            divisor = np.where(step > 0, step, np.inf).astype(np.float32)
            levels = np.clip(np.rint((cells - low) / divisor), 0, 255).astype(np.uint8)
            bytes_ = (low.view(np.uint8), step.view(np.uint8))
            parts += [levels.reshape(len(part), -1), *(b.reshape(len(part), -1) for b in bytes_)]
        return np.concatenate(parts, axis=1)

    def decode(self, rows: tf.Tensor, shapes: Shapes) -> tuple[tf.Tensor, ...]:
        """See `Encoding`."""
        widths = []
        for size, shape in zip(sizes(shapes), shapes, strict=True):
            widths += [size, 2 * shape[-1], 2 * shape[-1]]
        parts = tf.split(rows, widths, axis=1)

        def numbers(raw: tf.Tensor, channels: int) -> tf.Tensor:
            halves = tf.bitcast(tf.reshape(raw, (-1, 1, channels, 2)), tf.float16)
            return tf.cast(halves, tf.float32)

        maps = []
        for number, shape in enumerate(shapes):
            levels, low, step = parts[3 * number : 3 * number + 3]
            cells = tf.cast(tf.reshape(levels, (-1, *_cells(shape))), tf.float32)
            cells = cells * numbers(step, shape[-1]) + numbers(low, shape[-1])
            maps.append(tf.reshape(cells, (-1, *shape)))
        return tuple(maps)


def _cells(shape: tuple[int, ...]) -> tuple[int, int]:
    return int(np.prod(shape[:-1])), shape[-1]


ENCODINGS: dict[Literal["float16", "uint8"], Encoding] = {"float16": Float16(), "uint8": Uint8()}
"""By the value of the parameter `stored_as`."""


def smallest(stored_as: Literal["float16", "uint8"], shapes: Shapes) -> Literal["float16", "uint8"]:
    """What is asked for; but float16 where 8 bits take no less, as of vectors.

    Example:
        >>> smallest("uint8", [(7, 7, 1024)]), smallest("uint8", [(1024,)])
        ('uint8', 'float16')
    """
    needed = {
        name: np.dtype(encoding.dtype).itemsize * encoding.width(shapes)
        for name, encoding in ENCODINGS.items()
    }
    return stored_as if needed["uint8"] < needed["float16"] else "float16"
