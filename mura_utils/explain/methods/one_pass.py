"""The quick methods' maps together: one pass forward and back for each target."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from mura_utils.explain.methods.attention import attention_layers, finish_maps
from mura_utils.explain.methods.class_activation import (
    fine_layer,
    mean_weights,
    positive_weights,
    require_feature_map,
)
from mura_utils.explain.methods.common import checked, chunks, to_heatmaps
from mura_utils.explain.methods.differentiation import differentiator
from mura_utils.explain.methods.rollout import attention_rollout
from mura_utils.explain.targets import Target
from mura_utils.network.backbone import FEATURES
from mura_utils.network.vision_transformer import attention_scores


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
    layers = dict.fromkeys(at for at, _ in methods.values())
    differentiate = differentiator(model, len(targets) * len(images), tuple(layers))
    parts: dict[tuple[str, str], list[np.ndarray]] = {}
    for rows in chunks(images):
        batch = tf.constant(images[rows])
        for number, (name, target) in enumerate(targets.items()):
            found = differentiate(batch, tf.constant(target.weights[rows]))
            if not number:  # no target changes what the heads show
                shown = finish_maps(model, [each.numpy() for each in found.attention], size)
                for head, heat in zip(attention_layers(model), shown, strict=True):
                    parts.setdefault((head, "no target"), []).append(heat)
            heat = np.abs(found.at_pixels)[..., 0]
            parts.setdefault(("saliency", name), []).append(to_heatmaps(heat, size))
            for method, (at, weigh) in methods.items():
                weights = weigh(found.at_features[at].numpy())
                heat = np.maximum((found.features[at].numpy() * weights).sum(axis=-1), 0)
                parts.setdefault((method, name), []).append(to_heatmaps(heat, size))
    if attention_scores(model):
        parts["attention_rollout", "no target"] = [attention_rollout(model, images)]
    return {key: np.concatenate(part) for key, part in parts.items()}
