"""What all methods share: checked inputs, bounded batches, scores at the logits, scaled maps.

Scores are taken at the logits, in front of the softmax: a sub-model that ends at ``logits`` shares
all layers with the model, so nothing is cloned and no activation is swapped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec

import keras
import numpy as np
import tensorflow as tf

from mura_utils.errors import UserError
from mura_utils.explain.targets import Target
from mura_utils.network.backbone import FEATURES
from mura_utils.network.once import once_a_model

CHUNK = 16
"""Images at once: bounds the memory of the gradients."""


@once_a_model
def logit_model(model: keras.Model) -> keras.Model:
    """The model up to its logits; it takes a list of inputs, because tf-keras-vis passes one."""
    return keras.Model(model.inputs, model.get_layer("logits").output)


def traced(function: Callable, signature: Sequence[tf.TensorSpec]) -> Callable:
    """One graph of a function; many networks, each with its own, are no mistake of retracing."""
    return tf.function(function, signature).get_concrete_function()


@once_a_model
def logit_function(model: keras.Model) -> Callable[..., np.ndarray]:
    """From images (n, S, S, 1), and what is read beside them (n, F), to logits (n, K) float32."""
    network = logit_model(model)
    signature = [tf.TensorSpec((None, *each.shape[1:]), tf.float32) for each in model.inputs]
    logits = traced(lambda *inputs: network([*inputs], training=False), signature)
    return lambda *inputs: np.asarray(
        logits(*(tf.constant(each, tf.float32) for each in inputs)), np.float32
    )


def scores_under(
    logits: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    masks: np.ndarray,
    weights: np.ndarray,
    gray: float = 0.0,
) -> np.ndarray:
    """Scores of one image seen through masks.

    Args:
        logits: as returned by `logit_function`.
        image: (S, S, 1) float32 in 0..255.
        masks: (P, S, S) in [0, 1] or bool; 1 is seen, 0 is covered.
        weights: (K,) of the logits, a row of `Target.weights`.
        gray: level of what is covered, 0..255.

    Returns:
        (P,) float32.
    """
    parts = []
    for rows in chunks(masks):
        seen = masks[rows, ..., None].astype(np.float32)
        parts.append(logits(seen * image + (1 - seen) * gray))
    return np.concatenate(parts) @ weights


def without_rounding(differences: np.ndarray) -> np.ndarray:
    """Differences of scores, 0 where a score is the same but for rounding.

    Scaling what is left to a heat-map would show noise.

    Example:
        >>> without_rounding(np.array([0.5, -2e-6]))
        array([0.5, 0. ])
    """
    return np.where(np.abs(differences) > 1e-5, differences, 0)


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


def require_feature_map(model: keras.Model, layer: str) -> int:
    """The number of channels of a layer with output (N, h, w, C).

    Raises:
        UserError: there is no such layer, or its output is no feature map.
    """
    chosen = feature_map(model, layer)
    if chosen is None:
        raise UserError(
            f"{model.name} has no layer {layer!r} with an output (N, h, w, C): choose one from "
            f"model.summary(), or {FEATURES!r}, the map that the head sees."
        )
    return chosen.output.shape[-1]


def feature_map(model: keras.Model, layer: str) -> keras.Layer | None:
    """The layer of this name if its output is (N, h, w, C), else None."""
    return next(
        (one for one in model.layers if one.name == layer and len(one.output.shape) == 4), None
    )


def chunks(images: np.ndarray, copies: int = 1) -> Iterator[slice]:
    """Rows of the images in turn, at most `CHUNK` at once, or fewer where each has copies."""
    step = max(CHUNK // copies, 1)
    for start in range(0, len(images), step):
        yield slice(start, start + step)


def require_library(name: str) -> None:
    """Refuse a method whose library is not installed.

    Raises:
        UserError: it is not.
    """
    if find_spec(name) is None:
        raise UserError(
            f"The method {name} needs the library of that name: install the extra with "
            "'pip install -e .[explainers]', or choose another method."
        )


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
