"""Does the network look at what is no anatomy? Borders, corners and side markers.

A region is covered with what lies around it. If the answer changes more than when the same shape is
covered elsewhere, the network uses what is there. A map alone cannot tell: heat near a marker may
belong to the border, and a network may use a marker that its map does not show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.special import softmax

from mura_utils.explain.faithfulness import Answer
from mura_utils.explain.methods.common import chunks, logit_function
from mura_utils.explain.summary import mean_intervals
from mura_utils.labels import is_abnormal

BORDER = 0.05
"""Width of the border, of the image's side."""

CORNER = 0.15
"""Side of each corner's square, of the image's side."""

MATTERS = 0.05
"""The least change of P(abnormal) that is worth a warning."""

_THIN = 0.04  # of the side: the strokes of a letter are thinner
_CONTRAST = 50  # gray levels above what is around the stroke
_SIZES = 0.015, 0.16  # of the side: a letter's height or width
_PLACES = 16  # where the same shape may be covered for comparison
_OUTER = 0.3  # of the side: markers lie near the border

Regions = dict[str, np.ndarray | None]


def find_markers(image: np.ndarray) -> np.ndarray:
    """Small bright strokes near the border: what a side marker (L or R) looks like.

    A guess from the pixels, made for want of a record. Hardware and thin bone near the border look
    the same, and a faint marker is missed. What touches the border is taken for anatomy.

    Args:
        image: (S, S), 0..255.

    Returns:
        (S, S) bool.

    Example:
        >>> image = np.full((60, 60), 20.0)
        >>> image[4:8, 5:7] = image[28:32, 28:30] = 250
        >>> np.argwhere(find_markers(image)).min(axis=0).tolist(), int(find_markers(image).sum())
        ([3, 4], 24)
    """
    side = image.shape[0]
    width = 2 * max(round(_THIN * side), 1) + 1
    strokes = ndimage.white_tophat(np.asarray(image, np.float32), size=width) > _CONTRAST
    box = np.ones((3, 3))
    closed = ndimage.binary_erosion(ndimage.binary_dilation(strokes, box), box, border_value=1)
    blobs, _ = ndimage.label(closed, box)
    found = np.zeros(image.shape, bool)
    for number, place in enumerate(ndimage.find_objects(blobs), start=1):
        low, high = np.array([(one.start, one.stop) for one in place]).T
        center, length = (low + high - 1) / 2, max(high - low)
        near = min(min(center), side - 1 - max(center)) < _OUTER * side
        inside = min(low) > 0 and max(high) < side
        if near and inside and _SIZES[0] * side <= length <= _SIZES[1] * side:
            blob = blobs == number
            around = ndimage.binary_dilation(blob, iterations=width // 2) & ~blob
            brightness = np.median(image[blob & strokes])
            if np.percentile(image[around], 95) < brightness - _CONTRAST:
                found |= blob
    return ndimage.binary_dilation(found, box)


def find_regions(image: np.ndarray, finding: np.ndarray | None) -> Regions:
    """Where shortcuts may lie, without the finding where it is known; and the finding itself.

    Args:
        image: (S, S), 0..255.
        finding: (S, S) bool; None where it is unknown or there is none.

    Returns:
        border, corners, markers, finding -> (S, S) bool; None where there is no such region.
    """
    side = image.shape[0]
    frame, square = max(round(BORDER * side), 1), max(round(CORNER * side), 1)
    border = np.ones(image.shape, bool)
    border[frame:-frame, frame:-frame] = False
    corners = np.zeros(image.shape, bool)
    for rows in (slice(0, square), slice(-square, None)):
        for columns in (slice(0, square), slice(-square, None)):
            corners[rows, columns] = True
    known = finding if finding is not None else np.zeros(image.shape, bool)
    regions = {"border": border, "corners": corners, "markers": find_markers(image)}
    regions = {name: region & ~known for name, region in regions.items()} | {"finding": known}
    return {name: region if region.any() else None for name, region in regions.items()}


def cover(image: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Paint a region with the nearest gray levels around it.

    Args:
        image: (S, S).
        region: (S, S) bool, not all of the image.

    Example:
        >>> cover(np.array([[1, 9], [3, 4]]), np.array([[False, True], [False, False]])).tolist()
        [[1, 1], [3, 4]]
    """
    nearest = ndimage.distance_transform_edt(region, return_distances=False, return_indices=True)
    return image[tuple(nearest)]


def abnormal_probability(
    model: keras.Model, classes: Sequence[str], values: np.ndarray | None = None
) -> Answer:
    """What `measure_regions` asks: P(abnormal), over all body parts.

    Args:
        model: ends in ``logits`` and a softmax.
        classes: its outputs' names.
        values: (N, F), what the network reads beside each of the images.
    """
    logits_of, abnormal = logit_function(model), [is_abnormal(label) for label in classes]

    def probability(images: np.ndarray, positions: np.ndarray) -> np.ndarray:
        inputs = [images] if values is None else [images, values[positions]]
        logits = [logits_of(*(each[rows] for each in inputs)) for rows in chunks(images)]
        return softmax(np.concatenate(logits), axis=1)[:, abnormal].sum(axis=1)

    return probability


def measure_regions(
    probability: Answer,
    images: np.ndarray,
    findings: list[np.ndarray | None],
    heatmaps: Mapping[str, np.ndarray],
    seed: int = 0,
) -> pd.DataFrame:
    """What covering each region does to the answer, and how much of the heat lies there.

    Args:
        probability: images (n, S, S, 1) and their numbers (n,) in `images` -> P(abnormal) (n,), see
            `abnormal_probability`.
        images: (N, S, S, 1) float32 in 0..255.
        findings: N masks (S, S) bool, or None.
        heatmaps: method -> (N, S, S).
        seed: of where the same shape is covered for comparison.

    Returns:
        One row an image and region that it has: image (0..N-1), region, area (share of the image),
        change (P covered - P), size (of the change), elsewhere (size of the change when the same
        shape is covered at the most alike of some random places), excess (size - elsewhere); and
        for each method "heat: METHOD", the share of the heat that lies in the region.
    """
    rng = np.random.default_rng(seed)
    rows, copies = [], []
    for position, (image, finding) in enumerate(zip(images[..., 0], findings, strict=True)):
        for name, region in find_regions(image, finding).items():
            if region is None:
                continue
            copies += [cover(image, region), cover(image, _elsewhere(image, region, rng))]
            heat = {
                f"heat: {method}": _share(maps[position], region)
                for method, maps in heatmaps.items()
            }
            rows.append({"image": position, "region": name, "area": region.mean()} | heat)
    table = pd.DataFrame(rows)
    numbers = table["image"].to_numpy()
    before = probability(images, np.arange(len(images)))[numbers]
    after = probability(np.stack(copies)[..., None], numbers.repeat(2))
    covered, elsewhere = after.reshape(-1, 2).T
    size, control = np.abs(covered - before), np.abs(elsewhere - before)
    return table.assign(
        change=covered - before, size=size, elsewhere=control, excess=size - control
    )


def audit(measured: pd.DataFrame, patients: pd.Series, bootstrap: int = 1000) -> pd.DataFrame:
    """A verdict on each region.

    Args:
        measured: as returned by `measure_regions`.
        patients: (N,) of the images, by their number.
        bootstrap: resamples of the patients.

    Returns:
        One row a region: images, area, change, size, elsewhere, excess, low and high (of the
        excess), the shares of heat, and used: the interval of the excess lies above 0 and the mean
        change of P(abnormal) is at least `MATTERS`; None where too few patients have the region.
    """
    rows = {}
    for region, part in measured.groupby("region", sort=False):
        numbers = part.drop(columns=["image", "region"])
        excess = mean_intervals(part[["excess"]], part["image"].map(patients), bootstrap)
        low, high = excess.loc["excess", ["low", "high"]]
        used = bool(low > 0 and part["size"].mean() >= MATTERS) if np.isfinite(low) else None
        rows[region] = {
            "images": len(part),
            **numbers.mean(),
            "low": low,
            "high": high,
            "used": used,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("region")


def _elsewhere(image: np.ndarray, region: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same shape at that of some random places whose mean gray level is most alike."""
    side, level = len(image), image[region].mean()
    shifts = rng.integers(side // 4, 3 * side // 4, (_PLACES, 2))
    moved = [np.roll(region, shift, (0, 1)) for shift in shifts]
    return min(moved, key=lambda place: abs(image[place].mean() - level))


def _share(heatmap: np.ndarray, region: np.ndarray) -> float:
    total = heatmap.sum(dtype=float)
    return float(heatmap[region].sum(dtype=float) / total) if total > 0 else 0.0
