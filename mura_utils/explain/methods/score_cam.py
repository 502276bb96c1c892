"""Score-CAM of tf-keras-vis: channels weighted by the probability that each lets through."""

from __future__ import annotations

import contextlib
import io
from functools import partial

import keras
import numpy as np
import tensorflow as tf
from tf_keras_vis.scorecam import Scorecam

from mura_utils.explain.methods.common import (
    CHUNK,
    checked,
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
    explainer = Scorecam(logit_model(model))
    black = model.predict_on_batch(np.zeros_like(images[:1]))
    maps = []
    for row, image in enumerate(images):  # alone: the library chooses channels for all of a batch
        with contextlib.redirect_stdout(io.StringIO()):  # the library's progress bar
            heat = explainer(
                partial(_increase, weights=target.weights[row], black=black),
                image[None],
                penultimate_layer=layer,
                seek_penultimate_conv_layer=False,
                batch_size=CHUNK,
                max_N=channels,
                expand_cam=False,
                normalize_cam=False,
            )
        maps.append(heat)
    return to_heatmaps(np.concatenate(maps), images.shape[1])


def _increase(probabilities: tf.Tensor, weights: np.ndarray, black: np.ndarray) -> np.ndarray:
    """Score (1,) of probabilities (1, K), minus that of a black image."""
    return without_rounding((probabilities.numpy() - black) @ weights)
