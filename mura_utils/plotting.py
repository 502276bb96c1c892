"""The figures of the seven notebooks: data in, a matplotlib `Figure` out.

Every function draws in the package's own style (``mura.mplstyle``), whatever the caller's is, and
makes a bare `Figure` that pyplot does not know: nothing is displayed twice and nothing needs
closing. Each figure carries a description for who cannot see it, `alt_text`; `show` puts both into
a notebook.

Colours are Okabe and Ito's, which colour-blind readers can tell apart, and keep their meaning from
the first figure to the last: two for the abnormalities, three for the splits.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib.style
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter
from PIL import Image

from mura_utils.labels import ABNORMAL, NORMAL, body_part, join, split
from mura_utils.paths import atomic_write

STYLE = "mura_utils.mura"  # matplotlib's own way to name a style sheet that travels in a package

ABNORMALITIES = {ABNORMAL: "#D55E00", NORMAL: "#0072B2"}
SPLITS = {"train": "#009E73", "validation": "#E69F00", "test": "#CC79A7"}
PCA_METHODS = {"pca": ("PCA", "#000000"), "ipca": ("incremental PCA", "#56B4E9")}
_LEAKS = ("#000000", "#56B4E9", "#F0E442")
_OURS, _OTHER, _WRONG = "#000000", "#777777", "#A50026"

# magma whose opacity grows with the heat: where a map is cold, the radiograph stays as it is
_MAGMA = colormaps["magma"](np.linspace(0, 1, 256))
_HEAT = ListedColormap(np.column_stack([_MAGMA[:, :3], np.linspace(0, 0.85, 256)]))

_COLOURS_OF_A_DRAWING = 1 << 14  # at most; radiographs have more

P = ParamSpec("P")


# --- every figure -------------------------------------------------------------------------------


def use_style() -> None:
    """Use the package's style sheet for one's own figures too, until matplotlib's are reset."""
    matplotlib.style.use(STYLE)


def alt_text(fig: Figure) -> str:
    """The description of a figure of this module, with its main numbers; "" for a foreign one."""
    return str(fig.get_label())


def to_png(fig: Figure) -> bytes:
    """The figure as a PNG of its own size, whatever the session's style says on saving.

    One that shows radiographs gets a palette of 256 dithered colours: half as large, looking alike.
    """
    drawn, small = io.BytesIO(), io.BytesIO()
    with matplotlib.style.context(STYLE, after_reset=True):
        fig.savefig(drawn, format="png")
    with Image.open(drawn) as image:
        _with_palette(image).save(small, "png", optimize=True)
    return small.getvalue()


def _with_palette(image: Image.Image) -> Image.Image:
    colours = image.convert("RGB")
    if colours.getcolors(_COLOURS_OF_A_DRAWING) is not None:
        return colours
    few = colours.quantize(256)
    dithered = colours.quantize(palette=few, dither=Image.Dither.FLOYDSTEINBERG)
    # Pillow looks colours up coarsely: what is of the page's colour stays so.
    page = (np.asarray(colours) == colours.getpixel((0, 0))).all(axis=-1)
    dithered.paste(few, mask=Image.fromarray(page))
    return dithered


def show(fig: Figure, alt: str | None = None, file: Path | None = None) -> None:
    """Display the figure in a notebook, with `alt` (default: `alt_text`) for screen readers.

    With `file` it is kept there as a PNG too. Returns None, so that a cell ending in it prints no
    object and no address.
    """
    from IPython import display

    png = to_png(fig)
    if file is not None:
        with atomic_write(file) as temporary:
            temporary.write_bytes(png)
    display.display(display.Image(png, format="png", alt=alt or alt_text(fig)))


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run `draw` in the package's style and leave the caller's as it was."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.style.context(STYLE, after_reset=True):
            fig = draw(*args, **kwargs)
            fig.draw_without_rendering()  # ticks are made late, in the style of that moment
        return fig

    return styled


def _figure(height: float, title: str = "") -> Figure:
    """A figure as wide as a notebook's column and `height` inches high."""
    fig = Figure(figsize=(matplotlib.rcParams["figure.figsize"][0], height))
    if title:
        fig.suptitle(title)
    return fig


def _panels(fig: Figure, rows: int, columns: int, **kwargs: Any) -> list[Axes]:
    return list(fig.subplots(rows, columns, squeeze=False, **kwargs).flat)


def _described(fig: Figure, *sentences: str) -> Figure:
    fig.set_label(" ".join(sentences))
    return fig


def _colour(label: str) -> str:
    """The colour of a label's abnormality ("Abnormal-ELBOW"); grey for anything else."""
    return ABNORMALITIES.get(split(label)[0], _OTHER)


def _listed(items: Mapping[str, Any] | pd.Series, form: str = "{:,}") -> str:
    return ", ".join(f"{name} {form.format(value)}" for name, value in items.items())


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _whole_numbers(ax: Axes, axis: str = "x", most: int = 8) -> None:
    """Ticks at whole numbers only, also where there is but one."""
    getattr(ax, f"{axis}axis").set_major_locator(MaxNLocator(most, integer=True, min_n_ticks=1))


