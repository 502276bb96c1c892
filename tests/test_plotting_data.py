"""The figures of notebooks 01 to 04."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from figures import (
    ABNORMAL,
    FOUR,
    NORMAL,
    SEVEN,
    bar_colors,
    make_manifest,
    make_splits,
    texts,
    tick_labels,
)
from matplotlib.colors import to_hex

from mura_utils import plotting

# --- 01 and 02 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [FOUR, SEVEN])
def test_sample_grid_has_a_column_a_body_part_and_says_what_is_missing(parts):
    image = np.full((40, 20), 7, np.uint8)
    fig = plotting.sample_grid({(p, a): image for p in parts for a in plotting.ABNORMALITIES})
    assert len(fig.axes) == 2 * len(parts)
    assert [ax.get_title() for ax in fig.axes[: len(parts)]] == parts
    assert to_hex(fig.axes[len(parts)].yaxis.label.get_color()) == NORMAL
    assert "none" not in texts(fig)
    part = plotting.sample_grid({(p, "Normal"): image for p in parts})
    assert texts(part).count("none") == len(parts)


def test_pixel_analysis_shows_the_whole_histogram_and_each_sample():
    image = np.repeat(np.array([0, 100, 255], np.uint8), 30).reshape(9, 10)
    fig = plotting.pixel_analysis(image, "Abnormal-HUMERUS", np.array([50, 70]), np.array([5, 9]))
    histogram, samples = fig.axes[1:]
    assert sum(bar.get_height() for bar in histogram.patches) == pytest.approx(1)
    assert to_hex(histogram.patches[0].get_facecolor()) == ABNORMAL
    np.testing.assert_array_equal(samples.containers[0].lines[0].get_ydata(), [50, 70])
    assert "from 50 to 70" in plotting.alt_text(fig)


def test_what_was_not_measured_is_said_and_not_printed_as_nan():
    image = np.repeat(np.array([0, 100, 255], np.uint8), 30).reshape(9, 10)
    unread = np.full(2, np.nan)
    inventory = pd.DataFrame({"width": [0, 0], "height": [0, 0], "mode": ["", ""]})
    for fig, sentence in (
        (plotting.pixel_analysis(image, "Normal-HAND", unread, unread), "no other was measured"),
        (plotting.image_sizes(inventory), "No file was opened: sizes and modes are not known."),
    ):
        assert sentence in plotting.alt_text(fig)
        assert "nan" not in plotting.alt_text(fig)
        assert any("No " in text.get_text() for ax in fig.axes for text in ax.texts)
    some = plotting.pixel_analysis(
        image, "Normal-HAND", np.array([50, np.nan]), np.array([5, np.nan])
    )
    assert "1 image, whose means range from 50 to 50" in plotting.alt_text(some)


def test_image_counts_counts_classes_that_are_absent_as_zero():
    manifest = make_manifest(FOUR)
    manifest = manifest[(manifest.body_part != "HIP") | (manifest.abnormality == "Normal")]
    fig = plotting.image_counts(manifest)
    (ax,) = fig.axes
    assert bar_colors(ax) == {ABNORMAL, NORMAL}
    heights = [[bar.get_height() for bar in container] for container in ax.containers]
    assert heights == [[3, 0, 3, 3], [3, 3, 3, 3]]
    assert tick_labels(ax.xaxis) == FOUR
    assert "smallest Abnormal-HIP with 0" in plotting.alt_text(fig)


def test_image_sizes_leaves_out_what_was_not_read():
    inventory = pd.DataFrame(
        {"width": [512, 512, np.nan, 0], "height": [400, 400, np.nan, 0], "mode": list("LLLL")}
    )
    inventory.loc[4] = [100, 300, "RGB"]
    fig = plotting.image_sizes(inventory)
    scatter, bars = fig.axes
    assert len(scatter.collections[0].get_offsets()) == 2
    assert tick_labels(bars.yaxis) == ["L", "RGB"]
    assert "3 images, 100 to 512 pixels wide" in plotting.alt_text(fig)


def test_the_sheet_of_files_shows_pictures_or_says_what_is_wrong():
    image = np.full((4, 6), 200, np.uint8)
    examples = [("inverted", image, "bright"), ("missing", None, "no such file"), ("odd", None, "")]
    fig = plotting.file_sheet(examples)
    shown = [ax for ax in fig.axes if ax.get_title("center")]
    assert [ax.get_title("center") for ax in shown] == ["inverted", "missing", "odd"]
    assert [len(ax.images) for ax in shown] == [1, 0, 0]
    assert [ax.texts[0].get_text() for ax in shown[1:]] == ["no such file", "no picture"]
    assert "missing: no such file" in plotting.alt_text(fig)
    assert "nothing was odd" in [
        t.get_text() for ax in plotting.file_sheet([]).axes for t in ax.texts
    ]


def test_faults_are_ordered_and_their_absence_is_said():
    quality = {
        "counts": {"listed": 9, "admitted": 6},
        "excluded": [{"fault": f} for f in ("truncated", "missing", "truncated")],
        "remarks": {"stray-file": [{"path": "x"}] * 2000, "label-contradiction": []},
    }
    excluded, remarks = plotting.faults(quality).axes
    assert tick_labels(excluded.yaxis) == ["truncated", "missing"]
    assert [bar.get_width() for bar in excluded.patches] == [2, 1]
    assert tick_labels(remarks.yaxis) == ["stray-file"]
    assert remarks.get_xscale() == "symlog"

    clean = {"counts": {"listed": 6, "admitted": 6}, "excluded": [], "remarks": {}}
    fig = plotting.faults(clean)
    assert {"No file was excluded.", "Nothing odd was found."} <= set(texts(fig))
    assert "Excluded: none" in plotting.alt_text(fig)


# --- 03 and 04 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [FOUR, SEVEN])
def test_class_counts_add_up_to_the_splits(parts):
    manifest = make_manifest(parts, per_class=5)
    splits = make_splits(manifest)
    fig = plotting.class_counts(manifest, splits)
    sizes = splits["split"].value_counts()
    assert [ax.get_title(loc="left") for ax in fig.axes] == [
        f"{name}: {sizes[name]} images" for name in plotting.SPLITS
    ]
    for ax, name in zip(fig.axes, plotting.SPLITS, strict=True):
        assert sum(bar.get_width() for c in ax.containers for bar in c) == sizes[name]
        assert bar_colors(ax) == {ABNORMAL, NORMAL}


def test_split_distributions_are_shares_in_the_splits_colors():
    manifest = make_manifest(SEVEN, per_class=6)
    fig = plotting.split_distributions(manifest, make_splits(manifest))
    for ax, groups in zip(fig.axes, (2, 7), strict=True):
        assert [len(container) for container in ax.containers] == [groups] * 3
        for container, color in zip(ax.containers, plotting.SPLITS.values(), strict=True):
            assert sum(bar.get_width() for bar in container) == pytest.approx(1)
            assert to_hex(container[0].get_facecolor()) == color.lower()
    assert "train 50.0%" in plotting.alt_text(fig)


def test_leakage_names_the_worst_and_bears_unknown_shares():
    shares = pd.DataFrame(
        [
            ("official-image", "validation", "patient", 0.951),
            ("official-image", "validation", "duplicate", np.nan),
            ("official-image", "test", "patient", 0.0),
            ("patient", "validation", "patient", 0.0),
            ("patient", "test", "patient", 0.0),
        ],
        columns=["protocol", "split", "what", "share"],
    )
    fig = plotting.leakage(shares)
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["validation", "test"]
    assert [bar.get_width() for bar in fig.axes[0].containers[0]] == [0.951, 0]
    assert {"95.1%", "0.0%"} <= set(texts(fig))
    assert "under official-image, 95.1% of the validation images" in plotting.alt_text(fig)


def test_augmentation_preview_shows_the_original_first():
    augmented = np.zeros((7, 8, 8), np.float32)
    fig = plotting.augmentation_preview(
        np.ones((8, 8)), augmented, [f"{n}°" for n in range(7)], "Seven turns"
    )
    assert fig.get_suptitle() == "Seven turns"
    drawn = [ax for ax in fig.axes if ax.images]
    assert [ax.get_title() for ax in drawn] == ["original", *(f"{n}°" for n in range(7))]
    assert drawn[0].images[0].get_array().max() == 1


def test_pca_elbow_marks_the_components_or_says_that_they_were_not_reached():
    common = {"images_per_class": 10, "images": 28, "held_out": [0.4, 0.7]}
    results = [
        {**common, "method": "pca", "explained": [0.6, 0.96, 1.0], "components": 2},
        {**common, "method": "ipca", "explained": [0.5, 0.8], "components": None},
    ]
    fig = plotting.pca_elbow([*results, {**results[0], "images_per_class": 1000, "images": 900}])
    titles = [ax.get_title(loc="left") for ax in fig.axes]
    assert titles == ["up to 10 images a class: 28", "up to 1,000 images a class: 900"]
    marked = [line for line in fig.axes[0].lines if line.get_marker() == "o"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in marked] == [(2, 0.96)]
    assert "incremental PCA: not reached" in texts(fig)
    assert "PCA on 1,000 images a class: 2" in plotting.alt_text(fig)


def test_pca_runtime_keeps_a_place_for_what_was_not_reached():
    frame = pd.DataFrame(
        [(1000, "pca", 36.0, 43), (10, "pca", 6.0, 8), (10, "ipca", 3.6, None)],
        columns=["images_per_class", "method", "seconds", "components"],
    )
    seconds, components = plotting.pca_runtime(frame).axes
    assert tick_labels(seconds.xaxis) == ["10", "1,000"] == tick_labels(components.xaxis)
    assert [bar.get_height() for bar in seconds.containers[0]] == [6, 36]
    assert [bar.get_height() for bar in components.containers[0]] == [8, 43]
