"""How every figure looks: style, palette, alt text, and the parts that several figures share."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from textwrap import fill
from typing import Any, ParamSpec

import matplotlib.style
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from PIL import Image

from mura_utils.labels import ABNORMAL, NORMAL, split
from mura_utils.paths import atomic_write

STYLE = "mura_utils.plotting.mura"  # matplotlib's name for a style sheet in a package

ABNORMALITIES = {ABNORMAL: "#D55E00", NORMAL: "#0072B2"}

SPLITS = {"train": "#009E73", "validation": "#E69F00", "test": "#CC79A7"}

PCA_METHODS = {"pca": ("PCA", "#000000"), "ipca": ("incremental PCA", "#56B4E9")}

OURS, OTHER, WRONG = "#000000", "#777777", "#A50026"

# magma whose opacity grows with the heat: where a map is cold, the radiograph stays as it is
_MAGMA = colormaps["magma"](np.linspace(0, 1, 256))

HEAT = ListedColormap(np.column_stack([_MAGMA[:, :3], np.linspace(0, 0.7, 256)]))

_LETTERS_AN_INCH, _FEWEST_LETTERS = 12, 7

_COLORS_OF_A_DRAWING = 1 << 14  # at most; radiographs have more
_NEARLY_WHITE = 248

P = ParamSpec("P")


def alt_text(fig: Figure) -> str:
    """The description of a figure of this module, with its main numbers; "" for a foreign one.

    Example:
        >>> alt_text(with_alt_text(Figure(), "A radiograph.", "Nothing is abnormal."))
        'A radiograph. Nothing is abnormal.'
    """
    return str(fig.get_label())


def to_png(fig: Figure) -> bytes:
    """The figure as a PNG of its own size, whatever the session's style says on saving.

    One that shows radiographs gets a palette of 256 colors: half as large, looking alike. They are
    not dithered, because dots on a bone look like findings.
    """
    drawn, small = io.BytesIO(), io.BytesIO()
    with matplotlib.style.context(STYLE, after_reset=True):
        fig.savefig(drawn, format="png")
    with Image.open(drawn) as image:
        _with_palette(image).save(small, "png", optimize=True)
    return small.getvalue()


def _with_palette(image: Image.Image) -> Image.Image:
    colors = image.convert("RGB")
    if colors.getcolors(_COLORS_OF_A_DRAWING) is not None:
        return colors
    some = colors.resize([-(-side // 4) for side in colors.size], Image.Resampling.NEAREST)
    palette = some.quantize(256, kmeans=1, dither=Image.Dither.NONE)  # of all: 8 times slower
    entries = np.reshape(palette.getpalette(), (-1, 3))
    entries[(entries >= _NEARLY_WHITE).all(axis=1)] = 255  # the background and edges of its letters
    palette.putpalette(entries.ravel().tolist())
    return colors.quantize(palette=palette, dither=Image.Dither.NONE)


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


def in_our_style(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run `draw` in the package's style and leave the caller's as it was."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.style.context(STYLE, after_reset=True):
            fig = draw(*args, **kwargs)
            fig.draw_without_rendering()  # ticks are made late, in the style of that moment
        return fig

    return styled


def new_figure(height: float, title: str = "") -> Figure:
    """A figure as wide as a notebook's column and `height` inches high."""
    fig = Figure(figsize=(matplotlib.rcParams["figure.figsize"][0], height))
    if title:
        fig.suptitle(title)
    return fig


def add_panels(fig: Figure, rows: int, columns: int, **kwargs: Any) -> list[Axes]:
    """The axes of a grid, row by row."""
    return list(fig.subplots(rows, columns, squeeze=False, **kwargs).flat)


def with_alt_text(fig: Figure, *sentences: str) -> Figure:
    """The figure, with the sentences that stand for it where it cannot be seen."""
    fig.set_label(" ".join(sentences))
    return fig


def color_of(label: str) -> str:
    """The color of a label's abnormality ("Abnormal-ELBOW"); gray for anything else.

    Example:
        >>> color_of("Abnormal-ELBOW")
        '#D55E00'
    """
    return ABNORMALITIES.get(split(label)[0], OTHER)


def wrapped(name: str, inches: float) -> str:
    """A name in lines that fit into a width, as small text is set.

    Example:
        >>> wrapped("CERVICAL SPINE", 0.7)
        'CERVICAL\\nSPINE'
    """
    return fill(name, max(int(_LETTERS_AN_INCH * inches), _FEWEST_LETTERS))


def comma_list(items: Mapping[str, Any] | pd.Series, form: str = "{:,}") -> str:
    """Names and values in a line: "train 3, test 1".

    Example:
        >>> comma_list({"train": 1200, "test": 1})
        'train 1,200, test 1'
    """
    return ", ".join(f"{name} {form.format(value)}" for name, value in items.items())


