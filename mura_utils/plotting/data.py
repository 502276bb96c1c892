"""Figures of the data, notebooks 01 to 03 (report Fig. 3 to 9)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from textwrap import fill, shorten
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
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
    in_our_style,
    new_figure,
    say_instead,
    share_legend,
    thousands,
    whole_numbers,
    with_alt_text,
    wrapped,
)

_LEAKS = ("#000000", "#56B4E9", "#F0E442")


@in_our_style
def file_sheet(examples: Sequence[tuple[str, np.ndarray | None, str]]) -> Figure:
    """One file of each kind of fault and remark, or words where it has no picture.

    Args:
        examples: kind, (H, W) uint8 or None, and what is wrong with the file.
    """
    columns = 5
    rows = max(1, -(-len(examples) // columns))
    fig = new_figure(1.95 * rows + 0.3, "What each kind looks like")
    panels = add_panels(fig, rows, columns)
    examples = [(kind, image, detail or "no picture") for kind, image, detail in examples]
    for ax, (kind, image, detail) in zip(panels, examples, strict=False):
        if image is None:
            ax.text(0.5, 0.5, fill(shorten(detail, 100), 19), ha="center", va="center", fontsize=7)
            ax.set(xticks=[], yticks=[], box_aspect=1)
            ax.spines[:].set_visible(True)
        else:
            draw_image(ax, image)
        ax.set_title(kind, fontsize=8, loc="center")
    for ax in panels[len(examples) :]:
        ax.set_axis_off()
    if not examples:
        say_instead(panels[0], "nothing was odd")
    return with_alt_text(
        fig,
        f"A sheet of {len(examples)} files, one of each kind:",
        "; ".join(
            f"{kind}: {'its picture' if image is not None else detail}"
            for kind, image, detail in examples
        )
        + ".",
    )


@in_our_style
def sample_grid(images: Mapping[tuple[str, str], np.ndarray]) -> Figure:
    """One radiograph a class (report Fig. 3): body parts are columns, abnormalities rows.

    Args:
        images: (body part, abnormality) -> (H, W) uint8; a class may be missing.
    """
    parts = sorted({part for part, _ in images})
    tile = min(8.4 / len(parts), 1.9)
    fig = new_figure(2 * tile + 0.55, "One radiograph of each class")
    for ax, (row, part) in zip(
        add_panels(fig, 2, len(parts)), [(a, p) for a in ABNORMALITIES for p in parts], strict=True
    ):
        image = images.get((part, row))
        draw_image(ax, np.zeros((2, 2), np.uint8) if image is None else image)
        if image is None:
            ax.text(0.5, 0.5, "none", color="white", ha="center")
        if row == ABNORMAL:
            ax.set_title(wrapped(part, tile), fontsize=9, loc="center")
        if part == parts[0]:
            ax.set_ylabel(row, color=ABNORMALITIES[row], fontweight="bold")
    return with_alt_text(
        fig,
        f"{len(images)} radiographs, abnormal above, normal below,",
        f"of {len(parts)} body parts: {', '.join(parts)}.",
    )


@in_our_style
def pixel_analysis(
    image: np.ndarray, title: str, sample_means: np.ndarray, sample_stds: np.ndarray
) -> Figure:
    """A radiograph, its histogram, and the intensities of images like it (report Fig. 4, 5).

    Args:
        image: (H, W) uint8.
        title: its label, such as "Normal-HUMERUS".
        sample_means: (n,) mean gray level of n images of that label, 0..255; NaN if not measured.
        sample_stds: (n,) their standard deviations.
    """
    fig = new_figure(3.3, f"Pixel analysis: {title}")
    radiograph, histogram, samples = add_panels(fig, 1, 3)
    color = color_of(title)
    draw_image(radiograph, image, f"{image.shape[1]} x {image.shape[0]} pixels")

    weights = np.full(image.size, 1 / image.size)
    histogram.hist(image.ravel(), bins=64, range=(0, 256), weights=weights, color=color)
    histogram.set(yscale="log", xlim=(0, 255), xlabel="gray level (0–255)")
    histogram.set(ylabel="share of the pixels (log)", title="Histogram of this image")
    histogram.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")

    means, stds = np.asarray(sample_means, float), np.asarray(sample_stds, float)
    means, stds = means[~np.isnan(means)], stds[~np.isnan(means)]
    count = thousands(len(means), "image")
    samples.set_title(f"Mean ± std of {count}")
    described = f"{title}: a radiograph with mean gray level {image.mean():.0f} and standard"
    if not len(means):
        say_instead(samples, "No other image was measured.")
        unmeasured = f"deviation {image.std():.0f}, and its histogram; no other was measured."
        return with_alt_text(fig, described, unmeasured)
    number = np.arange(1, len(means) + 1)
    samples.errorbar(number, means, stds, fmt="o", color=color, elinewidth=1, capsize=2)
    samples.set(ylim=(0, 255), xlabel="image", ylabel="gray level (0–255)")
    whole_numbers(samples)
    samples.grid(axis="y")
    return with_alt_text(
        fig,
        described,
        f"deviation {image.std():.0f}; its histogram; and {count}, whose means range",
        f"from {means.min():.0f} to {means.max():.0f}.",
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
    """Sizes and pixel modes; `inventory` has width, height (pixels; NaN if not read) and mode."""
    read = inventory.dropna(subset=["width", "height", "mode"])
    read = read[read["width"] > 0]
    sizes = read.groupby(["width", "height", "mode"]).size().rename("images").reset_index()
    sizes = sizes.sort_values("images", ascending=False)  # small marks on top of large ones
    modes = read["mode"].value_counts()
    palette = dict(zip(modes.index, sns.color_palette("viridis", len(modes)), strict=True))
    fig = new_figure(3.8, f"{len(read):,} images in {len(sizes):,} combinations of size and mode")
    scatter, bars = add_panels(fig, 1, 2, width_ratios=[2, 1])
    if read.empty:
        for ax in (scatter, bars):
            say_instead(ax, "No file was opened.")
        return with_alt_text(fig, "No file was opened: sizes and modes are not known.")
    sns.scatterplot(
        sizes,
        x="width",
        y="height",
        hue="mode",
        size="images",
        sizes=(20, 160),
        alpha=0.7,
        edgecolor="black",
        palette=palette,
        hue_order=modes.index,
        legend=False,
        ax=scatter,
    )
    scatter.set(xlabel="width (pixels)", ylabel="height (pixels)", xlim=(0, None), ylim=(0, None))
    scatter.set_title("A mark is a size; its area grows with its images")
    scatter.grid()
    tally = modes.rename_axis("mode").reset_index(name="images")
    draw_bars(bars, tally, "images", "mode", hue="mode", palette=palette, legend=False)
    bars.set(title="Mode as stored", xlabel="images", ylabel="")
    return with_alt_text(
        fig,
        f"{len(read):,} images, {read['width'].min():.0f} to {read['width'].max():.0f} pixels wide",
        f"and {read['height'].min():.0f} to {read['height'].max():.0f} high; modes:",
        f"{comma_list(modes)}.",
    )


@in_our_style
def faults(quality: Mapping[str, Any]) -> Figure:
    """What the scan excluded, per fault, and what was remarked, per kind.

    Args:
        quality: the content of quality.json; `counts` with `listed` and `admitted`, `excluded`
            (list of records with `fault`) and `remarks` (kind -> list) are read.
    """
    counts = quality["counts"]
    excluded = Counter(record["fault"] for record in quality["excluded"])
    remarks = Counter({kind: len(found) for kind, found in quality["remarks"].items()})
    fig = new_figure(
        1.6 + 0.34 * max(len(excluded), len(remarks), 2),
        f"{counts['listed']:,} images listed, {counts['admitted']:,} admitted",
    )
    panels = (
        ("Files excluded, per fault", excluded, "No file was excluded."),
        ("Remarks, per kind", remarks, "Nothing odd was found."),
    )
    for ax, (title, tally, nothing) in zip(add_panels(fig, 1, 2), panels, strict=True):
        tally = {kind: number for kind, number in tally.most_common() if number}
        ax.set_title(title)
        if not tally:
            say_instead(ax, nothing)
            continue
        frame = pd.DataFrame({"kind": list(tally), "files": list(tally.values())})
        draw_bars(ax, frame, "files", "kind", color=OTHER)
        ax.set(xlabel="files", ylabel="")
        whole_numbers(ax, most=5)
        if max(tally.values()) > 100:
            ax.set(xscale="symlog", xlabel="files (log)", xlim=(0, 4 * max(tally.values())))
    return with_alt_text(
        fig,
        f"{counts['listed']:,} images listed, {counts['admitted']:,} admitted.",
        f"Excluded: {comma_list(excluded) or 'none'}. Remarks: {comma_list(remarks) or 'none'}.",
    )


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
    """What each protocol lets the training set know of the images that should be new to it.

    Args:
        shares: protocol, split ("validation" or "test"), what ("patient", "study", …: what of an
            image is in the training set too), share (of that split's images, 0..1; NaN: unknown).
    """
    shares = shares.dropna(subset="share")
    names = [name for name in SPLITS if name in set(shares["split"])]
    protocols, whats = list(shares["protocol"].unique()), list(shares["what"].unique())
    palette = dict(zip(whats, _LEAKS, strict=False))
    fig = new_figure(1.3 + 0.24 * len(protocols) * (len(whats) + 1), "What each protocol leaks")
    axes = add_panels(fig, 1, len(names), sharey=True)
    for ax, name in zip(axes, names, strict=True):
        draw_bars(
            ax,
            shares[shares["split"] == name],
            "share",
            "protocol",
            form="{:.1%}",
            hue="what",
            order=protocols,
            hue_order=whats,
            palette=palette,
        )
        ax.set(xlim=(0, 1.2), xticks=np.linspace(0, 1, 5), ylabel="", title=name)
        ax.set_xlabel(f"share of the {name} images")
        ax.xaxis.set_major_formatter(PercentFormatter(1))
    share_legend(fig, axes)
    fig.legends[0].set_title("in the training set too: the image's")
    worst = shares.loc[shares["share"].idxmax()]
    return with_alt_text(
        fig,
        f"Leakage of {len(protocols)} protocols. The worst: under {worst.protocol},",
        f"{worst.share:.1%} of the {worst.split} images have their {worst.what} in training.",
    )
