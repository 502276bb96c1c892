"""The figures of notebook 05."""

from __future__ import annotations

import numpy as np
import pytest
from figures import make_history, texts

from mura_utils import plotting


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
