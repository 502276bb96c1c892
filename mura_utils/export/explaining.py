"""A network that also says, in its forward pass, where it looked and how familiar an image is.

The heat-maps of ``mura predict`` need gradients unless masks taught the attention. What runs a
network elsewhere has none, so that the map here is made of forward passes of the head alone.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import KerasTensor, layers, ops

from mura_utils.evaluation.familiarity import Familiarity
from mura_utils.frozen.pooled import with_pooled
from mura_utils.network.backbone import FEATURES
from mura_utils.network.heads import FINDING, FINDING_WEIGHTS, LATERAL_FINE, LOGITS

MOST_BLOCKS = 10
"""Blocks along a side of the last feature map that are blanked in turn: bounds the memory."""

_LEAST = 1e-30  # length: features that are all 0 stay so


def explaining_network(
    model: keras.Model, taught: bool, familiar: Familiarity | None
) -> keras.Model:
    """The same network with a map as its second output, and how unfamiliar an image is as third.

    Args:
        model: as of `network.build.build_model`.
        taught: whether masks taught the attention where a finding is: then the map is the softmax
            over positions by which the head weighs them, else that of `occlusion`.
        familiar: None leaves out the third output.

    Returns:
        From (N, S, S, 1) in 0..255 to probabilities (N, K), the map (N, h, w, 1 or K), and
        `Familiarity.scores` (N, 1).
    """
    if taught:
        grid = model.get_layer(FINDING).output.shape[1:3]
        map_ = layers.Reshape((*grid, 1), name="map")(model.get_layer(FINDING_WEIGHTS).output)
    else:
        map_ = occlusion(model)
    outputs = [model.output, map_]
    if familiar is not None:
        features = with_pooled(model, familiar.layers).outputs[-1]
        outputs.append(_scores(features.shape[-1], familiar)(features))
    return keras.Model(model.input, outputs, name=model.name)


def occlusion(model: keras.Model) -> KerasTensor:
    """How far each logit falls where a block of the last feature map is set to zero.

    The head answers once a block, the backbone once in all. Where the head only averages positions
    and is linear, this is CAM (Zhou et al. 2016) up to its scale.

    Args:
        model: as of `network.build.build_model`.

    Returns:
        (N, h, w, K), a block one cell where the map has at most `MOST_BLOCKS` on a side.
    """
    maps = [model.get_layer(FEATURES).output]
    if LATERAL_FINE in {layer.name for layer in model.layers}:
        maps.append(model.get_layer(LATERAL_FINE).input)
    logits = model.get_layer(LOGITS).output
    head = keras.Model(maps, logits, name="head")
    # A network of its own: names such as "subtract" may be taken in the model.
    inputs = [keras.Input(map_.shape[1:]) for map_ in maps]
    hidden = _blocks(*maps[0].shape[1:3])
    answers = head([_blanked(each, hidden) for each in inputs])
    answers = ops.reshape(answers, (-1, *hidden.shape[:2], logits.shape[-1]))
    whole = keras.Input(logits.shape[1:])
    drops = ops.reshape(whole, (-1, 1, 1, logits.shape[-1])) - answers
    return keras.Model([whole, *inputs], drops, name="occlusion")([logits, *maps])


def _blocks(height: int, width: int) -> np.ndarray:
    """(rows, columns, height, width): 0 in the block of that row and column, else 1."""
    rows, columns = (np.arange(side) // -(-side // MOST_BLOCKS) for side in (height, width))
    inside = np.equal.outer(np.unique(rows), rows)[:, None, :, None]
    return ~(inside & np.equal.outer(np.unique(columns), columns)[None, :, None, :])


def _blanked(features: KerasTensor, hidden: np.ndarray) -> KerasTensor:
    """(N * rows * columns, H, W, C): each image's map with each block blanked."""
    height, width, channels = features.shape[1:]
    factors = (height // hidden.shape[2], width // hidden.shape[3])
    masks = hidden.repeat(factors[0], axis=2).repeat(factors[1], axis=3)
    masks = masks.reshape(1, -1, height, width, 1).astype(np.float32)
    blanked = ops.expand_dims(features, 1) * masks
    return ops.reshape(blanked, (-1, height, width, channels))


def _scores(channels: int, familiar: Familiarity) -> keras.Model:
    """`Familiarity.scores` as a network from features (N, channels) to (N, 1)."""
    mean, components, variances = (
        np.asarray(values, np.float32)
        for values in (familiar.mean, familiar.components, familiar.variances)
    )
    features = keras.Input((channels,))
    away = features / ops.maximum(_length(features), _LEAST) - mean
    inside = ops.matmul(away, components.T)
    outside = ops.maximum(_length(away) ** 2 - _length(inside) ** 2, 0)
    squares = _length(inside / np.sqrt(variances)) ** 2 + outside / familiar.noise
    return keras.Model(features, ops.sqrt(squares / channels), name="unfamiliarity")


def _length(x: KerasTensor) -> KerasTensor:
    return ops.sqrt(ops.sum(x * x, axis=1, keepdims=True))
