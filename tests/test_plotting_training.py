"""The figures of notebook 05."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from figures import make_history, texts, tick_labels
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation

from mura_utils import plotting
from mura_utils.evaluation.ablation import COLUMNS


@pytest.mark.parametrize(("epochs", "best"), [(1, 1), (12, 7), (150, 7)])
def test_training_curves_mark_the_epoch_of_least_validation_loss(epochs, best):
    fig = plotting.training_curves(make_history(epochs), "exp1")
    stars = [line for ax in fig.axes for line in ax.lines if line.get_marker() == "*"]
    assert [line.get_xdata()[0] for line in stars] == [best, best]
    train, validation = fig.axes[0].lines[:2]
    assert (train.get_color(), validation.get_color()) == ("#009E73", "#E69F00")
    assert len(train.get_xdata()) == epochs
    assert all(float(tick).is_integer() for tick in fig.axes[0].get_xticks())
    assert f"in epoch {best}," in plotting.alt_text(fig)


def test_the_loss_of_the_first_epoch_does_not_flatten_the_others():
    losses = [9.0, 1.0, 0.9, 0.8, 0.7, 0.6]
    history = pd.DataFrame({"epoch": range(1, 7), "loss": losses, "val_loss": losses})
    history = history.assign(accuracy=0.5, val_accuracy=0.5)
    assert plotting.training_curves(history).axes[0].get_ylim() == pytest.approx((0, 1.05))
    assert plotting.training_curves(history[:3]).axes[0].get_ylim()[1] > 9


def test_training_curves_bear_missing_values():
    history = make_history(9)
    history.loc[6, ["val_loss", "val_accuracy"]] = np.nan
    assert "in epoch 6," in plotting.alt_text(plotting.training_curves(history))
    history[["val_loss", "val_accuracy"]] = np.nan
    assert "no validation loss" in plotting.alt_text(plotting.training_curves(history))


def test_learning_rate_is_logarithmic_and_counts_reductions():
    fig = plotting.learning_rate(make_history(12))
    assert fig.axes[0].get_yscale() == "log"
    assert "Learning rate: 1.0e-05 to 4.0e-07, 2 reductions" in texts(fig)


def test_a_learning_rate_that_ends_at_0_has_an_axis():
    history = pd.DataFrame({"epoch": [1, 2, 3], "learning_rate": [3e-4, 3e-5, 0.0]})
    assert plotting.learning_rate(history).axes[0].get_ylim() == pytest.approx((1e-5, 9e-4))


def head(*layers):
    """A table as of `head_summary`: name, type, output, reads."""
    columns = ["layer", "type", "output", "reads"]
    return pd.DataFrame(layers, columns=columns).set_index("layer")


EXP6 = head(
    ("features", "backbone", "7 × 7 × 1024", ""),
    ("squeeze", "GlobalAveragePooling2D", "1024", "features"),
    ("excite_reduce", "Dense", "64", "squeeze"),
    ("excite_expand", "Dense", "1024", "excite_reduce"),
    ("excite", "Reshape", "1 × 1 × 1024", "excite_expand"),
    ("squeeze_excite", "Multiply", "7 × 7 × 1024", "features, excite"),
    *[(f"attention_{i}", "Conv2D", "7 × 7 × 1", "squeeze_excite") for i in range(3)],
    *[
        (f"multiply_{i + 1}", "Multiply", "7 × 7 × 1024", f"squeeze_excite, attention_{i}")
        for i in range(3)
    ],
    ("attended", "Concatenate", "7 × 7 × 3072", "multiply_1, multiply_2, multiply_3"),
    ("pool", "GlobalAveragePooling2D", "3072", "attended"),
    ("a1", "Dense", "512", "pool"),
    ("a1_bn", "BatchNormalization", "512", "a1"),
    ("b", "Dense", "512", "pool"),
    ("branches", "Add", "512", "a1_bn, b"),
    ("predictions", "Activation", "14", "branches"),
)


def overlapping(patches):
    """Pairs of boxes that share an area."""
    boxes = [patch.get_bbox() for patch in patches]
    return [
        (a, b)
        for number, a in enumerate(boxes)
        for b in boxes[number + 1 :]
        if a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1
    ]


def test_an_architecture_has_a_box_for_each_chain_and_an_arrow_for_each_link():
    fig = plotting.architecture(EXP6, "exp6")
    (ax,) = fig.axes
    boxes = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    assert len(boxes) == 13
    assert not overlapping(boxes)
    assert all(box.get_x() > 0 and box.get_bbox().x1 < 9 for box in boxes)
    arrows = [text for text in ax.texts if isinstance(text, Annotation)]
    assert len(arrows) == 19
    shaded = [box for box in boxes if to_hex(box.get_facecolor()) == "#fce5c0"]
    assert len(shaded) == 4, "the gate and three heads multiply"
    assert {"squeeze: average pooling", "a1_bn: batch norm", "7 × 7 × 3072"} <= set(texts(fig))
    said = plotting.alt_text(fig)
    assert said.startswith("exp6: 18 layers from features (7 × 7 × 1024) to predictions (14).")
    assert "attention_0 and attention_1 and attention_2" in said


WIDE = head(
    ("features", "backbone", "12 × 12 × 1280", ""),
    ("pool_average", "GlobalAveragePooling2D", "1280", "features"),
    ("pool_max", "GlobalMaxPooling2D", "1280", "features"),
    ("pool_lse_cells", "Reshape", "144 × 1280", "features"),
    ("pool_attention", "Concatenate", "130", "features"),
    ("pooled", "Concatenate", "3970", "pool_average, pool_max, pool_lse_cells, pool_attention"),
)


@pytest.mark.parametrize("summary", [EXP6, WIDE])
def test_an_architectures_text_lies_inside_its_box_and_covers_no_other(summary):
    fig = plotting.architecture(summary)
    fig.canvas.draw()
    (ax,) = fig.axes
    boxes = [patch.get_window_extent() for patch in ax.patches if isinstance(patch, Rectangle)]
    drawn = [text.get_window_extent() for text in ax.texts if text.get_text()]
    for text in drawn:
        assert any(box.x0 < text.x0 and text.x1 < box.x1 and box.y0 < text.y0 for box in boxes)
    for number, one in enumerate(drawn):
        assert not any(one.overlaps(other) for other in drawn[number + 1 :])
    assert min(box.x0 for box in boxes) > 0
    assert max(box.x1 for box in boxes) < 900


def test_an_ablation_shows_differences_and_says_when_there_are_none():
    row = ["no masks", "kappa", "mean", 0.8, 0.7, 0.9, -0.1, -0.2, 0.05]
    whole = ["all together", "kappa", "mean", 0.9, 0.8, 1.0, np.nan, np.nan, np.nan]
    fig = plotting.ablation(pd.DataFrame([whole, row], columns=COLUMNS))
    (ax,) = fig.axes
    assert [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"] == [-0.1]
    assert [-0.2, 0.05] in [list(line.get_xdata()) for line in ax.lines]
    assert tick_labels(ax.yaxis) == ["no masks"]
    assert "no masks, kappa: -0.100" in plotting.alt_text(fig)
    empty = plotting.ablation(pd.DataFrame(columns=COLUMNS))
    assert "Not measured here" in " ".join(texts(empty))
