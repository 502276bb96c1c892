"""The figures: what they hold, in which colours, and what they say to who cannot see them."""

import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.colors import to_hex
from matplotlib.text import Text
from PIL import Image

from mura_utils import plotting

FOUR = ["HAND", "HIP", "LEG", "SHOULDER"]
SEVEN = ["ELBOW", "FINGER", "FOREARM", "HAND", "HUMERUS", "SHOULDER", "WRIST"]
ABNORMAL, NORMAL = "#d55e00", "#0072b2"


def classes(parts):
    return [f"{abnormality}-{part}" for abnormality in ("Abnormal", "Normal") for part in parts]


def make_manifest(parts, per_class=3):
    rows = [label.split("-") for label in classes(parts) for _ in range(per_class)]
    frame = pd.DataFrame(rows, columns=["abnormality", "body_part"])
    return frame.assign(path=[f"{n}.png" for n in range(len(frame))])


def make_splits(manifest):
    names = np.resize(["train", "validation", "test"], len(manifest))
    return pd.DataFrame({"path": manifest["path"], "split": names})


def make_history(epochs):
    epoch = np.arange(1, epochs + 1)
    return pd.DataFrame(
        {
            "epoch": epoch,
            "loss": 1 / epoch,
            "accuracy": 1 - 1 / (epoch + 1),
            "val_loss": 0.25 + np.abs(epoch - 7) / 100,
            "val_accuracy": 0.5 + epoch / 1000,
            "learning_rate": 1e-5 * 0.2 ** (epoch // 5),
        }
    )


def draw_heatmap_rows(masks=(None, None)):
    image, maps = np.full((64, 64), 90, np.uint8), np.full((2, 7, 7), 0.5)
    heatmaps = {"saliency": maps, "grad_cam": maps}
    return plotting.heatmap_rows([image] * 2, ["right", "wrong"], heatmaps, masks)


def texts(fig):
    return [text.get_text() for text in fig.findobj(Text) if text.get_text()]


def bar_colours(ax):
    return {to_hex(bar.get_facecolor()) for container in ax.containers for bar in container}


def tick_labels(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


# --- every figure -------------------------------------------------------------------------------


def test_every_figure_is_nine_inches_on_white_with_alt_text_and_unknown_to_pyplot():
    before = dict(matplotlib.rcParams)
    with plt.style.context("dark_background"):
        fig = plotting.image_counts(make_manifest(FOUR))
        pixels = Image.open(io.BytesIO(plotting.to_png(fig))).convert("RGB")
    assert pixels.width == 900
    assert pixels.getpixel((2, 2)) == (255, 255, 255)
    assert (0xD5, 0x5E, 0x00) in {colour for _, colour in pixels.getcolors(1 << 20)}
    assert "24 images in 8 classes" in plotting.alt_text(fig)
    assert plt.get_fignums() == []
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plotting.confusion_matrix(np.eye(14, dtype=int) * 1234, classes(SEVEN)),
        lambda: plotting.class_counts(make_manifest(SEVEN), make_splits(make_manifest(SEVEN))),
        lambda: plotting.sample_grid({("HAND", "Normal"): np.zeros((9, 5), np.uint8)}),
        lambda: plotting.training_curves(make_history(150)),
        draw_heatmap_rows,
    ],
)
def test_text_is_legible_and_inside_the_figure(draw):
    fig = draw()
    fig.canvas.draw()
    for text in fig.findobj(Text):
        if text.get_text() and text.get_visible():
            assert text.get_fontsize() >= 9, text
    drawn, (width, height) = fig.get_tightbbox(), fig.get_size_inches()
    assert min(drawn.x0, drawn.y0) >= -0.02
    assert drawn.x1 <= width + 0.02
    assert drawn.y1 <= height + 0.02


