"""Occlusion: how much the score drops where a patch covers the radiograph."""

from __future__ import annotations

from itertools import product

import keras
import numpy as np

from mura_utils.errors import UserError
from mura_utils.explain.methods.common import (
    checked,
    logit_function,
    scores_under,
    to_heatmaps,
    without_rounding,
)
from mura_utils.explain.targets import Target


def occlusion(
    model: keras.Model,
    images: np.ndarray,
    target: Target,
    patch: int | None = None,
    stride: int | None = None,
) -> np.ndarray:
    """Mean drop of the score over the patches that cover a pixel; where it rises, 0.

    The patch has the radiograph's mean gray level. It starts every `stride` pixels, and once at the
    far border.

    Args:
        model: ends in ``logits`` and a softmax.
        images: (N, S, S, 1) float32 in 0..255.
        target: the score of each image.
        patch: side of the square patch, in pixels; None is an eighth of the image.
        stride: pixels between patches; None is half a patch.

    Returns:
        (N, S, S) float32 in [0, 1].

    Raises:
        UserError: the patch is larger than the image, or the stride larger than the patch.

    Source: Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks", 4.2.
    """
    images = checked(model, images, target)
    size = images.shape[1]
    patch = max(size // 8, 1) if patch is None else patch
    stride = max(patch // 2, 1) if stride is None else stride
    if not 1 <= stride <= patch <= size:
        raise UserError(
            f"A patch of {patch} pixels every {stride} does not cover an image of {size}: give a "
            f"patch of at most {size} pixels and a stride of 1 up to the patch."
        )
    starts = [*range(0, size - patch, stride), size - patch]
    seen = np.ones((len(starts) ** 2, size, size), bool)
    for each, (top, left) in zip(seen, product(starts, starts), strict=True):
        each[top : top + patch, left : left + patch] = False
    uncovered = np.ones((1, size, size), bool)
    logits, maps = logit_function(model), []
    for image, weights in zip(images, target.weights, strict=True):
        whole = scores_under(logits, image, uncovered, weights)
        drops = whole - scores_under(logits, image, seen, weights, gray=image.mean())
        maps.append(np.einsum("p,pij->ij", without_rounding(drops), ~seen) / (~seen).sum(axis=0))
    return to_heatmaps(np.maximum(maps, 0), size)
