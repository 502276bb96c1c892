"""Saliency: the gradient of a score at the input pixels.

It has no layer argument: wherever the report says "saliency at layer L", there is no such thing in
tf-keras-vis.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from tf_keras_vis.saliency import Saliency

from mura_utils.explain.methods.common import (
    checked,
    chunks,
    logit_model,
    to_heatmaps,
)
from mura_utils.explain.methods.differentiation import traced_differentiator
from mura_utils.explain.targets import Target


def saliency(
    model: keras.Model,
    images: np.ndarray,
    target: Target,
    smooth_samples: int = 0,
    smooth_noise: float = 0.2,
    seed: int = 0,
) -> np.ndarray:
    """Absolute gradient of the score at each input pixel.

    The radiograph's one channel feeds the network's three, so the gradient is already their sum.
    Of more than a few images or copies it is computed by a graph, which gives the same as the
    library, and so is every later map of the model.

    With `smooth_samples` it is the mean of its absolute values over noisy copies (SmoothGrad; the
    paper averages with the sign). tf-keras-vis has that as well, but draws from NumPy's global
    generator; here all images get the same noise field, scaled to their own range, so that a map
    depends neither on the batch nor on earlier draws.

    Args:
        model: ends in ``logits`` and a softmax.
        images: (N, S, S, 1) float32 in 0..255.
        target: the score of each image.
        smooth_samples: noisy copies; 0 for the plain gradient.
        smooth_noise: standard deviation of the noise as a share of the image's range.
        seed: of the noise.

    Returns:
        (N, S, S) float32 in [0, 1].

    Source: Simonyan et al. 2013 (plain); Smilkov et al. 2017 (SmoothGrad); report Fig. 34.
    """
    images = checked(model, images, target)
    spread = smooth_noise * np.ptp(images, axis=(1, 2, 3), keepdims=True)
    noise = np.zeros((1, *images.shape[1:]), np.float32)
    if smooth_samples:
        rng = np.random.default_rng(seed)
        noise = rng.standard_normal((smooth_samples, *images.shape[1:]), np.float32)
    differentiate = traced_differentiator(model, len(images) * len(noise))
    parts = []
    for rows in chunks(images, copies=len(noise)):
        copies = images[rows, None] + spread[rows, None] * noise
        flat = copies.reshape(-1, *images.shape[1:])
        if differentiate:
            weights = np.repeat(target.weights[rows], len(noise), axis=0)
            found = differentiate(tf.constant(flat), tf.constant(weights))
            gradients = np.abs(found.at_pixels)
        else:
            score = target.score(rows, copies=len(noise))
            explainer = Saliency(logit_model(model))
            gradients = np.asarray(explainer(score, flat, normalize_map=False))
        parts.append(
            to_heatmaps(gradients.reshape(copies.shape[:-1]).mean(axis=1), images.shape[1])
        )
    return np.concatenate(parts)
