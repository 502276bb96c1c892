"""Attention rollout: where the tokens of a vision transformer come from, through all its blocks.

It does not depend on a target, and says nothing of a class.
"""

from __future__ import annotations

import keras
import numpy as np

from mura_utils.errors import UserError
from mura_utils.explain.methods.common import checked, chunks, to_heatmaps
from mura_utils.explain.targets import Target
from mura_utils.network.vision_transformer import TOKEN_MAP, attention_scores


def attention_rollout(
    model: keras.Model, images: np.ndarray, target: Target | None = None
) -> np.ndarray:
    """How much each patch gives to the patches' tokens that the head reads.

    Each block passes on half of what it reads as it is, and half as its attention mixes it, the
    mean of its heads. The product over all blocks is averaged over the patches, not taken for the
    class token as in the paper, because the head reads the patches.

    Args:
        model: with a vision transformer.
        images: (N, S, S, 1) float32 in 0..255.
        target: changes nothing.

    Returns:
        (N, S, S) float32 in [0, 1].

    Raises:
        UserError: the model has no transformer.

    Source: Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers", section 3.
    """
    images = checked(model, images)
    scores = attention_scores(model)
    if not scores:
        raise UserError(f"{model.name} is no vision transformer: choose another map.")
    grid = model.get_layer(TOKEN_MAP).output.shape[1:3]
    network = keras.Model(model.inputs, scores)
    maps = []
    for rows in chunks(images):
        flow = roll_out(network.predict(images[rows], verbose=0))
        maps.append(flow[:, 1:, 1:].mean(axis=1).reshape(-1, *grid))
    return to_heatmaps(np.concatenate(maps), images.shape[1])


def roll_out(attention: list[np.ndarray]) -> np.ndarray:
    """The product of the blocks' attention, from the last to the first.

    Args:
        attention: of each block, (N, heads, tokens, tokens), rows sum to 1.

    Returns:
        (N, tokens, tokens): the share of each first token in each last one; rows sum to 1.

    Example:
        >>> looks_left = np.array([[[[1.0, 0.0], [1.0, 0.0]]]])
        >>> roll_out([looks_left, looks_left])[0].tolist()
        [[1.0, 0.0], [0.75, 0.25]]
    """
    flow = np.eye(attention[0].shape[-1])
    for heads in attention:
        mixed = heads.mean(axis=1) / 2 + np.eye(heads.shape[-1]) / 2
        flow = mixed @ flow
    return flow
