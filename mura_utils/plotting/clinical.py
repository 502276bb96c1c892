"""Figures of what a model changes in a reading room, and of the groups in which it errs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mura_utils.labels import ABNORMAL, NORMAL
from mura_utils.plotting.style import (
    ABNORMALITIES,
    OTHER,
    OURS,
    add_panels,
    draw_dots,
    in_our_style,
    new_figure,
    say_instead,
    share_legend,
    with_alt_text,
)

_ORDERS = {
    "arrival": ("order of arrival", OTHER, "s", "-"),
    "model": ("model's order", OURS, "o", "-"),
    "perfect": ("perfect order", "#56B4E9", "", "--"),
}
_RATES = {"sensitivity": ABNORMAL, "specificity": NORMAL}


@in_our_style
def worklist_waits(expected: pd.DataFrame, simulated: pd.DataFrame) -> Figure:
    """Mean waits of abnormal and of normal studies over the load: lines by formula, dots simulated.

    Args:
        expected: load, order (arrival, model, perfect), studies (abnormal, normal; others are not
            shown), wait (in report times; NaN without such studies).
        simulated: load, order, studies, wait, low, high.
    """
    fig = new_figure(3.4, "Mean wait, in report times (lines: formula; dots: simulation)")
    axes = add_panels(fig, 1, 2, sharex=True, sharey=True)
    axes[0].set_ylabel("mean wait, in report times")
    said = []
    for ax, kind in zip(axes, ("abnormal", "normal"), strict=True):
        lines, dots = (table[table["studies"] == kind] for table in (expected, simulated))
        for order, (name, color, marker, style) in _ORDERS.items():
            line, dot = (table[table["order"] == order] for table in (lines, dots))
            ax.plot(line["load"], line["wait"], style, color=color, label=name)
            half = [dot["wait"] - dot["low"], dot["high"] - dot["wait"]]
            ax.errorbar(dot["load"], dot["wait"], half, fmt=marker, color=color, markersize=4)
            said.append(f"{kind} studies, {name}, {_at_most_loaded(line)}")
        ax.set(title=f"{kind} studies", xlabel="load of the reader")
        ax.grid(True, axis="y")
    axes[0].set_ylim(0, None)
    share_legend(fig, axes)
    return with_alt_text(fig, f"Mean waits over the load of the reader: {'; '.join(said)}.")


def _at_most_loaded(line: pd.DataFrame) -> str:
    last = line.dropna().tail(1)
    return f"{last['wait'].item():.1f} at load {last['load'].item():g}" if len(last) else "none"


@in_our_style
def decision_curve(frame: pd.DataFrame) -> Figure:
    """Net benefit of the model, of calling every study abnormal, and of calling none so.

    Thresholds up to 0.5 are drawn: above it, a false alarm would count more than a finding.

    Args:
        frame: threshold (probability), model, low, high (its interval), treat_all.
    """
    frame = frame[frame["threshold"] <= 0.5]
    fig = new_figure(3.4, "Decision curve, per study")
    (ax,) = add_panels(fig, 1, 1)
    t = frame["threshold"]
    ax.fill_between(t, frame["low"], frame["high"], color=OURS, alpha=0.15, linewidth=0)
    ax.plot(t, frame["model"], "o-", color=OURS, markersize=4, label="the model")
    ax.plot(t, frame["treat_all"], "--", color=ABNORMALITIES[ABNORMAL], label="all are abnormal")
    ax.axhline(0, linestyle=":", color=ABNORMALITIES[NORMAL], label="none is abnormal")
    top = max(frame["high"].max(), frame["treat_all"].max(), 0.01)
    ax.set(xlim=(0, 0.5), ylim=(-0.2 * top, 1.1 * top))
    ax.set(xlabel="threshold probability", ylabel="net benefit")
    share_legend(fig, [ax])
    best = frame.assign(gain=frame["model"] - frame["treat_all"].clip(lower=0))
    row = best.loc[best["gain"].idxmax()]
    return with_alt_text(
        fig,
        f"Decision curve. At the threshold {row['threshold']:g}, where the model gains most over",
        f"the better of all and none, its net benefit is {row['model']:.3f} and that of calling",
        f"all abnormal {row['treat_all']:.3f}.",
    )


@in_our_style
def group_rates(frame: pd.DataFrame, names: Mapping[str, str]) -> Figure:
    """Sensitivity and specificity by group, with intervals, one row of panels an attribute.

    Args:
        frame: as returned by `evaluation.error_rates`; groups without a rate are left out.
        names: of the attributes, for the panels.
    """
    frame = frame[frame[[*_RATES]].notna().any(axis=1)]
    attributes = list(frame.groupby("attribute", sort=False))
    if not attributes:
        fig = new_figure(1)
        say_instead(*add_panels(fig, 1, 1), "no attribute to group by")
        return with_alt_text(fig, "No attribute to group by.")
    sizes = [len(rows) + 1.2 for _, rows in attributes]
    fig = new_figure(1.0 + 0.27 * sum(sizes) + 0.2 * len(sizes), "Errors by group of studies")
    axes = np.reshape(
        add_panels(fig, len(attributes), 2, sharex=True, height_ratios=sizes), (-1, 2)
    )
    said = []
    for row, (attribute, rows) in zip(axes, attributes, strict=True):
        for ax, (rate, kind) in zip(row, _RATES.items(), strict=True):
            if rows[rate].isna().all():
                ax.set_visible(False)
                continue
            columns = {f"{rate}_low": "low", f"{rate}_high": "high"}
            shown = rows.rename(columns=columns)
            draw_dots(ax, shown, rate, [ABNORMALITIES[kind]] * len(rows))
            counts = rows[kind.lower()]
            labels = [f"{group}  ({n})" for group, n in zip(rows["group"], counts, strict=True)]
            ax.set_yticks(range(len(rows)), labels)
            said += [
                f"{attribute} {group} {rate} {value:.2f}"
                for group, value in zip(rows["group"], rows[rate], strict=True)
                if pd.notna(value)
            ]
        row[0].set_title(names.get(attribute, attribute))
    for column, (rate, kind) in zip(axes.T, _RATES.items(), strict=True):
        drawn = [ax for ax in column if ax.get_visible()]
        for ax in drawn[-1:]:
            ax.set(xlim=(-0.02, 1.02), xlabel=f"{rate} ({kind.lower()} studies)")
            ax.tick_params(labelbottom=True)
    return with_alt_text(fig, f"Rates by group: {', '.join(said) or 'every group is too small'}.")