def _radiograph(ax: Axes, image: np.ndarray, title: str = "") -> None:
    """Draw (H, W) uint8 or (H, W, 3) uint8 in the middle of a black square, without ticks."""
    height, width = image.shape[:2]
    ax.imshow(image, cmap="gray", vmin=0, vmax=255)
    side = max(height, width) / 2
    x, y = (width - 1) / 2, (height - 1) / 2
    ax.set(xlim=(x - side, x + side), ylim=(y + side, y - side), xticks=[], yticks=[])
    ax.set_facecolor("black")
    ax.set_title(title, fontsize=9, loc="center")
    ax.spines[:].set_visible(True)


def _say_instead(ax: Axes, text: str) -> None:
    """Say in an empty panel why it is empty."""
    ax.text(0.5, 0.5, text, ha="center", transform=ax.transAxes)
    ax.set_axis_off()


def _bars(ax: Axes, frame: pd.DataFrame, x: str, y: str, form: str = "{:,.0f}", **kwargs) -> None:
    """Seaborn's bars in the exact colours of the palette, each with its number at its end."""
    horizontal = pd.api.types.is_numeric_dtype(frame[x])
    sns.barplot(frame, x=x, y=y, ax=ax, saturation=1, edgecolor="black", linewidth=0.5, **kwargs)
    for container in ax.containers:
        ax.bar_label(container, fmt=form.format, fontsize=9, padding=2)
    (ax.xaxis if horizontal else ax.yaxis).set_major_formatter(StrMethodFormatter("{x:,g}"))
    ax.margins(**{"x" if horizontal else "y": 0.16})
    ax.tick_params(left=not horizontal, bottom=horizontal)


def _shared_legend(fig: Figure, axes: Sequence[Axes]) -> None:
    """One legend for all panels, below them."""
    handles, labels = axes[0].get_legend_handles_labels()
    for ax in axes:
        if ax.get_legend() is not None:
            ax.get_legend().remove()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def _dots(
    ax: Axes, frame: pd.DataFrame, value: str, colours: Sequence[str], filled: bool = True
) -> None:
    """One dot a row, from the top, with its interval where the frame has `low` and `high`."""
    for row, (entry, colour) in enumerate(zip(frame.to_dict("records"), colours, strict=True)):
        if pd.notna(entry.get("low")):
            ax.plot([entry["low"], entry["high"]], [row, row], color=colour, linewidth=2)
        face = colour if filled else "white"
        ax.plot(entry[value], row, "o", color=colour, markerfacecolor=face, markersize=8)
    ax.set_ylim(len(frame) - 0.4, -0.6)
    ax.grid(True, axis="x")
    ax.tick_params(left=False)


def _dumbbells(
    ax: Axes, frame: pd.DataFrame, ours: str, report: str, colours: Sequence[str]
) -> None:
    """Our value filled, the report's hollow, and a line between them."""
    ax.hlines(range(len(frame)), frame[ours], frame[report], color=colours, linewidth=1)
    _dots(ax, frame, report, colours, filled=False)
    _dots(ax, frame, ours, colours)
    for face, label in ((_OURS, "ours"), ("white", "the report's, on MURA")):
        ax.plot([], [], "o", color=_OURS, markerfacecolor=face, markersize=8, label=label)


# --- 01 data understanding ----------------------------------------------------------------------


def _tally(frame: pd.DataFrame, parts: Sequence[str] | None = None) -> pd.DataFrame:
    """Images per body part and abnormality, zeros included: body_part, abnormality, images."""
    table = pd.crosstab(frame["body_part"], frame["abnormality"])
    table = table.reindex(index=parts, columns=list(ABNORMALITIES), fill_value=0)
    return table.rename_axis("body_part").reset_index().melt("body_part", value_name="images")


@_styled
def sample_grid(images: Mapping[tuple[str, str], np.ndarray]) -> Figure:
    """One radiograph a class (report Fig. 3): body parts are columns, abnormalities rows.

    Args:
        images: (body part, abnormality) -> (H, W) uint8; a class may be missing.
    """
    parts = sorted({part for part, _ in images})
    tile = min(8.4 / len(parts), 1.9)
    fig = _figure(2 * tile + 0.55, "One radiograph of each class")
    for ax, (row, part) in zip(
        _panels(fig, 2, len(parts)), [(a, p) for a in ABNORMALITIES for p in parts], strict=True
    ):
        image = images.get((part, row))
        _radiograph(ax, np.zeros((2, 2), np.uint8) if image is None else image)
        if image is None:
            ax.text(0.5, 0.5, "none", color="white", ha="center")
        if row == ABNORMAL:
            ax.set_title(part, fontsize=9, loc="center")
        if part == parts[0]:
            ax.set_ylabel(row, color=ABNORMALITIES[row], fontweight="bold")
    return _described(
        fig,
        f"{len(images)} radiographs, abnormal above, normal below,",
        f"of {len(parts)} body parts: {', '.join(parts)}.",
    )


