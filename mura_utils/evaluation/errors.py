"""Where a model is wrong: confused pairs of classes, and error rates by group of studies."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mura_utils.evaluation.confusion import ratio
from mura_utils.evaluation.intervals import (
    Measure,
    Weights,
    draw_patients,
    resampled,
)
from mura_utils.labels import ABNORMAL, probabilities_of

FEWEST = 5
"""Abnormal (or normal) studies of a group from which on it gets a sensitivity (or specificity)."""

_RATES = {"sensitivity": "abnormal", "specificity": "normal"}


def surest_mistakes(predictions: pd.DataFrame) -> pd.DataFrame:
    """The images that are predicted wrong, those with the highest probability first.

    Args:
        predictions: rows of predictions.csv.

    Returns:
        Rows of `predictions` with one column more: probability, of the predicted class.

    Example:
        >>> rows = pd.DataFrame({"label": "Normal", "predicted": ["Abnormal", "Normal"]})
        >>> rows = rows.assign(**{"p:Abnormal": [0.7, 0.2], "p:Normal": [0.3, 0.8]})
        >>> surest_mistakes(rows)["probability"].tolist()
        [0.7]
    """
    sure = predictions.assign(probability=probabilities_of(predictions).max(axis=1))
    wrong = sure[sure["label"] != sure["predicted"]]
    return wrong.sort_values("probability", ascending=False, kind="stable")


def confused_pairs(predictions: pd.DataFrame, pairs: int = 5, surest: int = 2) -> pd.DataFrame:
    """The commonest confusions of two classes, each with its surest images.

    Args:
        predictions: rows of predictions.csv.
        pairs: confusions, the commonest first.
        surest: images of each.

    Returns:
        One row an image: label, predicted, images (of this confusion), share (of the images of this
        label), path, probability (of the predicted class).
    """
    mistakes = surest_mistakes(predictions)
    pair = ["label", "predicted"]
    counts = mistakes.value_counts(pair, sort=False).rename("images").reset_index()
    counts["share"] = counts["images"] / counts["label"].map(predictions["label"].value_counts())
    counts = counts.sort_values("images", ascending=False, kind="stable").head(pairs)
    shown = mistakes.groupby(pair).head(surest)[[*pair, "path", "probability"]]
    return counts.merge(shown, on=pair)


def error_rates(
    studies: pd.DataFrame,
    attributes: pd.DataFrame,
    threshold: float,
    bootstrap: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Sensitivity and specificity by group: one row a value of an attribute.

    A rate needs `FEWEST` abnormal (or normal) studies; below, only the counts are given. Intervals
    (95%) are over patients. Where a group has no error, or nothing but errors, so that resampling
    cannot move, it is Wilson's, over its patients.

    Args:
        studies: rows of `study_predictions`.
        attributes: one column an attribute, indexed by study: texts; missing where it is unknown or
            does not apply.
        threshold: a study is called abnormal above it.
        bootstrap: resamples of the patients.
        seed: of the resampling.

    Returns:
        attribute, group, studies, abnormal, sensitivity, sensitivity_low, sensitivity_high, normal,
        specificity, specificity_low, specificity_high (NaN: too few).

    Example:
        >>> truth = pd.DataFrame({"study": [*"abcde"], "patient": [*"abcde"]})
        >>> truth = truth.assign(abnormality="Abnormal", p_abnormal=[0.9, 0.8, 0.7, 0.6, 0.1])
        >>> views = pd.DataFrame({"views": "1"}, index=[*"abcde"])
        >>> error_rates(truth, views, 0.5)[["group", "abnormal", "sensitivity"]].to_dict("records")
        [{'group': '1', 'abnormal': 5, 'sensitivity': 0.8}]
    """
    values = attributes.reindex(studies["study"]).reset_index(drop=True)
    groups = [(name, group) for name in values for group in sorted(values[name].dropna().unique())]
    member = np.array([(values[name] == group).to_numpy() for name, group in groups], bool)
    member = member.reshape(len(groups), len(studies))
    abnormal = (studies["abnormality"] == ABNORMAL).to_numpy()
    called = (studies["p_abnormal"] > threshold).to_numpy()
    right = called == abnormal
    of_kind = {"abnormal": member & abnormal, "normal": member & ~abnormal}
    patients, draws = draw_patients(studies["patient"], bootstrap, seed)
    measure = _rate_measure(of_kind, right)
    shares = {
        f"{rate} {number}": [rows]
        for rate, kind in _RATES.items()
        for number, rows in enumerate(of_kind[kind])
    }
    found = resampled(measure, draws, patients.get_indexer(studies["patient"]), shares)
    table = pd.DataFrame(groups, columns=["attribute", "group"]).assign(studies=member.sum(axis=1))
    for rate, kind in _RATES.items():
        table[kind] = of_kind[kind].sum(axis=1)
        for number, rows in enumerate(of_kind[kind]):
            if rows.sum() < FEWEST:
                continue
            interval = found[f"{rate} {number}"]
            names = [rate, f"{rate}_low", f"{rate}_high"]
            table.loc[number, names] = [interval[key] for key in ("value", "low", "high")]
    columns = ["attribute", "group", "studies"]
    for rate, kind in _RATES.items():
        columns += [kind, rate, f"{rate}_low", f"{rate}_high"]
    return table.reindex(columns=columns)


def _rate_measure(of_kind: dict[str, np.ndarray], right: np.ndarray) -> Measure:
    def measure(weights: Weights) -> dict[str, np.ndarray]:
        result = {}
        for rate, kind in _RATES.items():
            rows = of_kind[kind]
            shares = ratio(weights @ (rows & right).T, weights @ rows.T)
            result |= {f"{rate} {number}": share for number, share in enumerate(shares.T)}
        return result

    return measure
