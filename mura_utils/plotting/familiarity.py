"""Figure of scores of unfamiliarity, notebook 06."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from mura_utils.plotting.style import (
    OTHER,
    OURS,
    SPLITS,
    add_panels,
    in_our_style,
    new_figure,
    thousands,
    with_alt_text,
)

_BINS = 40
_LEAST = 0.01  # a score of 0, as of features that never vary, has no place on a log scale


@in_our_style
def unfamiliar(test: np.ndarray, foreign: np.ndarray, limit: float) -> Figure:
    """How far test images and foreign ones are from the training images, on a log scale.

    Args:
        test: scores of test images; those below 0.01 are drawn there.
        foreign: scores of images that are no bone radiographs.
        limit: an image above it is unfamiliar.
    """
    fig = new_figure(3.2, "Distance from the training images")
    (ax,) = add_panels(fig, 1, 1)
    both = np.concatenate([test, foreign, [limit]]).clip(_LEAST)
    edges = np.geomspace(0.95 * both.min(), 1.05 * both.max(), _BINS + 1)
    groups = {"test": (test, SPLITS["test"]), "foreign or altered": (foreign, OTHER)}
    for name, (scores, color) in groups.items():
        shares = np.full(len(scores), 1 / len(scores))
        label = f"{name} ({thousands(len(scores), 'image')})"
        drawn = np.clip(scores, _LEAST, None)
        ax.hist(drawn, edges, weights=shares, color=color, alpha=0.7, label=label)
    ax.axvline(max(limit, _LEAST), color=OURS, linestyle="--", label=f"limit {limit:.2f}")
    ax.set(xscale="log", xlabel="score (log scale)", ylabel="share of the images")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.legend()
    above = [np.mean(scores > limit) for scores in (test, foreign)]
    return with_alt_text(
        fig,
        f"Histograms of scores on a log scale, with the limit {limit:.2f}.",
        f"Above it are {above[0]:.1%} of {thousands(len(test), 'test image')} and {above[1]:.1%} "
        f"of {thousands(len(foreign), 'image')} that are no bone radiograph.",
    )
