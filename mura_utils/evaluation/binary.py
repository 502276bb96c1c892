"""Normal or abnormal: every metric of a binary answer, weighted, many resamples at a time."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mura_utils.evaluation.confusion import cohen_kappa, confusion_matrices, ratio
from mura_utils.evaluation.intervals import (
    RESAMPLES,
    Measure,
    Shares,
    Weights,
    draw_patients,
    resampled,
)
from mura_utils.labels import ABNORMAL

MAX_FPR = 0.1
"""The partial AUROC covers false positive rates up to this one."""

_SPECIFICITY = 0.9  # at which the sensitivity is read from the ROC curve
_ROUNDING = 1e-9  # of a count


def evaluate_abnormality(
    abnormality: pd.Series,
    p: np.ndarray,
    patients: pd.Series,
    threshold: float = 0.5,
    bootstrap: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, dict]:
    """The metrics ``binary_image`` of `evaluate`, for anything that gives P(abnormal).

    Args:
        abnormality: Normal or Abnormal, one an image.
        p: (N,) probability of abnormal, or any score that grows with it.
        patients: whose image it is.
        threshold: abnormal is `p` above it.
        bootstrap: resamples of the patients.
        seed: of the resampling.

    Example:
        >>> truth = pd.Series(["Abnormal", "Normal", "Normal"])
        >>> metrics = evaluate_abnormality(truth, np.array([0.9, 0.2, 0.6]), pd.Series([*"123"]))
        >>> metrics["specificity"]["value"]
        0.5
    """
    known, draws = draw_patients(patients, bootstrap, seed)
    return binary_metrics(
        abnormality, pd.Series(p), threshold, draws, known.get_indexer(pd.Index(patients))
    )


def binary_metrics(
    abnormality: pd.Series,
    p: pd.Series,
    threshold: float,
    draws: np.ndarray,
    patient_of: np.ndarray,
) -> dict[str, dict]:
    """The metrics of `binary_measure` with their intervals.

    Args:
        abnormality: Normal or Abnormal, one a row.
        p: (N,) probability of abnormal.
        threshold: abnormal is `p` above it.
        draws: (B, patients), as `draw_patients` returns them.
        patient_of: (N,) column of `draws` that each row belongs to.
    """
    shares = _shares(abnormality, p, threshold)
    return resampled(binary_measure(abnormality, p, threshold), draws, patient_of, shares)


def binary_measure(abnormality: pd.Series, p: pd.Series, threshold: float) -> Measure:
    """The binary metrics, from weights (B, N) to values (B,).

    Accuracy, Cohen's kappa, balanced accuracy, sensitivity, specificity, PPV, NPV, F1 of abnormal
    and MCC are taken at the threshold; the others need none: AUROC; partial AUROC over false
    positive rates up to `MAX_FPR`, standardized to 0.5 for chance and 1 for perfect (McClish,
    1989); AUPRC as average precision; and the sensitivity at a specificity of 0.9, which is read
    from the ROC curve of these very rows and so is better than what a threshold chosen elsewhere
    gives. All are what scikit-learn computes, and NaN where rows of a kind that they need are
    missing. An MCC of a constant answer is 0, as in scikit-learn.

    Args:
        abnormality: Normal or Abnormal, one an image.
        p: (N,) probability of abnormal.
        threshold: abnormal is `p` above it.

    Example:
        >>> truth = pd.Series(["Abnormal", "Abnormal", "Normal", "Normal"])
        >>> measure = binary_measure(truth, pd.Series([0.9, 0.4, 0.6, 0.1]), threshold=0.5)
        >>> [float(measure(np.ones((1, 4)))[name][0]) for name in ("auroc", "sensitivity", "mcc")]
        [0.75, 0.5, 0.0]
    """
    true, p = (abnormality == ABNORMAL).to_numpy(int), p.to_numpy(float)
    predicted = (p > threshold).astype(int)
    curves = _curve_measure(true, p)

    def measure(weights: Weights) -> dict[str, np.ndarray]:
        confusion = confusion_matrices(true, predicted, 2, weights)
        (tn, fp), (fn, tp) = np.moveaxis(confusion, 0, -1)
        sensitivity, specificity = ratio(tp, tp + fn), ratio(tn, tn + fp)
        return {
            "accuracy": ratio(tp + tn, weights.sum(axis=1)),
            "kappa": cohen_kappa(confusion),
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "sensitivity": sensitivity,
            "specificity": specificity,
            "ppv": ratio(tp, tp + fp),
            "npv": ratio(tn, tn + fn),
            "f1": ratio(2 * tp, 2 * tp + fp + fn),
            "mcc": _mcc(tn, fp, fn, tp),
            **curves(weights),
        }

    return measure


def _shares(abnormality: pd.Series, p: pd.Series, threshold: float) -> Shares:
    """The rows that each metric which is a share rests on."""
    abnormal = (abnormality == ABNORMAL).to_numpy()
    called = p.to_numpy(float) > threshold
    return {
        "accuracy": [np.ones(len(abnormal), bool)],
        "sensitivity": [abnormal],
        "specificity": [~abnormal],
        "ppv": [called],
        "npv": [~called],
        "auroc": [abnormal, ~abnormal],
        "sensitivity_at_90_specificity": [abnormal],
    }


def _mcc(tn: np.ndarray, fp: np.ndarray, fn: np.ndarray, tp: np.ndarray) -> np.ndarray:
    """Matthews' correlation coefficient; 0 for a constant answer, NaN for a single kind of rows."""
    kinds = (tp + fn) * (tn + fp)
    answers = (tp + fp) * (tn + fn)
    correlation = ratio(tp * tn - fp * fn, np.sqrt(kinds) * np.sqrt(answers), 0)
    return np.where(kinds > 0, correlation, np.nan)


