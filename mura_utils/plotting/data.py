"""Figures of the data, notebooks 01 to 03 (report Fig. 3 to 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from mura_utils.labels import ABNORMAL, join
from mura_utils.plotting.style import (
    ABNORMALITIES,
    OTHER,
    SPLITS,
    add_panels,
    color_of,
    comma_list,
    count_values,
    draw_bars,
    draw_image,
    draw_outline,
    in_our_style,
    new_figure,
    say_instead,
    share_legend,
    thousands,
    whole_numbers,
    with_alt_text,
    wrapped,
)

_GROUND = "0.85"  # around an image that is not square


def _draw(ax: Axes, image: np.ndarray, title: str = "") -> None:
    """As `draw_image`, on a square that cannot be taken for dark pixels of the image."""
    draw_image(ax, image, title)
    ax.set_facecolor(_GROUND)
    ax.spines[:].set_visible(False)


@in_our_style
def file_sheet(
    examples: Sequence[tuple[str, np.ndarray]], title: str = "What each kind looks like"
) -> Figure:
    """Pictures under their names, up to four in a row.

    Args:
        examples: name, (H, W) uint8.
        title: of the figure.

    Example:
        >>> fig = file_sheet([("inverted", np.full((4, 6), 200, np.uint8))])
        >>> fig.get_label()
        'What each kind looks like, 1 picture: inverted.'
    """
    columns = min(max(len(examples), 1), 4)
    rows = max(1, -(-len(examples) // columns))
    tile = min(8.8 / columns, 3.6)
    fig = new_figure(rows * (tile + 0.3) + 0.3, title)
    panels = add_panels(fig, rows, columns)
    for ax, (name, image) in zip(panels, examples, strict=False):
        _draw(ax, image, wrapped(name, tile))
    for ax in panels[len(examples) :]:
        ax.set_axis_off()
    if not examples:
        say_instead(panels[0], "nothing to show")
    names = "; ".join(name for name, _ in examples)
    return with_alt_text(fig, f"{title}, {thousands(len(examples), 'picture')}: {names}.")


@in_our_style
def sample_grid(
    images: Mapping[tuple[str, str], np.ndarray],
    outlines: Mapping[tuple[str, str], np.ndarray] | None = None,
) -> Figure:
    """One radiograph a class (report Fig. 3): up to four body parts side by side.

    Abnormal ones stand above normal ones; where all are of one kind, the other has no row.

    Args:
        images: (body part, abnormality) -> (H, W) uint8, 0..255; a class may be missing.
        outlines: the same keys -> (H, W) bool, the finding, whose border is drawn; any of them may
            be missing.

    Example:
        >>> fig = sample_grid({("HAND", "Normal"): np.zeros((9, 5), np.uint8)})
        >>> fig.get_label()
        '1 radiograph of 1 body part: HAND.'
    """
    parts = sorted({part for part, _ in images})
    kinds = [kind for kind in ABNORMALITIES if any(key[1] == kind for key in images)]
    blocks = -(-len(parts) // 4)
    columns = -(-len(parts) // blocks)
    tile = min(8.5 / columns, 2.6)
    title = "One radiograph of each class" if outlines is None else "Where the findings are"
    rows = blocks * len(kinds)
    fig = new_figure(rows * (tile + 0.12) + 0.25 * blocks + 0.35, title)
    panels = np.reshape(add_panels(fig, rows, columns), (blocks, len(kinds), columns))
    for ax in panels[-1, :, len(parts) - columns * (blocks - 1) :].flat:
        ax.set_axis_off()
    for number, part in enumerate(parts):
        block, column = divmod(number, columns)
        for ax, kind in zip(panels[block, :, column], kinds, strict=True):
            image, mask = images.get((part, kind)), (outlines or {}).get((part, kind))
            _draw(ax, np.full((2, 2), 128, np.uint8) if image is None else image)
            if image is None:
                ax.text(0.5, 0.5, "none", color="white", ha="center")
            if mask is not None and mask.any():
                draw_outline(ax, mask)
            if kind == kinds[0]:
                ax.set_title(wrapped(part, tile), fontsize=10, loc="center")
            if column == 0:
                ax.set_ylabel(kind, color=ABNORMALITIES[kind], fontweight="bold")
    shown = thousands(len(images), "radiograph")
    outlined = "" if outlines is None else f", {len(outlines)} with the finding outlined"
    order = ", abnormal above, normal below," if len(kinds) > 1 else ""
    several = thousands(len(parts), "body part")
    return with_alt_text(fig, f"{shown}{order} of {several}: {', '.join(parts)}{outlined}.")


@in_our_style
def pixel_analysis(image: np.ndarray, title: str, others: Sequence[np.ndarray]) -> Figure:
    """A radiograph, its histogram, and the intensities of images like it (report Fig. 4, 5).

    The axes have the same limits whatever the image, so that two figures can be compared. Of the
    others the range of most pixels is drawn rather than the standard deviation, as the report does:
    gray levels pile up at black, and one standard deviation below their mean is often negative.

    Args:
        image: (H, W) uint8.
        title: its label, such as "Normal-HUMERUS".
        others: n images (H, W) uint8 of that label.
    """
    fig = new_figure(3.3, f"Pixel analysis: {title}")
    radiograph, histogram, samples = add_panels(fig, 1, 3)
    color = color_of(title)
    _draw(radiograph, image, f"{image.shape[1]} x {image.shape[0]} pixels")

    weights = np.full(image.size, 1 / image.size)
    histogram.hist(image.ravel(), bins=64, range=(0, 256), weights=weights, color=color)
    histogram.set(yscale="log", xlim=(0, 255), ylim=(1e-5, 1), xlabel="gray level (0–255)")
    histogram.set(ylabel="share of the pixels (log)", title="Histogram of this image")
    histogram.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")

    means = [other.mean() for other in others]
    low, high = np.transpose([np.percentile(other, (5, 95)) for other in others])
    count, number = thousands(len(others), "image"), np.arange(1, len(others) + 1)
    samples.set_title(f"Mean of {count}")
    samples.vlines(number, low, high, color=color, linewidth=2, alpha=0.5)
    samples.plot(number, means, "o", color=color)
    samples.set(ylim=(0, 255), ylabel="gray level (0–255)")
    samples.set_xlabel("image (line: 5th to 95th percentile)", fontsize=9)
    whole_numbers(samples)
    samples.grid(axis="y")
    return with_alt_text(
        fig,
        f"{title}: a radiograph with mean gray level {image.mean():.0f} and standard",
        f"deviation {image.std():.0f}; its histogram; and {count}, whose means range",
        f"from {min(means):.0f} to {max(means):.0f}.",
    )


@in_our_style
def image_counts(manifest: pd.DataFrame) -> Figure:
    """Images per class; `manifest` has body_part and abnormality."""
    counts = count_values(manifest)
    abnormal = (manifest["abnormality"] == ABNORMAL).mean()
    classes = int((counts["images"] > 0).sum())
    summary = f"{len(manifest):,} images in {classes} classes, {abnormal:.1%} of them abnormal"
    fig = new_figure(3.4, summary)
    (ax,) = add_panels(fig, 1, 1)
    width = 8 / counts["body_part"].nunique()
    bars = counts.assign(body_part=[wrapped(part, width) for part in counts["body_part"]])
    draw_bars(ax, bars, "body_part", "images", hue="abnormality", palette=ABNORMALITIES)
    ax.set(xlabel="", ylabel="images")
    share_legend(fig, [ax])
    largest, smallest = counts.loc[counts["images"].idxmax()], counts.loc[counts["images"].idxmin()]
    return with_alt_text(
        fig,
        f"{summary}. The largest is {join(largest.abnormality, largest.body_part)} with",
        f"{largest.images:,}, the smallest {join(smallest.abnormality, smallest.body_part)} with",
        f"{smallest.images:,}.",
    )


@in_our_style
def image_sizes(inventory: pd.DataFrame) -> Figure:
    """How long images are for their width, by body part, and their pixel modes.

    Args:
        inventory: width, height (pixels; 0 or NaN if not read), mode and body_part.
    """
    read = inventory[(inventory["width"] > 0) & (inventory["mode"] != "")]
    if read.empty:
        fig = new_figure(1.5)
        say_instead(*add_panels(fig, 1, 1), "No file was opened.")
        return with_alt_text(fig, "No file was opened: sizes and modes are not known.")
    longer, shorter = (read[["width", "height"]].agg(of, axis=1) for of in ("max", "min"))
    longest, shortest = _span(longer), _span(shorter)
    sizes = f"{len(read):,} images, longer side {longest} pixels, shorter side {shortest} pixels"
    ratios = pd.DataFrame({"ratio": longer / shorter, "part": read["body_part"]})
    medians = ratios.groupby("part")["ratio"].median().sort_values(ascending=False, kind="stable")
    modes = read["mode"].value_counts()
    fig = new_figure(max(1.6 + 0.32 * len(medians), 2.8), sizes)
    boxes, bars = add_panels(fig, 1, 2, width_ratios=[2, 1])
    sns.boxplot(
        ratios, x="ratio", y="part", order=medians.index, color="0.8", fliersize=2.5, ax=boxes
    )
    boxes.set(xlabel="longer side / shorter side (1 = square)", ylabel="")
    boxes.set_xlim(left=0.95)
    boxes.set_title("How elongated the images are")
    boxes.grid(axis="x")
    tally = modes.rename_axis("mode").reset_index(name="images")
    draw_bars(bars, tally, "images", "mode", color=OTHER)
    bars.set(title="Mode as stored", xlabel="images", ylabel="")
    whole_numbers(bars, most=4)
    return with_alt_text(
        fig,
        f"{sizes}. Median of the longer side divided by the shorter:",
        f"{comma_list(medians, '{:.2f}')}. Modes: {comma_list(modes)}.",
    )


def _span(values: pd.Series) -> str:
    """The smallest and the largest value, as "109 to 512", or one where they are equal."""
    return " to ".join(f"{value:,.0f}" for value in sorted({values.min(), values.max()}))


@in_our_style
def class_counts(manifest: pd.DataFrame, splits: pd.DataFrame) -> Figure:
    """Images per class in each split (report Fig. 8).

    Args:
        manifest: path, body_part, abnormality.
        splits: path, split.
    """
    rows = manifest.merge(splits, on="path")
    parts = sorted(rows["body_part"].unique())
    sizes = rows["split"].value_counts().reindex(SPLITS).dropna().astype(int)
    fig = new_figure(1.4 + 0.5 * len(parts), "Images per class in each split")
    axes = add_panels(fig, 1, len(sizes), sharey=True)
    for ax, (name, size) in zip(axes, sizes.items(), strict=True):
        counts = count_values(rows[rows["split"] == name], parts)
        draw_bars(ax, counts, "images", "body_part", hue="abnormality", palette=ABNORMALITIES)
        ax.set(title=f"{name}: {size:,} images", xlabel="images (own scale)", ylabel="")
        whole_numbers(ax, most=4)
    share_legend(fig, axes)
    return with_alt_text(
        fig, f"Images per class for {len(parts)} body parts in each split: {comma_list(sizes)}."
    )


@in_our_style
def split_distributions(manifest: pd.DataFrame, splits: pd.DataFrame) -> Figure:
    """Shares of the abnormalities and of the body parts in each split (report Fig. 9).

    Args:
        manifest: path, body_part, abnormality.
        splits: path, split.
    """
    rows = manifest.merge(splits, on="path")
    names = [name for name in SPLITS if name in set(rows["split"])]
    fig = new_figure(1.6 + 0.62 * rows["body_part"].nunique(), "Make-up of the splits")
    axes = add_panels(fig, 1, 2)
    for ax, column in zip(axes, ("abnormality", "body_part"), strict=True):
        shares = pd.crosstab(rows["split"], rows[column], normalize="index").loc[names]
        tidy = shares.reset_index().melt("split", value_name="share")
        draw_bars(ax, tidy, "share", column, "{:.1%}", hue="split", hue_order=names, palette=SPLITS)
        ax.xaxis.set_major_formatter(PercentFormatter(1))
        ax.set(xlabel="share of the split's images", ylabel="", title=column.replace("_", " "))
    share_legend(fig, axes)
    abnormal = (rows["abnormality"] == ABNORMAL).groupby(rows["split"]).mean().loc[names]
    return with_alt_text(
        fig,
        "Shares of abnormality and body part per split; abnormal: "
        f"{comma_list(abnormal, '{:.1%}')}.",
    )


@in_our_style
def leakage(shares: pd.DataFrame) -> Figure:
    """How many images have their patient in the training set too, under each protocol.

    Args:
        shares: protocol, split ("validation" or "test"), what ("patient"; rows of other things,
            such as "study", are not drawn), share (of that split's images, 0..1; NaN: unknown).
    """
    shares = shares[shares["what"] == "patient"].dropna(subset="share")
    protocols = list(shares["protocol"].unique())
    fig = new_figure(1.4 + 0.6 * len(protocols), "What each protocol leaks")
    (ax,) = add_panels(fig, 1, 1)
    names = [name for name in SPLITS if name in set(shares["split"])]
    draw_bars(
        ax,
        shares,
        "share",
        "protocol",
        form="{:.1%}",
        hue="split",
        order=protocols,
        hue_order=names,
        palette=SPLITS,
    )
    ax.set(xlim=(0, 1.1), xticks=np.linspace(0, 1, 5), ylabel="")
    ax.set_xlabel("images whose patient is also in training")
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    share_legend(fig, [ax])
    worst = shares.loc[shares["share"].idxmax()]
    return with_alt_text(
        fig,
        f"Leakage of {len(protocols)} protocols. The worst: under {worst.protocol},",
        f"{worst.share:.1%} of the {worst.split} images have their patient in training.",
    )
