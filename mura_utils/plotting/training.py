"""Figures of a training, notebook 05 (report Fig. 19 to 26)."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from mura_utils.plotting.style import (
    OTHER,
    OURS,
    SPLITS,
    add_panels,
    in_our_style,
    new_figure,
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


@in_our_style
def learning_rate(history: pd.DataFrame) -> Figure:
    """Learning rate per epoch on a log axis (report Fig. 26): epoch, learning_rate."""
    rates = history["learning_rate"]
    first, last = rates.iloc[0], rates.iloc[-1]
    reductions = thousands(int((rates.diff() < 0).sum()), "reduction")
    fig = new_figure(2.8, f"Learning rate: {first:.1e} to {last:.1e}, {reductions}")
    (ax,) = add_panels(fig, 1, 1)
    ax.plot(history["epoch"], rates, drawstyle="steps-mid", color=OURS, marker=_marker(history))
    ax.set(yscale="log", ylim=(rates.min() / 3, rates.max() * 3))
    ax.set(xlabel="epoch", ylabel="learning rate (log)")
    whole_numbers(ax)
    ax.grid()
    return with_alt_text(
        fig,
        f"The learning rate goes from {first:.1e} to {last:.1e}",
        f"over {thousands(len(history), 'epoch')}, in {reductions}.",
    )
