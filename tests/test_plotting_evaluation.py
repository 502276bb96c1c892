"""The figures of notebook 06."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from figures import ABNORMAL, FOUR, NORMAL, SEVEN, classes, texts, tick_labels
from matplotlib.colors import to_hex

from mura_utils import plotting


@pytest.mark.parametrize("parts", [FOUR, SEVEN])
def test_confusion_matrix_annotates_counts_and_colors_row_shares(parts):
    labels = classes(parts)
    matrix = np.diag(np.arange(1, len(labels) + 1))
    matrix[0, 1] = 3
    matrix[2] = 0
    fig = plotting.confusion_matrix(matrix, labels)
    ax = fig.axes[0]
    assert sorted(int(text.get_text()) for text in ax.texts) == sorted(matrix[matrix > 0])
    shades = ax.collections[0].get_array()
    assert shades[0, :2].tolist() == [0.25, 0.75]
    assert shades.mask[2].all()
    assert tick_labels(ax.yaxis)[:3] == [f"{labels[0]} (4)", f"{labels[1]} (2)", f"{labels[2]} (0)"]
    assert to_hex(ax.get_xticklabels()[0].get_color()) == ABNORMAL
    assert to_hex(ax.get_xticklabels()[-1].get_color()) == NORMAL
    assert f"3 images of {labels[0]} taken for {labels[1]}" in plotting.alt_text(fig)
    counts = plotting.confusion_matrix(matrix, labels, normalize=False)
    assert counts.axes[0].collections[0].get_array()[0, :2].tolist() == [1, 3]


def test_two_classes_of_any_body_part_are_named_in_level_lines():
    names = ["Abnormal-LOWER LEG", "Normal-LOWER LEG"]
    (ax, _) = plotting.confusion_matrix(np.eye(2, dtype=int), names).axes
    assert {label.get_rotation() for label in ax.get_yticklabels()} == {0}


def test_long_body_parts_stay_in_their_panels():
    curves = dict.fromkeys(classes(["ACROMIOCLAVICULAR JOINT, LEFT", *SEVEN]))
    fig = plotting.roc_curves(curves, None, None)
    assert "ACROMIOCLAVICULAR JOINT,\nLEFT" in [ax.get_title(loc="left") for ax in fig.axes]


@pytest.mark.parametrize(("parts", "panels"), [(FOUR, 5), (SEVEN, 8)])
def test_roc_has_a_panel_a_body_part_and_names_absent_classes(parts, panels):
    curves = {label: {"fpr": [0, 0, 1], "tpr": [0, 1, 1], "auc": 0.987} for label in classes(parts)}
    micro, macro = ({"fpr": [0, 1], "tpr": [0, 1], "auc": area} for area in (0.9, 0.8))
    curves["Abnormal-HAND"] = None
    fig = plotting.roc_curves(curves, micro, macro)
    drawn = {ax.get_title(loc="left"): ax for ax in fig.axes if ax.lines}
    assert list(drawn) == ["all classes", *parts]
    assert len(drawn) == panels
    labels = [text.get_text() for text in drawn["HAND"].get_legend().get_texts()]
    assert labels == ["Abnormal: none", "Normal 0.987"]
    assert [line.get_color().lower() for line in drawn["HAND"].lines[:2]] == [ABNORMAL, NORMAL]
    assert "micro 0.900, macro 0.800" in plotting.alt_text(fig)
    assert "Abnormal-HAND" not in plotting.alt_text(fig)


def test_prediction_grid_tells_wrong_from_right_without_color():
    image = np.zeros((8, 8), np.uint8)
    true = ["Normal-HIP", "Abnormal-HIP", "Normal-LEG", "Normal-LEG", "Normal-LEG"]
    fig = plotting.prediction_grid([image] * 5, true, ["Normal-HIP"] * 5, [0.62] * 5)
    titles = [ax.get_title() for ax in fig.axes if ax.images]
    assert titles[0] == "✓ Normal-HIP 62%"
    assert titles[1] == "✗ Normal-HIP 62%\nbut is Abnormal-HIP"
    assert fig.axes[1].spines["top"].get_linewidth() > fig.axes[0].spines["top"].get_linewidth()
    assert "5 radiographs, 1 of them predicted correctly" in plotting.alt_text(fig)


def test_kappa_comparison_never_mixes_levels():
    frame = pd.DataFrame(
        [
            ("DenseNet169", 0.629, "binary, per study", None, None),
            ("paper", None, "binary, per study", None, None),
            ("this run", 0.7, "binary, per study", 0.66, 0.75),
            ("this run", 0.77, "14 classes, per image", None, None),
        ],
        columns=["name", "kappa", "level", "low", "high"],
    )
    fig = plotting.kappa_comparison(frame, ours=["this run"])
    study, image = fig.axes
    assert [ax.get_title(loc="left") for ax in fig.axes] == list(frame["level"].unique())
    assert tick_labels(study.yaxis) == ["this run  0.700  [0.660, 0.750]", "DenseNet169  0.629"]
    assert tick_labels(image.yaxis) == ["this run  0.770"]
    weights = [text.get_fontweight() for text in study.get_yticklabels()]
    assert weights == ["bold", "normal"]
    assert sum(len(line.get_xdata()) == 2 for line in study.lines) == 1


def test_intervals_hold_every_value_and_both_ends():
    frame = pd.DataFrame(
        [("per image", "kappa", -0.1, -0.3, 0.1), ("per study", "log loss", 2.5, np.nan, np.nan)],
        columns=["level", "metric", "value", "low", "high"],
    )
    fig = plotting.intervals(frame)
    left, right = fig.axes[1].get_xlim()
    assert left < -0.3
    assert right > 2.5
    assert "kappa  -0.100  [-0.300, 0.100]" in plotting.alt_text(fig)


def test_a_forest_has_a_panel_a_metric_and_the_line_of_all_groups():
    rows = [
        ("HAND", "auroc", 0.9, 0.8, 0.95),
        ("HIP", "auroc", 1.0, 0.2, 1.0),
        ("all", "auroc", 0.85, 0.8, 0.9),
        ("HAND", "kappa", -0.2, -0.4, 0.1),
        ("HIP", "kappa", np.nan, np.nan, np.nan),
        ("all", "kappa", 0.4, np.nan, np.nan),
    ]
    frame = pd.DataFrame(rows, columns=["body_part", "metric", "value", "low", "high"])
    fig = plotting.forest(frame, "By body part")
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["auroc", "kappa"]
    assert tick_labels(fig.axes[0].yaxis) == ["HAND", "HIP", "all"]
    assert [ax.lines[0].get_xdata()[0] for ax in fig.axes] == [0.85, 0.4]
    assert all(ax.get_xlim()[0] < low for ax, low in zip(fig.axes, (0.2, -0.4), strict=True))
    assert "kappa: HAND -0.200, all 0.400" in plotting.alt_text(fig)


def test_per_class_f1_keeps_a_row_for_a_class_without_images():
    ours = pd.DataFrame({"label": classes(FOUR), "f1": [0.5, np.nan] + [0.7] * 6})
    report = pd.DataFrame({"label": classes(SEVEN), "f1": 0.8})
    fig = plotting.per_class_f1(ours, report)
    assert tick_labels(fig.axes[0].yaxis) == classes(FOUR)
    assert "the report's, on MURA" in texts(fig)
    assert "nan" not in plotting.alt_text(fig)
    assert "Abnormal-HAND 0.50" in plotting.alt_text(fig)
    assert "the report's, on MURA" not in texts(plotting.per_class_f1(ours))


def test_scores_of_test_and_foreign_images_are_drawn_with_the_limit():
    test, foreign = np.array([0.5, 1.0, 1.0, 2.0]), np.array([1.0, 50.0])
    fig = plotting.unfamiliar(test, foreign, limit=1.5)
    (ax,) = fig.axes
    heights = [sum(bar.get_height() for bar in bars) for bars in ax.containers]
    assert heights == pytest.approx([1, 1])
    assert "limit 1.50" in texts(fig) and "test (4 images)" in texts(fig)
    assert "25.0% of 4 test images and 50.0% of 2 images" in plotting.alt_text(fig)
    same = plotting.unfamiliar(np.ones(3), np.ones(1), limit=1.0)
    assert "0.0% of 3 test images and 0.0% of 1 image " in plotting.alt_text(same)
    dead = plotting.unfamiliar(np.zeros(3), np.zeros(2), limit=0.0)
    assert "0.0% of 3 test images and 0.0% of 2 images" in plotting.alt_text(dead)


def test_a_roc_curve_bears_the_points_of_its_thresholds():
    points = {"0.5": (0.9, 0.7), "0.3, youden": (0.8, 0.85)}
    fig = plotting.roc_with_thresholds(([0, 0.2, 1], [0, 0.85, 1]), points, "demo")
    (ax,) = fig.axes
    marked = {line.get_label(): line.get_xydata()[0] for line in ax.lines[2:]}
    assert marked.keys() == points.keys()
    np.testing.assert_allclose(marked["0.5"], (0.1, 0.7))
    assert "0.3, youden: specificity 0.800, sensitivity 0.850" in plotting.alt_text(fig)


def test_curves_in_the_corner_are_drawn_larger():
    def ends(area: float) -> tuple[float, float]:
        curve = {"fpr": [0, 0.1, 1], "tpr": [0, 0.99, 1], "auc": area}
        fig = plotting.roc_curves({"Abnormal-HAND": curve, "Normal-HAND": curve}, curve, None)
        return fig.axes[0].get_xlim()[1], fig.axes[0].get_ylim()[0]

    assert ends(0.99) == pytest.approx((0.306, 0.694))
    assert ends(0.9) == pytest.approx((1.02, -0.02))
