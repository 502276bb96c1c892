"""Figures of what probabilities are worth: reliability, and risk against coverage (notebook 06)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from mura_utils.plotting.style import (
    ABNORMALITIES,
    OTHER,
    OURS,
    add_panels,
    comma_list,
    in_our_style,
    new_figure,
    with_alt_text,
)

_QUESTIONS = {
    "abnormal": ("P(abnormal)", "share that is abnormal", ABNORMALITIES["Abnormal"]),
    "top_label": ("P(predicted class)", "share that is right", OURS),
}


@in_our_style
def reliability_diagram(record: Mapping[str, Any]) -> Figure:
    """Observed share against probability, in bins of equal mass, before and after the temperature.

    Args:
        record: as returned by `evaluation.calibration_record`.
    """
    fig = new_figure(7.6, f"Reliability on test, before and after T = {record['temperature']:.2f}")
    axes = add_panels(fig, 2, 2, sharex=True, sharey=True)
    errors = {}
    for row, (question, (probability, share, color)) in enumerate(_QUESTIONS.items()):
        for column, when in enumerate(("before", "after")):
            found, ax = record[when][question], axes[2 * row + column]
            _draw_bins(ax, pd.DataFrame(found["bins"]), color)
            errors[f"{probability} {when}"] = found["ece"]["value"]
            calibrated = found["ece_if_calibrated"]["mean"]
            ax.set_title(f"{when}: ECE {found['ece']['value']:.3f} (calibrated: {calibrated:.3f})")
            ax.set(xlabel=probability, ylabel="" if column else share)
    return with_alt_text(
        fig,
        f"Reliability diagrams of {len(record['before']['abnormal']['bins'])} bins.",
        f"Expected calibration error: {comma_list(errors, '{:.3f}')}.",
    )


def _draw_bins(ax: Axes, bins: pd.DataFrame, color: str) -> None:
    ax.plot([0, 1], [0, 1], ":", color=OTHER, linewidth=1)
    for entry in bins.dropna(subset=["low", "high"]).to_dict("records"):
        ax.plot([entry["p"]] * 2, [entry["low"], entry["high"]], color=color, linewidth=1.5)
    ax.plot(bins["p"], bins["value"], "o", color=color, markersize=6)
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")


@in_our_style
def risk_coverage(record: Mapping[str, Any]) -> Figure:
    """Error rate among the most certain images, against the share of images that is answered.

    Args:
        record: as returned by `evaluation.risk_coverage`.
    """
    curve, shares = record["curve"], pd.DataFrame(record["shares"])
    fig = new_figure(3.8, f"Answering the most certain only: area {record['area']['value']:.3f}")
    (ax,) = add_panels(fig, 1, 1)
    ax.plot(curve["share"], curve["error"], color=OURS)
    for entry in shares.dropna(subset=["low", "high"]).to_dict("records"):
        ax.plot([entry["share"]] * 2, [entry["low"], entry["high"]], color=OURS, linewidth=2)
    ax.plot(shares["share"], shares["value"], "o", color=OURS, markersize=8)
    ax.axhline(curve["error"][-1], linestyle=":", color=OTHER, linewidth=1)
    top = np.nanmax([*curve["error"], *shares["high"].astype(float), 0.01])
    ax.set(xlim=(0, 1.02), ylim=(-0.02 * top, 1.05 * top))
    ax.set(xlabel="share of the images that is answered", ylabel="error rate among them")
    ax.xaxis.set_major_formatter("{x:.0%}")
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    rates = {f"{entry.share:.0%}": entry.value for entry in shares.itertuples()}
    return with_alt_text(
        fig, f"Error rate by share of images answered: {comma_list(rates, '{:.1%}')}."
    )
