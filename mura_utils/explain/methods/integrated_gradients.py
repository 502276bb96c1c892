"""Integrated gradients: what each pixel adds to a score, from a black image to the radiograph."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from mura_utils.explain.methods.common import checked, chunks, to_heatmaps
from mura_utils.explain.methods.differentiation import differentiator
from mura_utils.explain.targets import Target


def integrated_gradients(
    model: keras.Model, images: np.ndarray, target: Target, steps: int = 32
) -> np.ndarray:
    """What raises the score, by `attributions`; negative ones count as 0.

    Args:
        model: ends in ``logits`` and a softmax.
        images: (N, S, S, 1) float32 in 0..255.
        target: the score of each image.
        steps: points on the path from black to the radiograph.

    Returns:
        (N, S, S) float32 in [0, 1].

    Source: Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks".
    """
    return to_heatmaps(np.maximum(attributions(model, images, target, steps), 0), images.shape[1])


def attributions(
    model: keras.Model, images: np.ndarray, target: Target, steps: int = 32
) -> np.ndarray:
    """Each pixel's share of the score's difference to that of a black image.

    A pixel's gradient is averaged over images between black (the baseline) and the radiograph, and
    multiplied by its gray level. The sum over pixels approaches that difference as `steps` grow
    (completeness). A black pixel gets 0, whatever the network makes of it.

    Args:
        model: ends in ``logits`` and a softmax.
        images: (N, S, S, 1) float32 in 0..255.
        target: the score of each image.
        steps: points on the path, in the middles of as many equal parts.

    Returns:
        (N, S, S) float32, in units of the logits.
    """
    images = checked(model, images, target)
    differentiate = differentiator(model, len(images) * steps)
    path = ((np.arange(steps, dtype=np.float32) + 0.5) / steps)[:, None, None, None]
    found = np.zeros(images.shape[:-1], np.float32)
    for row, (image, weights) in enumerate(zip(images, target.weights, strict=True)):
        weights = tf.constant(weights[None])
        parts = [differentiate(tf.constant(path[part] * image), weights) for part in chunks(path)]
        total = sum(each.at_pixels.numpy().sum(axis=0) for each in parts)
        found[row] = (total / steps * image)[..., 0]
    return found