@_styled
def pixel_analysis(
    image: np.ndarray, title: str, sample_means: np.ndarray, sample_stds: np.ndarray
) -> Figure:
    """A radiograph, its histogram, and the intensities of images like it (report Fig. 4, 5).

    Args:
        image: (H, W) uint8.
        title: its label, such as "Normal-HUMERUS".
        sample_means: (n,) mean grey level of n images of that label, 0..255; NaN if not measured.
        sample_stds: (n,) their standard deviations.
    """
    fig = _figure(3.3, f"Pixel analysis: {title}")
    radiograph, histogram, samples = _panels(fig, 1, 3)
    colour = _colour(title)
    _radiograph(radiograph, image, f"{image.shape[1]} x {image.shape[0]} pixels")

    weights = np.full(image.size, 1 / image.size)
    histogram.hist(image.ravel(), bins=64, range=(0, 256), weights=weights, color=colour)
    histogram.set(yscale="log", xlim=(0, 255), xlabel="grey level (0–255)")
    histogram.set(ylabel="share of the pixels (log)", title="Histogram of this image")
    histogram.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")

    means, stds = np.asarray(sample_means, float), np.asarray(sample_stds, float)
    means, stds = means[~np.isnan(means)], stds[~np.isnan(means)]
    count = _count(len(means), "image")
    samples.set_title(f"Mean ± std of {count}")
    described = f"{title}: a radiograph with mean grey level {image.mean():.0f} and standard"
    if not len(means):
        _say_instead(samples, "No other image was measured.")
        unmeasured = f"deviation {image.std():.0f}, and its histogram; no other was measured."
        return _described(fig, described, unmeasured)
    number = np.arange(1, len(means) + 1)
    samples.errorbar(number, means, stds, fmt="o", color=colour, elinewidth=1, capsize=2)
    samples.set(ylim=(0, 255), xlabel="image", ylabel="grey level (0–255)")
    _whole_numbers(samples)
    samples.grid(axis="y")
    return _described(
        fig,
        described,
        f"deviation {image.std():.0f}; its histogram; and {count}, whose means range",
        f"from {means.min():.0f} to {means.max():.0f}.",
    )


@_styled
def image_counts(manifest: pd.DataFrame) -> Figure:
    """Images per class; `manifest` has body_part and abnormality."""
    counts = _tally(manifest)
    abnormal = (manifest["abnormality"] == ABNORMAL).mean()
    classes = int((counts["images"] > 0).sum())
    summary = f"{len(manifest):,} images in {classes} classes, {abnormal:.1%} of them abnormal"
    fig = _figure(3.4, summary)
    (ax,) = _panels(fig, 1, 1)
    _bars(ax, counts, "body_part", "images", hue="abnormality", palette=ABNORMALITIES)
    ax.set(xlabel="", ylabel="images")
    _shared_legend(fig, [ax])
    largest, smallest = counts.loc[counts["images"].idxmax()], counts.loc[counts["images"].idxmin()]
    return _described(
        fig,
        f"{summary}. The largest is {join(largest.abnormality, largest.body_part)} with",
        f"{largest.images:,}, the smallest {join(smallest.abnormality, smallest.body_part)} with",
        f"{smallest.images:,}.",
    )


@_styled
def image_sizes(inventory: pd.DataFrame) -> Figure:
    """Sizes and pixel modes; `inventory` has width, height (pixels; NaN if unread) and mode."""
    read = inventory.dropna(subset=["width", "height", "mode"])
    read = read[read["width"] > 0]
    sizes = read.groupby(["width", "height", "mode"]).size().rename("images").reset_index()
    sizes = sizes.sort_values("images", ascending=False)  # small marks on top of large ones
    modes = read["mode"].value_counts()
    palette = dict(zip(modes.index, sns.color_palette("viridis", len(modes)), strict=True))
    fig = _figure(3.8, f"{len(read):,} images in {len(sizes):,} combinations of size and mode")
    scatter, bars = _panels(fig, 1, 2, width_ratios=[2, 1])
    if read.empty:
        for ax in (scatter, bars):
            _say_instead(ax, "No file was opened.")
        return _described(fig, "No file was opened: sizes and modes are not known.")
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
    _bars(bars, tally, "images", "mode", hue="mode", palette=palette, legend=False)
    bars.set(title="Mode as stored", xlabel="images", ylabel="")
    return _described(
        fig,
        f"{len(read):,} images, {read['width'].min():.0f} to {read['width'].max():.0f} pixels wide",
        f"and {read['height'].min():.0f} to {read['height'].max():.0f} high; modes:",
        f"{_listed(modes)}.",
    )


# --- 02 data pre-processing ---------------------------------------------------------------------


@_styled
def faults(quality: Mapping[str, Any]) -> Figure:
    """What the scan excluded, per fault, and what was remarked, per kind.

    Args:
        quality: the content of quality.json; `counts` with `listed` and `admitted`, `excluded`
            (list of records with `fault`) and `remarks` (kind -> list) are read.
    """
    counts = quality["counts"]
    excluded = Counter(record["fault"] for record in quality["excluded"])
    remarks = Counter({kind: len(found) for kind, found in quality["remarks"].items()})
    fig = _figure(
        1.6 + 0.34 * max(len(excluded), len(remarks), 2),
        f"{counts['listed']:,} images listed, {counts['admitted']:,} admitted",
    )
    panels = (
        ("Files excluded, per fault", excluded, "No file was excluded."),
        ("Remarks, per kind", remarks, "Nothing odd was met."),
    )
    for ax, (title, tally, nothing) in zip(_panels(fig, 1, 2), panels, strict=True):
        tally = {kind: number for kind, number in tally.most_common() if number}
        ax.set_title(title)
        if not tally:
            _say_instead(ax, nothing)
            continue
        frame = pd.DataFrame({"kind": list(tally), "files": list(tally.values())})
        _bars(ax, frame, "files", "kind", color=_OTHER)
        ax.set(xlabel="files", ylabel="")
        _whole_numbers(ax, most=5)
        if max(tally.values()) > 100:
            ax.set(xscale="symlog", xlabel="files (log)", xlim=(0, 4 * max(tally.values())))
    return _described(
        fig,
        f"{counts['listed']:,} images listed, {counts['admitted']:,} admitted.",
        f"Excluded: {_listed(excluded) or 'none'}. Remarks: {_listed(remarks) or 'none'}.",
    )


