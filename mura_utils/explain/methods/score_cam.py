"""Score-CAM of tf-keras-vis: channels weighted by the probability that each lets through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import keras
import numpy as np
import tensorflow as tf
from tf_keras_vis.scorecam import Scorecam

from mura_utils.explain.methods.common import (
    checked,
    chunks,
    logit_function,
    logit_model,
    require_feature_map,
    to_heatmaps,
    without_rounding,
)
from mura_utils.explain.targets import Target
from mura_utils.network.backbone import FEATURES


def score_cam(
    model: keras.Model,
    images: np.ndarray,
    target: Target,
    layer: str = FEATURES,
    channels: int = 32,
) -> np.ndarray:
    """Each channel, enlarged, masks the radiograph; its weight is what the network then answers.

    The library takes the softmax of the logits, so that the target weighs **probabilities** here.
    From each weight that of a black image is subtracted, as in the paper (definition 2).

    Args:
        model: ends in ``logits`` and a softmax.
        images: (N, S, S, 1) float32 in 0..255.
        target: weights of the probabilities in the score of each image.
        layer: name of a layer with output (N, h, w, C).
        channels: at most so many, those that vary most over the image ("Faster Score-CAM"); each
            takes a forward pass.

    Returns:
        (N, S, S) float32 in [0, 1].

    Raises:
        UserError: there is no such layer, or its output is no feature map.

    Source: Wang et al. 2020, "Score-CAM: Score-Weighted Visual Explanations for Convolutional
        Neural Networks".
    """
    images = checked(model, images, target)
    channels = min(channels, require_feature_map(model, layer))
    network = keras.Model(model.inputs, logit_model(model).output)
    network.predict = partial(_predict, logit_function(model))
    explainer = Scorecam(network)
    black = model.predict_on_batch(np.zeros_like(images[:1]))
    maps = []
    for row, image in enumerate(images):  # alone: the library chooses channels for all of a batch
        heat = explainer(
            partial(_increase, weights=target.weights[row], black=black),
            image[None],
            penultimate_layer=layer,
            seek_penultimate_conv_layer=False,
            max_N=channels,
            expand_cam=False,
            normalize_cam=False,
        )
        maps.append(heat)
    return to_heatmaps(np.concatenate(maps), images.shape[1])


def _predict(
    logits: Callable[[np.ndarray], np.ndarray], images: Sequence[np.ndarray], batch_size: int
) -> np.ndarray:
    """As Keras's, which would trace anew for each radiograph and show progress bars."""
    (copies,) = images
    return np.concatenate([logits(copies[rows]) for rows in chunks(copies)])


def _increase(probabilities: tf.Tensor, weights: np.ndarray, black: np.ndarray) -> np.ndarray:
    """Score (1,) of probabilities (1, K), minus that of a black image."""
    return without_rounding((probabilities.numpy() - black) @ weights)
