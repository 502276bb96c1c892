"""Gray levels of a radiograph: how they are spread, and how 16 bits become 8."""

from __future__ import annotations

import numpy as np
from PIL import Image

MIN_LEVELS = 8
"""Of 256 gray levels: what spans fewer of them from the 1st to the 99th percentile is uniform.
FracAtlas spans 69 at least, and phantoms 155."""

STRETCH_PERCENTILE = 0.5
"""Percent of the pixels at each end of a deep image that may be markers or dead pixels."""

STRETCH_MARGIN = 0.1
"""A deep image is stretched from its percentiles widened by this share of their distance: less
would saturate bone, more would darken an image with a marker."""

PERCENT = 1
"""Percent of the pixels left out at each end, where the range of the gray levels is meant."""

_LUMA = np.array([19595, 38470, 7471], np.uint32)  # ITU-R 601 in 65536ths, as Pillow has it


def count_levels(levels: np.ndarray) -> np.ndarray:
    """Pixels by gray level: (256,) of a uint8 image or list of pixels, (65536,) of a uint16 one.

    Example:
        >>> count_levels(np.array([[0, 2], [2, 2]], np.uint8))[:4].tolist()
        [1, 0, 3, 0]
    """
    if levels.dtype == np.uint8 and levels.ndim == 2:
        return np.array(Image.fromarray(levels).histogram())
    return np.bincount(levels.ravel(), minlength=np.iinfo(levels.dtype).max + 1)


def percentile(histogram: np.ndarray, percent: float) -> int:
    """The lowest gray level that `percent` of the pixels do not exceed."""
    return int(np.searchsorted(histogram.cumsum(), histogram.sum() * percent / 100))


def lack_of_content(histogram: np.ndarray) -> str:
    """Why an image shows nothing, from the histogram of its levels as stored; "" where it does.

    Example:
        >>> lack_of_content(np.bincount([7, 7, 7], minlength=256))
        '98% of its pixels have one gray level'
    """
    low, high = (percentile(histogram, percent) for percent in (PERCENT, 100 - PERCENT))
    depth = max(256, 1 << high.bit_length())  # 12 bits are often stored as 16
    if high - low >= MIN_LEVELS * depth / 256:
        return ""
    differ = f"differ by at most {high - low:,} of {depth:,} gray levels"
    return f"{100 - 2 * PERCENT}% of its pixels {differ if high > low else 'have one gray level'}"


def luma(samples: np.ndarray) -> np.ndarray:
    """Gray of 16-bit color (ITU-R 601): `(H, W, 3)` integers up to 65535 to `(H, W)` uint16."""
    return ((samples.astype(np.uint32) @ _LUMA + 0x8000) >> 16).astype(np.uint16)


def stretch(levels: np.ndarray, histogram: np.ndarray) -> tuple[np.ndarray, dict[str, str]]:
    """Make a uint16 image uint8, with the remark `clipped` where that clips much.

    Args:
        levels: `(H, W)` uint16.
        histogram: (65536,), of the pixels that count.
    """
    present = np.flatnonzero(histogram)
    least, most = int(present[0]), int(present[-1])
    low = percentile(histogram, STRETCH_PERCENTILE)
    high = percentile(histogram, 100 - STRETCH_PERCENTILE)
    margin = STRETCH_MARGIN * (high - low)
    low, high = max(least, low - margin), min(most, high + margin)
    scaled = (np.arange(len(histogram)) - low) * (255 / (high - low))
    gray = np.rint(scaled.clip(0, 255)).astype(np.uint8)[levels]
    if most - least <= 2 * (high - low):
        return gray, {}
    detail = (
        f"gray levels run from {least:,} to {most:,} and were clipped to {low:,.0f} to "
        f"{high:,.0f}, where all but {STRETCH_PERCENTILE}% at each end lie"
    )
    return gray, {"clipped": detail}
