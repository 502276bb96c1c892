"""Weighted confusion matrices, many resamples at a time, and what follows from them."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from mura_utils.evaluation.intervals import Weights


def confusion_matrices(
    true: np.ndarray, predicted: np.ndarray, count: int, weights: Weights
) -> np.ndarray:
    """Weighted counts, rows true, columns predicted.

    Args:
        true: (N,) numbers of classes, below `count`.
        predicted: (N,) numbers of classes.
        count: K classes.
        weights: (B, N).

    Returns:
        (B, K, K).

    Example:
        >>> confusion_matrices(np.array([0, 1]), np.array([0, 0]), 2, np.array([[1, 2]])).tolist()
        [[[1.0, 0.0], [2.0, 0.0]]]
    """
    rows = np.arange(len(true))
    cells = csr_array(
        (np.ones(len(true)), (true * count + predicted, rows)), shape=(count**2, len(true))
    )
    return (cells @ weights.T).T.reshape(len(weights), count, count)


def cohen_kappa(confusion: np.ndarray) -> np.ndarray:
    """Cohen's kappa (B,) of (B, K, K).

    NaN where truth and prediction are one and the same class, and where there are no rows.

    Example:
        >>> cohen_kappa(np.array([[[2, 0], [1, 1]]])).tolist()
        [0.5]
    """
    total = confusion.sum(axis=(1, 2))
    observed = ratio(np.trace(confusion, axis1=1, axis2=2), total)
    chance = ratio((confusion.sum(axis=2) * confusion.sum(axis=1)).sum(axis=1), total**2)
    return ratio(observed - chance, 1 - chance)


def ratio(numerator: np.ndarray, denominator: np.ndarray, undefined: float = np.nan) -> np.ndarray:
    """Elementwise quotient, `undefined` where the denominator is 0.

    Example:
        >>> ratio(np.array([1, 1]), np.array([2, 0])).tolist()
        [0.5, nan]
    """
    out = np.full(np.broadcast(numerator, denominator).shape, undefined, float)
    return np.divide(numerator, denominator, out=out, where=denominator != 0)