# --- 03 data preparation ------------------------------------------------------------------------


@_styled
def class_counts(manifest: pd.DataFrame, splits: pd.DataFrame) -> Figure:
    """Images per class in each split (report Fig. 8).

    Args:
        manifest: path, body_part, abnormality.
        splits: path, split.
    """
    rows = manifest.merge(splits, on="path")
    parts = sorted(rows["body_part"].unique())
    sizes = rows["split"].value_counts().reindex(SPLITS).dropna().astype(int)
    fig = _figure(1.4 + 0.5 * len(parts), "Images per class in each split")
    axes = _panels(fig, 1, len(sizes), sharey=True)
    for ax, (name, size) in zip(axes, sizes.items(), strict=True):
        counts = _tally(rows[rows["split"] == name], parts)
        _bars(ax, counts, "images", "body_part", hue="abnormality", palette=ABNORMALITIES)
        ax.set(title=f"{name}: {size:,} images", xlabel="images (own scale)", ylabel="")
        _whole_numbers(ax, most=4)
    _shared_legend(fig, axes)
    return _described(
        fig, f"Images per class for {len(parts)} body parts in each split: {_listed(sizes)}."
    )


@_styled
def split_distributions(manifest: pd.DataFrame, splits: pd.DataFrame) -> Figure:
    """Shares of the abnormalities and of the body parts in each split (report Fig. 9).

    Args:
        manifest: path, body_part, abnormality.
        splits: path, split.
    """
    rows = manifest.merge(splits, on="path")
    names = [name for name in SPLITS if name in set(rows["split"])]
    fig = _figure(1.6 + 0.62 * rows["body_part"].nunique(), "Make-up of the splits")
    axes = _panels(fig, 1, 2)
    for ax, column in zip(axes, ("abnormality", "body_part"), strict=True):
        shares = pd.crosstab(rows["split"], rows[column], normalize="index").loc[names]
        tidy = shares.reset_index().melt("split", value_name="share")
        _bars(ax, tidy, "share", column, "{:.1%}", hue="split", hue_order=names, palette=SPLITS)
        ax.xaxis.set_major_formatter(PercentFormatter(1))
        ax.set(xlabel="share of the split's images", ylabel="", title=column.replace("_", " "))
    _shared_legend(fig, axes)
    abnormal = (rows["abnormality"] == ABNORMAL).groupby(rows["split"]).mean().loc[names]
    return _described(
        fig,
        f"Shares of abnormality and body part per split; abnormal: {_listed(abnormal, '{:.1%}')}.",
    )


