"""The figures of notebook 07."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
from figures import draw_heatmap_rows, texts, tick_labels
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
