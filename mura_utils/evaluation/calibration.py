"""Whether probabilities can be believed: temperature scaling, and errors of calibration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.isotonic import IsotonicRegression

from mura_utils.evaluation.intervals import RESAMPLES, Weights, draw_patients, resampled
from mura_utils.evaluation.predictions import log_losses
from mura_utils.labels import (
    ABNORMAL,
    classes_of,
    p_abnormal,
    probabilities_of,
    probability_columns,
)

FEWEST_PATIENTS = 20
"""A temperature is fitted on at least as many validation patients."""

TEMPERATURES = (0.05, 20.0)
"""Where a temperature is believed; the best one lies beyond where validation has no error."""

_BINS = 10
_SIMULATIONS = 1000
_SMALLEST = float(np.finfo(np.float32).tiny)  # log 0 does not exist

QUESTIONS = {"abnormal": "P(abnormal)", "top_label": "P(predicted class)"}
"""Keys of `calibration_metrics` that hold a probability and its event, and how they are titled."""


class GivenProbabilities(ClassifierMixin, BaseEstimator):
    """A classifier for libraries that want one: its images are the probabilities (N, K) themselves.

    Example:
        >>> GivenProbabilities(2).predict(np.array([[0.2, 0.8]])).tolist()
        [1]
    """

    def __init__(self, classes: int) -> None:
        """For `classes` classes, numbered from 0."""
        self.classes = classes
        self.classes_ = np.arange(classes)

    def fit(self, X: np.ndarray, y: np.ndarray) -> GivenProbabilities:
        """Itself: there is nothing to learn."""
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """The probabilities (N, K) as they are."""
        return X

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Their logarithms (N, K), which are logits."""
        return np.log(np.maximum(X, _SMALLEST))

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Numbers (N,) of the most probable classes."""
        return X.argmax(axis=1)


def fit_temperature(validation: pd.DataFrame) -> dict[str, Any]:
    """Fit the temperature that gives the validation images the lowest log loss.

    Args:
        validation: rows of predictions.csv that are of validation.

    Returns:
        The content of calibration.json: ``temperature`` (above 1: the probabilities were too
        extreme), ``split``, and ``not_fitted``: None, or why the temperature is 1.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.

    Example:
        >>> fit_temperature(pd.DataFrame({"patient": [*"112"]}))["not_fitted"]
        'validation has 2 patients, fewer than 20'
    """
    patients = validation["patient"].nunique()
    if patients < FEWEST_PATIENTS:
        known = f"{patients} patient{'' if patients == 1 else 's'}"
        return _temperature(1, f"validation has {known}, fewer than {FEWEST_PATIENTS}")
    if validation["label"].nunique() < 2:
        return _temperature(1, "validation has images of one class only")
    true, probabilities = _true(validation), probabilities_of(validation).to_numpy()
    everything = np.arange(len(true))
    scaled = CalibratedClassifierCV(
        GivenProbabilities(probabilities.shape[1]),
        method="temperature",
        cv=[(everything, everything)],
        ensemble=True,  # else a class without validation images is refused
    ).fit(probabilities, true)
    (calibrator,) = scaled.calibrated_classifiers_[0].calibrators
    temperature = 1 / float(calibrator.beta_)
    low, high = TEMPERATURES
    if not low < temperature < high:
        return _temperature(1, f"no temperature from {low:g} to {high:g} is best on validation")
    return _temperature(temperature, None)


def _temperature(value: float, not_fitted: str | None) -> dict[str, Any]:
    return {"temperature": float(value), "split": "validation", "not_fitted": not_fitted}


def at_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Calibrated probabilities: softmax(log p / temperature).

    Args:
        probabilities: (N, K), each 0..1.
        temperature: above 0; the most probable class stays the most probable.

    Example:
        >>> at_temperature(np.array([[0.9, 0.1]]), 2).round(3).tolist()
        [[0.75, 0.25]]
    """
    return softmax(np.log(np.maximum(probabilities, _SMALLEST)) / temperature, axis=1)