def _curve_measure(true: np.ndarray, p: np.ndarray) -> Measure:
    """What is read from the ROC and the precision-recall curve."""
    order = np.argsort(-p, kind="stable")
    starts = np.flatnonzero(np.diff(p[order], prepend=np.inf))  # rows of equal p move together
    true = true[order]

    def measure(weights: Weights) -> dict[str, np.ndarray]:
        weights = weights[:, order]
        positive = np.add.reduceat(weights * true, starts, axis=1)
        negative = np.add.reduceat(weights * (1 - true), starts, axis=1)
        tp, fp = positive.cumsum(axis=1), negative.cumsum(axis=1)
        positives, negatives = tp[:, -1:], fp[:, -1:]
        pairs = (negative * (tp - positive / 2)).sum(axis=1)
        specific = negatives - fp >= _SPECIFICITY * negatives - _ROUNDING
        precision = ratio(tp, tp + fp, 0)
        return {
            "auroc": ratio(pairs, positives[:, 0] * negatives[:, 0]),
            "partial_auroc": _partial_auroc(positive, negative, tp, fp),
            "auprc": ratio((positive * precision).sum(axis=1), positives[:, 0]),
            "sensitivity_at_90_specificity": np.where(
                negatives[:, 0] > 0, ratio((tp * specific).max(axis=1), positives[:, 0]), np.nan
            ),
        }

    return measure


def _partial_auroc(
    positive: np.ndarray, negative: np.ndarray, tp: np.ndarray, fp: np.ndarray
) -> np.ndarray:
    """The standardized area up to `MAX_FPR`; the step that crosses it is cut by interpolation.

    Args:
        positive: (B, G) weight of the abnormal rows of each value of p, from the highest.
        negative: (B, G) the same of the normal ones.
        tp: (B, G) sums of `positive` so far.
        fp: (B, G) sums of `negative` so far.
    """
    positives, negatives = tp[:, -1], fp[:, -1]
    width = np.clip(MAX_FPR * negatives[:, None] - (fp - negative), 0, negative)
    height = tp - positive + positive * ratio(width, negative, 0) / 2
    area = ratio((width * height).sum(axis=1), positives * negatives)
    chance = MAX_FPR**2 / 2
    return (1 + (area - chance) / (MAX_FPR - chance)) / 2
