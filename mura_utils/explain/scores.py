"""How well a heat-map agrees with a mask of the abnormality.

Compare both scores with the chance level: a map drawn at random scores ``mask.mean()``, the
share of the image that the mask covers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mura_utils.errors import UserError


def pointing_game(heatmap: np.ndarray, mask: np.ndarray) -> bool:
    """Whether the heat-map's maximum lies in the mask.

    Where several pixels share the maximum, more than half of them must lie in the mask; a constant
    map points nowhere and misses. No margin is allowed around the mask (the paper allows 15 px).

    Args:
        heatmap: (H, W), not negative.
        mask: (H, W) bool, True where the abnormality is.

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
    return bool(mask[heatmap == heatmap.max()].mean() > 0.5)


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


def score_heatmaps(
    heatmaps: Mapping[tuple[str, str], np.ndarray], masks: Sequence[np.ndarray | None]
) -> pd.DataFrame:
    """Both scores of every heat-map, next to the chance level.

    Args:
        heatmaps: (method, target) -> (N, S, S), as returned by `explain.explain`.
        masks: N masks (S, S) bool; None or an empty one leaves the image's scores NaN.

    Returns:
        One row an image, method and target: image (0..N-1), method, target, empty (a map without
        any heat), pointing_game (0 or 1), energy_in_mask, chance (the mask's share of the image).

    Example:
        >>> heatmaps = {("saliency", "class"): np.eye(2)[None]}
        >>> scores = score_heatmaps(heatmaps, [np.array([[True, False], [False, False]])])
        >>> scores[["energy_in_mask", "chance"]].to_dict("records")
        [{'energy_in_mask': 0.5, 'chance': 0.25}]
    """
    rows = []
    for (method, target), maps in heatmaps.items():
        for image, (heatmap, mask) in enumerate(zip(maps, masks, strict=True)):
            row = {"image": image, "method": method, "target": target, "empty": not heatmap.any()}
            if mask is not None and mask.any():
                row["pointing_game"] = float(pointing_game(heatmap, mask))
                row["energy_in_mask"] = energy_in_mask(heatmap, mask)
                row["chance"] = float(mask.mean())
            rows.append(row)
    scores = ["pointing_game", "energy_in_mask", "chance"]
    return pd.DataFrame(rows, columns=["image", "method", "target", "empty", *scores])


def _check(heatmap: np.ndarray, mask: np.ndarray) -> None:
    if heatmap.shape != mask.shape or mask.dtype != bool:
        raise UserError(
            f"Heat-map {heatmap.shape} and mask {mask.shape} ({mask.dtype}) must be (H, W) alike, "
            "the mask bool: resize the mask to the model's input."
        )
    if not mask.any():
        raise UserError("The mask is empty, so nothing can be hit: score abnormal images only.")
