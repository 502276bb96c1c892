"""What a model is worth in use, per study: a worklist, studies set aside, decision curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mura_utils.evaluation.confusion import ratio
from mura_utils.evaluation.intervals import (
    Measure,
    Weights,
    draw_patients,
    finite_or_none,
    resampled,
    wilson,
)
from mura_utils.evaluation.predictions import study_predictions
from mura_utils.evaluation.worklist import LOADS, REPORT_TIME_CV, expected_waits
from mura_utils.labels import ABNORMAL, NORMAL

NPV_TARGETS = (0.95, 0.98, 0.99)
"""Negative predictive values at which studies are set aside."""

_LOOKS = tuple(share / 10 for share in range(1, 10))

THRESHOLD_PROBABILITIES = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Points of the decision curve."""


def clinical_use(predictions: pd.DataFrame, bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
    """The key ``clinical`` of metrics.json.

    Args:
        predictions: rows of predictions.csv, of validation and test.
        bootstrap: resamples of the patients.
        seed: of the resampling.

    Returns:
        ``worklist``: ``report_time_cv`` and ``waits`` (see `expected_waits`); ``set_aside`` (see
        `set_aside`); ``decision_curve`` (see `decision_curve`).
    """
    validation, test = (
        study_predictions(predictions[predictions["split"] == split])
        for split in ("validation", "test")
    )
    return {
        "worklist": {
            "report_time_cv": REPORT_TIME_CV,
            "waits": expected_waits(test, LOADS, bootstrap, seed),
        },
        "set_aside": [set_aside(validation, test, npv, bootstrap, seed) for npv in NPV_TARGETS],
        "decision_curve": decision_curve(test, THRESHOLD_PROBABILITIES, bootstrap, seed),
    }


# --- preliminary "normal" -----------------------------------------------------------------------


def set_aside_threshold(abnormality: pd.Series, p: pd.Series, npv: float) -> float:
    """The highest threshold up to which at least this share of the rows is normal.

    Args:
        abnormality: Normal or Abnormal, one a study of validation.
        p: (N,) P(abnormal); a study is set aside if it is not above the threshold.
        npv: the share, the negative predictive value.

    Returns:
        A value of `p`; -inf where no threshold does it, or one of the two kinds is missing, so that
        there is nothing to choose by.

    Example:
        >>> truth = pd.Series(["Normal", "Normal", "Abnormal", "Normal"])
        >>> set_aside_threshold(truth, pd.Series([0.1, 0.2, 0.3, 0.4]), npv=0.75)
        0.4
        >>> set_aside_threshold(truth, pd.Series([0.1, 0.2, 0.3, 0.4]), npv=0.95)
        0.2
    """
    if not {ABNORMAL, NORMAL} <= set(abnormality):
        return -np.inf
    by_p = pd.DataFrame({"p": np.asarray(p, float), "normal": abnormality.to_numpy() == NORMAL})
    counts = by_p.groupby("p")["normal"].agg(["sum", "size"]).cumsum()
    enough = counts["sum"] >= npv * counts["size"] - 1e-9  # as 0.95 * 20 may exceed 19
    return float(counts.index[enough].max()) if enough.any() else -np.inf


def set_aside(
    validation: pd.DataFrame, test: pd.DataFrame, npv: float, bootstrap: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """The largest share of studies called "normal" in advance at a negative predictive value.

    The threshold is chosen on validation, the rest is counted on test. Validation supports the
    target if at some threshold it rules out a lower value: the lower limit of Wilson's 95%
    interval, over the patients that are set aside, reaches the target. Without a single miss this
    takes 73 patients for 0.95, 189 for 0.98 and 381 for 0.99.

    Args:
        validation: rows of `study_predictions`.
        test: the same.
        npv: the target.
        bootstrap: resamples of the patients of test.
        seed: of the resampling.

    Returns:
        ``target``; ``threshold`` (None: nothing can be set aside); ``validation`` and ``test``:
        ``studies`` set aside, ``missed`` (abnormal ones among them) and ``npv``; ``test`` also has
        the ``share`` of studies that are set aside; ``supported``. The share and npv of test have
        intervals over patients; where nothing is missed, npv has Wilson's.
    """
    threshold = set_aside_threshold(validation["abnormality"], validation["p_abnormal"], npv)
    chosen_on = _set_aside_counts(validation, threshold)
    limit = _patients_interval(validation, threshold)
    found = _set_aside_counts(test, threshold)
    patients, draws = draw_patients(test["patient"], bootstrap, seed)
    measure = _set_aside_measure(test, threshold)
    rates = resampled(measure, draws, patients.get_indexer(test["patient"]))
    if found["studies"] and not found["missed"]:
        low, high = _patients_interval(test, threshold)
        rates["npv"] |= {"low": low, "high": high}
    return {
        "target": npv,
        "threshold": finite_or_none(threshold),
        "validation": {**chosen_on, "low": limit[0], "high": limit[1]},
        "supported": _supports(validation, npv),
        "test": {**found, **rates},
    }


def _set_aside_counts(studies: pd.DataFrame, threshold: float) -> dict[str, Any]:
    aside = studies[studies["p_abnormal"] <= threshold]
    missed = int((aside["abnormality"] == ABNORMAL).sum())
    npv = 1 - missed / len(aside) if len(aside) else None
    return {"studies": len(aside), "missed": missed, "npv": npv}


def _patients_interval(
    studies: pd.DataFrame, threshold: float
) -> tuple[float | None, float | None]:
    """Wilson's interval of the share of patients without a miss among those set aside."""
    aside = studies[studies["p_abnormal"] <= threshold]
    missed = (aside["abnormality"] == ABNORMAL).groupby(aside["patient"]).any()
    return wilson(int((~missed).sum()), len(missed))


def _supports(studies: pd.DataFrame, npv: float) -> bool:
    """Whether Wilson's lower limit reaches the value at one of nine thresholds, over patients.

    They set aside 10%, 20% … 90% of the studies. As any of nine may reach it by chance, each limit
    belongs to an interval of 1 - 5% / 9 (Bonferroni).
    """
    if studies["abnormality"].nunique() < 2:
        return False
    ordered = studies.sort_values("p_abnormal")
    missed = ordered["abnormality"] == ABNORMAL
    ordered["patients"] = ~ordered["patient"].duplicated()
    ordered["misses"] = missed & ~ordered["patient"].where(missed).duplicated()
    counts = ordered.groupby("p_abnormal")[["patients", "misses"]].sum().cumsum()
    aside = ordered["p_abnormal"].quantile(_LOOKS, interpolation="lower")
    return any(
        wilson(patients - misses, patients, 1 - 0.05 / len(_LOOKS))[0] >= npv
        for patients, misses in counts.loc[aside].to_numpy(int).tolist()
    )


def _set_aside_measure(studies: pd.DataFrame, threshold: float) -> Measure:
    aside = (studies["p_abnormal"] <= threshold).to_numpy()
    normal = (studies["abnormality"] == NORMAL).to_numpy()

    def measure(weights: Weights) -> dict[str, np.ndarray]:
        count = weights @ aside
        npv = ratio(weights @ (aside & normal), count)
        return {"share": count / weights.sum(axis=1), "npv": npv}

    return measure


# --- decision curve -----------------------------------------------------------------------------


def net_benefit(true_positives: Any, false_positives: Any, n: Any, threshold: Any) -> Any:
    """TP / n - FP / n · t / (1 - t): the share of studies rightly called abnormal, less the price.

    At the threshold probability t, a false alarm counts t / (1 - t) as much as a finding.

    Source: Vickers and Elkin 2006, "Decision Curve Analysis", Medical Decision Making 26(6).

    Example:
        >>> round(net_benefit(30, 10, 100, 0.2), 3)
        0.275
    """
    return true_positives / n - false_positives / n * threshold / (1 - threshold)


def decision_curve(
    studies: pd.DataFrame,
    thresholds: Sequence[float] = THRESHOLD_PROBABILITIES,
    bootstrap: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Net benefit of the model, and of calling every study abnormal, at threshold probabilities.

    P(abnormal) counts as it is, without calibration. Calling no study abnormal has net benefit 0.

    Args:
        studies: rows of `study_predictions`.
        thresholds: above 0 and below 1; a study is called abnormal above one.
        bootstrap: resamples of the patients.
        seed: of the resampling.

    Returns:
        Records of ``threshold``, ``model`` and ``treat_all`` (net benefits), and ``gain`` (the
        model's over the better of calling all or none abnormal), with 95% intervals over patients.
    """
    measure = _benefit_measure(studies, np.asarray(thresholds))
    patients, draws = draw_patients(studies["patient"], bootstrap, seed)
    found = resampled(measure, draws, patients.get_indexer(studies["patient"]))
    names = ("model", "treat_all", "gain")
    return [
        {"threshold": threshold} | {name: found[f"{name} {position}"] for name in names}
        for position, threshold in enumerate(thresholds)
    ]


def _benefit_measure(studies: pd.DataFrame, thresholds: np.ndarray) -> Measure:
    abnormal = (studies["abnormality"] == ABNORMAL).to_numpy()[:, None]
    called = studies["p_abnormal"].to_numpy()[:, None] > thresholds

    def measure(weights: Weights) -> dict[str, np.ndarray]:
        n = weights.sum(axis=1, keepdims=True)
        hits, alarms = weights @ (called & abnormal), weights @ (called & ~abnormal)
        model = net_benefit(hits, alarms, n, thresholds)
        everyone = net_benefit(weights @ abnormal, weights @ ~abnormal, n, thresholds)
        gain = model - np.maximum(everyone, 0)
        curves = {"model": model, "treat_all": everyone, "gain": gain}
        return {
            f"{name} {position}": column
            for name, curve in curves.items()
            for position, column in enumerate(curve.T)
        }

    return measure
