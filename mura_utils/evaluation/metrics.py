"""What a model scores, at five levels that are never mixed, with intervals over patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import auc, roc_curve

from mura_utils.errors import UserError
from mura_utils.evaluation.binary import binary_metrics
from mura_utils.evaluation.confusion import cohen_kappa, confusion_matrices, ratio
from mura_utils.evaluation.intervals import (
    RESAMPLES,
    Measure,
    Weights,
    draw_patients,
    finite_or_none,
    resampled,
)
from mura_utils.evaluation.predictions import (
    PREDICTION_COLUMNS,
    STUDY_RULES,
    log_losses,
    p_abnormal_given_part,
    p_body_part,
    require_columns,
    study_predictions,
)
from mura_utils.labels import ABNORMAL, body_part, classes_of, p_abnormal, probabilities_of

LEVELS = {
    "image": "all classes, per image",
    "body_part": "body part, per image",
    "binary_image": "binary, per image",
    "binary_study": "binary, per study",
    "binary_study_given_part": "binary, per study, body part given",
}
"""Keys of `evaluate` that hold metrics, and what one observation is in each."""

_OF_PARTS = ("auroc", "sensitivity", "specificity", "kappa")
_OF_RULES = ("auroc", "auprc", "sensitivity", "specificity")

_CURVE_POINTS = 200  # per ROC curve in metrics.json; areas are computed before thinning


def describe_counts(counts: Mapping[str, int]) -> str:
    """How many images, studies and patients a test set has.

    Args:
        counts: the key ``counts`` of `evaluate`.

    Example:
        >>> describe_counts({"images": 1200, "studies": 40, "patients": 30, "part_ruled_out": 0})
        '1,200 images, 40 studies, 30 patients'
    """
    return ", ".join(f"{counts[unit]:,} {unit}" for unit in ("images", "studies", "patients"))


def evaluate(
    predictions: pd.DataFrame, threshold: float = 0.5, bootstrap: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Compute the metrics of notebook 06; the same input and seed give the same numbers.

    A metric is ``{"value", "low", "high", "undefined"}``: low and high are the percentiles 2.5 and
    97.5 over `bootstrap` resamples of the patients, drawn with replacement. A resample in which
    the metric does not exist (AUROC, sensitivity or specificity without both kinds of images, kappa
    with a single kind) is left out of that interval and counted in ``undefined``. What does not
    exist is None, never NaN, so that the whole is JSON. Where nothing is missed, or nothing found,
    the bootstrap cannot move: ``interval`` then says what stands in for it, see
    `intervals.resampled`.

    Macro averages, and balanced accuracy, which equals the macro recall, run over the classes that
    have images. A class with images that is never predicted has precision 0. Log loss is in nats,
    with probabilities cut at 1e-7 as in Keras' loss. The binary metrics are those of
    `binary.binary_measure`.

    Args:
        predictions: the rows to evaluate, from `predictions_frame` or predictions.csv.
        threshold: abnormal is P(abnormal) above it, per image and per study.
        bootstrap: resamples; 0 leaves low and high at None.
        seed: of the resampling.

    Returns:
        What docs/metrics.md describes:

        - ``image`` and ``body_part``: accuracy, kappa, balanced_accuracy, macro_ and weighted_
          precision, recall and f1, log_loss; ``binary_image``, ``binary_study`` and
          ``binary_study_given_part``: the binary metrics.
        - ``by_body_part``: of each part ``counts`` and some metrics per study; ``study_rules``: of
          each rule of `STUDY_RULES` some metrics per study.
        - ``counts``: images, studies, patients, and part_ruled_out: images whose true body part the
          model gives the probability 0. P(abnormal | the part) is 0.5 for these.
        - ``classes``: records of label, precision, recall, f1, auc, support and predicted (both
          images); ``classes_without_images``: labels.
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
        >>> accuracy = evaluate(rows, bootstrap=10)["image"]["accuracy"]
        >>> accuracy["value"], round(accuracy["low"], 3), accuracy["interval"]
        (1.0, 0.342, 'wilson')
    """
    require_columns(predictions, (*PREDICTION_COLUMNS, "predicted"))
    classes = classes_of(predictions)
    if predictions.empty or not classes:
        raise UserError(
            "There are no predictions to evaluate: run 06_evaluation on a split that has images."
        )
    true = pd.Index(classes).get_indexer(predictions["label"])
    predicted = pd.Index(classes).get_indexer(predictions["predicted"])
    probabilities = probabilities_of(predictions).to_numpy()
    parts = p_body_part(predictions)
    true_part = np.array([parts.columns.get_loc(body_part(label)) for label in classes])[true]
    given_part = p_abnormal_given_part(predictions)
    images = predictions.assign(p_abnormal=p_abnormal(predictions))
    by_rule = {rule: study_predictions(predictions, rule) for rule in STUDY_RULES}
    studies = by_rule["mean"]

    patients, draws = draw_patients(predictions["patient"], bootstrap, seed)
    patient_of = patients.get_indexer(predictions["patient"])

    def over_classes(
        true: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray
    ) -> dict[str, dict]:
        measure = class_measure(true, predicted, probabilities)
        everything = [np.ones(len(true), bool)]
        shares = {"accuracy": everything, "weighted_recall": everything}
        return resampled(measure, draws, patient_of, shares)

    def binary(rows: pd.DataFrame) -> dict[str, dict]:
        own = patients.get_indexer(rows["patient"])
        return binary_metrics(rows["abnormality"], rows["p_abnormal"], threshold, draws, own)

    per_study = binary(studies)
    confusion = confusion_matrices(true, predicted, len(classes), np.ones((1, len(true))))[0]
    roc = _roc(true, probabilities, classes)
    return {
        "counts": {
            "images": len(predictions),
            "studies": len(studies),
            "patients": len(patients),
            "part_ruled_out": int(given_part.isna().sum()),
        },
        "image": over_classes(true, predicted, probabilities),
        "body_part": over_classes(true_part, parts.to_numpy().argmax(axis=1), parts.to_numpy()),
        "binary_image": binary(images),
        "binary_study": per_study,
        "binary_study_given_part": binary(study_predictions(predictions, p=given_part.fillna(0.5))),
        "by_body_part": {
            part: {"counts": _study_counts(rows), **_some(binary(rows), _OF_PARTS)}
            for part, rows in studies.groupby("body_part")
        },
        "study_rules": {
            rule: _some(per_study if rows is studies else binary(rows), _OF_RULES)
            for rule, rows in by_rule.items()
        },
        "classes": _class_table(confusion, classes, roc["classes"]),
        "classes_without_images": [
            label for label, count in zip(classes, confusion.sum(axis=1), strict=True) if not count
        ],
        "confusion": {"labels": classes, "counts": confusion.astype(int).tolist()},
        "roc": roc,
        "threshold": threshold,
        "bootstrap": {"unit": "patient", "resamples": bootstrap, "seed": seed, "level": 0.95},
    }


