"""Grad-CAM++ of tf-keras-vis."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus

from mura_utils.explain.methods.common import (
    checked,
    chunks,
    logit_model,
    require_feature_map,
    to_heatmaps,
)
from mura_utils.explain.targets import Target
from mura_utils.network.backbone import FEATURES


def grad_cam_plus_plus(
    model: keras.Model, images: np.ndarray, target: Target, layer: str = FEATURES
) -> np.ndarray:
    """Grad-CAM whose mean over positions is weighted toward those that matter.

    The library multiplies by the exponential of the score, which only scales a map, but overflows
    for large logits: it gets each score minus its own value, whose gradient is the same.

    Args:
        model: ends in ``logits`` and a softmax.
        images: (N, S, S, 1) float32 in 0..255.
        target: the score of each image.
        layer: name of a layer with output (N, h, w, C) that the logits depend on.

    Returns:
        (N, S, S) float32 in [0, 1].

    Raises:
        UserError: there is no such layer, or its output is no feature map.

    Source: Chattopadhay et al. 2018, "Grad-CAM++: Improved Visual Explanations for Deep
        Convolutional Networks".
    """
    images = checked(model, images, target)
    require_feature_map(model, layer)
    explainer = GradcamPlusPlus(logit_model(model))

    def centered(rows: slice) -> Callable[[tf.Tensor], tf.Tensor]:
        score = target.score(rows)
        return lambda logits: score(logits) - tf.stop_gradient(score(logits))

    maps = [
        explainer(
            centered(rows),
            images[rows],
            penultimate_layer=layer,
            seek_penultimate_conv_layer=False,
            expand_cam=False,
            normalize_cam=False,
        )
        for rows in chunks(images)
    ]
    return to_heatmaps(np.concatenate(maps), images.shape[1])
