"""One row an image with all class probabilities, and what follows from it for a study."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mura_utils.errors import UserError
from mura_utils.labels import body_part, p_abnormal, probabilities_of, probability_columns

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


def study_predictions(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row a study, its P(abnormal) the mean over its views (as the MURA paper does).

    A study of which any image is labeled abnormal is abnormal.

    Returns:
        study, patient, body_part, abnormality, views (number of images), p_abnormal.

    Example:
        >>> views = pd.DataFrame({"path": ["a", "b"], "study": "1/study1", "patient": "1"})
        >>> views = views.assign(body_part="HAND", abnormality="Normal")
        >>> views["p:Abnormal-HAND"] = [0.25, 0.5]
        >>> study_predictions(views)[["views", "p_abnormal"]].to_dict("records")
        [{'views': 2, 'p_abnormal': 0.375}]
    """
    frame = predictions.assign(p_abnormal=p_abnormal(predictions))
    return frame.groupby("study", as_index=False).agg(
        patient=("patient", "first"),
        body_part=("body_part", "first"),
        abnormality=("abnormality", "min"),  # "Abnormal" comes before "Normal"
        views=("path", "size"),
        p_abnormal=("p_abnormal", "mean"),
    )


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
