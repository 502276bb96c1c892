"""What a model scores, at four levels that are never mixed, with intervals over patients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from sklearn.metrics import auc, roc_curve

from mura_utils.errors import UserError
from mura_utils.evaluation.intervals import (
    Measure,
    Weights,
    draw_patients,
    finite_or_none,
    resampled,
)
from mura_utils.evaluation.predictions import (
    PREDICTION_COLUMNS,
    p_body_part,
    require_columns,
    study_predictions,
)
from mura_utils.labels import (
    ABNORMAL,
    NORMAL,
    body_part,
    classes_of,
    p_abnormal,
    probabilities_of,
)

LEVELS = {
    "image": "all classes, per image",
    "body_part": "body part, per image",
    "binary_image": "binary, per image",
    "binary_study": "binary, per study",
}
"""Keys of `evaluate` that hold metrics, and what one observation is in each."""

_CURVE_POINTS = 200  # per ROC curve in metrics.json; areas are computed before thinning


def evaluate(
    predictions: pd.DataFrame, threshold: float = 0.5, bootstrap: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Compute every metric of notebook 06; the same input and seed give the same numbers.

    A metric is ``{"value", "low", "high", "undefined"}``: low and high are the percentiles 2.5 and
    97.5 over `bootstrap` resamples of the patients, drawn with replacement. A resample in which
    the metric does not exist (AUROC, sensitivity or specificity without both kinds of images, kappa
    with a single kind) is left out of that interval and counted in ``undefined``. What does not
    exist is None, never NaN, so that the whole is JSON.

    Macro averages, and balanced accuracy, which equals the macro recall, run over the classes that
    have images. A class with images that is never predicted has precision 0. Log loss is in nats,
    with probabilities cut at 1e-7 as in Keras' loss.

    Args:
        predictions: the rows to evaluate, from `predictions_frame` or predictions.csv.
        threshold: abnormal is P(abnormal) above it, per image and per study.
        bootstrap: resamples; 0 leaves low and high at None.
        seed: of the resampling.

    Returns:
        - ``image``: accuracy, kappa, balanced_accuracy, macro_ and weighted_ precision, recall
          and f1, log_loss over all classes; ``body_part``: accuracy, kappa; ``binary_image`` and
          ``binary_study``: accuracy, kappa, auroc, sensitivity, specificity.
        - ``counts``: images, studies, patients; ``classes``: records of label, precision, recall,
          f1, auc, support and predicted (both images); ``classes_without_images``: labels.
        - ``confusion``: ``labels`` and ``counts`` (rows true, columns predicted).
        - ``roc``: ``classes`` (label -> curve, one against the rest), ``micro``, ``macro``; a curve
          is ``{"fpr", "tpr", "auc"}`` with at most 200 points, or None.
        - ``threshold`` and ``bootstrap`` (unit, resamples, seed, level).

    Raises:
        UserError: there are no rows, or columns are missing.

    Source: report section V, Fig. 29 to 31 and 36.

    Example:
        >>> rows = pd.DataFrame({"path": [*"abcd"], "patient": [*"1122"], "study": [*"1122"]})
        >>> rows = rows.assign(split="test", body_part="HAND")
        >>> rows["abnormality"] = ["Abnormal", "Normal"] * 2
        >>> rows["label"] = rows["predicted"] = rows["abnormality"] + "-HAND"
        >>> rows["p:Abnormal-HAND"] = [0.75, 0.25, 1, 0]
        >>> rows["p:Normal-HAND"] = 1 - rows["p:Abnormal-HAND"]
        >>> evaluate(rows, bootstrap=10)["image"]["accuracy"]
        {'value': 1.0, 'low': 1.0, 'high': 1.0, 'undefined': 0}
    """
    require_columns(predictions, (*PREDICTION_COLUMNS, "predicted"))
    classes = classes_of(predictions)
    if predictions.empty or not classes:
        raise UserError(
            "There are no predictions to evaluate: run 06_evaluation on a split that has images."
        )
    studies = study_predictions(predictions)
    true = pd.Index(classes).get_indexer(predictions["label"])
    predicted = pd.Index(classes).get_indexer(predictions["predicted"])
    probabilities = probabilities_of(predictions).to_numpy()

    patients, draws = draw_patients(predictions["patient"], bootstrap, seed)

    def with_intervals(measure: Measure, rows: pd.DataFrame) -> dict[str, dict]:
        return resampled(measure, draws, patients.get_indexer(rows["patient"]))

    parts = p_body_part(predictions)
    part_of = np.array([parts.columns.get_loc(body_part(label)) for label in classes])
    confusion = _confusion(true, predicted, len(classes), np.ones((1, len(true))))[0]
    roc = _roc(true, probabilities, classes)
    return {
        "counts": {
            "images": len(predictions),
            "studies": len(studies),
            "patients": len(patients),
        },
        "image": with_intervals(class_measure(true, predicted, probabilities), predictions),
        "body_part": with_intervals(
            _label_measure(part_of[true], parts.to_numpy().argmax(axis=1), parts.shape[1]),
            predictions,
        ),
        "binary_image": with_intervals(
            binary_measure(predictions["abnormality"], p_abnormal(predictions), threshold),
            predictions,
        ),
        "binary_study": with_intervals(
            binary_measure(studies["abnormality"], studies["p_abnormal"], threshold), studies
        ),
        "classes": _class_table(confusion, classes, roc["classes"]),
        "classes_without_images": [
            label for label, count in zip(classes, confusion.sum(axis=1), strict=True) if not count
        ],
        "confusion": {"labels": classes, "counts": confusion.astype(int).tolist()},
        "roc": roc,
        "threshold": threshold,
        "bootstrap": {"unit": "patient", "resamples": bootstrap, "seed": seed, "level": 0.95},
    }


