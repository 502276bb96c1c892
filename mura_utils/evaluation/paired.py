"""Whether one run is better than another on the same test images: a paired comparison."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.stats import permutation_test, rankdata

from mura_utils.errors import UserError
from mura_utils.evaluation.binary import binary_measure
from mura_utils.evaluation.intervals import (
    Measure,
    Weights,
    draw_patients,
    finite_or_none,
    resampled,
)
from mura_utils.evaluation.metrics import class_measure
from mura_utils.evaluation.predictions import STUDY_RULES, study_predictions

_AT_ONCE = 100  # permutations

_KNOWN = ["path", "patient", "study", "abnormality", "label"]
"""What two runs must agree on in each test image."""

Metric = Callable[[Weights], np.ndarray]
"""From weights (B, 2 N) of the rows of both runs, the first's before the second's, to (B,)."""


def compare_paired(
    first: pd.DataFrame,
    second: pd.DataFrame,
    thresholds: tuple[float, float] = (0.5, 0.5),
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Differences between two runs on the same images, with intervals and p-values over patients.

    The interval is a bootstrap that draws the same patients for both runs. The p-value is that of a
    two-sided permutation test, whose null hypothesis is that the runs are exchangeable: each
    permutation swaps the answers of the two runs for about half of the patients. Of the scores only
    their ranks within a run are swapped, so that AUROC may be compared between runs whose
    probabilities have other scales. All permutations are used where there are at most `resamples`.

    Args:
        first: test rows of predictions.csv.
        second: those of another run, in any order.
        thresholds: of each run: a study is abnormal above it.
        resamples: of the bootstrap, and of the permutations.
        seed: of both.

    Returns:
        One row a metric (AUROC of abnormal, sensitivity and specificity per study; accuracy and
        kappa over all classes per image) with columns first, second, difference (second - first),
        low, high (95%) and p; NaN where a metric does not exist.

    Raises:
        UserError: the images differ, or what is known of one of them.

    Source: Bandos, Rockette and Gur, Stat. Med. 2005 (swapped ranks).

    Example:
        >>> rows = pd.DataFrame({"path": [*"abcd"], "patient": [*"1234"], "study": [*"1234"]})
        >>> rows = rows.assign(body_part="HAND", abnormality=["Abnormal", "Normal"] * 2)
        >>> rows["label"] = rows["predicted"] = rows["abnormality"] + "-HAND"
        >>> rows["p:Abnormal-HAND"], rows["p:Normal-HAND"] = [1, 0, 1, 0], [0, 1, 0, 1]
        >>> worse = rows.assign(predicted="Normal-HAND")
        >>> float(compare_paired(rows, worse)["difference"]["accuracy, all classes per image"])
        -0.5
    """
    second = _aligned(first, second)
    patients, draws = draw_patients(first["patient"], resamples, seed)
    rows = {}
    for name, (metric, owners) in _metrics(first, second, thresholds).items():
        owner = patients.get_indexer(owners)
        of_each = metric(np.repeat(np.eye(2), len(owner), axis=1))
        interval = resampled(_difference(metric), draws, owner)["difference"]
        p = _permutation_p(metric, owner, len(patients), resamples, seed)
        rows[name] = {
            "first": of_each[0],
            "second": of_each[1],
            "difference": interval["value"],
            "low": interval["low"],
            "high": interval["high"],
            "p": p if np.isfinite(of_each).all() else None,
        }
    return pd.DataFrame.from_dict(rows, orient="index").astype(float).rename_axis("metric")