@_styled
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
    fig = _figure(1.3 + 0.24 * len(protocols) * (len(whats) + 1), "What each protocol leaks")
    axes = _panels(fig, 1, len(names), sharey=True)
    for ax, name in zip(axes, names, strict=True):
        _bars(
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
    _shared_legend(fig, axes)
    fig.legends[0].set_title("in the training set too: the image's")
    worst = shares.loc[shares["share"].idxmax()]
    return _described(
        fig,
        f"Leakage of {len(protocols)} protocols. The worst: under {worst.protocol},",
        f"{worst.share:.1%} of the {worst.split} images have their {worst.what} in training.",
    )


# --- 04 data transformation ---------------------------------------------------------------------


@_styled
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
    fig = _figure(rows * (8.6 / columns + 0.25) + 0.35, title)
    titles = ["original", *(captions or [f"draw {n + 1}" for n in range(count)])]
    axes = _panels(fig, rows, columns)
    for ax, image, title in zip(axes, [original, *augmented], titles, strict=False):
        _radiograph(ax, image, title)
    axes[0].title.set_fontweight("bold")
    for ax in axes[count + 1 :]:
        ax.set_axis_off()
    return _described(fig, f"A radiograph beside {count} random augmentations of it.")


@_styled
def pca_elbow(results: Sequence[Mapping[str, Any]], variance: float = 0.95) -> Figure:
    """Cumulative explained variance against components (report Fig. 11).

    Args:
        results: records with images_per_class (asked for), images (fitted, in all), method ("pca"
            or "ipca"), explained and held_out (cumulative shares, 0..1, from one component on),
            components (int that reaches `variance`, or None).
        variance: the share that the dotted line marks.
    """
    sizes = sorted({result["images_per_class"] for result in results})
    fig = _figure(3.8, "Explained variance: images that were fitted, and held-out images")
    axes = _panels(fig, 1, len(sizes), sharey=True)
    for ax, size in zip(axes, sizes, strict=True):
        for result in (r for r in results if r["images_per_class"] == size):
            name, colour = PCA_METHODS[result["method"]]
            needed = result["components"]
            for curve, line, label in (
                ("explained", "-", f"{name}: {needed or 'not reached'}"),
                ("held_out", "--", f"{name}, held out"),
            ):
                components = np.arange(1, len(result[curve]) + 1)
                ax.plot(components, result[curve], line, color=colour, label=label)
            if needed:
                ax.plot(needed, result["explained"][needed - 1], "o", color=colour, markersize=8)
        ax.axhline(variance, color=_OTHER, linestyle=":", zorder=0)
        ax.set(xscale="log", ylim=(0, 1.03), xlabel="components (log)")
        fitted = next(r["images"] for r in results if r["images_per_class"] == size)
        ax.set_title(f"up to {_count(size, 'image')} a class: {fitted:,}")
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
    return _described(fig, f"Components for {variance:.0%} of the variance. {found}.")


@_styled
def pca_runtime(frame: pd.DataFrame) -> Figure:
    """Seconds and components of both PCA methods (report Fig. 10).

    Args:
        frame: images_per_class, method ("pca" or "ipca"), seconds, components (NaN: not reached).
    """
    rows = frame.sort_values("images_per_class").assign(
        size=lambda f: f["images_per_class"].map("{:,}".format),
        name=lambda f: f["method"].map(lambda method: PCA_METHODS[method][0]),
    )
    fig = _figure(3.2, "PCA against incremental PCA")
    axes = _panels(fig, 1, 2)
    panels = (
        ("seconds", "run time (s)", "{:.3g}"),
        ("components", "components", "{:.0f}"),
    )
    for ax, (column, label, form) in zip(axes, panels, strict=True):
        _bars(
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
    _shared_legend(fig, axes)
    times = "; ".join(
        f"{row.name_}: {row.seconds:.3g} s on {row.size_} images a class"
        for row in rows.rename(columns={"name": "name_", "size": "size_"}).itertuples()
    )
    return _described(fig, f"Run times. {times}.")


# --- 05 modelling -------------------------------------------------------------------------------


def _marker(history: pd.DataFrame) -> str:
    """Mark the epochs while they are few; one epoch alone would draw no line."""
    return "o" if len(history) <= 30 else ""


@_styled
def training_curves(history: pd.DataFrame, title: str = "Training") -> Figure:
    """Loss and accuracy per epoch, with the epoch of least validation loss (report Fig. 19–25).

    Args:
        history: epoch, loss, accuracy, val_loss, val_accuracy; NaN where an epoch has none.
        title: such as the run's name.
    """
    fig = _figure(3.6, title)
    axes = _panels(fig, 1, 2)
    best = None
    if history["val_loss"].notna().any():
        best = history.loc[history["val_loss"].idxmin()]
    for ax, name in zip(axes, ("loss", "accuracy"), strict=True):
        for part, column in (("train", name), ("validation", f"val_{name}")):
            ax.plot(
                history["epoch"],
                history[column],
                marker=_marker(history),
                color=SPLITS[part],
                linestyle="-" if part == "train" else "--",
                label=part,
            )
        if best is not None:
            ax.axvline(best["epoch"], color=_OTHER, linestyle=":", zorder=0)
            ax.plot(
                best["epoch"],
                best[f"val_{name}"],
                "*",
                color="black",
                markersize=12,
                label=f"best epoch {best['epoch']:.0f}: {best[f'val_{name}']:.3f}",
            )
        ax.set(xlabel="epoch", ylabel="loss" if name == "loss" else "accuracy (share)")
        _whole_numbers(ax)
        ax.grid()
        ax.legend()
    axes[1].set_ylim(0, 1)
    outcome = "there is no validation loss."
    if best is not None:
        outcome = (
            f"the least validation loss is {best['val_loss']:.3f} in epoch {best['epoch']:.0f},"
            f" with validation accuracy {best['val_accuracy']:.3f}."
        )
    return _described(
        fig, f"{title}: loss and accuracy over {_count(len(history), 'epoch')}; {outcome}"
    )


@_styled
def learning_rate(history: pd.DataFrame) -> Figure:
    """Learning rate per epoch on a log axis (report Fig. 26): epoch, learning_rate."""
    rates = history["learning_rate"]
    first, last = rates.iloc[0], rates.iloc[-1]
    reductions = _count(int((rates.diff() < 0).sum()), "reduction")
    fig = _figure(2.8, f"Learning rate: {first:.1e} to {last:.1e}, {reductions}")
    (ax,) = _panels(fig, 1, 1)
    ax.plot(history["epoch"], rates, drawstyle="steps-mid", color=_OURS, marker=_marker(history))
    ax.set(yscale="log", ylim=(rates.min() / 3, rates.max() * 3))
    ax.set(xlabel="epoch", ylabel="learning rate (log)")
    _whole_numbers(ax)
    ax.grid()
    return _described(
        fig,
        f"The learning rate goes from {first:.1e} to {last:.1e}",
        f"over {_count(len(history), 'epoch')}, in {reductions}.",
    )


@_styled
def run_summary(frame: pd.DataFrame) -> Figure:
    """Validation accuracy of the runs beside the report's (report Fig. 28).

    Args:
        frame: run, accuracy (0..1), report (0..1; NaN where the report has no such run).
    """
    fig = _figure(1.5 + 0.35 * len(frame), "Validation accuracy, ours and the report's")
    (ax,) = _panels(fig, 1, 1)
    _dumbbells(ax, frame, "accuracy", "report", [_OURS] * len(frame))
    ax.set_yticks(range(len(frame)), frame["run"])
    ax.set(xlim=(0, 1), xlabel="validation accuracy (share)")
    _shared_legend(fig, [ax])
    pairs = "; ".join(
        f"{row.run} {row.accuracy:.2f}" + (f" (report {row.report:.2f})" * pd.notna(row.report))
        for row in frame.itertuples()
    )
    return _described(fig, f"Validation accuracy per run: {pairs}.")


# --- 06 evaluation ------------------------------------------------------------------------------


@_styled
def confusion_matrix(matrix: np.ndarray, classes: Sequence[str], normalise: bool = True) -> Figure:
    """True classes down, predicted classes across, counts in the cells (report Fig. 29).

    Args:
        matrix: (K, K) counts.
        classes: K labels, in the order of the matrix.
        normalise: colour by the share of the row, so that small classes show; else by count.
    """
    matrix = np.asarray(matrix, int)
    totals = matrix.sum(axis=1)
    shades = matrix / np.maximum(totals, 1)[:, None] if normalise else matrix
    size = len(classes)
    correct = np.trace(matrix)
    title = f"{correct:,} of {totals.sum():,} right ({correct / max(totals.sum(), 1):.1%})"
    fig = _figure(2.4 + 0.42 * size, title)
    (ax,) = _panels(fig, 1, 1)
    sns.heatmap(
        shades,
        annot=matrix,
        fmt="d",
        mask=matrix == 0,
        cmap="magma_r",
        vmin=0,
        vmax=1 if normalise else None,
        linewidths=0.5,
        linecolor="0.85",
        annot_kws={"fontsize": 9},
        ax=ax,
        cbar_kws={"label": "share of the true class" if normalise else "images"},
        xticklabels=classes,
        yticklabels=[f"{c} ({n:,})" for c, n in zip(classes, totals, strict=True)],
    )
    ax.set(xlabel="predicted (an empty cell is 0)", ylabel="true (images)")
    ax.tick_params(length=0)
    ax.tick_params(axis="x", rotation=45)
    for text in ax.get_xticklabels():
        text.set(ha="right", rotation_mode="anchor")
    for text in (*ax.get_xticklabels(), *ax.get_yticklabels()):
        text.set_color(_colour(text.get_text()))
    wrong = matrix - np.diag(np.diag(matrix))
    true, predicted = np.unravel_index(wrong.argmax(), wrong.shape)
    return _described(
        fig,
        f"Confusion matrix of {size} classes: {title}. The commonest confusion:",
        f"{wrong.max():,} images of {classes[true]} taken for {classes[predicted]}.",
    )


Curve = Mapping[str, Any]


@_styled
def roc_curves(
    curves: Mapping[str, Curve | None], micro: Curve | None, macro: Curve | None
) -> Figure:
    """ROC, each class against the rest, one panel a body part, and averages (report Fig. 31).

    Args:
        curves: label -> curve, as in metrics.json: fpr and tpr (rising rates, 0..1) and auc; None
            where there is none, for a class that the evaluated split lacks.
        micro: the same over all decisions.
        macro: the same averaged over the classes.
    """
    parts = sorted(set(map(body_part, curves)))
    panels = {"all classes": {"micro": (micro, "#000000"), "macro": (macro, "#56B4E9")}}
    for part in parts:
        panels[part] = {a: (curves.get(join(a, part)), c) for a, c in ABNORMALITIES.items()}
    columns = 4 if len(panels) > 6 else 3
    rows = -(-len(panels) // columns)
    fig = _figure(0.7 + 2.3 * rows * 4 / (columns + 0.4), "ROC, each class against the rest")
    axes = _panels(fig, rows, columns, sharex=True, sharey=True)
    for ax, (name, lines) in zip(axes, panels.items(), strict=False):
        for (label, (curve, colour)), line in zip(lines.items(), ("-", "--"), strict=True):
            if curve is None:
                ax.plot([], [], line, color=colour, label=f"{label}: none")
            else:
                ax.plot(
                    curve["fpr"],
                    curve["tpr"],
                    line,
                    color=colour,
                    label=f"{label} {curve['auc']:.3f}",
                )
        ax.plot([0, 1], [0, 1], ":", color=_OTHER, linewidth=1)
        ax.set(title=name, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        ax.set(xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        ax.legend(loc="lower right", title="area under the curve", alignment="left")
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    fig.supxlabel("false positive rate", fontsize=10)
    fig.supylabel("true positive rate", fontsize=10)
    everything = {"micro": micro, "macro": macro, **curves}
    areas = {label: curve["auc"] for label, curve in everything.items() if curve is not None}
    return _described(fig, f"ROC curves. Area under the curve: {_listed(areas, '{:.3f}')}.")


@_styled
def prediction_grid(
    images: Sequence[np.ndarray],
    true: Sequence[str],
    predicted: Sequence[str],
    probabilities: Sequence[float],
) -> Figure:
    """Radiographs with what they are and what the model says (report Fig. 32).

    Args:
        images: n arrays (H, W) uint8.
        true: n labels.
        predicted: n labels.
        probabilities: n probabilities of the predicted labels, 0..1.
    """
    columns = min(len(images), 4)
    rows = -(-len(images) // columns)
    right = sum(t == p for t, p in zip(true, predicted, strict=True))
    fig = _figure(0.5 + 2.1 * rows, f"{right} of {len(images)} right")
    axes = _panels(fig, rows, columns)
    for ax, image, truth, answer, probability in zip(
        axes[: len(images)], images, true, predicted, probabilities, strict=True
    ):
        correct = truth == answer
        mark, second = ("✓", "") if correct else ("✗", f"\nbut is {truth}")
        _radiograph(ax, image, f"{mark} {answer} {probability:.0%}{second}")
        if not correct:
            ax.title.set_color(_WRONG)
            ax.spines[:].set(color=_WRONG, linewidth=3)
    for ax in axes[len(images) :]:
        ax.set_axis_off()
    return _described(fig, f"{len(images)} radiographs, {right} of them predicted right.")


def _levels(
    frame: pd.DataFrame, name: str, value: str, title: str, ours: Collection[str]
) -> Figure:
    """Values with their intervals, one panel a level and the number beside each name."""
    frame = frame.dropna(subset=value).reindex(columns=["level", name, value, "low", "high"])
    levels = list(frame.groupby("level", sort=False))
    fig = _figure(0.9 + 0.55 * len(levels) + 0.27 * len(frame), title)
    ratios = [len(rows) + 0.6 for _, rows in levels]
    axes = _panels(fig, len(levels), 1, sharex=True, height_ratios=ratios)
    listed = []
    for ax, (level, rows) in zip(axes, levels, strict=True):
        _dots(ax, rows, value, [_OTHER if ours and n not in ours else _OURS for n in rows[name]])
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
    return _described(fig, f"{title}. {'; '.join(listed)}.")


@_styled
def kappa_comparison(frame: pd.DataFrame, ours: Collection[str] = ()) -> Figure:
    """Cohen's kappa beside others' (report Fig. 36), one panel a level: levels do not compare.

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


@_styled
def intervals(frame: pd.DataFrame, title: str = "Metrics with their 95% intervals") -> Figure:
    """Metrics with their intervals, one panel a level.

    Args:
        frame: level, metric, value, low, high (NaN: no interval), as `evaluation.metrics_table`.
        title: of the figure.
    """
    return _levels(frame, "metric", "value", title, ours=())


@_styled
def per_class_f1(ours: pd.DataFrame, report: pd.DataFrame | None = None) -> Figure:
    """F1 of each class beside the report's (report Fig. 30).

    Args:
        ours: label, f1 (0..1; NaN for a class without images).
        report: label, f1; classes that ours lacks are left out.
    """
    rows = ours[["label", "f1"]].copy()
    named = {} if report is None else report.set_index("label")["f1"]
    rows["report"] = rows["label"].map(named).astype(float)
    colours = [_colour(label) for label in rows["label"]]
    fig = _figure(1.4 + 0.27 * len(rows), "F1 of each class")
    (ax,) = _panels(fig, 1, 1)
    if rows["report"].notna().any():
        _dumbbells(ax, rows, "f1", "report", colours)
        _shared_legend(fig, [ax])
    else:
        _dots(ax, rows, "f1", colours)
    ax.set_yticks(range(len(rows)), rows["label"])
    ax.set(xlim=(-0.02, 1.02), xlabel="F1")
    return _described(
        fig,
        f"F1 per class, mean {rows['f1'].mean():.2f}:",
        f"{_listed(rows.set_index('label')['f1'].dropna(), '{:.2f}')}.",
    )


# --- 07 explainability --------------------------------------------------------------------------


def overlay(image: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """Lay a heat-map over a radiograph; the colour covers more the hotter it is.

    Args:
        image: (H, W), grey, 0..255.
        heatmap: (h, w) in [0, 1]; stretched to the image where it is smaller or larger. Its hottest
            half percent gets the full colour, or single pixels would leave a saliency map dark
            (Smilkov et al. 2017, "SmoothGrad", section 3.1, cap it likewise).

    Returns:
        (H, W, 3) uint8.
    """
    heat = Image.fromarray(np.asarray(heatmap, np.float32))
    heat = np.asarray(heat.resize(image.shape[::-1], Image.Resampling.BILINEAR))
    full = np.quantile(heat, 0.995)
    colour = _HEAT(np.clip(heat / full if full > 0 else heat, 0, 1))
    opacity = colour[..., 3:]
    grey = np.asarray(image, float)[..., None]
    return np.rint(grey * (1 - opacity) + 255 * colour[..., :3] * opacity).astype(np.uint8)


def _outline(ax: Axes, mask: np.ndarray | None) -> None:
    """Draw the border of a mask (H, W) over the radiograph; None draws nothing."""
    if mask is not None:
        ax.contour(mask, levels=[0.5], colors="#56B4E9", linewidths=1.2)


@_styled
def heatmap_rows(
    images: Sequence[np.ndarray],
    titles: Sequence[str],
    heatmaps: Mapping[str, Sequence[np.ndarray]],
    masks: Sequence[np.ndarray | None],
) -> Figure:
    """Radiographs, one a row, each beside its heat-maps (report Fig. 33, 34, 35).

    Args:
        images: n arrays (H, W), 0..255.
        titles: n texts, one above each row.
        heatmaps: name -> n maps (h, w) in [0, 1]; one column a name.
        masks: n arrays (H, W) bool, outlined in their rows, or None.
    """
    tile = min(8.6 / (len(heatmaps) + 1), 1.7)
    heights = [tile + 0.6 + 0.15 * ("\n" in "".join(heatmaps))] * len(images) + [0.6]
    fig = _figure(sum(heights))
    *bands, foot = fig.subfigures(len(heights), 1, height_ratios=heights)
    for row, (band, image) in enumerate(zip(bands, images, strict=True)):
        band.suptitle(titles[row], fontsize=10)
        axes = _panels(band, 1, len(heatmaps) + 1)
        _radiograph(axes[0], image, "radiograph")
        for ax, (name, maps) in zip(axes[1:], heatmaps.items(), strict=True):
            _radiograph(ax, overlay(image, maps[row]), name)
        for ax in axes:
            _outline(ax, masks[row])
    bar = fig.colorbar(ScalarMappable(cmap=_HEAT), cax=foot.subplots(), orientation="horizontal")
    bar.set_label("heat; 1 is the hottest half percent of each map")
    bar.ax.set_facecolor("0.5")
    outlined = sum(mask is not None for mask in masks)
    return _described(
        fig,
        f"{_count(len(images), 'radiograph')} beside their heat-maps",
        f"({', '.join(heatmaps).replace(chr(10), ' ')}); {outlined} with the true region outlined.",
        f"Rows: {'; '.join(titles)}.",
    )


@_styled
def heatmap_grid(
    images: Sequence[np.ndarray],
    heatmaps: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None],
    titles: Sequence[str],
    title: str = "Heat-maps",
) -> Figure:
    """Many radiographs under one kind of heat-map.

    Args:
        images: n arrays (H, W), 0..255.
        heatmaps: n maps (h, w) in [0, 1].
        masks: n arrays (H, W) bool, outlined, or None.
        titles: n texts, one above each.
        title: of the figure.
    """
    columns = min(len(images), 6)
    rows = -(-len(images) // columns)
    fig = _figure(0.5 + 1.65 * rows, title)
    axes = _panels(fig, rows, columns)
    for ax, image, heat, mask, text in zip(
        axes[: len(images)], images, heatmaps, masks, titles, strict=True
    ):
        _radiograph(ax, overlay(image, heat), text)
        _outline(ax, mask)
    for ax in axes[len(images) :]:
        ax.set_axis_off()
    outlined = sum(mask is not None for mask in masks)
    return _described(
        fig,
        f"{title}: {_count(len(images), 'radiograph')} under their heat-maps: {', '.join(titles)};",
        f"{outlined} with the true region outlined.",
    )


@_styled
def score_strip(frame: pd.DataFrame, chance: float | None = None) -> Figure:
    """Heat-map scores of each method, one dot an image and a diamond at the mean.

    Args:
        frame: method, score (0..1; NaN: not scored), kind (which score; one panel each).
        chance: mean score of a map that knows nothing, drawn as a dotted line.
    """
    rows = frame.dropna(subset="score")
    kinds, methods = list(rows["kind"].unique()), list(rows["method"].unique())
    fig = _figure(1.4 + 0.42 * len(methods), "Heat-map scores; a diamond is the mean")
    axes = _panels(fig, 1, len(kinds), sharey=True)
    means = rows.groupby(["kind", "method"])["score"].mean()
    for ax, kind in zip(axes, kinds, strict=True):
        part = rows[rows["kind"] == kind]
        sns.stripplot(
            part,
            x="score",
            y="method",
            order=methods,
            color="#56B4E9",
            alpha=0.5,
            size=4,
            jitter=0.25,
            ax=ax,
        )
        for position, method in enumerate(methods):
            if (kind, method) in means:
                mean = means[kind, method]
                ax.plot(mean, position, "D", color="black", markersize=7, zorder=5)
                ax.annotate(
                    f"{mean:.2f}",
                    (mean, position),
                    (0, 7),
                    textcoords="offset points",
                    ha="center",
                    fontsize=9,
                )
        if chance is not None:
            ax.axvline(chance, color=_WRONG, linestyle=":", label=f"chance: {chance:.3f}")
        right = max(1.15 * part["score"].max(), 0.1) if part["score"].max() < 0.5 else 1.06
        ax.set(xlim=(-0.06 * right, right), xlabel=f"{kind} (0–1)", ylabel="")
        ax.set_title(f"n = {part.groupby('method').size().max():,} images")
        ax.grid(axis="x")
    if chance is not None:
        _shared_legend(fig, axes)
    listed = "; ".join(f"{kind}, {method}: {mean:.2f}" for (kind, method), mean in means.items())
    return _described(fig, f"Mean heat-map scores. {listed}.")
