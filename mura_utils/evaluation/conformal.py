"""Conformal prediction sets: labels that hold the true one with a chosen probability."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from mapie.classification import SplitConformalClassifier
from scipy.stats import beta

from mura_utils.evaluation.calibration import GivenProbabilities
from mura_utils.evaluation.intervals import RESAMPLES, Weights, draw_patients, resampled
from mura_utils.labels import body_part, classes_of, probabilities_of

RISK = 0.1
"""At most this share of sets may lack the true label: a coverage of 90%."""

SET_KINDS = (
    "one label",
    "abnormal or normal, one body part",
    "several body parts",
    "no label",
)
"""What a prediction set says, from the plainest answer to none."""


def one_image_a_patient(predictions: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """One image of each patient, drawn at random: patients are exchangeable, their images are not.

    Example:
        >>> rows = pd.DataFrame({"patient": ["1", "1", "2"]})
        >>> one_image_a_patient(rows)["patient"].tolist()
        ['1', '2']
    """
    return predictions.groupby("patient").sample(1, random_state=seed)


def prediction_sets(calibration: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """The labels that are probable enough to hold the true one for 90% of new images.

    The score is LAC (1 - probability of the true label): its sets are the smallest on average, it
    needs no random draws, and one threshold on probabilities follows. APS adapts better to hard
    images, but covers more than asked and has larger sets. A set may be empty.

    Args:
        calibration: rows of predictions.csv that are exchangeable with new images: one a patient
            (`one_image_a_patient`), and strictly ones that no choice was made on. Validation
            images have chosen the epoch, which can cost a little coverage.
        predictions: rows of predictions.csv to answer.

    Returns:
        Whether a label is in the set: one row an image, one column a class. With fewer than 10
        rows to calibrate on every set holds every label.

    Source: Sadinle, Lei and Wasserman, Least Ambiguous Set-Valued Classifiers, JASA 2019.

    Example:
        >>> rows = pd.DataFrame({"p:Abnormal-HAND": [0.2] * 10, "p:Normal-HAND": [0.8] * 10})
        >>> rows["label"] = "Normal-HAND"
        >>> prediction_sets(rows, rows.head(1)).to_dict("records")
        [{'Abnormal-HAND': False, 'Normal-HAND': True}]
    """
    classes = classes_of(predictions)
    if _too_few(len(calibration)):
        return pd.DataFrame(True, index=predictions.index, columns=classes)
    sets = SplitConformalClassifier(GivenProbabilities(len(classes)), 1 - RISK, "lac")
    with warnings.catch_warnings():
        # A class that none of the rows has changes nothing: LAC has one threshold for all.
        warnings.filterwarnings("ignore", ".*conformalization dataset has less labels")
        sets.conformalize(
            probabilities_of(calibration).to_numpy(),
            pd.Index(classes).get_indexer(calibration["label"]),
        )
    _, held = sets.predict_set(probabilities_of(predictions).to_numpy())
    return pd.DataFrame(held[:, :, 0], index=predictions.index, columns=classes)


def set_kinds(sets: pd.DataFrame) -> pd.Series:
    """What each set says: one of `SET_KINDS`.

    Args:
        sets: as returned by `prediction_sets`.

    Example:
        >>> sets = pd.DataFrame({"Abnormal-HAND": [True, True], "Normal-HAND": [False, True]})
        >>> set_kinds(sets).tolist()
        ['one label', 'abnormal or normal, one body part']
    """
    one, two, several, none = SET_KINDS
    labels = sets.sum(axis=1)
    parts = sets.T.groupby(body_part).any().sum()
    kinds = np.select([labels == 0, labels == 1, parts == 1], [none, one, two], several)
    return pd.Series(pd.Categorical(kinds, SET_KINDS), index=sets.index, name="set")


def conformal_record(
    validation: pd.DataFrame, test: pd.DataFrame, bootstrap: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """The key ``conformal`` of metrics.json: calibrated on validation, measured on test.

    Args:
        validation: rows of predictions.csv to calibrate on.
        test: rows of predictions.csv to measure on.
        bootstrap: resamples of the test patients.
        seed: of the images drawn for calibration, and of the resampling.

    Returns:
        - ``asked`` (coverage, 0..1), ``score``, ``calibration_patients``, ``too_few_patients``.
        - ``expected_low`` and ``expected_high``, between which the coverage lies for 95% of all
          calibration sets of this size, whatever the model (Vovk, 2012); None if they are too few.
        - ``coverage`` (share of test images whose set holds the true label) and ``size`` (mean
          number of labels), with intervals over patients.
        - ``body_parts``: records of body_part, images, coverage, size (with intervals).
        - ``kinds``: records of set (`SET_KINDS`), images, covered (share, None without images).
    """
    drawn = one_image_a_patient(validation, seed)
    sets = prediction_sets(drawn, test)
    true = sets.columns.get_indexer(test["label"])
    covered = sets.to_numpy()[np.arange(len(test)), true]
    parts = test["body_part"]
    images = parts.value_counts().sort_index()
    found = _coverage(sets.sum(axis=1).to_numpy(), covered, test, bootstrap, seed)
    by_kind = pd.Series(covered).groupby(set_kinds(sets).to_numpy()).agg(["size", "mean"])
    by_kind = by_kind.reindex(SET_KINDS, fill_value=0)
    low, high = _expected_coverage(len(drawn))
    return {
        "asked": 1 - RISK,
        "score": "lac",
        "calibration_patients": len(drawn),
        "too_few_patients": _too_few(len(drawn)),
        "expected_low": low,
        "expected_high": high,
        **found["all"],
        "body_parts": [
            {"body_part": part, "images": int(count), **found[part]}
            for part, count in images.items()
        ],
        "kinds": [
            {"set": kind, "images": int(size), "covered": float(mean) if size else None}
            for kind, size, mean in by_kind.itertuples()
        ],
    }


def conformal_table(record: dict[str, Any]) -> pd.DataFrame:
    """Coverage and size of `conformal_record`, over all test images and by body part."""
    rows = [{"body_part": "all", "images": sum(row["images"] for row in record["body_parts"])}]
    rows[0] |= {name: record[name] for name in ("coverage", "size")}
    table = {
        row["body_part"]: {
            ("", "images"): row["images"],
            **{
                (name, value): row[name][value]
                for name in ("coverage", "size")
                for value in ("value", "low", "high")
            },
        }
        for row in [*rows, *record["body_parts"]]
    }
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("body part")


def _too_few(images: int) -> bool:
    return images < 1 / RISK


def _expected_coverage(images: int) -> tuple[float | None, float | None]:
    if _too_few(images):
        return None, None
    rank = np.ceil((images + 1) * (1 - RISK))
    low, high = beta.interval(0.95, rank, images + 1 - rank)
    return float(low), float(high)


def _coverage(
    sizes: np.ndarray, covered: np.ndarray, test: pd.DataFrame, bootstrap: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Coverage and size with intervals over patients, by body part and for "all"."""
    patients, draws = draw_patients(test["patient"], bootstrap, seed)
    groups = pd.get_dummies(test["body_part"]).assign(all=True)
    members = groups.to_numpy(float)

    def measure(weights: Weights) -> dict[str, np.ndarray]:
        images = weights @ members
        found = {}
        for name, values in (("coverage", covered), ("size", sizes)):
            means = np.full(images.shape, np.nan)
            sums = weights @ (members * values[:, None])
            np.divide(sums, images, out=means, where=images > 0)
            found |= {(group, name): mean for group, mean in zip(groups, means.T, strict=True)}
        return found

    shares = {(group, "coverage"): [groups[group].to_numpy(bool)] for group in groups}
    found = resampled(measure, draws, patients.get_indexer(test["patient"]), shares)
    return {group: {name: found[group, name] for name in ("coverage", "size")} for group in groups}
