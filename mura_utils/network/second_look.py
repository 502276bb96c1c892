"""Read an image twice: whole, and its hottest region from nearer (the parameter `second_look`).

The attention map that masks have taught says where the same network looks again, as a radiologist
zooms in. Close-ups in training have prepared it for that, see `data.close_ups`.
"""

from __future__ import annotations

import keras
import numpy as np

from mura_utils.data.dataset import Images
from mura_utils.network.heads import FINDING
from mura_utils.network.once import once_a_model

_AT_ONCE = 1024  # images, of which copies are in memory

ZOOM = 1.5
"""How many times as large the second look shows a region; chosen on validation images."""


@once_a_model
def with_finding(model: keras.Model) -> keras.Model:
    """The same network with one more output: the attention map that masks have taught."""
    return keras.Model(model.inputs, [*model.outputs, model.get_layer(FINDING).output])


def fine_side(size: int) -> int:
    """Side of the square that a second look is cut from, in pixels.

    Example:
        >>> fine_side(320)
        480
    """
    return round(ZOOM * size)


def hottest_corners(attention: np.ndarray, size: int) -> np.ndarray:
    """Where a second look lies in the fine square.

    Args:
        attention: (N, h, w, 1), an image's attention map.
        size: side of the network's input, in pixels.

    Returns:
        (N, 2) rows and columns of the upper left corners, in pixels; the region around the hottest
        cell, moved into the square.

    Example:
        >>> attention = np.zeros((1, 10, 10, 1))
        >>> attention[0, 9, 4] = 1
        >>> hottest_corners(attention, 320)
        array([[160,  56]])
    """
    fine, grid = fine_side(size), np.array(attention.shape[1:3])
    hottest = attention.reshape(len(attention), -1).argmax(axis=1)
    cells = np.stack(np.unravel_index(hottest, grid), axis=1)
    corners = (cells + 0.5) / grid * fine - size / 2
    return np.clip(corners, 0, fine - size).astype(int)


def look_closer(fine: np.ndarray, attention: np.ndarray, size: int) -> np.ndarray:
    """Cut the hottest regions out of fine squares.

    Args:
        fine: (N, F, F), F as `fine_side` says.
        attention: (N, h, w, 1), the attention map of each whole image.
        size: S, side of the network's input, in pixels.

    Returns:
        (N, S, S).
    """
    corners = hottest_corners(attention, size)
    return np.stack(
        [square[y : y + size, x : x + size] for square, (y, x) in zip(fine, corners, strict=True)]
    )


def answer(
    model: keras.Model,
    images: Images,
    rows: np.ndarray,
    batch_size: int,
    mirrored: bool = False,
    second_look: bool = False,
) -> np.ndarray:
    """A network's probabilities for some images.

    Args:
        model: a trained network.
        images: of its size.
        rows: (n,) positions.
        batch_size: images a batch.
        mirrored: answer their mirror images.
        second_look: answer the mean of two looks.

    Returns:
        (n, K) float32.
    """
    step = -1 if mirrored else 1
    larger = images.pixels_at(fine_side(images.size)) if second_look else None

    def answer_some(some: np.ndarray) -> np.ndarray:
        def ask(network: keras.Model, pixels: np.ndarray):
            return network.predict(images.inputs(some, pixels), batch_size, verbose=0)

        pixels = images.pixels[some][:, :, ::step]
        if larger is None:
            return ask(model, pixels)
        first, attention = ask(with_finding(model), pixels)
        closer = look_closer(larger[some][:, :, ::step], attention, images.size)
        return (first + ask(model, closer)) / 2

    together = batch_size * max(1, _AT_ONCE // batch_size)
    starts = range(0, max(1, len(rows)), together)
    return np.concatenate([answer_some(rows[start : start + together]) for start in starts])
