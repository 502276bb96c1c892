"""How heat-maps do in their tests, notebook 07."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mura_utils.plotting.style import (
    OTHER,
    OURS,
    WRONG,
    add_panels,
    draw_dots,
    in_our_style,
    new_figure,
    share_legend,
    thousands,
    with_alt_text,
)

_SHORT = {"auprc": "AUPRC", "iou": "IoU"}
_LINES = sns.color_palette("colorblind").as_hex()


@in_our_style
def score_intervals(
    summary: pd.DataFrame, baselines: Collection[str], random: pd.DataFrame | None = None
) -> Figure:
    """Mean scores of heat-maps with their intervals; baselines are gray.

    Args:
        summary: rows (score, method, target): images, value, low, high; one panel a score.
        baselines: methods that are baselines.
        random: the same for maps of a network with random weights, drawn hollow.
    """
    keys = list(dict.fromkeys(key[1:] for key in summary.dropna(subset="value").index))
    scores = list(dict.fromkeys(summary.dropna(subset="value").index.get_level_values(0)))
    names = pd.MultiIndex.from_tuples(keys, names=["method", "target"])
    most = int(summary["images"].max())
    title = f"Heat-map scores of {thousands(most, 'image')} with their 95% intervals"
    fig = new_figure(1.6 + 0.34 * len(names), title)
    axes = add_panels(fig, 1, len(scores), sharey=True)
    colors = [OTHER if method in baselines else OURS for method, _ in names]
    for ax, score in zip(axes, scores, strict=True):
        if random is not None and score in random.index.get_level_values(0):
            rows = random.xs(score).reindex(names)[["value"]]
            draw_dots(ax, rows, "value", [OURS] * len(names), filled=False)
        draw_dots(ax, summary.xs(score).reindex(names), "value", colors)
        name = _SHORT.get(score, score.replace("_", "\n", 1).replace("_", " "))
        ax.set(xlabel=name, xlim=(-0.02, None))
        ax.xaxis.set_major_locator(MaxNLocator(3, prune="upper"))
    axes[0].set_yticks(range(len(names)), [f"{method}\n{target}" for method, target in names])
    axes[0].tick_params(axis="y", labelsize=8)
    for face, label in ((OURS, "method"), ("white", "the same, random network")):
        axes[0].plot([], [], "o", color=OURS, markerfacecolor=face, label=label)
    axes[0].plot([], [], "o", color=OTHER, label="baseline")
    share_legend(fig, axes)
    listed = "; ".join(
        f"{score}, {method}, {target}: {row.value:.2f}"
        for (score, method, target), row in summary.dropna(subset="value").iterrows()
    )
    return with_alt_text(fig, f"Mean heat-map scores with intervals. {listed}.")


@in_our_style
def randomization_curves(compared: pd.DataFrame) -> Figure:
    """How alike maps stay while more and more layers of their network are random.

    Args:
        compared: as returned by `explain.sanity.randomize`.
    """
    measures = {"rank_correlation": "rank correlation", "ssim": "SSIM"}
    key = ["method", "target"]
    fig = new_figure(4.0, "Maps of randomized networks against the trained network's")
    axes = add_panels(fig, 1, 2)
    ends = []
    for ax, (column, label) in zip(axes, measures.items(), strict=True):
        means = compared.groupby([*key, "share"], sort=False)[column].mean().reset_index()
        apart = compared[compared["layer"] == "unrelated"].groupby(key, sort=False)[column].mean()
        for number, ((method, target), part) in enumerate(means.groupby(key, sort=False)):
            color = _LINES[number % len(_LINES)]
            line = [1.0, *part[column]]
            style = "-" if number < len(_LINES) else "--"
            ax.plot(line, f"o{style}", color=color, label=method, markersize=4)
            after = len(line) - 0.6
            ax.plot(after, apart[method, target], "D", color=color, markersize=5, clip_on=False)
            ends.append(f"{method}, {label}: {line[-1]:.2f}")
        shares = means["share"].drop_duplicates().iloc[1:]
        ax.set(xlabel="random layers, from the top", ylabel=label, ylim=(None, 1.05))
        ax.set_xticks(range(len(shares) + 2), ["none", "classifier", *map("{:.0%}".format, shares)])
        ax.axhline(0, color=OTHER, linewidth=0.8)
    handles, labels = axes[0].get_legend_handles_labels()
    (diamond,) = axes[0].plot([], [], "D", color=OTHER, markersize=5)
    fig.legend(
        [*handles, diamond], [*labels, "maps of other images"], loc="outside lower center", ncols=3
    )
    return with_alt_text(
        fig,
        "Rank correlation and SSIM of heat-maps with the trained network's, by the share of random",
        f"layers. With all layers random: {'; '.join(ends)}.",
    )


@in_our_style
def answer_curves(curves: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Answers while pixels are hidden or shown, one panel a way and one line a map.

    Args:
        curves: way (deletion, insertion) -> map's name -> answers (steps + 1,) in [0, 1].
    """
    fig = new_figure(3.6, "The answer while pixels change, the hottest first")
    axes = add_panels(fig, 1, len(curves), sharey=True)
    areas = []
    for ax, (way, lines) in zip(axes, curves.items(), strict=True):
        for number, (name, values) in enumerate(lines.items()):
            share = np.linspace(0, 100, len(values))
            ax.plot(share, values, color=_LINES[number % len(_LINES)], label=name)
            areas.append(f"{way}, {name}: {np.trapezoid(values, share / 100):.2f}")
        ax.axhline(0.5, color=WRONG, linestyle=":", linewidth=1, label="undecided")
        ax.set(title=way, xlabel="pixels changed (%)", ylim=(-0.02, 1.02))
    axes[0].set_ylabel("P(abnormal) against normal,\nsame body part")
    share_legend(fig, axes)
    return with_alt_text(fig, f"Deletion and insertion curves; areas: {'; '.join(areas)}.")