def evaluate_abnormality(
    abnormality: pd.Series,
    p: np.ndarray,
    patients: pd.Series,
    threshold: float = 0.5,
    bootstrap: int = 1000,
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
    measure = binary_measure(abnormality, pd.Series(p), threshold)
    return resampled(measure, draws, known.get_indexer(patients))


def operating_point(abnormality: pd.Series, p: pd.Series, specificity: float = 0.9) -> float:
    """The lowest threshold at which at least this share of the normal rows is called normal.

    Choose it on validation, never on the rows that are to be judged by it.

    Args:
        abnormality: Normal or Abnormal, one an image or study.
        p: (N,) probability of abnormal; abnormal is `p` above the threshold.
        specificity: the share, above 0 and at most 1.

    Returns:
        A value of `p`, or inf where there are no normal rows to choose by.

    Example:
        >>> truth = pd.Series(["Normal"] * 4 + ["Abnormal"])
        >>> operating_point(truth, pd.Series([0.1, 0.2, 0.3, 0.8, 0.6]), specificity=0.75)
        0.3
    """
    normal = np.asarray(p, float)[(abnormality == NORMAL).to_numpy()]
    return float(np.quantile(normal, specificity, method="inverted_cdf")) if len(normal) else np.inf


def class_measure(true: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> Measure:
    """The metrics ``image`` of `evaluate`, from weights (B, N) to values (B,).

    Args:
        true: (N,) numbers of classes.
        predicted: (N,) numbers of classes.
        probabilities: (N, K).
    """
    losses = -np.log(np.clip(probabilities[np.arange(len(true)), true], 1e-7, 1))
    count = probabilities.shape[1]

    def measure(weights: Weights) -> dict[str, np.ndarray]:
        confusion = _confusion(true, predicted, count, weights)
        correct, support, precision, recall, f1 = _scores(confusion)
        present = support > 0
        averages = {
            f"{kind}_{name}": (scores * shares).sum(axis=1) / shares.sum(axis=1)
            for kind, shares in (("macro", present), ("weighted", support))
            for name, scores in (("precision", precision), ("recall", recall), ("f1", f1))
        }
        return {
            "accuracy": correct.sum(axis=1) / support.sum(axis=1),
            "kappa": _kappa(confusion),
            "balanced_accuracy": averages["macro_recall"],
            **averages,
            "log_loss": weights @ losses / weights.sum(axis=1),
        }

    return measure


def _label_measure(true: np.ndarray, predicted: np.ndarray, count: int) -> Measure:
    def measure(weights: Weights) -> dict[str, np.ndarray]:
        confusion = _confusion(true, predicted, count, weights)
        accuracy = np.trace(confusion, axis1=1, axis2=2) / weights.sum(axis=1)
        return {"accuracy": accuracy, "kappa": _kappa(confusion)}

    return measure


def binary_measure(abnormality: pd.Series, p: pd.Series, threshold: float) -> Measure:
    """The metrics ``binary_image`` of `evaluate`, from weights (B, N) to values (B,).

    Args:
        abnormality: Normal or Abnormal, one an image.
        p: (N,) probability of abnormal.
        threshold: abnormal is `p` above it.
    """
    true, p = (abnormality == ABNORMAL).to_numpy(int), p.to_numpy(float)
    predicted = (p > threshold).astype(int)
    labels = _label_measure(true, predicted, 2)

    def measure(weights: Weights) -> dict[str, np.ndarray]:
        confusion = _confusion(true, predicted, 2, weights)
        return {
            **labels(weights),
            "auroc": _auroc(true, p, weights),
            "sensitivity": _ratio(confusion[:, 1, 1], confusion[:, 1].sum(axis=1)),
            "specificity": _ratio(confusion[:, 0, 0], confusion[:, 0].sum(axis=1)),
        }

    return measure


def _confusion(true: np.ndarray, predicted: np.ndarray, count: int, weights: Weights) -> np.ndarray:
    """Weighted counts (B, K, K), rows true, columns predicted."""
    images = np.arange(len(true))
    cells = csr_array(
        (np.ones(len(true)), (true * count + predicted, images)), shape=(count**2, len(true))
    )
    return (cells @ weights.T).T.reshape(len(weights), count, count)


def _scores(confusion: np.ndarray) -> tuple[np.ndarray, ...]:
    """Correct, support, precision, recall, F1, each (B, K); 0 where a denominator is 0."""
    correct = np.diagonal(confusion, axis1=1, axis2=2)
    support, predicted = confusion.sum(axis=2), confusion.sum(axis=1)
    precision, recall = _ratio(correct, predicted, 0), _ratio(correct, support, 0)
    return correct, support, precision, recall, _ratio(2 * correct, support + predicted, 0)


def _kappa(confusion: np.ndarray) -> np.ndarray:
    """Cohen's kappa (B,); NaN where truth and prediction are one and the same single class."""
    total = confusion.sum(axis=(1, 2))
    observed = np.trace(confusion, axis1=1, axis2=2) / total
    chance = (confusion.sum(axis=2) * confusion.sum(axis=1)).sum(axis=1) / total**2
    return _ratio(observed - chance, 1 - chance)


def _auroc(true: np.ndarray, p: np.ndarray, weights: Weights) -> np.ndarray:
    """Weighted area under the ROC curve (B,) as a rank sum, ties count half; NaN without both."""
    order = np.argsort(p, kind="stable")
    starts = np.unique(p[order], return_index=True)[1]
    positive = np.add.reduceat((weights * true)[:, order], starts, axis=1)
    negative = np.add.reduceat((weights * (1 - true))[:, order], starts, axis=1)
    beaten = negative.cumsum(axis=1) - negative / 2
    return _ratio((positive * beaten).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1))


def _ratio(numerator: np.ndarray, denominator: np.ndarray, undefined: float = np.nan) -> np.ndarray:
    out = np.full(numerator.shape, undefined, float)
    return np.divide(numerator, denominator, out=out, where=denominator != 0)


def _class_table(
    confusion: np.ndarray, classes: list[str], curves: dict[str, dict | None]
) -> list[dict[str, Any]]:
    _, support, precision, recall, f1 = (scores[0] for scores in _scores(confusion[None]))
    predicted = confusion.sum(axis=0)
    return [
        {
            "label": label,
            "precision": finite_or_none(precision[k]) if support[k] else None,
            "recall": finite_or_none(recall[k]) if support[k] else None,
            "f1": finite_or_none(f1[k]) if support[k] else None,
            "auc": curves[label]["auc"] if curves[label] else None,
            "support": int(support[k]),
            "predicted": int(predicted[k]),
        }
        for k, label in enumerate(classes)
    ]


def _roc(true: np.ndarray, probabilities: np.ndarray, classes: list[str]) -> dict[str, Any]:
    """One-against-the-rest curves and their averages, as in report Fig. 31.

    Micro pools all N * K decisions; macro averages the curves of the classes that have images.
    """
    is_class = true[:, None] == np.arange(len(classes))
    grid = np.linspace(0, 1, _CURVE_POINTS)
    curves: dict[str, dict | None] = {}
    macro = []
    for k, label in enumerate(classes):
        curves[label] = None
        if 0 < is_class[:, k].sum() < len(true):
            fpr, tpr, _ = roc_curve(is_class[:, k], probabilities[:, k])
            curves[label] = _curve(fpr, tpr, auc(fpr, tpr))
            macro.append(np.interp(grid, fpr, tpr))
    areas = [curve["auc"] for curve in curves.values() if curve]
    micro = None
    if len(classes) > 1:
        fpr, tpr, _ = roc_curve(is_class.ravel(), probabilities.ravel())
        micro = _curve(fpr, tpr, auc(fpr, tpr))
    return {
        "classes": curves,
        "micro": micro,
        "macro": _curve(grid, np.mean(macro, axis=0), np.mean(areas)) if areas else None,
    }


def _curve(fpr: np.ndarray, tpr: np.ndarray, area: float) -> dict[str, Any]:
    kept = np.linspace(0, len(fpr) - 1, min(len(fpr), _CURVE_POINTS)).round().astype(int)
    return {
        "fpr": fpr[kept].round(5).tolist(),
        "tpr": tpr[kept].round(5).tolist(),
        "auc": float(area),
    }
