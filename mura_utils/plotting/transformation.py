"""Figures of augmentation and PCA, notebook 04 (report Fig. 10 and 11)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
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

_CLOSE = 0.01  # cumulative shares that differ less look like one line


@in_our_style
def augmentation_preview(
    original: np.ndarray,
    augmented: np.ndarray,
    captions: Sequence[str] | None = None,
    title: str | None = None,
    first: str = "input",
) -> Figure:
    """An image and what the augmentation, or resizing it, makes of it.

    Args:
        original: (H, W), 0..255.
        augmented: (k, h, w), 0..255.
        captions: k texts of one or two lines, such as the drawn angles.
        title: of the figure.
        first: what stands above the original.
    """
    count = len(augmented)
    columns = min(count + 1, 4)
    rows = -(-(count + 1) // columns)
    title = title or f"One radiograph and {count} augmentations"
    fig = new_figure(rows * (8.6 / columns + 0.25) + 0.35, title)
    titles = [first, *(captions or [f"draw {n + 1}" for n in range(count)])]
    axes = add_panels(fig, rows, columns)
    for ax, image, text in zip(axes, [original, *augmented], titles, strict=False):
        draw_image(ax, image, text)
    axes[0].title.set_fontweight("bold")
    for ax in axes[count + 1 :]:
        ax.set_axis_off()
    return with_alt_text(fig, f"{title}. Panels: {'; '.join(titles)}.".replace("\n", " "))


def _fitted(images: int, asked: int) -> str:
    """How many images were fitted, and how many of each class were asked for."""
    return f"{thousands(images, 'image')}\n(up to {asked:,} a class)"


def _covered(curve: Sequence[float], by: Sequence[float]) -> bool:
    """Whether a curve is so close to another that it cannot be seen next to it."""
    shared = min(len(curve), len(by))
    return bool(np.allclose(curve[:shared], by[:shared], rtol=0, atol=_CLOSE))


@in_our_style
def pca_elbow(results: Sequence[Mapping[str, Any]], variance: float = 0.95) -> Figure:
    """Cumulative explained variance against components, on two axes (report Fig. 11).

    Incremental PCA is drawn only where its curves can be told from those of PCA.

    Args:
        results: records with images_per_class (asked for), images (fitted, in all), method ("pca"
            or "ipca"), explained and held_out (cumulative shares, 0..1, from one component on),
            components (int that reaches `variance`, or None).
        variance: the share that the dotted line marks.
    """
    sizes = sorted({result["images_per_class"] for result in results})
    fig = new_figure(6.2, "Explained variance of the fitted and of held-out images")
    axes = np.reshape(add_panels(fig, 2, len(sizes), sharey=True), (2, len(sizes)))
    for column, size in zip(axes.T, sizes, strict=True):
        found = {r["method"]: r for r in results if r["images_per_class"] == size}
        pca, ipca = found.get("pca"), found.get("ipca")
        if pca and ipca and all(_covered(ipca[c], pca[c]) for c in ("explained", "held_out")):
            del found["ipca"]
        for ax, scale in zip(column, ("linear", "log"), strict=True):
            for result in found.values():
                _draw_curves(ax, result, variance)
            ax.axhline(variance, color=OTHER, linestyle=":", zorder=0)
            ax.set(xscale=scale, ylim=(0, 1.03), xlabel=f"components ({scale} axis)")
            ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            ax.yaxis.set_major_formatter(PercentFormatter(1))
            ax.grid()
        column[0].set_title(_fitted(next(iter(found.values()))["images"], size))
        column[0].legend(loc="lower right")
    for ax in axes[:, 0]:
        ax.set_ylabel("cumulative explained variance")
    said = "; ".join(
        f"{PCA_METHODS[r['method']][0]} on {r['images']:,} images:"
        f" {r['components'] or 'not reached'}"
        for r in results
    )
    return with_alt_text(fig, f"Components for {variance:.0%} of the variance. {said}.")


def _draw_curves(ax: Axes, result: Mapping[str, Any], variance: float) -> None:
    name, color = PCA_METHODS[result["method"]]
    needed = result["components"]
    reached = f"{variance:.0%} with {needed:,}" if needed else f"{variance:.0%} not reached"
    for curve, line, label in (
        ("explained", "-", f"{name}, fitted images: {reached}"),
        ("held_out", "--", f"{name}, held-out images"),
    ):
        components = np.arange(1, len(result[curve]) + 1)
        ax.plot(components, result[curve], line, color=color, label=label)
    if needed:
        ax.plot(needed, result["explained"][needed - 1], "o", color=color, markersize=8)


@in_our_style
def pca_runtime(frame: pd.DataFrame) -> Figure:
    """Seconds and components of both PCA methods (report Fig. 10).

    Args:
        frame: images_per_class (asked for), images (fitted, in all), method ("pca" or "ipca"),
            seconds, components (NaN: not reached).
    """
    rows = frame.sort_values("images_per_class")
    rows = rows.assign(
        size=list(map(_fitted, rows["images"], rows["images_per_class"])),
        name=[PCA_METHODS[method][0] for method in rows["method"]],
    )
    fig = new_figure(3.4, "PCA against incremental PCA")
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
        ax.set(xlabel="fitted (no bar: not reached)", ylabel=label)
    share_legend(fig, axes)
    times = "; ".join(
        f"{name}: {seconds:.3g} s on {images:,} images"
        for name, seconds, images in zip(rows["name"], rows["seconds"], rows["images"], strict=True)
    )
    return with_alt_text(fig, f"Run times. {times}.")
