"""Figures of a network and its training, notebook 05 (report Fig. 12 to 14 and 19 to 26)."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mura_utils.plotting.style import (
    OTHER,
    OURS,
    SPLITS,
    add_panels,
    draw_dots,
    in_our_style,
    new_figure,
    say_instead,
    thousands,
    whole_numbers,
    with_alt_text,
)


def _marker(history: pd.DataFrame) -> str:
    """Mark the epochs while they are few; one epoch alone would draw no line."""
    return "o" if len(history) <= 30 else ""


@in_our_style
def training_curves(history: pd.DataFrame, title: str = "Training") -> Figure:
    """Loss and accuracy per epoch, with the epoch of least validation loss (report Fig. 19–25).

    Args:
        history: epoch, loss, accuracy, val_loss, val_accuracy; NaN where an epoch has none.
        title: such as the run's name.

    Example:
        >>> epochs = {"epoch": [1, 2], "loss": [1.0, 0.5], "accuracy": [0.5, 0.75]}
        >>> history = pd.DataFrame(epochs | {"val_loss": [1.0, 0.75], "val_accuracy": [0.5, 0.5]})
        >>> training_curves(history, "demo").get_label()[:38]
        'demo: loss and accuracy over 2 epochs;'
    """
    fig = new_figure(3.6, title)
    axes = add_panels(fig, 1, 2)
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
            ax.axvline(best["epoch"], color=OTHER, linestyle=":", zorder=0)
            ax.plot(
                best["epoch"],
                best[f"val_{name}"],
                "*",
                color="black",
                markersize=12,
                label=f"best epoch {best['epoch']:.0f}: {best[f'val_{name}']:.3f}",
            )
        ax.set(xlabel="epoch", ylabel="loss" if name == "loss" else "accuracy (share)")
        whole_numbers(ax)
        ax.grid()
        ax.legend()
    axes[0].set_ylim(0, _top_of_losses(history))
    axes[1].set_ylim(0, 1)
    outcome = "there is no validation loss."
    if best is not None:
        outcome = (
            f"the least validation loss is {best['val_loss']:.3f} in epoch {best['epoch']:.0f},"
            f" with validation accuracy {best['val_accuracy']:.3f}."
        )
    return with_alt_text(
        fig, f"{title}: loss and accuracy over {thousands(len(history), 'epoch')}; {outcome}"
    )


def _top_of_losses(history: pd.DataFrame) -> float | None:
    """The end of the axis: the first epoch's loss, high above all others, may lie beyond."""
    top = 1.05 * history[["loss", "val_loss"]].iloc[1:].max().max()
    return float(top) if len(history) > 4 and np.isfinite(top) else None


@in_our_style
def learning_rate(history: pd.DataFrame) -> Figure:
    """Learning rate per epoch on a log axis (report Fig. 26): epoch, learning_rate."""
    rates = history["learning_rate"]
    first, last = rates.iloc[0], rates.iloc[-1]
    reductions = thousands(int((rates.diff() < 0).sum()), "reduction")
    fig = new_figure(2.8, f"Learning rate: {first:.1e} to {last:.1e}, {reductions}")
    (ax,) = add_panels(fig, 1, 1)
    ax.plot(history["epoch"], rates, drawstyle="steps-mid", color=OURS, marker=_marker(history))
    lowest = rates[rates > 0].min()  # a cosine may end at 0, which has no place on a log axis
    ax.set(yscale="log", ylim=(lowest / 3, rates.max() * 3))
    ax.set(xlabel="epoch", ylabel="learning rate (log)")
    whole_numbers(ax)
    ax.grid()
    return with_alt_text(
        fig,
        f"The learning rate goes from {first:.1e} to {last:.1e}",
        f"over {thousands(len(history), 'epoch')}, in {reductions}.",
    )


_KINDS = {
    "GlobalAveragePooling2D": "average pooling",
    "GlobalMaxPooling2D": "max pooling",
    "BatchNormalization": "batch norm",
}
_PRODUCTS = {"Multiply", "Dot"}
_WIDTH, _LINE, _CHARACTER = 9.0, 0.2, 0.072  # inches: of a figure, a line's height, a character
_ASIDE, _BELOW = 0.15, 0.4  # inches between boxes

Node = str | tuple[str, str, int]  # a box by its first layer, or where an arrow passes a level


