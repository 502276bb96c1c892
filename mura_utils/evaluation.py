"""How good the predictions are: per image and per study, with intervals over patients.

Four levels, never mixed in one column (`LEVELS`): all classes per image, the body part per image,
abnormal against normal per image, and the same per study, which is what MURA's leaderboard counts.

A patient's images resemble each other, so the intervals resample patients, not images: N images of
which many belong together tell less than N independent ones. FracAtlas has no patient identifiers;
there every image counts as its own patient and the intervals are too narrow where that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from sklearn.metrics import auc, roc_curve

from mura_utils import report
from mura_utils.errors import UserError
from mura_utils.labels import (
    ABNORMAL,
    body_part,
    classes_of,
    p_abnormal,
    probabilities_of,
    probability_columns,
)

PREDICTION_COLUMNS = ("path", "patient", "study", "body_part", "abnormality", "label", "split")
"""Columns of predictions.csv beside ``predicted`` and one ``p:<label>`` a class."""

LEVELS = {
    "image": "all classes, per image",
    "body_part": "body part, per image",
    "binary_image": "binary, per image",
    "binary_study": "binary, per study",
}
"""Keys of `evaluate` that hold metrics, and what one observation is in each."""

_RESAMPLES_AT_ONCE = 100  # (100, N) weights: 32 MB for MURA's 40,005 images
_CURVE_POINTS = 200  # per ROC curve in metrics.json; areas are computed before thinning

Weights = np.ndarray
Measure = Callable[[Weights], dict[str, np.ndarray]]


# --- predictions --------------------------------------------------------------------------------


def predictions_frame(
    manifest_rows: pd.DataFrame, classes: Sequence[str], probabilities: np.ndarray
) -> pd.DataFrame:
    """Put a model's output beside what is known of the images: the rows of predictions.csv.

    Args:
        manifest_rows: N rows with `PREDICTION_COLUMNS` (manifest.csv joined with splits.csv).
        classes: K labels, in the order of the model's outputs.
        probabilities: (N, K), rows sum to 1.

    Raises:
        UserError: a column is missing, shapes do not match, a value is no probability, or a label
            is none of the model's classes.
    """
    _require(manifest_rows, PREDICTION_COLUMNS)
    probabilities = np.asarray(probabilities)
    expected = (len(manifest_rows), len(classes))
    if probabilities.shape != expected:
        raise UserError(
            f"Probabilities have shape {probabilities.shape}, but {expected[0]} images and "
            f"{expected[1]} classes need {expected}: predict these rows with this model."
        )
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise UserError(
            "The model gives values outside 0..1 or NaN: its training diverged; train it again "
            "with a smaller learning rate."
        )
    unknown = sorted(set(manifest_rows["label"]) - set(classes))
    if unknown:
        raise UserError(
            f"The model does not know {', '.join(unknown)}: it was trained for "
            f"{', '.join(classes)}; evaluate it on the data set that it was trained on."
        )
    frame = manifest_rows[list(PREDICTION_COLUMNS)].reset_index(drop=True)
    frame.insert(
        frame.columns.get_loc("split"), "predicted", np.take(classes, probabilities.argmax(1))
    )
    columns = probability_columns(classes)
    return pd.concat([frame, pd.DataFrame(probabilities, columns=columns)], axis=1)


def p_body_part(predictions: pd.DataFrame) -> pd.DataFrame:
    """P(body part) of each image, one column a body part, in alphabetical order."""
    return probabilities_of(predictions).T.groupby(body_part).sum().T


def study_predictions(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row a study, its P(abnormal) the mean over its views (as the MURA paper does).

    Returns:
        study, patient, body_part, abnormality, views (number of images), p_abnormal.
    """
    frame = predictions.assign(p_abnormal=p_abnormal(predictions))
    return frame.groupby("study", as_index=False).agg(
        patient=("patient", "first"),
        body_part=("body_part", "first"),
        abnormality=("abnormality", "first"),
        views=("path", "size"),
        p_abnormal=("p_abnormal", "mean"),
    )


# --- metrics ------------------------------------------------------------------------------------


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
    """
    _require(predictions, (*PREDICTION_COLUMNS, "predicted"))
    classes = classes_of(predictions)
    if predictions.empty or not classes:
        raise UserError(
            "There are no predictions to evaluate: run 06_evaluation on a split that has images."
        )
    studies = study_predictions(predictions)
    true = pd.Index(classes).get_indexer(predictions["label"])
    predicted = pd.Index(classes).get_indexer(predictions["predicted"])
    probabilities = probabilities_of(predictions).to_numpy()

    patients, draws = _draw_patients(predictions["patient"], bootstrap, seed)

    def with_intervals(measure: Measure, rows: pd.DataFrame) -> dict[str, dict]:
        return _with_intervals(measure, draws, patients.get_indexer(rows["patient"]))

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
        "image": with_intervals(_class_measure(true, predicted, probabilities), predictions),
        "body_part": with_intervals(
            _label_measure(part_of[true], parts.to_numpy().argmax(axis=1), parts.shape[1]),
            predictions,
        ),
        "binary_image": with_intervals(
            _binary_measure(predictions["abnormality"], p_abnormal(predictions), threshold),
            predictions,
        ),
        "binary_study": with_intervals(
            _binary_measure(studies["abnormality"], studies["p_abnormal"], threshold), studies
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
    """
    known, draws = _draw_patients(patients, bootstrap, seed)
    measure = _binary_measure(abnormality, pd.Series(p), threshold)
    return _with_intervals(measure, draws, known.get_indexer(patients))


