"""The figures of notebook 06 on errors and use."""

from __future__ import annotations

import numpy as np
import pandas as pd
from figures import ABNORMAL, NORMAL, tick_labels
from matplotlib.colors import to_hex

from mura_utils import plotting


def waits(orders) -> pd.DataFrame:
    rows = [
        (load, order, kind, load * 10, load * 9, load * 11)
        for load in (0.5, 0.8)
        for order in orders
        for kind in ("all", "abnormal", "normal")
    ]
    return pd.DataFrame(rows, columns=["load", "order", "studies", "wait", "low", "high"])


def test_waits_have_a_panel_a_kind_lines_by_formula_and_simulated_dots():
    fig = plotting.worklist_waits(waits(["arrival", "model", "perfect"]), waits(["arrival"]))
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["abnormal studies", "normal studies"]
    for ax in fig.axes:
        lines = [line for line in ax.lines if len(line.get_xdata()) == 2]
        assert [line.get_ydata().tolist() for line in lines[:1]] == [[5, 8]]
        assert len(ax.collections) == 3, "error bars of each order"
    legend = [text.get_text() for text in fig.legends[0].get_texts()]
    assert legend == ["order of arrival", "model's order", "perfect order"]
    assert "normal studies, model's order, 8.0 at load 0.8" in plotting.alt_text(fig)


def test_waits_of_studies_that_there_are_none_of_are_not_drawn():
    none = waits(["arrival", "model", "perfect"])
    none.loc[none["studies"] == "abnormal", ["wait", "low", "high"]] = np.nan
    assert "abnormal studies, model's order, none" in plotting.alt_text(
        plotting.worklist_waits(none, none)
    )


def test_the_decision_curve_shows_all_three_and_cuts_what_lies_far_below():
    frame = pd.DataFrame({"threshold": [0.1, 0.5, 0.9], "model": [0.3, 0.25, 0.9]})
    frame = frame.assign(low=0.05, high=0.35, treat_all=[0.29, -0.2, -5])
    fig = plotting.decision_curve(frame)
    (ax,) = fig.axes
    model, everyone, none = ax.lines
    assert model.get_ydata().tolist() == [0.3, 0.25], "above 0.5 nobody acts"
    assert everyone.get_ydata().tolist() == [0.29, -0.2]
    assert set(none.get_ydata()) == {0}
    assert -0.5 < ax.get_ylim()[0] < 0
    assert "At the threshold 0.5" in plotting.alt_text(fig)


def rates() -> pd.DataFrame:
    rows = [("views", "1", 9, 5, 0.8, 0.4, 1.0, 4), ("views", "2", 20, 10, 0.7, 0.5, 0.9, 10)]
    columns = ["attribute", "group", "studies", "abnormal"]
    columns += ["sensitivity", "sensitivity_low", "sensitivity_high", "normal"]
    last = {"specificity": [np.nan, 0.9], "specificity_low": [np.nan, 0.8]}
    return pd.DataFrame(rows, columns=columns).assign(**last, specificity_high=[np.nan, 1.0])


def test_groups_are_named_with_their_counts_and_small_ones_get_no_rate():
    fig = plotting.group_rates(rates(), {"views": "images of the study"})
    found, kept = fig.axes
    assert found.get_title(loc="left") == "images of the study"
    assert tick_labels(found.yaxis) == ["1  (5)", "2  (10)"]
    assert tick_labels(kept.yaxis) == ["1  (4)", "2  (10)"]
    assert to_hex(found.lines[0].get_color()) == ABNORMAL
    assert to_hex(kept.lines[-1].get_color()) == NORMAL
    intervals = [[line for line in ax.lines if len(line.get_xdata()) == 2] for ax in fig.axes]
    assert [len(drawn) for drawn in intervals] == [2, 1]
    assert plotting.alt_text(fig).endswith("views 2 specificity 0.90.")


def test_without_groups_or_images_the_figure_says_so():
    assert "No attribute" in plotting.alt_text(plotting.group_rates(rates().head(0), {}))
    assert "No radiograph" in plotting.alt_text(plotting.prediction_grid([], [], [], []))