@in_our_style
def architecture(summary: pd.DataFrame, title: str = "The head") -> Figure:
    """A network's head as boxes and arrows (report Fig. 12 to 14, 20, 22, 24).

    Layers that only follow one another share a box. A line holds a layer's name, its kind, its
    activation and the shape of one image's output; a box with a product is shaded.

    Args:
        summary: as returned by `network.build.head_summary`.
        title: of the figure.

    Example:
        >>> layers = {"layer": ["features", "pool"], "type": ["backbone", "GlobalMaxPooling2D"]}
        >>> layers |= {"output": ["7 × 7 × 64", "64"], "reads": ["", "features"]}
        >>> architecture(pd.DataFrame(layers).set_index("layer"), "A head").get_label()
        'A head: 1 layer from features (7 × 7 × 64) to pool (64). From the top: features; pool.'
    """
    boxes = _boxes(summary)
    rows, links = _levels(boxes, summary)
    places, height = _places(rows, boxes, summary)
    fig = new_figure(height, title)
    fig.set_layout_engine("none")  # inches are the axes' units
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, _WIDTH), ylim=(height, 0))
    ax.set_axis_off()
    for start, end in links:
        _connect(ax, places, [start for start, other in links if other == end], start, end)
    for node, place in places.items():
        if isinstance(node, str):
            _draw_box(ax, place, summary.loc[boxes[node]])
    ends = (f"{name} ({summary['output'][name]})" for name in (summary.index[0], summary.index[-1]))
    shown = [" and ".join(", ".join(boxes[node]) for node in row if node in boxes) for row in rows]
    return with_alt_text(
        fig,
        f"{title}: {thousands(len(summary) - 1, 'layer')} from {' to '.join(ends)}.",
        f"From the top: {'; '.join(shown)}.",
    )


def _boxes(summary: pd.DataFrame) -> dict[str, list[str]]:
    """Layers by the first one of their box, in the graph's order."""
    reads = summary["reads"].map(_names)
    readers = Counter(name for names in reads for name in set(names))
    first: dict[str, str] = {}
    for name, names in reads.items():
        alone = len(names) == 1 and readers[names[0]] == 1 and names[0] != summary.index[0]
        first[name] = first[names[0]] if alone else name
    boxes: dict[str, list[str]] = {}
    for name, box in first.items():
        boxes.setdefault(box, []).append(name)
    return boxes


def _names(reads: str) -> list[str]:
    return reads.split(", ") if reads else []


def _levels(
    boxes: dict[str, list[str]], summary: pd.DataFrame
) -> tuple[list[list[Node]], list[tuple[Node, Node]]]:
    """Boxes level by level from the top, as low as they can be, and what is to be connected."""
    box_of = {layer: box for box, layers in boxes.items() for layer in layers}
    edges = dict.fromkeys((box_of[r], box) for box in boxes for r in _names(summary["reads"][box]))
    below: dict[str, int] = {}
    for box in reversed(boxes):
        below[box] = 1 + max((below[end] for start, end in edges if start == box), default=-1)
    top = max(below.values())
    rows: list[list[Node]] = [[] for _ in range(top + 1)]
    for box in boxes:
        rows[top - below[box]].append(box)
    links: list[tuple[Node, Node]] = []
    for start, end in edges:
        passed = [(start, end, level) for level in range(top - below[start] + 1, top - below[end])]
        for node in passed:
            rows[node[2]].append(node)
        links += pairwise([start, *passed, end])
    position: dict[Node, float] = {}
    for row in reversed(rows):  # each above the middle of what reads it
        row.sort(key=lambda node: mean([position[e] for s, e in links if s == node] or [0]))
        position |= {node: index - (len(row) - 1) / 2 for index, node in enumerate(row)}
    return rows, links


def _places(
    rows: list[list[Node]], boxes: dict[str, list[str]], summary: pd.DataFrame
) -> tuple[dict[Node, tuple[float, float, float, float]], float]:
    """Middle, top, width and height of each node, in inches, and the figure's height."""
    places: dict[Node, tuple[float, float, float, float]] = {}
    y = 0.5
    for row in rows:
        layers = [boxes[node] if isinstance(node, str) else [] for node in row]
        for lines in (1, 2):  # of a layer; its output's shape goes below where a line is too long
            widths = [_text_width(summary.loc[names], lines) if names else 0 for names in layers]
            if sum(widths) + _ASIDE * (len(row) + 1) <= _WIDTH:
                break
        height = _LINE * lines * max(map(len, layers)) + 0.16
        x = (_WIDTH - sum(widths) - _ASIDE * (len(row) - 1)) / 2
        for node, names, width in zip(row, layers, widths, strict=True):
            own = _LINE * lines * len(names) + 0.16 if names else height
            places[node] = (x + width / 2, y + (height - own) / 2, width, own)
            x += width + _ASIDE
        y += height + _BELOW
    return places, y - _BELOW + 0.15


