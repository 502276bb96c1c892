"""Saliency: the gradient of a score at the input pixels.

It has no layer argument: wherever the report says "saliency at layer L", there is no such thing in
tf-keras-vis.
"""

from __future__ import annotations

import keras
import numpy as np
from tf_keras_vis.saliency import Saliency

from mura_utils.explain.methods.common import (
    CHUNK,
    checked,
    chunks,
    gradient_function,
    logit_model,
    to_heatmaps,
)
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
    Of many images or copies it is computed by a traced graph, which gives the same as the library.

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
    explainer = Saliency(logit_model(model))
    spread = smooth_noise * np.ptp(images, axis=(1, 2, 3), keepdims=True)
    noise = np.zeros((1, *images.shape[1:]), np.float32)
    if smooth_samples:
        rng = np.random.default_rng(seed)
        noise = rng.standard_normal((smooth_samples, *images.shape[1:]), np.float32)
    parts = []
    for rows in chunks(images, copies=len(noise)):
        copies = images[rows, None] + spread[rows, None] * noise
        flat = copies.reshape(-1, *images.shape[1:])
        if len(images) * len(noise) > CHUNK:  # three times as quick, once it is traced
            weights = np.repeat(target.weights[rows], len(noise), axis=0)
            gradients = np.abs(gradient_function(model)(flat, weights))
        else:
            score = target.score(rows, copies=len(noise))
            gradients = np.asarray(explainer(score, flat, normalize_map=False))
        parts.append(
            to_heatmaps(gradients.reshape(copies.shape[:-1]).mean(axis=1), images.shape[1])
        )
    return np.concatenate(parts)
