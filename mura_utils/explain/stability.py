"""Does a heat-map stay when the radiograph hardly changes?"""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
import pandas as pd

from mura_utils.explain.sanity import MapsOf
from mura_utils.explain.similarity import rank_correlation

NOISE = 0.02
"""Standard deviation of the noise, of each image's range of gray levels."""

SHIFT = 0.03
"""To the right and down, of the image's side."""


def noisy(images: np.ndarray, seed: int = 0) -> np.ndarray:
    """Images (N, S, S, 1) with Gaussian noise, kept within 0..255."""
    noise = np.random.default_rng(seed).standard_normal(images.shape, np.float32)
    spread = NOISE * np.ptp(images, axis=(1, 2, 3), keepdims=True)
    return np.clip(images + spread * noise, 0, 255)


def shifted(images: np.ndarray, pixels: int) -> np.ndarray:
    """Images (N, S, S, 1) moved right and down; their first row and column fill what is left.

    Example:
        >>> shifted(np.array([[1, 2], [3, 4]]).reshape(1, 2, 2, 1), 1)[0, ..., 0].tolist()
        [[1, 1], [1, 1]]
    """
    moved = np.pad(images, ((0, 0), (pixels, 0), (pixels, 0), (0, 0)), mode="edge")
    return moved[:, :-pixels, :-pixels]


def score_stability(
    model: keras.Model,
    images: np.ndarray,
    heatmaps: Mapping[tuple[str, str], np.ndarray],
    maps_of: MapsOf,
    seed: int = 0,
) -> pd.DataFrame:
    """Rank correlation of each map with that of the noisy and of the shifted image.

    The map of the shifted image is moved back, and only what both show is compared.

    Args:
        model: trained.
        images: (N, S, S, 1) float32 in 0..255.
        heatmaps: (method, target) -> their maps (N, S, S), which are compared.
        maps_of: makes the maps of the changed images, those of `heatmaps` at least.
        seed: of the noise.

    Returns:
        One row an image, method and target: image (0..N-1), method, target, noise, shift; NaN where
        a map is constant.
    """
    pixels = max(round(SHIFT * images.shape[1]), 1)
    with_noise = maps_of(model, noisy(images, seed))
    moved = maps_of(model, shifted(images, pixels))
    tables = []
    for (method, target), maps in heatmaps.items():
        key = method, target
        rest, back = maps[:, :-pixels, :-pixels], moved[key][:, pixels:, pixels:]
        scores = {
            "noise": rank_correlation(maps, with_noise[key]),
            "shift": rank_correlation(rest, back),
        }
        table = pd.DataFrame({"image": range(len(maps)), "method": method, "target": target})
        tables.append(table.assign(**scores))
    return pd.concat(tables, ignore_index=True)
