"""The quick methods' maps together: one pass forward and back for each target."""

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
from mura_utils.explain.methods.common import (
    CHUNK,
    checked,
    chunks,
    to_heatmaps,
    traced,
)
from mura_utils.explain.methods.rollout import attention_rollout
from mura_utils.explain.targets import Target
from mura_utils.network.backbone import FEATURES
from mura_utils.network.once import once_a_model
from mura_utils.network.vision_transformer import attention_scores

_Differentiate = Callable[[tf.Tensor, tf.Tensor], tuple[list, list, list]]
"""Images (n, S, S, 1) and weights (n, K) -> attention maps, feature maps, and the gradients of the
score at the pixels and at these feature maps."""


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
    layers = tuple(dict.fromkeys(at for at, _ in methods.values()))
    differentiate = _differentiator(model, layers, len(images))
    parts: dict[tuple[str, str], list[np.ndarray]] = {}
    for rows in chunks(images):
        batch = tf.constant(images[rows])
        for number, (name, target) in enumerate(targets.items()):
            heads, features, gradients = differentiate(batch, tf.constant(target.weights[rows]))
            if not number:  # no target changes what the heads show
                shown = finish_maps(model, [each.numpy() for each in heads], size)
                for head, heat in zip(attention_layers(model), shown, strict=True):
                    parts.setdefault((head, "no target"), []).append(heat)
            heat = np.abs(gradients[0])[..., 0]
            parts.setdefault(("saliency", name), []).append(to_heatmaps(heat, size))
            for method, (at, weigh) in methods.items():
                place = layers.index(at)
                gradient = gradients[1 + place].numpy()
                heat = np.maximum((features[place].numpy() * weigh(gradient)).sum(axis=-1), 0)
                parts.setdefault((method, name), []).append(to_heatmaps(heat, size))
    if attention_scores(model):
        parts["attention_rollout", "no target"] = [attention_rollout(model, images)]
    return {key: np.concatenate(part) for key, part in parts.items()}


@once_a_model
def _graphs(model: keras.Model) -> dict[tuple[str, ...], _Differentiate]:
    """The traced functions of a model, by the layers that they look at."""
    return {}


def _differentiator(model: keras.Model, layers: tuple[str, ...], images: int) -> _Differentiate:
    """A traced function is three times as quick, but tracing takes as long as a dozen images."""
    graphs = _graphs(model)
    if layers not in graphs:
        differentiate = _eager(model, layers)
        if images <= CHUNK:
            return differentiate
        shapes = (None, *model.input_shape[1:]), (None, model.output_shape[-1])
        signature = [tf.TensorSpec(shape, tf.float32) for shape in shapes]
        graphs[layers] = traced(differentiate, signature)
    return graphs[layers]


def _eager(model: keras.Model, layers: Sequence[str]) -> _Differentiate:
    heads = map_layers(model)
    outputs = [model.get_layer(name).output for name in (*heads, *layers, "logits")]
    network = keras.Model(model.inputs, outputs)

    def differentiate(batch: tf.Tensor, weights: tf.Tensor) -> tuple[list, list, list]:
        with tf.GradientTape() as tape:
            tape.watch(batch)
            *found, logits = network(batch, training=False)
            score = tf.reduce_sum(tf.cast(logits, tf.float32) * weights)
        shown, features = found[: len(heads)], found[len(heads) :]
        return shown, features, tape.gradient(score, [batch, *features])

    return differentiate
