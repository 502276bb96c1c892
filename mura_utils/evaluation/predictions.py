"""One row an image with all class probabilities, and what follows from it for a study."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from mura_utils.errors import UserError
from mura_utils.evaluation.confusion import ratio
from mura_utils.labels import (
    body_part,
    is_abnormal,
    p_abnormal,
    probabilities_of,
    probability_columns,
)

PREDICTION_COLUMNS = ("path", "patient", "study", "body_part", "abnormality", "label", "split")
"""Columns of predictions.csv besides ``predicted`` and one ``p:<label>`` a class."""


def predictions_frame(
    manifest_rows: pd.DataFrame, classes: Sequence[str], probabilities: np.ndarray
) -> pd.DataFrame:
    """Join a model's output with what is known of the images: the rows of predictions.csv.

    Args:
        manifest_rows: N rows with `PREDICTION_COLUMNS` (manifest.csv joined with splits.csv).
        classes: K labels, in the order of the model's outputs.
        probabilities: (N, K), rows sum to 1.

    Raises:
        UserError: a column is missing, shapes do not match, a value is no probability, or a label
            is none of the model's classes.

    Example:
        >>> row = ("a.png", "1", "1/study1", "HAND", "Abnormal", "Abnormal-HAND", "test")
        >>> rows = pd.DataFrame([row], columns=PREDICTION_COLUMNS)
        >>> table = predictions_frame(rows, ["Abnormal-HAND", "Normal-HAND"], [[0.25, 0.75]])
        >>> table[["predicted", "p:Abnormal-HAND"]].to_dict("records")
        [{'predicted': 'Normal-HAND', 'p:Abnormal-HAND': 0.25}]
    """
    require_columns(manifest_rows, PREDICTION_COLUMNS)
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
    """P(body part) of each image, one column a body part, in alphabetical order.

    Example:
        >>> row = {"p:Abnormal-HAND": 0.5, "p:Normal-HAND": 0.25, "p:Normal-WRIST": 0.25}
        >>> p_body_part(pd.DataFrame([row])).to_dict("records")
        [{'HAND': 0.75, 'WRIST': 0.25}]
    """
    return probabilities_of(predictions).T.groupby(body_part).sum().T


def p_abnormal_given_part(predictions: pd.DataFrame) -> pd.Series:
    """P(abnormal | the true body part) of each image, which asks nothing about the body part.

    It is P(abnormal, part) / (P(abnormal, part) + P(normal, part)), with the part of the image's
    label. NaN where the model gives both of its classes the probability 0.

    Example:
        >>> row = {"label": "Normal-HAND", "p:Abnormal-HAND": 0.25, "p:Normal-HAND": 0.25}
        >>> p_abnormal_given_part(pd.DataFrame([row | {"p:Abnormal-WRIST": 0.5}])).tolist()
        [0.5]
    """
    probabilities = probabilities_of(predictions)
    part_of_class = np.array([body_part(label) for label in probabilities])
    true_part = predictions["label"].map(body_part).to_numpy(str)
    of_part = probabilities.to_numpy() * (true_part[:, None] == part_of_class)
    abnormal = of_part[:, [is_abnormal(label) for label in probabilities]].sum(axis=1)
    given = ratio(abnormal, of_part.sum(axis=1))
    return pd.Series(given, predictions.index, name="p_abnormal_given_part")


STUDY_RULES: dict[str, Callable[[pd.Series, pd.Series], pd.Series]] = {
    "mean": lambda p, study: p.groupby(study).mean(),
    "maximum": lambda p, study: p.groupby(study).max(),
    "noisy_or": lambda p, study: 1 - (1 - p).groupby(study).prod(),
}
"""How the P(abnormal) of its views becomes that of a study; noisy-or: 1 - prod(1 - p)."""


def study_predictions(
    predictions: pd.DataFrame, rule: str = "mean", p: pd.Series | None = None
) -> pd.DataFrame:
    """One row a study, its P(abnormal) the mean over its views (as the MURA paper does).

    A study of which any image is labeled abnormal is abnormal.

    Args:
        predictions: rows of predictions.csv.
        rule: one of `STUDY_RULES`.
        p: of each view; without it `labels.p_abnormal`.

    Returns:
        study, patient, body_part, abnormality, views (number of images), p_abnormal.

    Example:
        >>> views = pd.DataFrame({"path": ["a", "b"], "study": "1/study1", "patient": "1"})
        >>> views = views.assign(body_part="HAND", abnormality="Normal")
        >>> views["p:Abnormal-HAND"] = [0.25, 0.5]
        >>> [float(study_predictions(views, rule)["p_abnormal"][0]) for rule in STUDY_RULES]
        [0.375, 0.5, 0.625]
    """
    studies = predictions.groupby("study").agg(
        patient=("patient", "first"),
        body_part=("body_part", "first"),
        abnormality=("abnormality", "min"),  # "Abnormal" comes before "Normal"
        views=("path", "size"),
    )
    views = p_abnormal(predictions) if p is None else p
    return studies.assign(p_abnormal=STUDY_RULES[rule](views, predictions["study"])).reset_index()


def log_losses(probabilities: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The negative logarithm of each true class's probability, cut at 1e-7 as in Keras's loss.

    Args:
        probabilities: (N, K).
        true: (N,) numbers of classes.

    Returns:
        (N,), nats.

    Example:
        >>> log_losses(np.array([[0.25, 0.75], [0.5, 0.5]]), np.array([0, 1])).round(2).tolist()
        [1.39, 0.69]
    """
    return -np.log(np.clip(probabilities[np.arange(len(true)), true], 1e-7, 1))


def require_columns(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuse a table of images that lacks a column.

    Raises:
        UserError: names what is missing, and where it comes from.

    Example:
        >>> require_columns(pd.DataFrame(columns=["path", "split"]), ["path"])
    """
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise UserError(
            f"The image table lacks {', '.join(missing)}: join manifest.csv with splits.csv, or "
            "make predictions.csv again with 06_evaluation."
        )
