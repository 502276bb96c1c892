"""From a radiograph of any shape to the square that a network takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image


def resize(image: np.ndarray, size: int, how: str = "stretch") -> np.ndarray:
    """Make a square of a gray image, with antialiasing.

    Args:
        image: `(H, W)` uint8.
        size: side of the result in pixels.
        how: ``stretch``, as the report does, or ``pad``: the sides keep their ratio, and black
            fills what is left on both sides.

    Returns:
        `(size, size)` uint8.

    Example:
        >>> image = np.tile(np.array([[0], [200]], np.uint8), 4)
        >>> resize(image, 2)
        array([[  0,   0],
               [200, 200]], dtype=uint8)
        >>> resize(image, 4, how="pad")
        array([[  0,   0,   0,   0],
               [  0,   0,   0,   0],
               [200, 200, 200, 200],
               [  0,   0,   0,   0]], dtype=uint8)
    """
    # With a reducing gap PIL first shrinks by a whole factor: the same to the eye, and quicker.
    return _to_square(image, size, how, Image.Resampling.BILINEAR, reducing_gap=3.0)


def resize_mask(mask: np.ndarray, size: int, how: str = "stretch") -> np.ndarray:
    """Make a square of a mask as `resize` does of its image.

    A pixel counts as soon as the mask touches it, so that a thin line is never lost.

    Args:
        mask: `(H, W)` bool.
        size: side of the result in pixels.
        how: as of `resize`.

    Returns:
        `(size, size)` bool.

    Example:
        >>> resize_mask(np.eye(4, dtype=bool), 2).tolist()
        [[True, False], [False, True]]
    """
    return _to_square(mask.astype(np.float32), size, how, Image.Resampling.BOX) > 0


def _to_square(
    image: np.ndarray, size: int, how: str, resampling: Image.Resampling, **options: Any
) -> np.ndarray:
    if how not in ("stretch", "pad"):
        raise ValueError(f"how = {how!r}: stretch or pad")
    height, width = image.shape if how == "pad" else (1, 1)
    rows, columns = (max(1, round(size * n / max(height, width))) for n in (height, width))
    resized = np.asarray(Image.fromarray(image).resize((columns, rows), resampling, **options))
    if rows == columns == size:
        return resized
    square = np.zeros((size, size), image.dtype)
    top, left = (size - rows) // 2, (size - columns) // 2
    square[top : top + rows, left : left + columns] = resized
    return square
