"""What simple methods score on the same test images: the least that a network has to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from mura_utils.evaluation.metrics import LEVELS, evaluate
from mura_utils.evaluation.predictions import predictions_frame
from mura_utils.evaluation.tables import metric_text

BASELINES = {
    "majority_class": "most common label",
    "thumbnails": "logistic regression, 32 x 32 pixels",
    "frozen_features": "logistic regression, features before training",
}
"""Keys below ``baselines`` of metrics.json, and what they are."""

SHOWN = {
    ("image", "accuracy"): "accuracy, all classes",
    ("image", "kappa"): "kappa, all classes",
    ("body_part", "accuracy"): "accuracy, body part",
    ("binary_image", "accuracy"): "accuracy, binary",
    ("binary_image", "auroc"): "AUROC of abnormal",
    ("binary_study", "accuracy"): "accuracy, binary per study",
}
"""Level and metric of `evaluate`, and their column in the table; per image unless it says so."""

_STRENGTHS = (1e-3, 1e-2, 1e-1)

_COMPONENTS = 100  # of PCA, so that 40,000 images of 1,024 values take seconds


def majority_class(rows: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """The most common label of the training images, with probability 1, for all others.

    Args:
        rows: of all splits, with `PREDICTION_COLUMNS`.
        classes: K labels.

    Returns:
        As `predictions_frame`: the rows of validation and test.
    """
    train = rows["split"] == "train"
    nothing = np.zeros((len(rows), 1))
    model = DummyClassifier(strategy="most_frequent").fit(nothing[train], rows.loc[train, "label"])
    return _answers(model, nothing, rows, classes)


def logistic_regression(
    features: np.ndarray, rows: pd.DataFrame, classes: Sequence[str]
) -> tuple[pd.DataFrame, float]:
    """A multinomial logistic regression, fitted on train and with its strength from validation.

    The features are standardized and reduced to at most 100 principal components. The strength
    (scikit-learn's C) is the one of 0.001, 0.01 and 0.1 with the lowest log loss on validation.

    Args:
        features: (N, D).
        rows: N rows of all splits, with `PREDICTION_COLUMNS`, row for row with `features`.
        classes: K labels.

    Returns:
        As `predictions_frame`, the rows of validation and test; and C.

    Example:
        >>> rows = pd.DataFrame({"path": [*"abcdef"], "patient": [*"abcdef"], "study": [*"abcdef"]})
        >>> rows = rows.assign(body_part="HAND", abnormality=["Abnormal", "Normal"] * 3)
        >>> rows["label"] = rows["abnormality"] + "-HAND"
        >>> rows["split"] = ["train"] * 2 + ["validation"] * 2 + ["test"] * 2
        >>> features = np.array([[1.0], [0], [1], [0], [1], [0]])
        >>> answers, c = logistic_regression(features, rows, ["Abnormal-HAND", "Normal-HAND"])
        >>> answers["predicted"].tolist()[-2:], c
        (['Abnormal-HAND', 'Normal-HAND'], 0.1)
    """
    labels = rows["label"].to_numpy()
    train, validation = (
        np.flatnonzero(rows["split"] == split) for split in ("train", "validation")
    )
    features = features.astype(np.float32)
    components = min(_COMPONENTS, len(train), features.shape[1])
    reduction = make_pipeline(StandardScaler(), PCA(components, svd_solver="covariance_eigh"))
    reduction.fit(features[train])
    reduced = reduction.transform(features)

    def fit(strength: float) -> LogisticRegression:
        model = LogisticRegression(C=strength, tol=1e-3, max_iter=2000)
        return model.fit(reduced[train], labels[train])

    def loss(model: LogisticRegression) -> float:
        p = _in_order(model, reduced[validation], classes)
        return log_loss(labels[validation], p, labels=list(classes))

    with threadpool_limits(1):  # steps so small that threads would mostly wait for each other
        best = min(map(fit, _STRENGTHS), key=loss)
    return _answers(best, reduced, rows, classes), best.C


def baseline_metrics(
    answers: Mapping[str, pd.DataFrame], threshold: float, bootstrap: int
) -> dict[str, dict]:
    """What each method scores on test, as far as `SHOWN` lists it.

    Args:
        answers: predictions by method; only their test rows are used.
        threshold: abnormal is P(abnormal) above it.
        bootstrap: resamples of the patients.

    Returns:
        By method, level and metric, each as in `evaluate`.
    """
    scored = {}
    for name, predictions in answers.items():
        test = predictions[predictions["split"] == "test"]
        metrics = evaluate(test, threshold, bootstrap)
        scored[name] = {
            level: {metric: metrics[level][metric] for of, metric in SHOWN if of == level}
            for level in LEVELS
        }
    return scored


def baselines_table(scored: Mapping[str, Mapping], titles: Mapping[str, str]) -> pd.DataFrame:
    """Values with their intervals as text: one row a method, one column each of `SHOWN`.

    Args:
        scored: as returned by `baseline_metrics`.
        titles: of the methods that are no `BASELINES`.

    Example:
        >>> same = {"value": 0.5, "low": 0.25, "high": 0.75}
        >>> scored = {"mine": {level: {"accuracy": same, "kappa": same, "auroc": same}
        ...                    for level in LEVELS}}
        >>> baselines_table(scored, {"mine": "my run"}).loc["my run", "AUROC of abnormal"]
        '0.500 [0.250, 0.750]'
    """
    titles = {**BASELINES, **titles}
    rows = {
        titles[name]: [metric_text(levels[level][metric]) for level, metric in SHOWN]
        for name, levels in scored.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=[*SHOWN.values()])


def _answers(
    model: LogisticRegression | DummyClassifier,
    features: np.ndarray,
    rows: pd.DataFrame,
    classes: Sequence[str],
) -> pd.DataFrame:
    others = (rows["split"] != "train").to_numpy()
    return predictions_frame(rows[others], classes, _in_order(model, features[others], classes))


def _in_order(
    model: LogisticRegression | DummyClassifier, features: np.ndarray, classes: Sequence[str]
) -> np.ndarray:
    """(N, K) probabilities in the order of `classes`; 0 of those that train has none of."""
    p = model.predict_proba(features.astype(float))
    known = pd.DataFrame(p, columns=model.classes_)
    return known.reindex(columns=classes, fill_value=0.0).to_numpy()
