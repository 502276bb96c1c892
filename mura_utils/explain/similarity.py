"""How alike two heat-maps of one image are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy.stats import rankdata


def rank_correlation(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of the pixels of each pair of maps.

    Args:
        ours: (N, H, W).
        theirs: (N, H, W).

    Returns:
        (N,) in [-1, 1]; NaN where one of the two is constant.

    Example:
        >>> ours = np.array([[[0.0, 0.1], [0.2, 0.9]]])
        >>> rank_correlation(ours, ours**2), rank_correlation(ours, -ours)
        (array([1.]), array([-1.]))
    """
    ranks = [rankdata(maps.reshape(len(maps), -1), axis=1) for maps in (ours, theirs)]
    ours, theirs = (each - each.mean(axis=1, keepdims=True) for each in ranks)
    products, sizes = (ours * theirs).sum(axis=1), (ours**2).sum(axis=1) * (theirs**2).sum(axis=1)
    known = sizes > 0
    return np.divide(products, np.sqrt(sizes), out=np.full(len(ours), np.nan), where=known)


def structural_similarity(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """SSIM of each pair of maps.

    Args:
        ours: (N, H, W) in [0, 1]; sides of at least 11 pixels, the width of SSIM's window.
        theirs: (N, H, W) in [0, 1].

    Returns:
        (N,) in [-1, 1], 1 for equal maps.

    Source: Wang et al. 2004, "Image quality assessment: from error visibility to structural
        similarity".
    """
    import tensorflow as tf

    pair = (tf.constant(maps[..., None], tf.float32) for maps in (ours, theirs))
    return tf.image.ssim(*pair, max_val=1.0).numpy()


def agreement(maps: Sequence[np.ndarray]) -> np.ndarray:
    """Mean rank correlation over all pairs of runs, for each image.

    Args:
        maps: of two or more runs, such as one experiment with several seeds, each (N, H, W) of the
            same images.

    Returns:
        (N,) in [-1, 1]; NaN where a map is constant.

    Example:
        >>> one = np.array([[[0.0, 0.1], [0.2, 0.9]]])
        >>> agreement([one, one, 1 - one]).round(2)
        array([-0.33])
    """
    return np.mean([rank_correlation(a, b) for a, b in combinations(maps, 2)], axis=0)
