"""A reading room's worklist as a queue: how long studies wait, in arrival order and in the model's.

Studies arrive at random times (a Poisson process) and one reader reports them one by one, never
interrupting a report. Report times are lognormal with mean 1, which is the unit of all times here,
and do not depend on what a study shows. The load is the share of the time that the reader is busy.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from mura_utils.evaluation.confusion import ratio
from mura_utils.evaluation.intervals import Measure, Weights, draw_patients, resampled
from mura_utils.labels import ABNORMAL

LOADS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Shares of the time that the reader is busy."""

REPORT_TIME_CV = 1.0
"""Standard deviation of the report times over their mean."""

_KINDS = ("all", "abnormal", "normal")


def waiting_times(
    arrivals: Sequence[float], report_times: Sequence[float], urgency: Sequence[float]
) -> np.ndarray:
    """How long each study waits until its report is begun.

    Whenever the reader is free, the most urgent study that waits comes next; of equally urgent
    ones, the one that came first.

    Args:
        arrivals: (N,) times, rising.
        report_times: (N,) how long each report takes.
        urgency: (N,) such as P(abnormal); all alike for the order of arrival.

    Returns:
        (N,) times.

    Example:
        >>> waiting_times([0, 1, 2], [5, 5, 5], urgency=[0.1, 0.2, 0.9]).tolist()
        [0.0, 9.0, 3.0]
    """
    # plain numbers, as a loop over an array's elements takes several times as long
    came, takes, ranks = (
        np.asarray(values, float).tolist() for values in (arrivals, report_times, urgency)
    )
    waits = np.empty(len(came))
    waiting: list[tuple[float, int]] = []
    now, coming = 0.0, 0
    for _ in came:
        if not waiting:
            now = max(now, came[coming])
        while coming < len(came) and came[coming] <= now:
            heapq.heappush(waiting, (-ranks[coming], coming))
            coming += 1
        _, study = heapq.heappop(waiting)
        waits[study] = now - came[study]
        now += takes[study]
    return waits


def simulate_worklist(
    studies: pd.DataFrame,
    loads: Sequence[float] = LOADS,
    replications: int = 20,
    length: int = 3000,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean waits in simulated worklists, whose studies are drawn from those of a test set.

    Both orders get the same arrivals and report times. The first quarter of each replication is
    left out, as a worklist that begins empty is shorter at first.

    Args:
        studies: rows of `study_predictions`.
        loads: between 0 and 1.
        replications: worklists for each load.
        length: studies in each.
        seed: of all that is drawn.

    Returns:
        load, order (arrival, model), studies (all, abnormal, normal), wait (mean, in report times),
        low and high (the mean's 95% interval over the replications); NaN without such studies.
    """
    p, abnormal = studies["p_abnormal"].to_numpy(), _is_abnormal(studies)
    rng = np.random.default_rng(seed)
    spread = np.sqrt(np.log1p(REPORT_TIME_CV**2))
    rows = []
    for load in loads:
        for _ in range(replications):
            drawn = rng.integers(len(p), size=length)
            arrivals = rng.exponential(1 / load, length).cumsum()
            report_times = rng.lognormal(-(spread**2) / 2, spread, length)
            for order, urgency in (("arrival", np.zeros(length)), ("model", p[drawn])):
                waits = waiting_times(arrivals, report_times, urgency)
                kept = slice(length // 4, None)
                means = _means(
                    waits[kept][None], np.ones((1, len(waits[kept]))), abnormal[drawn][kept]
                )
                rows += [(load, order, kind, mean[0]) for kind, mean in means.items()]
    table = pd.DataFrame(rows, columns=["load", "order", "studies", "wait"])
    waits = table.groupby(["load", "order", "studies"], sort=False)["wait"]
    mean, half = waits.mean(), waits.sem() * stats.t.ppf(0.975, replications - 1)
    return pd.DataFrame({"wait": mean, "low": mean - half, "high": mean + half}).reset_index()


def expected_waits(
    studies: pd.DataFrame, loads: Sequence[float] = LOADS, bootstrap: int = 1000, seed: int = 0
) -> list[dict[str, Any]]:
    """Mean waits by formula: what a simulation without an end would find.

    The mean wait of a study is R / ((1 - a) (1 - b)): R = load (1 + cv²) / 2, a is the load of all
    more urgent studies, and b that of these and the equally urgent ones. In the order of arrival
    this is the formula of Pollaczek and Khinchine, R / (1 - load).

    Args:
        studies: rows of `study_predictions`.
        loads: between 0 and 1.
        bootstrap: resamples of the patients; 0 leaves low and high at None.
        seed: of the resampling.

    Returns:
        Records of load, order (arrival, model, or perfect: every abnormal study before every normal
        one), studies (all, abnormal, normal) and wait (in report times): value, low and high (95%
        interval over patients) and undefined.

    Source: Cobham 1954, "Priority Assignment in Waiting Line Problems", Operations Research 2(1).

    Example:
        >>> truth = pd.DataFrame({"patient": [*"abcd"], "p_abnormal": [0.9, 0.6, 0.4, 0.1]})
        >>> truth["abnormality"] = ["Abnormal", "Abnormal", "Normal", "Normal"]
        >>> waits = expected_waits(truth, loads=[0.8], bootstrap=0)
        >>> [round(row["wait"]["value"], 2) for row in waits[:3]]  # in the order of arrival
        [4.0, 4.0, 4.0]
    """
    patients, draws = draw_patients(studies["patient"], bootstrap, seed)
    abnormal, records = _is_abnormal(studies), []
    orders = {
        "arrival": np.zeros(len(studies)),
        "model": studies["p_abnormal"].to_numpy(),
        "perfect": abnormal.astype(float),
    }
    for order, urgency in orders.items():
        measure = _wait_measure(urgency, abnormal, loads)
        found = resampled(measure, draws, patients.get_indexer(studies["patient"]))
        records += [
            {"load": load, "order": order, "studies": kind, "wait": found[f"{kind} {load}"]}
            for load in loads
            for kind in _KINDS
        ]
    return records


def _is_abnormal(studies: pd.DataFrame) -> np.ndarray:
    return (studies["abnormality"] == ABNORMAL).to_numpy()


def _wait_measure(urgency: np.ndarray, abnormal: np.ndarray, loads: Sequence[float]) -> Measure:
    """Mean waits by load and kind, from weights (B, N) to values (B,)."""
    order = np.argsort(-urgency, kind="stable")
    ranked = -urgency[order]
    first, end = (np.searchsorted(ranked, ranked, side) for side in ("left", "right"))

    def measure(weights: Weights) -> dict[str, np.ndarray]:
        weights = weights[:, order]
        shares = np.pad(weights.cumsum(axis=1), ((0, 0), (1, 0)))
        shares /= shares[:, -1:]
        before, through = shares[:, first], shares[:, end]
        result = {}
        for load in loads:
            residual = load * (1 + REPORT_TIME_CV**2) / 2
            waits = residual / ((1 - load * before) * (1 - load * through))
            means = _means(waits, weights, abnormal[order])
            result |= {f"{kind} {load}": mean for kind, mean in means.items()}
        return result

    return measure


def _means(waits: np.ndarray, weights: Weights, abnormal: np.ndarray) -> Mapping[str, np.ndarray]:
    """Weighted means (B,) of `waits` (B, N) over all studies and both kinds; NaN without any."""
    total = waits * weights
    return {
        "all": ratio(total.sum(axis=1), weights.sum(axis=1)),
        "abnormal": ratio(total @ abnormal, weights @ abnormal),
        "normal": ratio(total @ ~abnormal, weights @ ~abnormal),
    }