def _text_width(layers: pd.DataFrame, lines: int) -> float:
    texts = [[*map(len, _texts(layer))] for layer in layers.itertuples()]
    longest = max(sum(pair) + 2 if lines == 1 else max(pair) for pair in texts)
    return _CHARACTER * longest + 0.25


def _texts(layer: Any) -> tuple[str, str]:
    """Name, kind and activation, and the output's shape."""
    kind, activation = _KINDS.get(layer.type, layer.type), getattr(layer, "activation", "")
    kinds = [activation] if kind == "Activation" else [kind, activation]
    return f"{layer.Index}: {', '.join(filter(None, kinds))}", layer.output


def _draw_box(ax: Axes, place: tuple[float, float, float, float], layers: pd.DataFrame) -> None:
    x, y, width, height = place
    face = "white"
    if "backbone" in set(layers["type"]):
        face = "0.88"
    elif _PRODUCTS & set(layers["type"]):
        face = "#FCE5C0"
    corner = (x - width / 2, y)
    ax.add_patch(Rectangle(corner, width, height, facecolor=face, edgecolor=OURS, zorder=2))
    each = (height - 0.16) / len(layers)  # one line, or two
    for number, layer in enumerate(layers.itertuples()):
        left, right = _texts(layer)
        top, bottom = y + 0.08 + each * number, y + 0.08 + each * (number + 1)
        common = {"fontsize": 9, "va": "center", "zorder": 3}
        ax.text(x - width / 2 + 0.1, top + _LINE / 2, left, ha="left", **common)
        edge = x + width / 2 - 0.1
        ax.text(edge, bottom - _LINE / 2, right, ha="right", color="0.35", **common)


def _connect(
    ax: Axes,
    places: dict[Node, tuple[float, float, float, float]],
    sources: list[Node],
    start: Node,
    end: Node,
) -> None:
    """An arrow down; the arrows that reach one box are spread over its width."""
    (x, y, _, height), (to_x, to_y, width, to_height) = places[start], places[end]
    if not isinstance(end, str):
        ax.plot([x, to_x, to_x], [y + height, to_y, to_y + to_height], color=OTHER, linewidth=1)
        return
    order = sorted(sources, key=lambda source: places[source][0])
    to_x += width * 0.6 * ((order.index(start) + 0.5) / len(order) - 0.5)
    arrow = {"arrowstyle": "-|>", "color": OTHER, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", (to_x, to_y), (x, y + height), arrowprops=arrow)


@in_our_style
def ablation(frame: pd.DataFrame) -> Figure:
    """What each removal costs, one panel a metric: difference from the whole recipe.

    Args:
        frame: as returned by `evaluation.ablation.read_ablation`; without rows, the figure says so.
    """
    means = frame[(frame["seed"] == "mean") & ~frame["change"].isin(frame["change"].iloc[:1])]
    metrics, changes = (list(dict.fromkeys(means[name])) for name in ("metric", "change"))
    fig = new_figure(1.2 + 0.36 * max(len(changes), 2), "What is lost when one part is taken away")
    axes = add_panels(fig, 1, max(len(metrics), 1), sharey=True)
    if not metrics:
        say_instead(axes[0], "Not measured here: benchmarks/ablation.py measures it.")
        return with_alt_text(fig, "An empty figure: nothing was measured here.")
    columns = {"difference_low": "low", "difference_high": "high"}
    for ax, metric in zip(axes, metrics, strict=True):
        rows = means[means["metric"] == metric].drop(columns=["low", "high"])
        draw_dots(ax, rows.rename(columns=columns), "difference", [OURS] * len(rows))
        ax.axvline(0, color=OTHER, linestyle=":", zorder=0)
        ax.set_title(metric)
    axes[0].set_yticks(range(len(changes)), changes)
    fig.supxlabel("difference from the whole recipe", fontsize=10)
    found = "; ".join(
        f"{row.change}, {row.metric}: {row.difference:+.3f}"
        for row in means.dropna(subset="difference").itertuples()
    )
    return with_alt_text(fig, f"Differences from the whole recipe. {found}.")
