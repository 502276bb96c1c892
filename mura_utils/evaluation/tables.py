"""Metrics as tables for display, next to the report's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from mura_utils import report
from mura_utils.evaluation.metrics import LEVELS


def interval_table(groups: Mapping[str, Mapping[str, Any]], of: str) -> pd.DataFrame:
    """Metrics of several groups as rows, for display and for `plotting`.

    Args:
        groups: by what a group is called, its metrics; what is no metric, such as counts, is left
            out.
        of: the heading of the groups' names.

    Returns:
        `of`, metric, value, low, high (NaN: none), interval: "bootstrap", "wilson" or "none".

    Example:
        >>> kappa = {"kappa": {"value": 0.5, "low": 0.25, "high": 0.75}}
        >>> interval_table({"mean": kappa}, "rule").to_dict("records")[0]["interval"]
        'bootstrap'
    """
    ends = ("value", "low", "high")
    rows = [
        {of: group, "metric": name}
        | {end: interval[end] for end in ends}
        | {"interval": interval.get("interval", "bootstrap")}
        for group, metrics in groups.items()
        for name, interval in metrics.items()
        if "value" in interval
    ]
    table = pd.DataFrame(rows, columns=[of, "metric", *ends, "interval"])
    return table.astype(dict.fromkeys(ends, float))


def metrics_table(metrics: dict[str, Any]) -> pd.DataFrame:
    """The metrics of `evaluate` as rows of `interval_table`, by level (text of `LEVELS`).

    Example:
        >>> kappa = {"kappa": {"value": 0.5, "low": 0.25, "high": 0.75}}
        >>> metrics_table(dict.fromkeys(LEVELS, kappa))[["metric", "value"]].to_dict("records")[0]
        {'metric': 'kappa', 'value': 0.5}
    """
    levels = {text: metrics[level] for level, text in LEVELS.items() if level in metrics}
    return interval_table(levels, "level")


def body_part_table(metrics: dict[str, Any]) -> pd.DataFrame:
    """The metrics of `evaluate` by body part, per study, and ``all`` of them, as `interval_table`.

    The column body_part holds the studies too, as in "HAND (167, 64 abnormal)".
    """
    parts = metrics["by_body_part"]
    groups = {
        f"{part} ({found['counts']['studies']:,}, {found['counts']['abnormal']:,} abnormal)": found
        for part, found in parts.items()
    }
    shown = [name for name in next(iter(parts.values())) if name != "counts"]
    of_all = {name: metrics["binary_study"][name] for name in shown}
    return interval_table(groups | {"all": of_all}, "body_part")


def side_by_side(table: pd.DataFrame, of: str, metrics_down: bool = True) -> pd.DataFrame:
    """An `interval_table` as text, one column a group: "0.812 [0.740, 0.871]".

    An interval of Wilson's is marked "W". A cell is empty where the group has no such metric.

    Args:
        table: as returned by `interval_table`.
        of: the heading of its groups' names.
        metrics_down: one row a metric and one column a group; false: the other way round.

    Example:
        >>> kappa = {"kappa": {"value": 0.5, "low": 0.25, "high": 0.75}}
        >>> side_by_side(interval_table({"mean": kappa}, "rule"), "rule").loc["kappa", "mean"]
        '0.500 [0.250, 0.750]'
    """
    texts = [metric_text(row._asdict()) for row in table.itertuples()]
    names = ("metric", of) if metrics_down else (of, "metric")
    wide = table.assign(text=texts).pivot(index=names[0], columns=names[1], values="text")
    order = [list(dict.fromkeys(table[name])) for name in names]
    return wide.reindex(index=order[0], columns=order[1]).fillna("")


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


def metric_text(metric: Mapping[str, Any]) -> str:
    """A metric with its interval, as tables of text show it; None and NaN are undefined.

    Args:
        metric: value, low and high; interval, if Wilson's stands for the bootstrap's ("W").

    Example:
        >>> metric_text({"value": 0.8, "low": 0.7, "high": 0.9})
        '0.800 [0.700, 0.900]'
        >>> metric_text({"value": 1, "low": None, "high": None})
        '1.000'
    """
    value, low, high = (metric[key] for key in ("value", "low", "high"))
    if pd.isna(value):
        return "undefined"
    if pd.isna(low) or pd.isna(high):
        return f"{value:.3f}"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]" + " W" * (metric.get("interval") == "wilson")


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
        (
            LEVELS[level],
            name,
            *(metric_text(metrics[level][name]) for metrics in (given, relabeled)),
        )
        for level, names in HEADLINE.items()
        for name in names
        if relabeled
    ]
    return pd.DataFrame(rows, columns=columns).set_index(columns[:2])
