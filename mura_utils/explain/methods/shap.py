"""SHAP through its library: Shapley values of rectangles, halved where they matter."""

from __future__ import annotations

import keras
import numpy as np

from mura_utils.explain.methods.common import (
    CHUNK,
    checked,
    logit_function,
    require_library,
    to_heatmaps,
)
from mura_utils.explain.targets import Target


def shap(
    model: keras.Model, images: np.ndarray, target: Target, evaluations: int = 512
) -> np.ndarray:
    """Owen values of the library's partition explainer; negative ones count as 0.

    What is hidden has the radiograph's mean gray level.

    Args:
        model: ends in ``logits`` and a softmax.
        images: (N, S, S, 1) float32 in 0..255.
        target: the score of each image.
        evaluations: forward passes for each radiograph; more give smaller rectangles.

    Returns:
        (N, S, S) float32 in [0, 1].

    Raises:
        UserError: the library is not installed.

    Source: Lundberg and Lee 2017, "A Unified Approach to Interpreting Model Predictions".
    """
    images = checked(model, images, target)
    require_library("shap")
    from shap import maskers
    from shap.explainers import PartitionExplainer

    logits = logit_function(model)
    maps = []
    for image, weights in zip(images, target.weights, strict=True):

        def scores(copies: np.ndarray, weights: np.ndarray = weights) -> np.ndarray:
            return logits(copies) @ weights

        explainer = PartitionExplainer(scores, maskers.Image(image.mean(), image.shape))
        found = explainer(image[None], max_evals=evaluations, batch_size=CHUNK, silent=True)
        maps.append(found.values[0, ..., 0])
    return to_heatmaps(np.maximum(maps, 0), images.shape[1])
