"""LIME through its library: a linear model of the score over superpixels."""

from __future__ import annotations

from unittest.mock import patch

import keras
import numpy as np

from mura_utils.explain.methods.common import (
    CHUNK,
    checked,
    logit_function,
    require_library,
    to_heatmaps,
    without_rounding,
)
from mura_utils.explain.targets import Target

_SUPERPIXELS = 64  # about so many


def lime(
    model: keras.Model, images: np.ndarray, target: Target, samples: int = 512, seed: int = 0
) -> np.ndarray:
    """Weights of superpixels in a local linear model; negative ones count as 0.

    Superpixels (SLIC) are hidden at random behind the radiograph's mean gray level, and a ridge
    regression predicts the score from what is seen. The library's default, a superpixel's own mean,
    hides nothing where that is bright throughout.

    Args:
        model: ends in ``logits`` and a softmax.
        images: (N, S, S, 1) float32 in 0..255.
        target: the score of each image.
        samples: images with hidden superpixels, for each radiograph.
        seed: of what is hidden.

    Returns:
        (N, S, S) float32 in [0, 1].

    Raises:
        UserError: the library is not installed.

    Source: Ribeiro et al. 2016, "'Why Should I Trust You?': Explaining the Predictions of Any
        Classifier".
    """
    images = checked(model, images, target)
    require_library("lime")
    from lime import lime_image

    logits = logit_function(model)
    maps = np.zeros(images.shape[:-1])
    for heat, image, weights in zip(maps, images, target.weights, strict=True):

        def scores(copies: np.ndarray, weights: np.ndarray = weights) -> np.ndarray:
            return logits(copies[..., :1]) @ weights[:, None]

        with patch.object(lime_image, "tqdm", iter):  # no progress bar
            explanation = lime_image.LimeImageExplainer(random_state=seed).explain_instance(
                image[..., 0],
                scores,
                labels=(0,),
                top_labels=None,
                hide_color=image.mean(),
                num_samples=samples,
                batch_size=CHUNK,
                segmentation_fn=_superpixels,
                random_seed=seed,
            )
        for superpixel, weight in explanation.local_exp[0]:
            heat[explanation.segments == superpixel] = without_rounding(max(weight, 0))
    return to_heatmaps(maps, images.shape[1])


def _superpixels(rgb: np.ndarray) -> np.ndarray:
    """Superpixels of a gray (S, S, 3) in 0..255: (S, S) whole numbers from 0."""
    from skimage.segmentation import slic

    gray = rgb[..., 0] / 255
    return slic(gray, _SUPERPIXELS, compactness=0.1, channel_axis=None, start_label=0)