def _some(metrics: Mapping[str, dict], names: Sequence[str]) -> dict[str, dict]:
    return {name: metrics[name] for name in names}


def _study_counts(studies: pd.DataFrame) -> dict[str, int]:
    return {
        "studies": len(studies),
        "abnormal": int((studies["abnormality"] == ABNORMAL).sum()),
        "patients": studies["patient"].nunique(),
    }


def class_measure(true: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> Measure:
    """The metrics ``image`` of `evaluate`, from weights (B, N) to values (B,).

    Args:
        true: (N,) numbers of classes.
        predicted: (N,) numbers of classes.
        probabilities: (N, K).
    """
    losses = log_losses(probabilities, true)
    count = probabilities.shape[1]

    def measure(weights: Weights) -> dict[str, np.ndarray]:
        confusion = confusion_matrices(true, predicted, count, weights)
        correct, support, precision, recall, f1 = _scores(confusion)
        present = support > 0
        averages = {
            f"{kind}_{name}": (scores * shares).sum(axis=1) / shares.sum(axis=1)
            for kind, shares in (("macro", present), ("weighted", support))
            for name, scores in (("precision", precision), ("recall", recall), ("f1", f1))
        }
        return {
            "accuracy": correct.sum(axis=1) / support.sum(axis=1),
            "kappa": cohen_kappa(confusion),
            "balanced_accuracy": averages["macro_recall"],
            **averages,
            "log_loss": weights @ losses / weights.sum(axis=1),
        }

    return measure


def _scores(confusion: np.ndarray) -> tuple[np.ndarray, ...]:
    """Correct, support, precision, recall, F1, each (B, K); 0 where a denominator is 0."""
    correct = np.diagonal(confusion, axis1=1, axis2=2)
    support, predicted = confusion.sum(axis=2), confusion.sum(axis=1)
    precision, recall = ratio(correct, predicted, 0), ratio(correct, support, 0)
    return correct, support, precision, recall, ratio(2 * correct, support + predicted, 0)


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