def compare_study_rules(
    predictions: pd.DataFrame, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """The AUROC of each rule from images to a study, less that of the mean, paired over patients.

    Args:
        predictions: rows of predictions.csv, of one split.
        resamples: of the bootstrap, which draws the same patients for both rules.
        seed: of the bootstrap.

    Returns:
        One row for each of `STUDY_RULES` but the mean: auroc, difference, low, high (95%); NaN
        where there is no AUROC.

    Example:
        >>> views = pd.DataFrame({"path": [*"abcd"], "patient": [*"1122"], "study": [*"1122"]})
        >>> views = views.assign(body_part="HAND", abnormality=[*["Abnormal"] * 2, *["Normal"] * 2])
        >>> views["p:Abnormal-HAND"] = [1, 0.25, 0.5, 0.5]
        >>> compare_study_rules(views, resamples=10)["difference"].to_list()
        [0.0, 0.0]
    """
    measures = {}
    for rule in STUDY_RULES:
        studies = study_predictions(predictions, rule)
        measures[rule] = binary_measure(studies["abnormality"], studies["p_abnormal"], threshold=0)
    patients, draws = draw_patients(studies["patient"], resamples, seed)
    owner = patients.get_indexer(studies["patient"])
    of_mean = measures.pop("mean")
    rows = {}
    for rule, of_rule in measures.items():

        def measure(weights: Weights, of_rule: Measure = of_rule) -> dict[str, np.ndarray]:
            area = of_rule(weights)["auroc"]
            return {"auroc": area, "difference": area - of_mean(weights)["auroc"]}

        found = resampled(measure, draws, owner)
        low, high = (found["difference"][end] for end in ("low", "high"))
        values = {name: found[name]["value"] for name in ("auroc", "difference")}
        rows[rule] = {**values, "low": low, "high": high}
    return pd.DataFrame.from_dict(rows, orient="index").astype(float).rename_axis("rule")


def _aligned(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """The second run's rows in the order of the first's."""
    only = set(first["path"]) ^ set(second["path"])
    if only:
        raise UserError(
            f"The runs were tested on different images ({min(only)} is in one test split only): a "
            "paired comparison needs runs of the same data and split."
        )
    ours = first.set_index("path")[_KNOWN[1:]]
    second = second.set_index("path").loc[ours.index]
    differs = (ours != second[_KNOWN[1:]]).to_numpy()
    if differs.any():
        row, column = np.argwhere(differs)[0]
        raise UserError(
            f"{_KNOWN[1:][column]} of {ours.index[row]} is not the same in both runs: a paired "
            "comparison needs runs of the same data."
        )
    return second.reset_index()


def _metrics(
    first: pd.DataFrame, second: pd.DataFrame, thresholds: tuple[float, float]
) -> dict[str, tuple[Metric, pd.Series]]:
    """By name: the metric of the stacked rows, and the patients of the N rows of one run."""
    images = pd.concat([first, second])
    classes = pd.Index(sorted({*images["label"], *images["predicted"]}))
    true, predicted = (classes.get_indexer(images[name]) for name in ("label", "predicted"))
    by_class = class_measure(true, predicted, np.eye(len(classes))[predicted])

    studies = [study_predictions(run) for run in (first, second)]
    abnormality = pd.concat([run["abnormality"] for run in studies])
    ranks = np.concatenate([rankdata(run["p_abnormal"]) for run in studies])
    called = np.concatenate(
        [run["p_abnormal"] > above for run, above in zip(studies, thresholds, strict=True)]
    )
    by_rank = binary_measure(abnormality, pd.Series(ranks), threshold=0)
    by_call = binary_measure(abnormality, pd.Series(called), threshold=0.5)
    return {
        f"{text} per {unit}": (lambda weights, of=of, name=name: of(weights)[name], owners)
        for text, unit, of, name, owners in (
            ("AUROC of abnormal,", "study", by_rank, "auroc", studies[0]["patient"]),
            ("sensitivity,", "study", by_call, "sensitivity", studies[0]["patient"]),
            ("specificity,", "study", by_call, "specificity", studies[0]["patient"]),
            ("accuracy, all classes", "image", by_class, "accuracy", first["patient"]),
            ("kappa, all classes", "image", by_class, "kappa", first["patient"]),
        )
    }


def _difference(metric: Metric) -> Callable[[Weights], dict[str, np.ndarray]]:
    """The second run's metric less the first's, from weights (B, N) of the rows of one run."""

    def measure(weights: Weights) -> dict[str, np.ndarray]:
        none = np.zeros_like(weights)
        second, first = metric(np.hstack([none, weights])), metric(np.hstack([weights, none]))
        return {"difference": second - first}

    return measure


def _permutation_p(
    metric: Metric, owner: np.ndarray, patients: int, resamples: int, seed: int
) -> float | None:
    """Two-sided p; the runs are the numbers 0 and 1, of which each patient has one of each."""

    def mixed(run_of: np.ndarray) -> np.ndarray:
        """The metric where each patient (B, patients) has the answers of this run."""
        second = np.atleast_2d(run_of)[:, owner]
        return metric(np.hstack([1 - second, second]).astype(float))

    def statistic(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
        return (mixed(second) - mixed(first)).reshape(first.shape[:-1])

    result = permutation_test(
        (np.zeros(patients), np.ones(patients)),
        statistic,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=_AT_ONCE,
        rng=np.random.default_rng(seed),
    )
    return finite_or_none(result.pvalue)
