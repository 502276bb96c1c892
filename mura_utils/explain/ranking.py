"""Which heat-map to trust for which question: all tests of a run in one table."""

from __future__ import annotations

import pandas as pd

from mura_utils.explain.baselines import BASELINES
from mura_utils.explain.summary import as_text, summarize

RANDOM_NETWORK = "random network, {method}"
"""The name under which a method's maps of a network within `sanity.randomized` are scored."""

RANKED = {
    "pointing_game": "hits",
    "energy_in_mask": "energy",
    "deletion": "deletion",
    "insertion": "insertion",
    "noise": "noise",
    "shift": "shift",
}
"""Column of explanations.csv -> its name in the ranking."""


def is_baseline(method: str) -> bool:
    """Whether a method's name is that of a baseline.

    Example:
        >>> is_baseline("center"), is_baseline("random network, saliency"), is_baseline("saliency")
        (True, True, False)
    """
    return method in BASELINES or method.startswith(RANDOM_NETWORK.format(method=""))


def beats(
    scores: pd.DataFrame, baseline: str, column: str = "pointing_game", bootstrap: int = 1000
) -> pd.Series:
    """Whether each method's score is surely higher than a baseline's on the same images.

    Args:
        scores: a table of explanations.
        baseline: see `summary.summarize`.
        column: the score.
        bootstrap: resamples of the patients.

    Returns:
        Rows (method, target): True where the interval of the mean difference lies above 0; None
        where too few patients have both scores (`summary.FEWEST`), or the method has no such
        baseline.
    """
    lead = summarize(scores, [column], bootstrap, baseline).droplevel("score")
    verdict = (lead["low"] > 0).astype(object)
    verdict[lead["low"].isna()] = None
    keys = scores[["method", "target"]].drop_duplicates()
    return verdict.reindex(pd.MultiIndex.from_frame(keys)).where(lambda known: known.notna(), None)


def rank(scores: pd.DataFrame, sanity: pd.DataFrame, bootstrap: int = 1000) -> pd.DataFrame:
    """The table at the end of notebook 07.

    Args:
        scores: a table of explanations with the columns of `RANKED`.
        sanity: as returned by `sanity.judge`.
        bootstrap: resamples of the patients.

    Returns:
        One row a (method, target) that is no baseline, most hits first: the means of `RANKED` with
        intervals as text; beats center, beats random network, passes randomization: True, False,
        or None where it was not tested. Without masks nothing is hit: that column holds "–".
    """
    summary = summarize(scores, list(RANKED), bootstrap)
    columns = pd.Index(RANKED, name="score")
    table = as_text(summary).reindex(columns=columns).fillna("–").rename(columns=RANKED)
    table["beats center"] = beats(scores, "center", bootstrap=bootstrap)
    table["beats random network"] = beats(scores, RANDOM_NETWORK, bootstrap=bootstrap)
    passes = sanity["passes"].reindex(table.index).astype(object)
    table["passes randomization"] = passes.where(passes.notna(), None)
    means = summary["value"].unstack("score").reindex(columns=columns)
    hits = means["pointing_game"].reindex(table.index)
    order = hits.sort_values(ascending=False, kind="stable").index
    return table.loc[[key for key in order if not is_baseline(key[0])]]
