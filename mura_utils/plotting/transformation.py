"""Figures of augmentation and PCA, notebook 04 (report Fig. 10 and 11)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from mura_utils.plotting.style import (
    OTHER,
    PCA_METHODS,
    add_panels,
    draw_bars,
    draw_image,
    in_our_style,
    new_figure,
    share_legend,
    thousands,
    with_alt_text,
)


@in_our_style
def augmentation_preview(
    original: np.ndarray,
    augmented: np.ndarray,
    captions: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """An image and what the augmentation makes of it.

    Args:
        original: (H, W), 0..255.
        augmented: (k, H, W), 0..255.
        captions: k texts of one or two lines, such as the drawn angles.
        title: of the figure.
    """
    count = len(augmented)
    columns = min(count + 1, 4)
    rows = -(-(count + 1) // columns)
    title = title or f"One radiograph and {count} augmentations"
    fig = new_figure(rows * (8.6 / columns + 0.25) + 0.35, title)
    titles = ["original", *(captions or [f"draw {n + 1}" for n in range(count)])]
    axes = add_panels(fig, rows, columns)
    for ax, image, title in zip(axes, [original, *augmented], titles, strict=False):
        draw_image(ax, image, title)
    axes[0].title.set_fontweight("bold")
    for ax in axes[count + 1 :]:
        ax.set_axis_off()
    return with_alt_text(fig, f"A radiograph next to {count} random augmentations of it.")


@in_our_style
def pca_elbow(results: Sequence[Mapping[str, Any]], variance: float = 0.95) -> Figure:
    """Cumulative explained variance against components (report Fig. 11).

    Args:
        results: records with images_per_class (asked for), images (fitted, in all), method ("pca"
            or "ipca"), explained and held_out (cumulative shares, 0..1, from one component on),
            components (int that reaches `variance`, or None).
        variance: the share that the dotted line marks.
    """
    sizes = sorted({result["images_per_class"] for result in results})
    fig = new_figure(3.8, "Explained variance: images that were fitted, and held-out images")
    axes = add_panels(fig, 1, len(sizes), sharey=True)
    for ax, size in zip(axes, sizes, strict=True):
        for result in (r for r in results if r["images_per_class"] == size):
            name, color = PCA_METHODS[result["method"]]
            needed = result["components"]
            for curve, line, label in (
                ("explained", "-", f"{name}: {needed or 'not reached'}"),
                ("held_out", "--", f"{name}, held out"),
            ):
                components = np.arange(1, len(result[curve]) + 1)
                ax.plot(components, result[curve], line, color=color, label=label)
            if needed:
                ax.plot(needed, result["explained"][needed - 1], "o", color=color, markersize=8)
        ax.axhline(variance, color=OTHER, linestyle=":", zorder=0)
        ax.set(xscale="log", ylim=(0, 1.03), xlabel="components (log)")
        fitted = next(r["images"] for r in results if r["images_per_class"] == size)
        ax.set_title(f"up to {thousands(size, 'image')} a class: {fitted:,}")
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        ax.yaxis.set_major_formatter(PercentFormatter(1))
        ax.legend(loc="lower right", title=f"components for {variance:.0%}")
        ax.grid()
    axes[0].set_ylabel("cumulative explained variance")
    found = "; ".join(
        f"{PCA_METHODS[r['method']][0]} on {r['images_per_class']:,} images a class:"
        f" {r['components'] or 'not reached'}"
        for r in results
    )
    return with_alt_text(fig, f"Components for {variance:.0%} of the variance. {found}.")


@in_our_style
def pca_runtime(frame: pd.DataFrame) -> Figure:
    """Seconds and components of both PCA methods (report Fig. 10).

    Args:
        frame: images_per_class, method ("pca" or "ipca"), seconds, components (NaN: not reached).
    """
    rows = frame.sort_values("images_per_class").assign(
        size=lambda f: f["images_per_class"].map("{:,}".format),
        name=lambda f: f["method"].map(lambda method: PCA_METHODS[method][0]),
    )
    fig = new_figure(3.2, "PCA against incremental PCA")
    axes = add_panels(fig, 1, 2)
    panels = (
        ("seconds", "run time (s)", "{:.3g}"),
        ("components", "components", "{:.0f}"),
    )
    for ax, (column, label, form) in zip(axes, panels, strict=True):
        draw_bars(
            ax,
            rows.dropna(subset=column),
            "size",
            column,
            form,
            hue="name",
            order=rows["size"].unique(),
            palette=dict(PCA_METHODS.values()),
        )
        ax.set(xlabel="images a class (no bar: not reached)", ylabel=label)
    share_legend(fig, axes)
    times = "; ".join(
        f"{row.name_}: {row.seconds:.3g} s on {row.size_} images a class"
        for row in rows.rename(columns={"name": "name_", "size": "size_"}).itertuples()
    )
    return with_alt_text(fig, f"Run times. {times}.")
