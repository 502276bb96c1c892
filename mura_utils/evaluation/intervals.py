"""Intervals by resampling patients with all their images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.stats import binomtest

_RESAMPLES_AT_ONCE = 100  # (100, N) weights: 32 MB for MURA's 40,005 images

Weights = np.ndarray

Measure = Callable[[Weights], dict[str, np.ndarray]]


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


def resampled(measure: Measure, draws: np.ndarray, patient_of: np.ndarray) -> dict[str, dict]:
    """Value and interval of each metric; `draws` (B, patients) says how often each was drawn.

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
    return result


def finite_or_none(value: float) -> float | None:
    """The value as JSON holds it: None where it is undefined.

    Example:
        >>> finite_or_none(float("nan")) is None
        True
    """
    return float(value) if np.isfinite(value) else None


def wilson_interval(successes: int, trials: int) -> tuple[float | None, float | None]:
    """Wilson's 95% interval of a share, which has a width also where all or none succeed.

    Example:
        >>> low, high = wilson_interval(73, 73)
        >>> round(low, 3), high
        (0.95, 1.0)
    """
    if not trials:
        return None, None
    interval = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
