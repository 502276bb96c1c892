"""Maps that know nothing of the network, to be scored like those that explain it.

Findings often lie near the middle and on bone: a method that does not beat these maps says nothing
about the network. All have the signature of a method, (model, images (N, S, S, 1), target) ->
(N, S, S) in [0, 1], and ignore the model and the target.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import ndimage

_CENTER_WIDTH = 0.2  # standard deviation, of the image's side


def random_map(model: Any, images: np.ndarray, target: Any, seed: int = 0) -> np.ndarray:
    """Independent uniform noise at each pixel."""
    return np.random.default_rng(seed).random(images.shape[:3], np.float32)


def center_map(model: Any, images: np.ndarray, target: Any) -> np.ndarray:
    """A Gaussian in the middle, a fifth of the side wide.

    Example:
        >>> center_map(None, np.zeros((1, 3, 3, 1)), None)[0].round(2).tolist()[1]
        [0.25, 1.0, 0.25]
    """
    side = images.shape[1]
    axis = (np.arange(side) - (side - 1) / 2) / (_CENTER_WIDTH * side)
    bump = np.exp(-(axis[:, None] ** 2 + axis**2) / 2).astype(np.float32)
    return np.repeat(bump[None], len(images), axis=0)


def edge_map(model: Any, images: np.ndarray, target: Any) -> np.ndarray:
    """The size of the gray levels' slope (Sobel), divided by its maximum."""
    gray = np.asarray(images[..., 0], np.float32)
    # One by one: SciPy smooths over all other axes, that of the images as well.
    slope = np.stack([np.hypot(ndimage.sobel(one, 0), ndimage.sobel(one, 1)) for one in gray])
    highest = slope.max(axis=(1, 2), keepdims=True)
    return np.divide(slope, highest, out=np.zeros_like(slope), where=highest > 0)


BASELINES: dict[str, Callable[[Any, np.ndarray, Any], np.ndarray]] = {
    "random": random_map,
    "center": center_map,
    "edges": edge_map,
}
"""Name -> function, as `METHODS`."""


def baseline_maps(images: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """All baselines of images (N, S, S, 1), named as `explain` names its maps.

    Example:
        >>> list(baseline_maps(np.zeros((1, 4, 4, 1))))[1]
        ('center', 'no target')
    """
    return {(name, "no target"): draw(None, images, None) for name, draw in BASELINES.items()}
