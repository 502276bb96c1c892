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


@pytest.mark.parametrize(("parts", "columns", "rows"), [(FOUR, 4, 2), (SEVEN, 4, 4), (["A"], 1, 2)])
def test_sample_grid_has_at_most_four_body_parts_side_by_side(parts, columns, rows):
    image = np.full((40, 20), 7, np.uint8)
    fig = plotting.sample_grid({(p, a): image for p in parts for a in plotting.ABNORMALITIES})
    assert len(fig.axes) == columns * rows
    assert [ax.get_title() for ax in fig.axes if ax.get_title()] == parts
    first = fig.axes[columns].yaxis.label
    assert (first.get_text(), to_hex(first.get_color())) == ("Normal", NORMAL)
    assert sum(bool(ax.images) for ax in fig.axes) == 2 * len(parts)
    assert "none" not in texts(fig)
    for ax in fig.axes:
        if ax.images:
            assert ax.get_facecolor()[0] == pytest.approx(0.85), "not to be taken for dark pixels"


def test_sample_grid_says_what_is_missing_and_leaves_out_a_row_that_is_empty():
    image = np.full((40, 20), 7, np.uint8)
    some = plotting.sample_grid({("HAND", "Normal"): image, ("LEG", "Abnormal"): image})
    assert texts(some).count("none") == 2
    normal = plotting.sample_grid({(part, "Normal"): image for part in FOUR})
    assert len(normal.axes) == 4
    assert not {"none", "Abnormal"} & set(texts(normal))
    assert plotting.alt_text(normal).startswith("4 radiographs of 4 body parts: HAND,")


def test_sample_grid_outlines_what_has_a_mask():
    image, mask = np.full((40, 20), 7, np.uint8), np.zeros((40, 20), bool)
    mask[10:20, 5:15] = True
    images = {(part, "Abnormal"): image for part in ("HAND", "HIP", "LEG")}
    outlines = {("HAND", "Abnormal"): mask, ("HIP", "Abnormal"): np.zeros_like(mask)}
    fig = plotting.sample_grid(images, outlines)
    assert [len(ax.collections) for ax in fig.axes] == [1, 0, 0]
    assert fig.get_suptitle() == "Where the findings are"
    assert "2 with the finding outlined" in plotting.alt_text(fig)


def test_pixel_analysis_shows_the_whole_histogram_and_each_sample():
    image = np.repeat(np.array([0, 100, 255], np.uint8), 30).reshape(9, 10)
    others = [np.full((4, 5), 50, np.uint8), np.arange(101, dtype=np.uint8).reshape(1, 101)]
    others.append(np.where(np.arange(100) < 97, 0, 200).astype(np.uint8).reshape(10, 10))
    fig = plotting.pixel_analysis(image, "Abnormal-HUMERUS", others)
    histogram, samples = fig.axes[1:]
    assert sum(bar.get_height() for bar in histogram.patches) == pytest.approx(1)
    assert to_hex(histogram.patches[0].get_facecolor()) == ABNORMAL
    np.testing.assert_allclose(samples.lines[0].get_ydata(), [50, 50, 6])
    ends = [line[:, 1].tolist() for line in samples.collections[0].get_segments()]
    assert ends == [[50, 50], [5, 95], [0, 0]], "a mean may lie outside"
    assert "from 6 to 50" in plotting.alt_text(fig)


def test_pixel_analyses_of_two_images_have_the_same_axes():
    dark, bright = np.zeros((9, 9), np.uint8), np.full((900, 900), 250, np.uint8)
    bright[0, 0] = 0
    figs = [plotting.pixel_analysis(image, "Normal-HAND", [image]) for image in (dark, bright)]
    for one, other in zip(figs[0].axes[1:], figs[1].axes[1:], strict=True):
        assert one.get_ylim() == other.get_ylim()
    assert figs[0].axes[1].get_xlim() == figs[1].axes[1].get_xlim()


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


def test_image_sizes_orders_body_parts_by_how_long_their_images_are():
    inventory = pd.DataFrame(
        [
            (512, 400, "L", "HAND"),
            (400, 512, "L", "HAND"),
            (100, 300, "RGB", "LEG"),
            (0, 0, "", "HIP"),
            (np.nan, np.nan, "", "HIP"),
        ],
        columns=["width", "height", "mode", "body_part"],
    )
    fig = plotting.image_sizes(inventory)
    boxes, bars = fig.axes
    assert tick_labels(boxes.yaxis) == ["LEG", "HAND"]
    assert tick_labels(bars.yaxis) == ["L", "RGB"]
    sizes = "3 images, longer side 300 to 512 pixels, shorter side 100 to 400 pixels"
    assert fig.get_suptitle() == sizes
    assert "LEG 3.00, HAND 1.28. Modes: L 2, RGB 1." in plotting.alt_text(fig)
    square = plotting.image_sizes(inventory.assign(width=512, height=512, mode="L"))
    assert "longer side 512 pixels, shorter side 512 pixels" in plotting.alt_text(square)


def test_image_sizes_says_that_nothing_was_read():
    unread = {"width": [0, 0], "height": [0, 0], "mode": ["", ""], "body_part": ["HAND", "LEG"]}
    fig = plotting.image_sizes(pd.DataFrame(unread))
    assert plotting.alt_text(fig) == "No file was opened: sizes and modes are not known."
    assert texts(fig) == ["No file was opened."]


