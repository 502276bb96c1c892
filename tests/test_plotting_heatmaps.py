"""The figures of notebook 07."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
from figures import draw_heatmap_rows, texts, tick_labels
from matplotlib.figure import Figure
from PIL import Image

from mura_utils import plotting


def test_overlay_leaves_cold_places_gray_and_colors_hot_ones():
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


def test_white_stays_white_beside_grays_that_are_nearly_white():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 230, (200, 300, 3), np.uint8)
    pixels[:100] = 255
    pixels[4:20] = rng.integers(180, 255, (16, 300, 1))  # such as the edges of letters
    fig = Figure(figsize=(3, 2), dpi=100)
    fig.figimage(pixels, origin="upper")
    stored = np.asarray(Image.open(io.BytesIO(plotting.to_png(fig))).convert("RGB"))
    assert (stored[:4] == 255).all()


def test_heatmap_grid_fills_rows_of_six_and_outlines_what_has_a_mask():
    image, mask = np.full((64, 64), 90, np.uint8), np.zeros((64, 64), bool)
    mask[20:40, 20:40] = True
    maps = np.full((8, 7, 7), 0.5)
    fig = plotting.heatmap_grid([image] * 8, maps, [mask] * 7 + [None], ["wrist"] * 8)
    shown = [ax for ax in fig.axes if ax.axison]
    assert [len(ax.collections) for ax in shown] == [1] * 7 + [0]
    assert len(fig.axes) == 12
    assert "8 radiographs" in plotting.alt_text(fig) and "7 with" in plotting.alt_text(fig)


KEYS = [("saliency", "contrast"), ("grad_cam", "contrast"), ("center", "no target")]


def test_score_intervals_show_each_mean_with_its_interval_and_baselines_in_gray():
    names = ["score", "method", "target"]
    index = pd.MultiIndex.from_tuples([("energy_in_mask", *key) for key in KEYS], names=names)
    table = {"images": 9, "value": [0.3, 0.9, 0.1], "low": 0.0, "high": [0.4, 1.0, 0.2]}
    frame = pd.DataFrame(table, index)
    fig = plotting.score_intervals(frame, ["center"], random=frame[:1] * 0.5)
    (ax,) = fig.axes
    assert tick_labels(ax.yaxis)[0] == "saliency\ncontrast"
    dots = [line for line in ax.lines if line.get_marker() == "o" and len(line.get_xdata())]
    hollow = [dot for dot in dots if dot.get_markerfacecolor() == "white"]
    filled = [dot for dot in dots if dot not in hollow]
    assert [dot.get_xdata()[0] for dot in filled] == [0.3, 0.9, 0.1]
    assert hollow[0].get_xdata()[0] == 0.15
    assert filled[0].get_color() == filled[1].get_color() != filled[2].get_color()
    assert "Heat-map scores of 9 images with their 95% intervals" in texts(fig)
    assert "energy_in_mask, grad_cam, contrast: 0.90" in plotting.alt_text(fig)


def test_randomization_curves_begin_at_one_and_end_at_the_random_network():
    rows = [
        {"method": method, "target": target, "layer": layer, "share": share,
         "rank_correlation": value, "ssim": value, "image": 0}
        for method, target in KEYS
        for layer, share, value in [("unrelated", np.nan, 0.1), ("logits", 0.2, 0.8), ("a", 1, 0.3)]
    ]  # fmt: skip
    fig = plotting.randomization_curves(pd.DataFrame(rows))
    line = fig.axes[0].lines[0]
    np.testing.assert_allclose(line.get_xydata(), [[0, 1], [1, 0.8], [2, 0.3]])
    assert "maps of other images" in texts(fig)
    assert "saliency, SSIM: 0.30" in plotting.alt_text(fig)


def test_answer_curves_have_a_panel_a_way_and_say_the_areas():
    curves = {way: {"saliency": np.array([1.0, 0.5, 0.0])} for way in ("deletion", "insertion")}
    fig = plotting.answer_curves(curves)
    assert {"deletion", "insertion", "saliency"} <= set(texts(fig))
    assert "insertion, saliency: 0.50" in plotting.alt_text(fig)
