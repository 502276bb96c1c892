"""Attention maps: the weights that a head gives to positions.

They do not depend on a target, and say nothing of a class. The heads of exp5 and exp6 multiply the
features by sigmoid maps; head "pooled" averages them with the softmax over positions of one map's
logits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import keras
import numpy as np

from mura_utils.errors import UserError
from mura_utils.explain.methods.common import checked, chunks, to_heatmaps
from mura_utils.explain.targets import Target
from mura_utils.network.heads import FINDING, FINDING_WEIGHTS


def attention_maps(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """The maps of the attention heads, in the order of their numbers.

    For exp5 and exp6 these are the sigmoid maps. Head "pooled" has a sigmoid map too, which is warm
    in most places, but it averages the features with the softmax over positions of that map's
    logits, and this is what is shown: divided by its maximum, so that `energy_in_mask` is the share
    of the weights that the finding gets. A head that weighs every position alike gives zeros.

    Args:
        model: with layers ``attention_0`` ..., each (N, h, w, 1); in head "pooled" with ``weights``
            (N, h * w, 1), which sums to 1 over positions.
        images: (N, S, S, 1) float32 in 0..255.

    Returns:
        (N, heads, S, S) float32 in [0, 1].

    Raises:
        UserError: the model has no attention heads.

    Source: report Fig. 33.
    """
    images = checked(model, images)
    heads = attention_layers(model)
    if not heads:
        raise UserError(
            f"{model.name} has no attention heads: choose saliency or grad_cam, or train exp5 "
            "or exp6."
        )
    outputs = [model.get_layer(name).output for name in map_layers(model)]
    network = keras.Model(model.inputs[0], outputs)
    parts = [  # not `predict`, which would trace at each call
        [each.numpy() for each in keras.tree.flatten(network(images[rows], training=False))]
        for rows in chunks(images)
    ]
    outputs = [np.concatenate(part) for part in zip(*parts, strict=True)]
    return np.stack(finish_maps(model, outputs, images.shape[1]), axis=1)


def map_layers(model: keras.Model) -> list[str]:
    """Names of the layers whose outputs `finish_maps` takes; empty without attention heads."""
    pooled = any(layer.name == FINDING_WEIGHTS for layer in model.layers)
    return [FINDING_WEIGHTS] if pooled else attention_layers(model)


def finish_maps(model: keras.Model, outputs: Sequence[np.ndarray], size: int) -> list[np.ndarray]:
    """The outputs of `map_layers` as heat-maps (N, size, size)."""
    if not outputs:
        return []
    grid = model.get_layer(FINDING).output.shape[1:3]
    pooled = map_layers(model) == [FINDING_WEIGHTS]
    return [to_heatmaps(np.reshape(map_, (-1, *grid)), size, from_zero=pooled) for map_ in outputs]


def attention_mean(model: keras.Model, images: np.ndarray, target: Target) -> np.ndarray:
    """The mean of all heads' maps, each scaled before; `target` changes nothing.

    Returns:
        (N, S, S) float32 in [0, 1].

    Raises:
        UserError: the model has no attention heads.
    """
    return to_heatmaps(attention_maps(model, images).mean(axis=1), images.shape[1])


def attention_layers(model: keras.Model) -> list[str]:
    """Names of the layers of the heads' maps, in order; empty where a model has none."""
    return sorted(
        layer.name for layer in model.layers if re.fullmatch(r"attention_\d+", layer.name)
    )
