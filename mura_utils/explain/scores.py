"""How well a heat-map agrees with a mask of the abnormality.

Compare the scores with the chance level: in the pointing game without a margin, in energy and in
AUPRC, a map drawn at random scores ``mask.mean()``, the share of the image that the mask covers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import ndimage
from sklearn.metrics import average_precision_score

from mura_utils.errors import UserError

MARGIN = 0.03
"""Of the image's side: Zhang et al. allow 15 pixels, and their images are about 500 wide."""

SCORES = ["pointing_game", "pointing_game_margin", "energy_in_mask", "auprc", "iou"]
"""Columns of `score_heatmaps`; more is better in all of them."""

HITS = ("pointing_game", "pointing_game_margin")
"""Those that are 1 or 0 for each image."""

_LEVELS = np.linspace(0.05, 0.95, 19)


def pointing_game(heatmap: np.ndarray, mask: np.ndarray, margin: float = 0.0) -> bool:
    """Whether the heat-map's maximum lies in the mask, or not farther from it than the margin.

    Where several pixels share the maximum, more than half of them must do so; a constant map points
    nowhere and misses.

    Args:
        heatmap: (H, W), not negative.
        mask: (H, W) bool, True where the abnormality is.
        margin: distance as a share of the longer side; the paper's is `MARGIN`.

    Raises:
        UserError: shapes differ or the mask is empty.

    Source: Zhang et al. 2018, "Top-Down Neural Attention by Excitation Backprop", section 4.2.

    Example:
        >>> heatmap = np.array([[0.0, 0.3], [0.2, 1.0]])
        >>> pointing_game(heatmap, mask=np.array([[False, False], [False, True]]))
        True
    """
    _check(heatmap, mask)
    if heatmap.max() == heatmap.min():
        return False
    near = widen(mask, margin) if margin else mask
    return bool(near[heatmap == heatmap.max()].mean() > 0.5)


def widen(mask: np.ndarray, margin: float) -> np.ndarray:
    """A mask (H, W) and all pixels not farther from it than a share of the longer side.

    Example:
        >>> widen(np.array([[True, False, False, False]]), margin=0.25).tolist()
        [[True, True, False, False]]
    """
    return ndimage.distance_transform_edt(~mask) <= margin * max(mask.shape)


def energy_in_mask(heatmap: np.ndarray, mask: np.ndarray) -> float:
    """Share of the heat-map's sum that lies in the mask, 0..1; 0 for a map of zeros.

    Args:
        heatmap: (H, W), not negative.
        mask: (H, W) bool, True where the abnormality is.

    Raises:
        UserError: shapes differ or the mask is empty.

    Source: Wang et al. 2020, "Score-CAM", section 4.3, "energy-based pointing game".

    Example:
        >>> heatmap = np.array([[0.0, 0.25], [0.25, 0.5]])
        >>> energy_in_mask(heatmap, mask=np.array([[False, False], [False, True]]))
        0.5
    """
    _check(heatmap, mask)
    total = heatmap.sum(dtype=float)
    return float(heatmap[mask].sum(dtype=float) / total) if total > 0 else 0.0


def pixel_auprc(heatmap: np.ndarray, mask: np.ndarray) -> float:
    """Average precision of the heat as a classifier of pixels, 0..1; needs no threshold.

    Args:
        heatmap: (H, W).
        mask: (H, W) bool, True where the abnormality is.

    Raises:
        UserError: shapes differ or the mask is empty.

    Source: scikit-learn's `average_precision_score`.

    Example:
        >>> heatmap = np.array([[0.0, 0.3], [0.2, 1.0]])
        >>> pixel_auprc(heatmap, mask=np.array([[False, False], [True, True]]))
        0.8333333333333333
    """
    _check(heatmap, mask)
    return float(average_precision_score(mask.ravel(), heatmap.ravel()))


