"""Gradients of scores at the pixels and at feature maps, from one graph a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from mura_utils.errors import UserError
from mura_utils.explain.methods.attention import map_layers
from mura_utils.explain.methods.class_activation import fine_layer
from mura_utils.explain.methods.common import feature_map, traced
from mura_utils.network.backbone import FEATURES, convolution_names
from mura_utils.network.once import once_a_model

FEW = 8
"""Images that are differentiated operation by operation: tracing takes as long as a dozen."""


class Gradients(NamedTuple):
    """Of a batch of n images.

    Attributes:
        attention: outputs of the model's `map_layers`.
        features: layer -> (n, h, w, C).
        at_features: layer -> gradient of the score there (n, h, w, C).
        at_pixels: gradient of the score at the images (n, S, S, 1).
    """

    attention: list[tf.Tensor]
    features: dict[str, tf.Tensor]
    at_features: dict[str, tf.Tensor]
    at_pixels: tf.Tensor


Differentiate = Callable[[tf.Tensor, tf.Tensor], Gradients]
"""Images (n, S, S, 1) and the weights (n, K) of their logits in the score -> gradients."""


def differentiator(model: keras.Model, images: int, layers: Sequence[str] = ()) -> Differentiate:
    """What differentiates this many images in all, at these layers at least."""
    return traced_differentiator(model, images, layers) or _eager(model, layers)


def traced_differentiator(
    model: keras.Model, images: int, layers: Sequence[str] = ()
) -> Differentiate | None:
    """The same if it is traced or worth tracing, which makes it three times as quick; else None.

    A network is traced once: the graph looks at the layers of all quick methods, and is kept as
    long as the model lives.
    """
    graphs = _graphs(model)
    known = next((seen for seen in graphs if set(layers) <= set(seen)), None)
    if known is not None:
        return graphs[known]
    if images <= FEW:
        return None
    seen = tuple(dict.fromkeys([*layers, *_usual(model)]))
    shapes = (None, *model.input_shape[1:]), (None, model.output_shape[-1])
    signature = [tf.TensorSpec(shape, tf.float32) for shape in shapes]
    graphs[seen] = traced(_eager(model, seen), signature)
    return graphs[seen]


@once_a_model
def _graphs(model: keras.Model) -> dict[tuple[str, ...], Differentiate]:
    """The traced functions of a model, by the layers that they look at."""
    return {}


def _usual(model: keras.Model) -> list[str]:
    """The layers where notebook 07 makes maps, as far as the model has them."""
    names = (FEATURES, *convolution_names(model)[-1:])
    present = [name for name in names if feature_map(model, name)]
    try:
        return [*present, fine_layer(model)]
    except UserError:
        return present


def _eager(model: keras.Model, layers: Sequence[str]) -> Differentiate:
    heads = map_layers(model)
    outputs = [model.get_layer(name).output for name in (*heads, *layers, "logits")]
    network = keras.Model(model.inputs, outputs)

    def differentiate(batch: tf.Tensor, weights: tf.Tensor) -> Gradients:
        with tf.GradientTape() as tape:
            tape.watch(batch)
            *found, logits = keras.tree.flatten(network(batch, training=False))
            score = tf.reduce_sum(tf.cast(logits, tf.float32) * weights)
        features = found[len(heads) :]
        at_pixels, *at_features = tape.gradient(score, [batch, *features])
        named = (dict(zip(layers, each, strict=True)) for each in (features, at_features))
        return Gradients(found[: len(heads)], *named, at_pixels)

    return differentiate