def calibration_record(
    test: pd.DataFrame, fitted: dict[str, Any], bootstrap: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """The key ``calibration`` of metrics.json: errors before and after a temperature.

    Args:
        test: rows of predictions.csv that are of test.
        fitted: as returned by `fit_temperature`.
        bootstrap: resamples of the patients.
        seed: of the resampling and of the simulated labels.

    Returns:
        `fitted` with ``before`` and ``after``, each as returned by `calibration_metrics`.
    """
    scaled = at_temperature(probabilities_of(test).to_numpy(), fitted["temperature"])
    columns = probability_columns(classes_of(test))
    after = test.assign(**dict(zip(columns, scaled.T, strict=True)))
    return {
        **fitted,
        "before": calibration_metrics(test, bootstrap, seed),
        "after": calibration_metrics(after, bootstrap, seed),
    }


def calibration_metrics(
    predictions: pd.DataFrame, bootstrap: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """How far probabilities are from what is observed, per image.

    The expected calibration error (ECE) is the mean gap between probability and observed share in
    10 bins of equal mass; images of equal probability share a bin. It is above 0 for a calibrated
    model too, so ``ece_if_calibrated`` says what labels drawn from the probabilities themselves
    show: mean and 95% range of 1,000 draws, as if images were independent. Resampling patients adds
    noise, so that the interval of an ECE lies rather too high.

    The Brier score is reliability - resolution + uncertainty, where isotonic regression takes the
    place of bins, so that the parts sum up exactly.

    Args:
        predictions: rows of predictions.csv.
        bootstrap: resamples of the patients.
        seed: of the resampling and of the simulated labels.

    Returns:
        - ``log_loss`` (nats, probabilities cut at 1e-7) and ``classwise_ece`` (mean over classes
          that have images), with intervals as in `evaluate`.
        - ``abnormal`` and ``top_label``: ``ece``, ``ece_if_calibrated`` (mean, low, high),
          ``brier``, ``reliability``, ``resolution``, ``uncertainty`` and ``bins``, records of
          p (mean), images, and value (the observed share) with low and high.

    Source: Nixon et al., Measuring Calibration in Deep Learning, 2019; Dimitriadis, Gneiting and
    Jordan, Stable reliability diagrams for probabilistic classifiers, PNAS 2021.

    Example:
        >>> rows = pd.DataFrame({"patient": [*"1234"], "label": "Normal-HAND"})
        >>> rows = rows.assign(abnormality="Normal", predicted="Normal-HAND")
        >>> rows = rows.assign(**{"p:Abnormal-HAND": 0.25, "p:Normal-HAND": 0.75})
        >>> calibration_metrics(rows, bootstrap=10)["abnormal"]["ece"]["value"]
        0.25
    """
    probabilities = probabilities_of(predictions).to_numpy()
    true = _true(predictions)
    patients, draws = draw_patients(predictions["patient"], bootstrap, seed)
    patient_of = patients.get_indexer(predictions["patient"])
    losses = log_losses(probabilities, true)
    present = np.unique(true)
    errors = _ece(probabilities[:, present], true[:, None] == present)

    def measure(weights: Weights) -> dict[str, np.ndarray]:
        return {
            "log_loss": weights @ losses / weights.sum(axis=1),
            "classwise_ece": errors(weights).mean(axis=1),
        }

    events = {
        "abnormal": (p_abnormal(predictions), predictions["abnormality"] == ABNORMAL),
        "top_label": (probabilities.max(axis=1), predictions["predicted"] == predictions["label"]),
    }
    return resampled(measure, draws, patient_of) | {
        name: _event_metrics(np.asarray(p, float), np.asarray(y, float), draws, patient_of, seed)
        for name, (p, y) in events.items()
    }


def calibration_table(record: dict[str, Any]) -> pd.DataFrame:
    """Every number of `calibration_record` but the bins, before and after the temperature.

    In the rows "ece, if calibrated", low and high are the range of calibrated models of the same
    probabilities. The parts of the Brier score have no interval.

    Returns:
        Rows: (probability, metric). Columns: (before or after, value, low or high).
    """
    return pd.concat({when: _column(record[when]) for when in ("before", "after")}, axis=1)


def _column(metrics: dict[str, Any]) -> pd.DataFrame:
    rows = {}
    for question, title in QUESTIONS.items():
        found = metrics[question]
        chance = found["ece_if_calibrated"]
        rows[title, "ece"] = found["ece"]
        rows[title, "ece, if calibrated"] = {**chance, "value": chance["mean"]}
        rows[title, "brier"] = found["brier"]
        for part in ("reliability", "resolution", "uncertainty"):
            rows[title, part] = {"value": found[part]}
    for name in ("classwise_ece", "log_loss"):
        rows["all classes", name] = metrics[name]
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(rows, names=["probability", "metric"])
    return table[["value", "low", "high"]].astype(float)


def _true(predictions: pd.DataFrame) -> np.ndarray:
    return pd.Index(classes_of(predictions)).get_indexer(predictions["label"])


def _bins(p: np.ndarray) -> np.ndarray:
    """Which of the bins of equal mass each probability is in: (N, bins) of 0 and 1."""
    edges = np.quantile(p, np.linspace(0, 1, _BINS + 1)[1:-1])
    return np.eye(_BINS)[np.searchsorted(edges, p)]


def _ece(p: np.ndarray, y: np.ndarray) -> Callable[[Weights], np.ndarray]:
    """From weights (B, N) to errors (B, M) of M probabilities (N, M) with their events (N, M)."""
    gaps = [_bins(p[:, m]) * (y[:, m] - p[:, m])[:, None] for m in range(p.shape[1])]
    columns = np.hstack(gaps)

    def measure(weights: Weights) -> np.ndarray:
        sums = (weights @ columns).reshape(len(weights), -1, _BINS)
        return np.abs(sums).sum(axis=2) / weights.sum(axis=1, keepdims=True)

    return measure


def _ece_if_calibrated(p: np.ndarray, seed: int) -> dict[str, float]:
    drawn = np.random.default_rng(seed).random((_SIMULATIONS, len(p))) < p
    bins = _bins(p)
    errors = np.abs(drawn @ bins - p @ bins).sum(axis=1) / len(p)
    low, high = np.quantile(errors, [0.025, 0.975])
    return {"mean": float(errors.mean()), "low": float(low), "high": float(high)}


def _event_metrics(
    p: np.ndarray, y: np.ndarray, draws: np.ndarray, patient_of: np.ndarray, seed: int
) -> dict[str, Any]:
    """One entry of `calibration_metrics`: of a probability (N,) and whether its event came true."""
    bins = _bins(p)
    bins = bins[:, bins.any(axis=0)]
    errors, squares, events = _ece(p[:, None], y[:, None]), (y - p) ** 2, bins * y[:, None]

    def measure(weights: Weights) -> dict[str, np.ndarray]:
        images = weights @ bins
        shares = np.full(images.shape, np.nan)
        np.divide(weights @ events, images, out=shares, where=images > 0)
        return {
            "ece": errors(weights)[:, 0],
            "brier": weights @ squares / weights.sum(axis=1),
            **{f"bin {number}": observed for number, observed in enumerate(shares.T)},
        }

    members = bins.T.astype(bool)
    names = [f"bin {number}" for number in range(len(members))]
    shares = {name: [rows] for name, rows in zip(names, members, strict=True)}
    found = resampled(measure, draws, patient_of, shares)
    return {
        "ece": found["ece"],
        "ece_if_calibrated": _ece_if_calibrated(p, seed),
        "brier": found["brier"],
        **_brier_parts(p, y),
        "bins": [
            {"p": float(p[rows].mean()), "images": int(rows.sum()), **found[name]}
            for name, rows in zip(names, members, strict=True)
        ],
    }


def _brier_parts(p: np.ndarray, y: np.ndarray) -> dict[str, float]:
    calibrated = IsotonicRegression().fit_transform(p, y)
    brier, best, constant = (float(np.mean((y - q) ** 2)) for q in (p, calibrated, y.mean()))
    return {
        "reliability": brier - best,
        "resolution": constant - best,
        "uncertainty": constant,
    }
