"""Close-ups of training images: where and how near, for the parameter `second_look`.

A radiograph in which nothing is left of a thin fracture shows it when it is looked at from nearer.
Half of the stored versions of a training image are therefore cut out around its finding. A normal
image is cut out where another one of its body part has a finding: what tells the two apart is the
finding and nothing else.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pandas as pd

from mura_utils.data.dataset import Masks

FINE = 2
"""Close-ups are cut from squares that have this many times the side."""

_ZOOMS = (1.4, 2.2)
_SPREAD = 1 / 6  # SD of the center about a pixel of the finding, as a share of the close-up's side


def draw_close_ups(masks: Masks, rows: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """Choose a close-up of each image.

    Where it is unknown where an abnormal image has its finding, the whole image is chosen.

    Args:
        masks: of all images.
        rows: (n,) of them, by their position in the index; body_part is used.
        rng: what decides; nothing else does.

    Returns:
        (n, 3) center x and y, as shares of the side, and zoom, 1 for a whole image.

    Example:
        >>> masks = Masks(np.ones((1, 4, 4), np.uint8), np.array([0, -1, -2]))
        >>> rows = pd.DataFrame({"body_part": ["HAND"] * 3})
        >>> draw_close_ups(masks, rows, np.random.default_rng(0)).round(2).tolist()
        [[0.44, 0.69, 1.62], [0.65, 0.73, 2.05], [0.5, 0.5, 1.0]]
    """
    places = masks.places[rows.index]
    of_part = defaultdict(list)
    for part, map_ in zip(rows["body_part"], places, strict=True):
        if map_ >= 0:
            of_part[part].append(map_)
    places_known = [*dict.fromkeys(places[places >= 0])]
    chosen = np.tile([0.5, 0.5, 1.0], (len(rows), 1))
    side = masks.maps.shape[1]
    for image, (part, place) in enumerate(zip(rows["body_part"], places, strict=True)):
        if place == masks.UNKNOWN or not places_known:
            continue
        if place < 0:
            others = of_part[part] or places_known
            place = others[rng.integers(len(others))]
        finding = np.flatnonzero(masks.maps[place])
        y, x = (np.array(divmod(finding[rng.integers(len(finding))], side)) + 0.5) / side
        zoom = rng.uniform(*_ZOOMS)
        half = 0.5 / zoom
        center = rng.normal((x, y), _SPREAD / zoom)
        chosen[image] = (*np.clip(center, half, 1 - half), zoom)
    return chosen


def zoom_in(transforms: np.ndarray, close_ups: np.ndarray, size: int) -> np.ndarray:
    """Turn transforms of whole images into transforms to close-ups.

    Args:
        transforms: (n, 8 or more) float32, as of `augmentation.Augmentation.transforms`.
        close_ups: (n, 3), as of `draw_close_ups`.
        size: side of the images, in pixels.

    Example:
        >>> still = np.array([[1, 0, 0, 0, 1, 0, 0, 0]], np.float32)
        >>> zoom_in(still, np.array([[0.25, 0.5, 2.0]]), size=5)[0, :6].tolist()
        [0.5, 0.0, -0.25, 0.0, 0.5, 1.0]
    """
    x, y, zoom = close_ups.T
    middle = (size - 1) / 2
    near = transforms.copy()
    near[:, :6] /= zoom[:, None]
    near[:, 2] += x * size - 0.5 - middle / zoom
    near[:, 5] += y * size - 0.5 - middle / zoom
    return near


def on_fine_square(transforms: np.ndarray) -> np.ndarray:
    """Let transforms read from squares of `FINE` times the side, and give images of the old side.

    Example:
        >>> still = np.array([[1, 0, 0, 0, 1, 0, 0, 0]], np.float32)
        >>> on_fine_square(still)[0, :6].tolist()
        [2.0, 0.0, 0.5, 0.0, 2.0, 0.5]
    """
    fine = transforms.copy()
    fine[:, :6] *= FINE
    fine[:, [2, 5]] += (FINE - 1) / 2
    return fine
