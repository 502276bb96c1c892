"""Intervals by resampling patients with all their images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

RESAMPLES = 2000
"""Resamples behind an interval, unless the caller gives another number."""

_RESAMPLES_AT_ONCE = 100  # (100, N) weights: 32 MB for MURA's 40,005 images
_NO_WIDTH = 1e-9  # above the rounding of a metric, below any change of a row

Weights = np.ndarray

Measure = Callable[[Weights], dict[str, np.ndarray]]

Shares = Mapping[str, Sequence[np.ndarray]]
"""Of each metric that is a share: (N,) masks of the rows that it needs, one mask a kind of row."""


def draw_patients(patients: pd.Series, count: int, seed: int) -> tuple[pd.Index, np.ndarray]:
    """The patients, and how often each of `count` resamples drew each of them.

    Example:
        >>> patients, draws = draw_patients(pd.Series(["1", "1", "2"]), count=4, seed=0)
        >>> list(patients), draws.shape, draws.sum(axis=1).tolist()
        (['1', '2'], (4, 2), [2, 2, 2, 2])
    """
    known = pd.Index(patients.unique())
    shares = np.full(len(known), 1 / len(known))
    return known, np.random.default_rng(seed).multinomial(len(known), shares, size=count)


def resampled(
    measure: Measure, draws: np.ndarray, patient_of: np.ndarray, shares: Shares | None = None
) -> dict[str, dict]:
    """Value and interval of each metric, from resamples of the patients.

    If a metric is 0 or 1 because nothing was missed, or nothing found, no resample can differ from
    it: the bootstrap's interval has no width and would promise certainty. With `shares`, such an
    interval is replaced. A metric named there gets Wilson's interval (1927). Its n is the number
    of **patients** that the share rests on, since the rows of one patient are not independent; of
    two kinds of rows, as in an AUROC, it is the number of pairs of patients without a patient in
    two pairs, which is the smaller of both numbers. Every other metric gets no interval, as does
    any metric that rests on a single patient.

    Args:
        measure: from weights (B, N) to values (B,).
        draws: (B, patients), how often each resample drew each patient.
        patient_of: (N,) column of `draws` that each row belongs to.
        shares: of the metrics that are shares, the rows that they need; None leaves an interval
            without width as it is.

    Returns:
        By metric ``value``, ``low``, ``high`` (percentiles 2.5 and 97.5, or None) and
        ``undefined`` (resamples in which it does not exist); ``interval`` is "wilson" or "none"
        where the bootstrap's was replaced.

    Example:
        >>> images = pd.Series(["1", "1", "2"])  # by patient
        >>> patients, draws = draw_patients(images, count=100, seed=0)
        >>> right = np.array([1, 1, 0])
        >>> measure = lambda weights: {"accuracy": weights @ right / weights.sum(axis=1)}
        >>> resampled(measure, draws, patients.get_indexer(images))["accuracy"]["low"]
        0.0
    """
    values = measure(np.ones((1, len(patient_of))))
    chunks = [
        measure(draws[start : start + _RESAMPLES_AT_ONCE][:, patient_of].astype(float))
        for start in range(0, len(draws), _RESAMPLES_AT_ONCE)
    ]
    result = {}
    for name, (value,) in values.items():
        samples = np.concatenate([chunk[name] for chunk in chunks]) if chunks else np.empty(0)
        defined = samples[np.isfinite(samples)]
        low, high = np.quantile(defined, [0.025, 0.975]) if len(defined) else (np.nan, np.nan)
        result[name] = {
            "value": finite_or_none(value),
            "low": finite_or_none(low),
            "high": finite_or_none(high),
            "undefined": len(samples) - len(defined),
        }
        if shares is not None and high - low < _NO_WIDTH:
            rows = shares.get(name, ())
            result[name] |= _without_width(float(value), patient_of, rows)
    return result


def _without_width(
    value: float, patient_of: np.ndarray, rows: Sequence[np.ndarray]
) -> dict[str, Any]:
    """What stands in for an interval that the bootstrap gives no width; nothing if it may stay."""
    at_an_end = min(abs(value), abs(1 - value)) < _NO_WIDTH
    if at_an_end and rows:
        patients = min(len(np.unique(patient_of[kind])) for kind in rows)
        low, high = wilson(round(value) * patients, patients)
        return {"low": low, "high": high, "interval": "wilson"}
    if at_an_end or len(np.unique(patient_of)) == 1:
        return {"low": None, "high": None, "interval": "none"}
    return {}


def wilson(
    successes: int, patients: int, confidence: float = 0.95
) -> tuple[float | None, float | None]:
    """Wilson's interval of a share (1927), as scipy computes it; None without patients.

    Example:
        >>> [round(end, 3) for end in wilson(successes=60, patients=60)]
        [0.94, 1.0]
    """
    if not patients:
        return None, None
    low, high = binomtest(successes, patients).proportion_ci(confidence, method="wilson")
    return float(low), float(high)


def finite_or_none(value: float) -> float | None:
    """The value as JSON holds it: None where it is undefined.

    Example:
        >>> finite_or_none(float("nan")) is None
        True
    """
    return float(value) if np.isfinite(value) else None