def test_show_displays_a_png_with_its_alt_text_and_prints_no_object(monkeypatch):
    shell = InteractiveShell.instance()
    shown = []

    def publish(data, metadata=None, **kwargs):
        shown.append((data, metadata))

    monkeypatch.setattr(shell.display_pub, "publish", publish)
    try:
        fig = plotting.learning_rate(make_history(12))
        assert plotting.show(fig) is None
        plotting.show(fig, alt="something else")
    finally:
        InteractiveShell.clear_instance()
    (data, metadata), (_, other) = shown
    assert data["image/png"]
    assert "0x" not in data["text/plain"]
    assert metadata["image/png"]["alt"] == plotting.alt_text(fig)
    assert other["image/png"]["alt"] == "something else"


def test_show_keeps_the_figure_as_a_png_when_given_a_file(tmp_path):
    file = tmp_path / "figures" / "rate.png"
    plotting.show(plotting.learning_rate(make_history(3)), file=file)
    with Image.open(file) as image:
        assert image.format == "PNG"
        assert image.width == 900


def test_use_style_is_the_package_s_sheet():
    with plt.style.context("default"):
        plotting.use_style()
        assert matplotlib.rcParams["figure.facecolor"] == "white"
        assert matplotlib.rcParams["image.cmap"] == "magma"


# --- 01 and 02 ----------------------------------------------------------------------------------


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
    assert bar_colours(ax) == {ABNORMAL, NORMAL}
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


# --- 03 and 04 ----------------------------------------------------------------------------------


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
        assert bar_colours(ax) == {ABNORMAL, NORMAL}


def test_split_distributions_are_shares_in_the_splits_colours():
    manifest = make_manifest(SEVEN, per_class=6)
    fig = plotting.split_distributions(manifest, make_splits(manifest))
    for ax, groups in zip(fig.axes, (2, 7), strict=True):
        assert [len(container) for container in ax.containers] == [groups] * 3
        for container, colour in zip(ax.containers, plotting.SPLITS.values(), strict=True):
            assert sum(bar.get_width() for bar in container) == pytest.approx(1)
            assert to_hex(container[0].get_facecolor()) == colour.lower()
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


# --- 05 -----------------------------------------------------------------------------------------


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


def test_run_summary_leaves_the_report_out_where_it_has_no_such_run():
    frame = pd.DataFrame({"run": ["exp1", "demo"], "accuracy": [0.68, 0.4], "report": [0.7, None]})
    fig = plotting.run_summary(frame)
    assert tick_labels(fig.axes[0].yaxis) == ["exp1", "demo"]
    assert "exp1 0.68 (report 0.70); demo 0.40." in plotting.alt_text(fig)


# --- 06 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [FOUR, SEVEN])
def test_confusion_matrix_annotates_counts_and_colours_row_shares(parts):
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
    counts = plotting.confusion_matrix(matrix, labels, normalise=False)
    assert counts.axes[0].collections[0].get_array()[0, :2].tolist() == [1, 3]


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


def test_prediction_grid_tells_wrong_from_right_without_colour():
    image = np.zeros((8, 8), np.uint8)
    true = ["Normal-HIP", "Abnormal-HIP", "Normal-LEG", "Normal-LEG", "Normal-LEG"]
    fig = plotting.prediction_grid([image] * 5, true, ["Normal-HIP"] * 5, [0.62] * 5)
    titles = [ax.get_title() for ax in fig.axes if ax.images]
    assert titles[0] == "✓ Normal-HIP 62%"
    assert titles[1] == "✗ Normal-HIP 62%\nbut is Abnormal-HIP"
    assert fig.axes[1].spines["top"].get_linewidth() > fig.axes[0].spines["top"].get_linewidth()
    assert "5 radiographs, 1 of them predicted right" in plotting.alt_text(fig)


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