def thousands(number: int, noun: str) -> str:
    """A count with its noun: "1 image", "1,200 images".

    Example:
        >>> thousands(1, "image"), thousands(1200, "image")
        ('1 image', '1,200 images')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def whole_numbers(ax: Axes, axis: str = "x", most: int = 8) -> None:
    """Ticks at whole numbers only, also where there is but one."""
    getattr(ax, f"{axis}axis").set_major_locator(MaxNLocator(most, integer=True, min_n_ticks=1))


def draw_image(ax: Axes, image: np.ndarray, title: str = "") -> None:
    """Draw (H, W) uint8 or (H, W, 3) uint8 in the middle of a black square, without ticks."""
    height, width = image.shape[:2]
    ax.imshow(image, cmap="gray", vmin=0, vmax=255)
    side = max(height, width) / 2
    x, y = (width - 1) / 2, (height - 1) / 2
    ax.set(xlim=(x - side, x + side), ylim=(y + side, y - side), xticks=[], yticks=[])
    ax.set_facecolor("black")
    ax.set_title(title, fontsize=9, loc="center")
    ax.spines[:].set_visible(True)


def say_instead(ax: Axes, text: str) -> None:
    """Say in an empty panel why it is empty."""
    ax.text(0.5, 0.5, text, ha="center", transform=ax.transAxes)
    ax.set_axis_off()


def draw_bars(
    ax: Axes, frame: pd.DataFrame, x: str, y: str, form: str = "{:,.0f}", **kwargs
) -> None:
    """Seaborn's bars in the exact colors of the palette, each with its number at its end."""
    horizontal = pd.api.types.is_numeric_dtype(frame[x])
    sns.barplot(frame, x=x, y=y, ax=ax, saturation=1, edgecolor="black", linewidth=0.5, **kwargs)
    for container in ax.containers:
        ax.bar_label(container, fmt=form.format, fontsize=9, padding=2)
    (ax.xaxis if horizontal else ax.yaxis).set_major_formatter(StrMethodFormatter("{x:,g}"))
    ax.margins(**{"x" if horizontal else "y": 0.16})
    ax.tick_params(left=not horizontal, bottom=horizontal)


def share_legend(fig: Figure, axes: Sequence[Axes]) -> None:
    """One legend for all panels, below them."""
    handles, labels = axes[0].get_legend_handles_labels()
    for ax in axes:
        if ax.get_legend() is not None:
            ax.get_legend().remove()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def draw_outline(ax: Axes, mask: np.ndarray | None) -> None:
    """Draw the border of a mask (H, W) over the radiograph; None draws nothing."""
    if mask is not None:
        ax.contour(mask, levels=[0.5], colors="#56B4E9", linewidths=1.2)


def draw_dots(
    ax: Axes, frame: pd.DataFrame, value: str, colors: Sequence[str], filled: bool = True
) -> None:
    """One dot a row, from the top, with its interval where the frame has `low` and `high`."""
    for row, (entry, color) in enumerate(zip(frame.to_dict("records"), colors, strict=True)):
        if pd.notna(entry.get("low")):
            ax.plot([entry["low"], entry["high"]], [row, row], color=color, linewidth=2)
        face = color if filled else "white"
        ax.plot(entry[value], row, "o", color=color, markerfacecolor=face, markersize=8)
    ax.set_ylim(len(frame) - 0.4, -0.6)
    ax.grid(True, axis="x")
    ax.tick_params(left=False)


def draw_dumbbells(
    ax: Axes, frame: pd.DataFrame, ours: str, report: str, colors: Sequence[str]
) -> None:
    """Our value filled, the report's hollow, and a line between them."""
    ax.hlines(range(len(frame)), frame[ours], frame[report], color=colors, linewidth=1)
    draw_dots(ax, frame, report, colors, filled=False)
    draw_dots(ax, frame, ours, colors)
    for face, label in ((OURS, "ours"), ("white", "the report's, on MURA")):
        ax.plot([], [], "o", color=OURS, markerfacecolor=face, markersize=8, label=label)


def count_values(frame: pd.DataFrame, parts: Sequence[str] | None = None) -> pd.DataFrame:
    """Images per body part and abnormality, zeros included: body_part, abnormality, images.

    Example:
        >>> frame = pd.DataFrame({"body_part": ["HAND", "HAND"], "abnormality": ["Abnormal"] * 2})
        >>> count_values(frame).to_dict("records")[1]
        {'body_part': 'HAND', 'abnormality': 'Normal', 'images': 0}
    """
    table = pd.crosstab(frame["body_part"], frame["abnormality"])
    table = table.reindex(index=parts, columns=list(ABNORMALITIES), fill_value=0)
    return table.rename_axis("body_part").reset_index().melt("body_part", value_name="images")
