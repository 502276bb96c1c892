"""Means of scores with intervals over patients, and who beats whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mura_utils.evaluation.confusion import ratio
from mura_utils.evaluation.intervals import Weights, draw_patients, resampled
from mura_utils.explain.scores import HITS

FEWEST = 5
"""Patients; the bootstrap of fewer says nothing, as each resample is likely to be one of few."""


def mean_intervals(
    scores: pd.DataFrame,
    patients: pd.Series,
    bootstrap: int = 1000,
    seed: int = 0,
    hits: bool = False,
) -> pd.DataFrame:
    """The mean of each column over images, with a 95% interval over patients.

    Args:
        scores: one row an image, one column a quantity; NaN where an image is not scored.
        patients: of the same rows.
        bootstrap: resamples of the patients.
        seed: of the resamples.
        hits: whether each value is 1 or 0. Then Wilson's interval stands in where all are alike, as
            in `evaluation.intervals.resampled`, however few the patients are.

    Returns:
        One row a column: images (that are scored), value, low, high; NaN where there is none, and
        no interval where fewer than `FEWEST` patients have a scored image.

    Example:
        >>> scores = pd.DataFrame({"hit": [1.0, 1.0, 1.0, 0.0, 0.0, np.nan]})
        >>> mean_intervals(scores, pd.Series([*"123456"])).round(2)
             images  value  low  high
        hit       5    0.6  0.2   1.0
        >>> mean_intervals(scores[:2], pd.Series(["1", "2"]), hits=True).round(2)
             images  value   low  high
        hit       2    1.0  0.34   1.0
    """
    values = scores.to_numpy(float)
    known = np.isfinite(values).astype(float)
    filled = np.where(known > 0, values, 0)

    def measure(weights: Weights) -> dict[str, np.ndarray]:
        means = ratio(weights @ filled, weights @ known)
        return dict(enumerate(means.T))

    table = pd.DataFrame({"images": known.sum(axis=0).astype(int)}, index=scores.columns)
    if scores.empty:
        return table.assign(value=np.nan, low=np.nan, high=np.nan)
    known_patients, draws = draw_patients(patients, bootstrap, seed)
    counts = pd.DataFrame(known > 0).groupby(np.asarray(patients)).any().sum().to_numpy()
    shares = {column: [rows > 0] for column, rows in enumerate(known.T)} if hits else None
    found = resampled(measure, draws, known_patients.get_indexer(patients), shares)
    for bound in ("value", "low", "high"):
        table[bound] = [found[column][bound] for column in range(len(table))]
    table = table.astype(dict.fromkeys(("value", "low", "high"), float))
    wilson = [found[column].get("interval") == "wilson" for column in range(len(table))]
    table.loc[(counts < FEWEST) & ~np.array(wilson), ["low", "high"]] = np.nan
    return table


def wide(scores: pd.DataFrame, column: str) -> pd.DataFrame:
    """One score of a table of explanations: a row an image (path), a column a (method, target).

    Example:
        >>> scores = pd.DataFrame(
        ...     {"path": ["a", "a"], "method": ["x", "y"], "target": "contrast", "auprc": [0.5, 1]}
        ... )
        >>> wide(scores, "auprc").columns.tolist()
        [('x', 'contrast'), ('y', 'contrast')]
    """
    table = scores.set_index(["path", "method", "target"])[column].unstack(["method", "target"])
    return table.reindex(pd.unique(scores["path"]))


def summarize(
    scores: pd.DataFrame, columns: Sequence[str], bootstrap: int = 1000, baseline: str = ""
) -> pd.DataFrame:
    """Mean and interval of several scores, for each method and target.

    Args:
        scores: a table of explanations: path, patient, method, target and the scores.
        columns: scores.
        bootstrap: resamples of the patients.
        baseline: a method whose score is taken from the others' on the same image first, so that
            an interval above 0 means that a method's score is higher; ``{method}`` stands for the
            method's own name. It has the method's target, or none; methods without such a baseline
            are left out. "" for the scores themselves.

    Returns:
        Rows (score, method, target): images, value, low, high.
    """
    patients = scores.drop_duplicates("path").set_index("path")["patient"]
    tables = {}
    for column in columns:
        values = wide(scores, column)
        if baseline:
            values = _lead(values, baseline)
        hits = column in HITS and not baseline
        tables[column] = mean_intervals(values, patients.loc[values.index], bootstrap, hits=hits)
    return pd.concat(tables, names=["score"])


def _lead(values: pd.DataFrame, baseline: str) -> pd.DataFrame:
    leads = {}
    for method, target in values:
        name = baseline.format(method=method)
        for other in dict.fromkeys(((name, target), (name, "no target"))):
            if other in values and (method, target) not in leads:
                leads[method, target] = values[method, target] - values[other]
    index = pd.MultiIndex.from_tuples(leads, names=values.columns.names)
    return pd.DataFrame(leads, values.index).set_axis(index, axis=1)


def by_group(
    scores: pd.DataFrame, column: str, groups: Mapping[str, pd.Series], bootstrap: int = 1000
) -> pd.DataFrame:
    """Mean and interval of one score in each group of images.

    Args:
        scores: rows of one method: patient and the score.
        column: the score.
        groups: what they are grouped by -> (N,) the group of each row.
        bootstrap: resamples of the patients.

    Returns:
        Rows (by, group): images, value, low, high; groups without a scored image are left out.

    Example:
        >>> scores = pd.DataFrame({"patient": list("aab"), "hit": [1.0, 1.0, 0.0]})
        >>> by_group(scores, "hit", {"answer": pd.Series(["right", "right", "wrong"])})["value"]
        by      group
        answer  right    1.0
                wrong    0.0
        Name: value, dtype: float64
    """
    tables = {}
    for name, group in groups.items():
        for value, part in scores.dropna(subset=column).groupby(group, observed=True):
            found = mean_intervals(part[[column]], part["patient"], bootstrap, hits=column in HITS)
            tables[name, str(value)] = found.loc[column]
    if not tables:
        return pd.DataFrame(columns=["images", "value", "low", "high"])
    table = pd.DataFrame(tables, index=["images", "value", "low", "high"]).T
    return table.rename_axis(["by", "group"]).astype({"images": int})


def as_text(summary: pd.DataFrame, digits: int = 2) -> pd.DataFrame:
    """A summary to read: a row a (method, target), a column a score, cells "value [low, high]".

    Example:
        >>> index = pd.MultiIndex.from_tuples([("hit", "x", "y")], names=["score", "method", "at"])
        >>> as_text(pd.DataFrame({"value": [0.5], "low": [0.25], "high": [0.75]}, index)).iloc[0, 0]
        '0.50 [0.25, 0.75]'
    """
    bounds = summary[["value", "low", "high"]].itertuples(index=False)
    text = pd.Series([_cell(*each, digits) for each in bounds], summary.index)
    table = text.unstack("score", sort=False)
    return table[list(dict.fromkeys(summary.index.get_level_values("score")))]


def _cell(value: float, low: float, high: float, digits: int) -> str:
    if not np.isfinite(value):
        return "–"
    interval = f" [{low:.{digits}f}, {high:.{digits}f}]" if np.isfinite(low) else ""
    return f"{value:.{digits}f}{interval}"


def thirds(values: pd.Series) -> pd.Series:
    """Small, medium or large: the third of the values that each belongs to, by its rank.

    Example:
        >>> thirds(pd.Series([0.3, 0.1, 0.2, 0.5, 0.9, 0.4])).tolist()
        ['medium', 'small', 'small', 'large', 'large', 'medium']
    """
    rank = values.rank(method="first") - 1
    third = (3 * rank // max(len(values), 1)).map({0: "small", 1: "medium", 2: "large"})
    return pd.Series(pd.Categorical(third, ["small", "medium", "large"]), values.index)
