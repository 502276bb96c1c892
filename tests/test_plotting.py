"""Every figure: its size and colors, and what it says to who cannot see it."""

from __future__ import annotations

import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from figures import (
    FOUR,
    SEVEN,
    classes,
    draw_heatmap_rows,
    make_history,
    make_manifest,
    make_splits,
)
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.text import Text
from PIL import Image

from mura_utils import plotting

IMAGE = np.arange(96, dtype=np.uint8).reshape(12, 8)


def test_every_figure_is_nine_inches_on_white_with_alt_text_and_unknown_to_pyplot():
    before = dict(matplotlib.rcParams)
    with plt.style.context("dark_background"):
        fig = plotting.image_counts(make_manifest(FOUR))
        pixels = Image.open(io.BytesIO(plotting.to_png(fig))).convert("RGB")
    assert pixels.width == 900
    assert pixels.getpixel((2, 2)) == (255, 255, 255)
    assert (0xD5, 0x5E, 0x00) in {color for _, color in pixels.getcolors(1 << 20)}
    assert "24 images in 8 classes" in plotting.alt_text(fig)
    assert plt.get_fignums() == []
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plotting.confusion_matrix(np.eye(14, dtype=int) * 1234, classes(SEVEN)),
        lambda: plotting.class_counts(make_manifest(SEVEN), make_splits(make_manifest(SEVEN))),
        lambda: plotting.sample_grid({("HAND", "Normal"): np.zeros((9, 5), np.uint8)}),
        lambda: plotting.file_sheet([("mask-size-mismatch", np.zeros((9, 5), np.uint8))] * 5),
        lambda: plotting.pixel_analysis(IMAGE, "Abnormal-HUMERUS", [IMAGE] * 12),
        lambda: plotting.image_sizes(
            make_manifest(SEVEN).assign(width=512, height=109, mode="RGBA;16")
        ),
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
