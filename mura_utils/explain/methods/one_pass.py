"""The quick methods' maps together: one pass forward, and one back for each target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from mura_utils.explain.methods.attention import attention_layers, finish_maps, map_layers
from mura_utils.explain.methods.class_activation import (
    fine_layer,
    mean_weights,
    positive_weights,
    require_feature_map,
)
from mura_utils.explain.methods.common import CHUNK, checked, chunks, to_heatmaps, traced
from mura_utils.explain.methods.rollout import attention_rollout
from mura_utils.explain.targets import Target
from mura_utils.network.backbone import FEATURES
from mura_utils.network.vision_transformer import attention_scores

_Differentiate = Callable[[tf.Tensor, tf.Tensor], tuple[list, list, list]]
"""Images (n, S, S, 1) and weights (T, n, K) -> attention maps, feature maps, and for each of the T
targets the gradients at the pixels and at these feature maps."""


def explain(
    model: keras.Model, images: np.ndarray, targets: Mapping[str, Target], layer: str
) -> dict[tuple[str, str], np.ndarray]:
    """The maps of the quick methods for every target, to be scored next to each other.

    They are attention, of a vision transformer rollout, saliency, Grad-CAM and LayerCAM, and equal
    what each method makes alone.

    Args:
        model: as returned by `network.build.build_model`.
        images: (N, S, S, 1) float32 in 0..255.
        targets: name -> target of these images.
        layer: Grad-CAM is made at the feature map that the head sees, at this layer and at
            `fine_layer`; LayerCAM at the first and the last of these.

    Returns:
        (method, target's name) -> (N, S, S) in [0, 1]; the heads' target is "no target".
    """
    for target in targets.values():
        images = checked(model, images, target)
    fine, size = fine_layer(model), images.shape[1]
    require_feature_map(model, layer)
    methods = {f"grad_cam at {at}": (at, mean_weights) for at in (FEATURES, layer, fine)}
    methods |= {f"layer_cam at {at}": (at, positive_weights) for at in (FEATURES, fine)}
    layers = list(dict.fromkeys(at for at, _ in methods.values()))
    differentiate = _differentiator(model, layers, len(targets))
    if len(images) > CHUNK:  # or else tracing takes longer than it saves
        differentiate = _compiled(differentiate, model, len(targets))
    parts: dict[tuple[str, str], list[np.ndarray]] = {}
    for rows in chunks(images):
        weights = np.stack([target.weights[rows] for target in targets.values()])
        heads, features, gradients = differentiate(tf.constant(images[rows]), tf.constant(weights))
        shown = finish_maps(model, [each.numpy() for each in heads], size)
        for name, heat in zip(attention_layers(model), shown, strict=True):
            parts.setdefault((name, "no target"), []).append(heat)
        for number, name in enumerate(targets):
            heat = np.abs(gradients[number][0])[..., 0]
            parts.setdefault(("saliency", name), []).append(to_heatmaps(heat, size))
        for method, (at, weigh) in methods.items():
            place = layers.index(at)
            for number, name in enumerate(targets):
                gradient = gradients[number][1 + place].numpy()
                heat = np.maximum((features[place].numpy() * weigh(gradient)).sum(axis=-1), 0)
                parts.setdefault((method, name), []).append(to_heatmaps(heat, size))
    if attention_scores(model):
        parts["attention_rollout", "no target"] = [attention_rollout(model, images)]
    return {key: np.concatenate(part) for key, part in parts.items()}


def _differentiator(model: keras.Model, layers: Sequence[str], targets: int) -> _Differentiate:
    heads = map_layers(model)
    outputs = [model.get_layer(name).output for name in (*heads, *layers, "logits")]
    network = keras.Model(model.inputs, outputs)

    def differentiate(batch: tf.Tensor, weights: tf.Tensor) -> tuple[list, list, list]:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(batch)
            *found, logits = network(batch, training=False)
            logits = tf.cast(logits, tf.float32)
            scores = [tf.reduce_sum(logits * each) for each in tf.unstack(weights, targets)]
        shown, features = found[: len(heads)], found[len(heads) :]
        return shown, features, [tape.gradient(score, [batch, *features]) for score in scores]

    return differentiate


def _compiled(function: _Differentiate, model: keras.Model, targets: int) -> _Differentiate:
    shapes = (None, *model.input_shape[1:]), (targets, None, model.output_shape[-1])
    return traced(function, [tf.TensorSpec(shape, tf.float32) for shape in shapes])
