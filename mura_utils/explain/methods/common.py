"""What all methods share: checked inputs, bounded batches, scores at the logits, scaled maps.

Scores are taken at the logits, in front of the softmax: a sub-model that ends at ``logits`` shares
all layers with the model, so nothing is cloned and no activation is swapped.
"""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from mura_utils.errors import UserError
from mura_utils.explain.targets import Target

CHUNK = 16
"""Images at once: bounds the memory of the gradients."""


def logit_model(model: keras.Model) -> keras.Model:
    """The model up to its logits; it takes a list of inputs, because tf-keras-vis passes one."""
    return keras.Model(model.inputs, model.get_layer("logits").output)


def checked(model: keras.Model, images: np.ndarray, target: Target | None = None) -> np.ndarray:
    """The images as float32.

    Raises:
        UserError: images or target do not fit the model.
    """
    if images.ndim != 4 or images.shape[1:] != model.input_shape[1:]:
        raise UserError(
            f"Images of shape {images.shape} do not fit {model.name}, which takes (N, "
            f"{', '.join(map(str, model.input_shape[1:]))}): resize them to the model's input."
        )
    if target is not None and target.weights.shape != (len(images), model.output_shape[-1]):
        raise UserError(
            f"A target of shape {target.weights.shape} does not fit {len(images)} images and "
            f"{model.output_shape[-1]} classes: make it for these images and this model."
        )
    return np.asarray(images, np.float32)


def chunks(images: np.ndarray, copies: int = 1) -> Iterator[slice]:
    """Rows of the images in turn, at most `CHUNK` at once, or fewer where each has copies."""
    step = max(CHUNK // copies, 1)
    for start in range(0, len(images), step):
        yield slice(start, start + step)


def to_heatmaps(maps: np.ndarray | tf.Tensor, size: int, from_zero: bool = False) -> np.ndarray:
    """Enlarge maps to the image, the centers of their cells kept, and scale each to [0, 1].

    Args:
        maps: (N, h, w), finite.
        size: of the image, pixels.
        from_zero: divide by the maximum alone and do not subtract the minimum.

    Returns:
        (N, size, size) float32 in [0, 1]; zeros where a map is constant.

    Raises:
        UserError: a value is not finite.

    Example:
        >>> to_heatmaps(np.array([[[1.0, 3.0], [2.0, 2.0]]]), size=2)[0].tolist()
        [[0.0, 1.0], [0.5, 0.5]]
    """
    maps = np.asarray(maps, np.float32)
    if not np.isfinite(maps).all():
        raise UserError(
            "The model's outputs or gradients are not finite: its training diverged; train it "
            "again with a smaller learning rate."
        )
    maps = tf.image.resize(maps[..., None], (size, size))[..., 0].numpy()
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    # What differs only by rounding is constant: scaling it up would show noise.
    varies = high - low > 1e-6 * np.maximum(abs(low), abs(high))
    if from_zero:
        low = np.zeros_like(low)
    return np.divide(maps - low, high - low, out=np.zeros_like(maps), where=varies)
