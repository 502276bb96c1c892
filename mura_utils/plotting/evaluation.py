"""Figures of an evaluation, notebook 06 (report Fig. 29 to 36)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from mura_utils.labels import body_part, join
from mura_utils.plotting.style import (
    ABNORMALITIES,
    OTHER,
    OURS,
    WRONG,
    add_panels,
    color_of,
    comma_list,
    draw_dots,
    draw_dumbbells,
    draw_image,
    in_our_style,
    new_figure,
    say_instead,
    share_legend,
    with_alt_text,
    wrapped,
)


@in_our_style
def confusion_matrix(matrix: np.ndarray, classes: Sequence[str], normalize: bool = True) -> Figure:
    """True classes down, predicted classes across, counts in the cells (report Fig. 29).

    Args:
        matrix: (K, K) counts.
        classes: K labels, in the order of the matrix.
        normalize: color by the share of the row, so that small classes show; else by count.
    """
    matrix = np.asarray(matrix, int)
    totals = matrix.sum(axis=1)
    shades = matrix / np.maximum(totals, 1)[:, None] if normalize else matrix
    size = len(classes)
    correct = np.trace(matrix)
    title = f"{correct:,} of {totals.sum():,} right ({correct / max(totals.sum(), 1):.1%})"
    fig = new_figure(2.4 + 0.42 * size, title)
    (ax,) = add_panels(fig, 1, 1)
    sns.heatmap(
        shades,
        annot=matrix,
        fmt="d",
        mask=matrix == 0,
        cmap="magma_r",
        vmin=0,
        vmax=1 if normalize else None,
        linewidths=0.5,
        linecolor="0.85",
        annot_kws={"fontsize": 9},
        ax=ax,
        cbar_kws={"label": "share of the true class" if normalize else "images"},
        xticklabels=classes,
        yticklabels=[f"{c} ({n:,})" for c, n in zip(classes, totals, strict=True)],
    )
    ax.set(xlabel="predicted (an empty cell is 0)", ylabel="true (images)")
    ax.tick_params(length=0)
    ax.tick_params(axis="x", rotation=45)
    ax.tick_params(axis="y", rotation=0)
    for text in ax.get_xticklabels():
        text.set(ha="right", rotation_mode="anchor")
    for text in (*ax.get_xticklabels(), *ax.get_yticklabels()):
        text.set_color(color_of(text.get_text()))
    wrong = matrix - np.diag(np.diag(matrix))
    true, predicted = np.unravel_index(wrong.argmax(), wrong.shape)
    return with_alt_text(
        fig,
        f"Confusion matrix of {size} classes: {title}. The commonest confusion:",
        f"{wrong.max():,} images of {classes[true]} taken for {classes[predicted]}.",
    )


Curve = Mapping[str, Any]

_IN_THE_CORNER = 0.95  # areas above it leave nothing to see elsewhere


@in_our_style
def roc_curves(
    curves: Mapping[str, Curve | None], micro: Curve | None, macro: Curve | None
) -> Figure:
    """ROC, each class against the rest, one panel a body part, and averages (report Fig. 31).

    Args:
        curves: label -> curve, as in metrics.json: fpr and tpr (rising rates, 0..1) and auc; None
            where there is none, for a class that the evaluated split lacks. If every area is above
            0.95, only the corner that holds the curves is drawn.
        micro: the same over all decisions.
        macro: the same averaged over the classes.
    """
    parts = sorted(set(map(body_part, curves)))
    panels = {"all classes": {"micro": (micro, "#000000"), "macro": (macro, "#56B4E9")}}
    for part in parts:
        panels[part] = {a: (curves.get(join(a, part)), c) for a, c in ABNORMALITIES.items()}
    columns = 4 if len(panels) > 6 else 3
    rows = -(-len(panels) // columns)
    everything = {"micro": micro, "macro": macro, **curves}
    areas = {label: curve["auc"] for label, curve in everything.items() if curve is not None}
    corner = bool(areas) and min(areas.values()) > _IN_THE_CORNER
    title = "ROC, each class against the rest" + ", upper left corner" * corner
    fig = new_figure(0.7 + 2.3 * rows * 4 / (columns + 0.4), title)
    axes = add_panels(fig, rows, columns, sharex=True, sharey=True)
    for ax, (name, lines) in zip(axes, panels.items(), strict=False):
        for (label, (curve, color)), line in zip(lines.items(), ("-", "--"), strict=True):
            if curve is None:
                ax.plot([], [], line, color=color, label=f"{label}: none")
            else:
                ax.plot(
                    curve["fpr"],
                    curve["tpr"],
                    line,
                    color=color,
                    label=f"{label} {curve['auc']:.3f}",
                )
        ax.plot([0, 1], [0, 1], ":", color=OTHER, linewidth=1)
        end = 0.3 if corner else 1
        ax.set(xlim=(-0.02 * end, 1.02 * end), ylim=(1 - 1.02 * end, 1 + 0.02 * end))
        ax.set(xticks=[0, end / 2, end], yticks=[1 - end, 1 - end / 2, 1])
        ax.set(title=wrapped(name, 8 / columns), aspect="equal")
        ax.legend(loc="lower right", title="area", alignment="left", handlelength=1)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    fig.supxlabel("false positive rate", fontsize=10)
    fig.supylabel("true positive rate", fontsize=10)
    return with_alt_text(fig, f"ROC curves. Area under the curve: {comma_list(areas, '{:.3f}')}.")


@in_our_style
def roc_with_thresholds(
    rates: tuple[Sequence[float], Sequence[float]],
    points: Mapping[str, tuple[float, float]],
    title: str,
) -> Figure:
    """One ROC curve, and the points on it that thresholds choose.

    Args:
        rates: false positive and true positive rates, rising, 0..1.
        points: by a threshold's name, its specificity and sensitivity, 0..1.
        title: of the figure.
    """
    fig = new_figure(4.4, title)
    (ax,) = add_panels(fig, 1, 1)
    ax.set_aspect("equal")
    ax.plot(*rates, color=OURS)
    ax.plot([0, 1], [0, 1], ":", color=OTHER, label="answers at random")
    looks = cycle((("o", OTHER), ("s", WRONG)))
    for (name, (specificity, sensitivity)), (marker, color) in zip(
        points.items(), looks, strict=False
    ):
        ax.plot(1 - specificity, sensitivity, marker, color=color, markersize=9, label=name)
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    ax.set(xlabel="false alarms: 1 - specificity", ylabel="findings found: sensitivity")
    ax.grid()
    ax.legend(loc="lower right", title="threshold", alignment="left")
    said = "; ".join(
        f"{n}: specificity {a:.3f}, sensitivity {b:.3f}" for n, (a, b) in points.items()
    )
    return with_alt_text(fig, f"{title}. {said}.")


@in_our_style
def prediction_grid(
    images: Sequence[np.ndarray],
    true: Sequence[str],
    predicted: Sequence[str],
    probabilities: Sequence[float],
    title: str = "",
) -> Figure:
    """Radiographs with what they are and what the model says (report Fig. 32).

    Args:
        images: n arrays (H, W) uint8.
        true: n labels.
        predicted: n labels.
        probabilities: n probabilities of the predicted labels, 0..1.
        title: of the figure; without one, how many are predicted correctly.
    """
    if not len(images):
        fig = new_figure(1)
        say_instead(*add_panels(fig, 1, 1), "no image to show")
        return with_alt_text(fig, "No radiograph to show.")
    columns = min(len(images), 4)
    rows = -(-len(images) // columns)
    right = sum(t == p for t, p in zip(true, predicted, strict=True))
    title = title or f"{right} of {len(images)} predicted correctly"
    fig = new_figure(0.5 + 2.1 * rows, title)
    axes = add_panels(fig, rows, columns)
    for ax, image, truth, answer, probability in zip(
        axes[: len(images)], images, true, predicted, probabilities, strict=True
    ):
        correct = truth == answer
        mark, second = ("✓", "") if correct else ("✗", f"\nbut is {truth}")
        draw_image(ax, image, f"{mark} {answer} {probability:.0%}{second}")
        if not correct:
            ax.title.set_color(WRONG)
            ax.spines[:].set(color=WRONG, linewidth=3)
    for ax in axes[len(images) :]:
        ax.set_axis_off()
    return with_alt_text(fig, f"{len(images)} radiographs, {right} of them predicted correctly.")


def _levels(
    frame: pd.DataFrame, name: str, value: str, title: str, ours: Collection[str]
) -> Figure:
    """Values with their intervals, one panel a level and the number next to each name."""
    frame = frame.dropna(subset=value).reindex(columns=["level", name, value, "low", "high"])
    levels = list(frame.groupby("level", sort=False))
    fig = new_figure(0.9 + 0.55 * len(levels) + 0.27 * len(frame), title)
    ratios = [len(rows) + 0.6 for _, rows in levels]
    axes = add_panels(fig, len(levels), 1, sharex=True, height_ratios=ratios)
    listed = []
    for ax, (level, rows) in zip(axes, levels, strict=True):
        draw_dots(ax, rows, value, [OTHER if ours and n not in ours else OURS for n in rows[name]])
        ax.set_title(level)
        labels = [
            f"{row[name]}  {row[value]:.3f}"
            + (f"  [{row['low']:.3f}, {row['high']:.3f}]" if pd.notna(row["low"]) else "")
            for row in rows.to_dict("records")
        ]
        ax.set_yticks(range(len(rows)), labels)
        for text, shown in zip(ax.get_yticklabels(), rows[name], strict=True):
            text.set_fontweight("bold" if shown in ours else "normal")
        listed.append(f"{level}: {', '.join(labels)}")
    numbers = frame[[value, "low", "high"]].astype(float)
    lowest, highest = np.nanmin(numbers), np.nanmax(numbers)
    margin = 0.03 * (max(1, highest) - min(0, lowest))
    axes[-1].set(xlim=(min(0, lowest) - margin, max(1, highest) + margin), xlabel=value)
    return with_alt_text(fig, f"{title}. {'; '.join(listed)}.")


@in_our_style
def kappa_comparison(frame: pd.DataFrame, ours: Collection[str] = ()) -> Figure:
    """Cohen's kappa next to others' (report Fig. 36), one panel a level: levels do not compare.

    Args:
        frame: name, kappa (rows without are left out), level (such as "binary, per study"), and
            low, high where there are intervals.
        ours: names to be set off in black and bold.
    """
    ranked = frame.sort_values("kappa", ascending=False)
    order = pd.Categorical(ranked["level"], categories=frame["level"].unique(), ordered=True)
    ranked = ranked.assign(order=order).sort_values("order", kind="stable")
    title = "Cohen's kappa (0: chance, 1: full agreement), level by level"
    return _levels(ranked, "name", "kappa", title, ours)


@in_our_style
def intervals(frame: pd.DataFrame, title: str = "Metrics with their 95% intervals") -> Figure:
    """Metrics with their intervals, one panel a level.

    Args:
        frame: level, metric, value, low, high (NaN: no interval), as returned by
            `evaluation.metrics_table`.
        title: of the figure.
    """
    return _levels(frame, "metric", "value", title, ours=())


@in_our_style
def forest(frame: pd.DataFrame, title: str) -> Figure:
    """A forest plot: groups down, one panel a metric across, a dotted line at the last group.

    Args:
        frame: group in its first column, metric, value, low, high (NaN: no interval), as returned
            by `evaluation.body_part_table`; the last group is all of them.
        title: of the figure.
    """
    of = frame.columns[0]
    groups, metrics = (list(dict.fromkeys(frame[name])) for name in (of, "metric"))
    fig = new_figure(1.3 + 0.3 * len(groups), title)
    axes = add_panels(fig, 1, len(metrics), sharey=True)
    colors = [OTHER] * (len(groups) - 1) + [OURS]
    lowest = np.nanmin([0, *frame["value"], *frame["low"]])  # one scale, to compare widths
    listed = []
    for ax, metric in zip(axes, metrics, strict=True):
        rows = frame[frame["metric"] == metric].set_index(of).reindex(groups)
        ax.axvline(rows["value"].iloc[-1], color=OURS, linestyle=":", linewidth=1)
        draw_dots(ax, rows, "value", colors)
        ax.set(title=metric, xlim=(lowest - 0.03, 1.03))
        listed.append(f"{metric}: {comma_list(rows['value'].dropna(), '{:.3f}')}")
    axes[0].set_yticks(range(len(groups)), groups)
    fig.supxlabel("value and 95% interval", fontsize=10)
    return with_alt_text(fig, f"{title}. {'; '.join(listed)}.")


@in_our_style
def per_class_f1(ours: pd.DataFrame, report: pd.DataFrame | None = None) -> Figure:
    """F1 of each class next to the report's (report Fig. 30).

    Args:
        ours: label, f1 (0..1; NaN for a class without images).
        report: label, f1; classes that ours lacks are left out.
    """
    rows = ours[["label", "f1"]].copy()
    named = {} if report is None else report.set_index("label")["f1"]
    rows["report"] = rows["label"].map(named).astype(float)
    colors = [color_of(label) for label in rows["label"]]
    fig = new_figure(1.4 + 0.27 * len(rows), "F1 of each class")
    (ax,) = add_panels(fig, 1, 1)
    if rows["report"].notna().any():
        draw_dumbbells(ax, rows, "f1", "report", colors)
        share_legend(fig, [ax])
    else:
        draw_dots(ax, rows, "f1", colors)
    ax.set_yticks(range(len(rows)), rows["label"])
    ax.set(xlim=(-0.02, 1.02), xlabel="F1")
    return with_alt_text(
        fig,
        f"F1 per class, mean {rows['f1'].mean():.2f}:",
        f"{comma_list(rows.set_index('label')['f1'].dropna(), '{:.2f}')}.",
    )
