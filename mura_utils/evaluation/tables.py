"""Metrics as tables for display, next to the report's."""

from __future__ import annotations

from typing import Any

import pandas as pd

from mura_utils import report
from mura_utils.evaluation.metrics import LEVELS


def metrics_table(metrics: dict[str, Any]) -> pd.DataFrame:
    """The metrics of `evaluate` as rows: level (text of `LEVELS`), metric, value, low, high.

    Example:
        >>> kappa = {"kappa": {"value": 0.5, "low": 0.25, "high": 0.75}}
        >>> metrics_table(dict.fromkeys(LEVELS, kappa))[["metric", "value"]].to_dict("records")[0]
        {'metric': 'kappa', 'value': 0.5}
    """
    rows = [
        {"level": text, "metric": name, **{key: interval[key] for key in ("value", "low", "high")}}
        for level, text in LEVELS.items()
        for name, interval in metrics[level].items()
    ]
    return pd.DataFrame(rows).astype({"value": float, "low": float, "high": float})


def classification_report(metrics: dict[str, Any], data: str) -> pd.DataFrame:
    """Precision, recall, F1 and support of each class next to the report's (report Fig. 30).

    The report's averages stand next to ours only where both run over the same classes.

    Args:
        metrics: as returned by `evaluate`.
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
        metrics: as returned by `evaluate`.
        name: of the run.
        test_set: what was evaluated, such as "MURA valid set"; part of our rows' levels, so that
            rows of different data never share one.

    Returns:
        name, kappa, level, low, high (NaN: not published).

    Example:
        >>> kappa = {"kappa": {"value": 0.5, "low": 0.25, "high": 0.75}}
        >>> table = kappa_table(dict.fromkeys(LEVELS, kappa), "exp6", "MURA valid set")
        >>> table[["name", "kappa", "level"]].to_dict("records")[0]
        {'name': 'exp6', 'kappa': 0.5, 'level': 'all classes, per image, MURA valid set'}
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


HEADLINE = {
    "image": ("accuracy", "kappa"),
    "binary_study": ("kappa", "auroc", "sensitivity", "specificity"),
}
"""The metrics, by level, that are shown again with other labels."""


def relabel_table(given: dict[str, Any], relabeled: dict[str, Any] | None) -> pd.DataFrame:
    """The headline metrics with the labels as given, and with others.

    Args:
        given: as returned by `evaluate`.
        relabeled: the same with other labels; None without any, for a table without rows.

    Example:
        >>> relabel_table({}, None).empty
        True
    """
    columns = ["level", "metric", "as given", "relabeled"]
    rows = [
        (LEVELS[level], name, _in_words(given[level][name]), _in_words(relabeled[level][name]))
        for level, names in HEADLINE.items()
        for name in names
        if relabeled
    ]
    return pd.DataFrame(rows, columns=columns).set_index(columns[:2])


def _in_words(metric: dict[str, float | None]) -> str:
    numbers = [metric[key] for key in ("value", "low", "high")]
    value, low, high = ("none" if x is None else f"{x:.3f}" for x in numbers)
    return f"{value} [{low}, {high}]"
