"""RISE: the score of a radiograph under many random masks, credited to the pixels they show."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from mura_utils.explain.methods.common import (
    checked,
    chunks,
    logit_function,
    scores_under,
    to_heatmaps,
    without_rounding,
)
from mura_utils.explain.targets import Target

_CELLS = 7  # along a side of the coarse masks, as in the paper


def rise(
    model: keras.Model,
    images: np.ndarray,
    target: Target,
    samples: int = 512,
    seed: int = 0,
) -> np.ndarray:
    """Mean of random masks, weighted by the score of the image seen through each.

    The scores' mean is subtracted first, because a logit may be negative and large: this changes
    the expected map by a constant, and takes out noise. What is left below 0 counts as 0. The paper
    takes 4,000 to 8,000 masks, and probabilities; few masks leave the map blotchy.

    Args:
        model: ends in ``logits`` and a softmax.
        images: (N, S, S, 1) float32 in 0..255.
        target: the score of each image.
        samples: masks, the same for all images.
        seed: of the masks.

    Returns:
        (N, S, S) float32 in [0, 1].

    Source: Petsiuk et al. 2018, "RISE: Randomized Input Sampling for Explanation of Black-box
        Models".
    """
    images = checked(model, images, target)
    size = images.shape[1]
    rng = np.random.default_rng(seed)
    grids = rng.integers(0, 2, (samples, _CELLS, _CELLS)).astype(np.float32)
    shifts = rng.integers(0, _cell(size), (samples, 2))
    logits = logit_function(model)
    scores = np.zeros((len(images), samples), np.float32)
    for some in chunks(grids):
        masks = _masks(grids[some], shifts[some], size)
        for row, image in enumerate(images):
            scores[row, some] = scores_under(logits, image, masks, target.weights[row])
    scores = without_rounding(scores - scores.mean(axis=1, keepdims=True))
    heat = sum(
        np.tensordot(scores[:, some], _masks(grids[some], shifts[some], size), axes=1)
        for some in chunks(grids)
    )
    return to_heatmaps(np.maximum(heat, 0), size)


def _cell(size: int) -> int:
    return -(-size // _CELLS)


def _masks(grids: np.ndarray, shifts: np.ndarray, size: int) -> np.ndarray:
    """Enlarge grids (P, 7, 7) of 0 and 1 by one cell more than the image and cut it out of each.

    Returns:
        (P, size, size) float32 in [0, 1].
    """
    side = (_CELLS + 1) * _cell(size)
    large = tf.image.resize(grids[..., None], (side, side))[..., 0].numpy()
    return np.stack(
        [
            one[top : top + size, left : left + size]
            for one, (top, left) in zip(large, shifts, strict=True)
        ]
    )