def test_the_sheet_of_files_has_four_pictures_in_a_row():
    image = np.full((4, 6), 200, np.uint8)
    names = ["inverted", "clipped", "uniform", "too-small", "mask-size-mismatch, several-frames"]
    fig = plotting.file_sheet([(name, image) for name in names])
    assert len(fig.axes) == 8
    assert [len(ax.images) for ax in fig.axes] == [1] * 5 + [0] * 3
    titles = [ax.get_title("center") for ax in fig.axes]
    assert titles[:4] == names[:4]
    assert "5 pictures: inverted; clipped;" in plotting.alt_text(fig)
    two = plotting.file_sheet([("whole", image), ("window", image)], "One image")
    assert len(two.axes) == 2
    assert plotting.alt_text(two) == "One image, 2 pictures: whole; window."
    assert "nothing to show" in texts(plotting.file_sheet([]))


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


def test_leakage_draws_patients_names_the_worst_and_bears_unknown_shares():
    shares = pd.DataFrame(
        [
            ("official-image", "validation", "patient", 0.951),
            ("official-image", "validation", "duplicate", 1.0),
            ("official-image", "test", "patient", 0.0),
            ("patient", "validation", "patient", 0.0),
            ("patient", "test", "patient", np.nan),
        ],
        columns=["protocol", "split", "what", "share"],
    )
    fig = plotting.leakage(shares)
    (ax,) = fig.axes
    assert tick_labels(ax.yaxis) == ["official-image", "patient"]
    assert [bar.get_width() for bar in ax.containers[0]] == [0.951, 0]
    assert [to_hex(c[0].get_facecolor()) for c in ax.containers] == [
        plotting.SPLITS[name].lower() for name in ("validation", "test")
    ]
    assert {"95.1%", "0.0%"} <= set(texts(fig))
    assert "under official-image, 95.1% of the validation images" in plotting.alt_text(fig)


def test_augmentation_preview_shows_the_original_first():
    augmented = np.zeros((7, 8, 8), np.float32)
    fig = plotting.augmentation_preview(
        np.ones((8, 8)), augmented, [f"{n}°" for n in range(7)], "Seven turns"
    )
    assert fig.get_suptitle() == "Seven turns"
    drawn = [ax for ax in fig.axes if ax.images]
    assert [ax.get_title() for ax in drawn] == ["input", *(f"{n}°" for n in range(7))]
    assert drawn[0].images[0].get_array().max() == 1
    assert plotting.alt_text(fig).startswith("Seven turns. Panels: input; 0°; 1°")
    resized = plotting.augmentation_preview(np.ones((9, 4)), augmented[:1], ["pad"], first="file")
    assert [ax.get_title() for ax in resized.axes] == ["file", "pad"]


def test_pca_elbow_marks_the_components_or_says_that_they_were_not_reached():
    common = {"images_per_class": 10, "images": 28, "held_out": [0.4, 0.7]}
    results = [
        {**common, "method": "pca", "explained": [0.6, 0.96, 1.0], "components": 2},
        {**common, "method": "ipca", "explained": [0.5, 0.8], "components": None},
    ]
    fig = plotting.pca_elbow([*results, {**results[0], "images_per_class": 1000, "images": 900}])
    assert [ax.get_xscale() for ax in fig.axes] == ["linear", "linear", "log", "log"]
    titles = [ax.get_title(loc="left") for ax in fig.axes[:2]]
    assert titles == ["28 images\n(up to 10 a class)", "900 images\n(up to 1,000 a class)"]
    for ax in fig.axes[::2]:
        marked = [line for line in ax.lines if line.get_marker() == "o"]
        assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in marked] == [(2, 0.96)]
    assert "incremental PCA, fitted images: 95% not reached" in texts(fig)
    assert "PCA on 900 images: 2" in plotting.alt_text(fig)


@pytest.mark.parametrize(("ipca", "shown"), [([0.595, 0.955], False), ([0.57, 0.955], True)])
def test_pca_elbow_leaves_out_an_incremental_pca_that_would_cover_pca(ipca, shown):
    common = {"images_per_class": 10, "images": 28, "held_out": [0.4, 0.7], "components": 2}
    results = [
        {**common, "method": "pca", "explained": [0.6, 0.96, 1.0]},
        {**common, "method": "ipca", "explained": ipca},
    ]
    fig = plotting.pca_elbow(results)
    assert ("incremental PCA, held-out images" in texts(fig)) is shown
    assert "incremental PCA on 28 images: 2" in plotting.alt_text(fig)


def test_pca_runtime_keeps_a_place_for_what_was_not_reached():
    frame = pd.DataFrame(
        [(1000, 668, "pca", 36.0, 43), (10, 140, "pca", 6.0, 8), (10, 140, "ipca", 3.6, None)],
        columns=["images_per_class", "images", "method", "seconds", "components"],
    )
    fig = plotting.pca_runtime(frame)
    seconds, components = fig.axes
    places = ["140 images\n(up to 10 a class)", "668 images\n(up to 1,000 a class)"]
    assert tick_labels(seconds.xaxis) == places == tick_labels(components.xaxis)
    assert [bar.get_height() for bar in seconds.containers[0]] == [6, 36]
    assert [bar.get_height() for bar in components.containers[0]] == [8, 43]
    assert "incremental PCA: 3.6 s on 140 images" in plotting.alt_text(fig)