def metrics_table(metrics: dict[str, Any]) -> pd.DataFrame:
    """The metrics of `evaluate` as rows: level (text of `LEVELS`), metric, value, low, high."""
    rows = [
        {"level": text, "metric": name, **{key: interval[key] for key in ("value", "low", "high")}}
        for level, text in LEVELS.items()
        for name, interval in metrics[level].items()
    ]
    return pd.DataFrame(rows).astype({"value": float, "low": float, "high": float})


def classification_report(metrics: dict[str, Any], data: str) -> pd.DataFrame:
    """Precision, recall, F1 and support of each class beside the report's (report Fig. 30).

    The report's averages stand beside ours only where both run over the same classes.

    Args:
        metrics: of `evaluate`.
        data: what was evaluated, as the heading of our columns.

    Returns:
        Rows: the classes, then macro and weighted average. Columns: (data or "the report, MURA",
        metric); NaN where there is none.
    """
    columns = ["precision", "recall", "f1", "support"]
    ours = pd.DataFrame(metrics["classes"]).set_index("label")[columns]
    printed = report.FIG_30.set_index("label")
    if set(ours.index) == set(printed.index):
        printed = pd.concat([printed, report.FIG_30_AVERAGES])
    for kind in ("macro", "weighted"):
        values = [metrics["image"][f"{kind}_{name}"]["value"] for name in columns[:3]]
        ours.loc[f"{kind} average"] = [*values, metrics["counts"]["images"]]
    tables = {data: ours, "the report, MURA": printed.reindex(ours.index)}
    return pd.concat(
        {name: table.astype({"support": "Int64"}) for name, table in tables.items()}, axis=1
    )


def kappa_table(metrics: dict[str, Any], name: str, test_set: str) -> pd.DataFrame:
    """Our kappas with their intervals, then the leaderboard's and the peers' (report Fig. 36).

    Args:
        metrics: of `evaluate`.
        name: of the run.
        test_set: what was evaluated, such as "MURA valid set"; part of our rows' levels, so that
            rows of different data never share one.

    Returns:
        name, kappa, level, low, high (NaN: not published).
    """
    ours = [
        {"name": name, "level": f"{text}, {test_set}"}
        | {"kappa": interval["value"], "low": interval["low"], "high": interval["high"]}
        for level, text in LEVELS.items()
        if level != "body_part"
        for interval in [metrics[level]["kappa"]]
    ]
    table = pd.concat([pd.DataFrame(ours), report.PEERS, report.FIG_36], ignore_index=True)
    return table.astype({"kappa": float, "low": float, "high": float})


# --- measures: integer weights (B, N), one row a resample, to arrays (B,) ------------------------


def _class_measure(true: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> Measure:
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


def _binary_measure(abnormality: pd.Series, p: pd.Series, threshold: float) -> Measure:
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


def _draw_patients(patients: pd.Series, count: int, seed: int) -> tuple[pd.Index, np.ndarray]:
    """The patients, and how often each of `count` resamples drew each of them."""
    known = pd.Index(patients.unique())
    shares = np.full(len(known), 1 / len(known))
    return known, np.random.default_rng(seed).multinomial(len(known), shares, size=count)


def _with_intervals(measure: Measure, draws: np.ndarray, patient_of: np.ndarray) -> dict[str, dict]:
    """Value and interval of each metric; `draws` (B, patients) says how often each was drawn."""
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
            "value": _number(value),
            "low": _number(low),
            "high": _number(high),
            "undefined": len(samples) - len(defined),
        }
    return result


def _class_table(
    confusion: np.ndarray, classes: list[str], curves: dict[str, dict | None]
) -> list[dict[str, Any]]:
    _, support, precision, recall, f1 = (scores[0] for scores in _scores(confusion[None]))
    predicted = confusion.sum(axis=0)
    return [
        {
            "label": label,
            "precision": _number(precision[k]) if support[k] else None,
            "recall": _number(recall[k]) if support[k] else None,
            "f1": _number(f1[k]) if support[k] else None,
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


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _require(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise UserError(
            f"The image table lacks {', '.join(missing)}: join manifest.csv with splits.csv, or "
            "make predictions.csv again with 06_evaluation."
        )
