"""The map of a network that reads an image twice: the attention of its second look."""

from __future__ import annotations

import keras
import numpy as np

from mura_utils.explain.methods.attention import attention_maps
from mura_utils.explain.methods.common import chunks, to_heatmaps
from mura_utils.network.heads import FINDING
from mura_utils.network.second_look import hottest_corners, look_closer


def second_look_maps(model: keras.Model, images: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """Where the second look sees the finding; nothing outside the region that it reads.

    Its cells are 1.5 times as fine as those of the first look.

    Args:
        model: with an attention map that masks have taught.
        images: (N, S, S, 1) float32 in 0..255, read first.
        fine: (N, F, F), the same images at the side that `network.second_look.fine_side` gives.

    Returns:
        (N, S, S) float32 in [0, 1]; as `attention_maps`, each divided by its maximum.
    """
    size, side = images.shape[1], fine.shape[1]
    finding = keras.Model(model.inputs[0], model.get_layer(FINDING).output)
    attention = np.concatenate(
        [finding(images[rows], training=False).numpy() for rows in chunks(images)]
    )
    closer = look_closer(fine, attention, size)[..., np.newaxis].astype(np.float32)
    placed = np.zeros((len(images), side, side), np.float32)
    corners = hottest_corners(attention, size)
    for square, heat, (y, x) in zip(
        placed, attention_maps(model, closer)[:, 0], corners, strict=True
    ):
        square[y : y + size, x : x + size] = heat
    return to_heatmaps(placed, size, from_zero=True)