def iou(heatmap: np.ndarray, mask: np.ndarray, level: float) -> float:
    """Intersection over union of the mask and what is at least as hot as the level, 0..1.

    Args:
        heatmap: (H, W) in [0, 1].
        mask: (H, W) bool, True where the abnormality is.
        level: chosen on other images, see `choose_level`.

    Raises:
        UserError: shapes differ or the mask is empty.

    Example:
        >>> heatmap = np.array([[0.0, 0.6], [0.5, 1.0]])
        >>> iou(heatmap, mask=np.array([[False, False], [False, True]]), level=0.6)
        0.5
    """
    _check(heatmap, mask)
    hot = heatmap >= level
    return float((hot & mask).sum() / (hot | mask).sum())


def choose_level(heatmaps: np.ndarray, masks: Sequence[np.ndarray]) -> float:
    """The level, of 0.05 to 0.95, with the highest mean IoU: for validation images.

    Args:
        heatmaps: (N, H, W) in [0, 1].
        masks: N masks (H, W) bool.

    Example:
        >>> choose_level(np.array([[[0.2, 0.4, 0.9]]]), [np.array([[False, True, True]])])
        0.25
    """
    means = [
        np.mean([iou(heat, mask, level) for heat, mask in zip(heatmaps, masks, strict=True)])
        for level in _LEVELS
    ]
    return round(float(_LEVELS[np.argmax(means)]), 2)


def score_heatmaps(
    heatmaps: Mapping[tuple[str, str], np.ndarray],
    masks: Sequence[np.ndarray | None],
    levels: Mapping[tuple[str, str], float] | None = None,
) -> pd.DataFrame:
    """All scores of every heat-map, next to the chance level.

    Args:
        heatmaps: (method, target) -> (N, S, S), as returned by `explain.explain`.
        masks: N masks (S, S) bool; None or an empty one leaves the image's scores NaN.
        levels: (method, target) -> `choose_level` on validation images; IoU is NaN without one.

    Returns:
        One row an image, method and target: image (0..N-1), method, target, empty (a map without
        any heat), pointing_game (0 or 1), pointing_game_margin (the same with `MARGIN`),
        energy_in_mask, auprc, iou, chance (the mask's share of the image).

    Example:
        >>> heatmaps = {("saliency", "class"): np.eye(2)[None]}
        >>> scores = score_heatmaps(heatmaps, [np.array([[True, False], [False, False]])])
        >>> scores[["energy_in_mask", "chance"]].to_dict("records")
        [{'energy_in_mask': 0.5, 'chance': 0.25}]
    """
    scored = [mask is not None and mask.any() for mask in masks]
    near = [widen(mask, MARGIN) if use else mask for mask, use in zip(masks, scored, strict=True)]
    rows = []
    for key, maps in heatmaps.items():
        level = (levels or {}).get(key)
        for image, (heatmap, mask) in enumerate(zip(maps, masks, strict=True)):
            row = dict(zip(("method", "target"), key, strict=True))
            row |= {"image": image, "empty": not heatmap.any()}
            if scored[image]:
                row["pointing_game"] = float(pointing_game(heatmap, mask))
                row["pointing_game_margin"] = float(pointing_game(heatmap, near[image]))
                row["energy_in_mask"] = energy_in_mask(heatmap, mask)
                row["auprc"] = pixel_auprc(heatmap, mask)
                row["iou"] = np.nan if level is None else iou(heatmap, mask, level)
                row["chance"] = float(mask.mean())
            rows.append(row)
    return pd.DataFrame(rows, columns=["image", "method", "target", "empty", *SCORES, "chance"])


def _check(heatmap: np.ndarray, mask: np.ndarray) -> None:
    if heatmap.shape != mask.shape or mask.dtype != bool:
        raise UserError(
            f"Heat-map {heatmap.shape} and mask {mask.shape} ({mask.dtype}) must be (H, W) alike, "
            "the mask bool: resize the mask to the model's input."
        )
    if not mask.any():
        raise UserError("The mask is empty, so nothing can be hit: score abnormal images only.")