def test_per_class_f1_keeps_a_row_for_a_class_without_images():
    ours = pd.DataFrame({"label": classes(FOUR), "f1": [0.5, np.nan] + [0.7] * 6})
    report = pd.DataFrame({"label": classes(SEVEN), "f1": 0.8})
    fig = plotting.per_class_f1(ours, report)
    assert tick_labels(fig.axes[0].yaxis) == classes(FOUR)
    assert "the report's, on MURA" in texts(fig)
    assert "nan" not in plotting.alt_text(fig)
    assert "Abnormal-HAND 0.50" in plotting.alt_text(fig)
    assert "the report's, on MURA" not in texts(plotting.per_class_f1(ours))


# --- 07 -----------------------------------------------------------------------------------------


def test_overlay_leaves_cold_places_grey_and_colours_hot_ones():
    image = np.full((20, 30), 100, np.uint8)
    cold = plotting.overlay(image, np.zeros((7, 7)))
    assert cold.shape == (20, 30, 3)
    assert cold.dtype == np.uint8
    assert (cold == 100).all()
    half = np.zeros((20, 30))
    half[:, 20:] = 1
    mixed = plotting.overlay(image, half)
    assert (mixed[:, :18] == 100).all()
    hot = mixed[0, -1].astype(int)
    assert hot[0] > hot[2] > 100  # magma's end is a pale yellow


def test_heatmap_rows_outline_the_mask_in_its_row_only():
    mask = np.zeros((64, 64), bool)
    mask[20:40, 20:40] = True
    fig = draw_heatmap_rows([mask, None])
    panels = [ax for ax in fig.axes if ax.images and ax.get_title()]
    assert [ax.get_title() for ax in panels] == ["radiograph", "saliency", "grad_cam"] * 2
    assert [len(ax.collections) for ax in panels] == [1, 1, 1, 0, 0, 0]
    assert "2 radiographs" in plotting.alt_text(fig)
    assert "1 with the true region outlined" in plotting.alt_text(fig)


def test_a_figure_with_radiographs_is_stored_with_a_palette_on_white():
    rng = np.random.default_rng(0)
    image, heat = rng.integers(0, 255, (128, 128), np.uint8), rng.random((8, 7, 7))
    fig = plotting.heatmap_grid([image] * 8, heat, [None] * 8, ["wrist"] * 8)
    stored = Image.open(io.BytesIO(plotting.to_png(fig)))
    assert stored.mode == "P"
    white = (np.asarray(stored.convert("RGB")) == 255).all(axis=-1)
    assert white[:2].all() and white[:, :2].all()


def test_heatmap_grid_fills_rows_of_six_and_outlines_what_has_a_mask():
    image, mask = np.full((64, 64), 90, np.uint8), np.zeros((64, 64), bool)
    mask[20:40, 20:40] = True
    maps = np.full((8, 7, 7), 0.5)
    fig = plotting.heatmap_grid([image] * 8, maps, [mask] * 7 + [None], ["wrist"] * 8)
    shown = [ax for ax in fig.axes if ax.axison]
    assert [len(ax.collections) for ax in shown] == [1] * 7 + [0]
    assert len(fig.axes) == 12
    assert "8 radiographs" in plotting.alt_text(fig) and "7 with" in plotting.alt_text(fig)


def test_score_strip_shows_each_score_and_the_mean():
    frame = pd.DataFrame(
        {
            "method": ["saliency", "saliency", "grad_cam", "grad_cam"],
            "score": [0.2, 0.4, 0.9, np.nan],
            "kind": "energy in mask",
        }
    )
    fig = plotting.score_strip(frame)
    (ax,) = fig.axes
    assert tick_labels(ax.yaxis) == ["saliency", "grad_cam"]
    assert sum(len(points.get_offsets()) for points in ax.collections) == 3
    assert {"0.30", "0.90"} <= set(texts(fig))
    assert "energy in mask, saliency: 0.30" in plotting.alt_text(fig)
    assert "chance: 0.034" not in texts(fig)
    assert "chance: 0.034" in texts(plotting.score_strip(frame, chance=0.034))
