"""Heat-maps over radiographs, notebook 07 (report Fig. 33 to 35)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from PIL import Image

from mura_utils.plotting.style import (
    HEAT,
    add_panels,
    draw_image,
    draw_outline,
    in_our_style,
    new_figure,
    thousands,
    with_alt_text,
)


def overlay(image: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """Lay a heat-map over a radiograph; the color covers more the hotter it is.

    Args:
        image: (H, W), gray, 0..255.
        heatmap: (h, w) in [0, 1]; stretched to the image where it is smaller or larger. Its hottest
            half percent gets the full color, or single pixels would leave a saliency map dark
            (Smilkov et al. 2017, "SmoothGrad", section 3.1, cap it likewise).

    Returns:
        (H, W, 3) uint8.

    Example:
        >>> image = np.full((4, 4), 100, np.uint8)
        >>> overlay(image, np.zeros((2, 2)))[0, 0].tolist()  # no heat: the radiograph as it is
        [100, 100, 100]
    """
    heat = Image.fromarray(np.asarray(heatmap, np.float32))
    heat = np.asarray(heat.resize(image.shape[::-1], Image.Resampling.BILINEAR))
    full = np.quantile(heat, 0.995)
    color = HEAT(np.clip(heat / full if full > 0 else heat, 0, 1))
    opacity = color[..., 3:]
    gray = np.asarray(image, float)[..., None]
    return np.rint(gray * (1 - opacity) + 255 * color[..., :3] * opacity).astype(np.uint8)


@in_our_style
def heatmap_rows(
    images: Sequence[np.ndarray],
    titles: Sequence[str],
    heatmaps: Mapping[str, Sequence[np.ndarray]],
    masks: Sequence[np.ndarray | None],
) -> Figure:
    """Radiographs, one a row, each next to its heat-maps (report Fig. 33, 34, 35).

    Args:
        images: n arrays (H, W), 0..255.
        titles: n texts, one above each row.
        heatmaps: name -> n maps (h, w) in [0, 1]; one column a name.
        masks: n arrays (H, W) bool, outlined in their rows, or None.
    """
    tile = min(8.6 / (len(heatmaps) + 1), 2.6 if len(heatmaps) == 1 else 1.7)
    heights = [tile + 0.6 + 0.15 * ("\n" in "".join(heatmaps))] * len(images) + [0.6]
    fig = new_figure(sum(heights))
    *bands, foot = fig.subfigures(len(heights), 1, height_ratios=heights)
    for row, (band, image) in enumerate(zip(bands, images, strict=True)):
        band.suptitle(titles[row], fontsize=10)
        axes = add_panels(band, 1, len(heatmaps) + 1)
        draw_image(axes[0], image, "radiograph")
        for ax, (name, maps) in zip(axes[1:], heatmaps.items(), strict=True):
            draw_image(ax, overlay(image, maps[row]), name)
        for ax in axes:
            draw_outline(ax, masks[row])
    bar = fig.colorbar(ScalarMappable(cmap=HEAT), cax=foot.subplots(), orientation="horizontal")
    bar.set_label("heat; 1 is the hottest half percent of each map")
    bar.ax.set_facecolor("0.5")
    outlined = sum(mask is not None for mask in masks)
    return with_alt_text(
        fig,
        f"{thousands(len(images), 'radiograph')} next to their heat-maps",
        f"({', '.join(heatmaps).replace(chr(10), ' ')}); {outlined} with the true region outlined.",
        f"Rows: {'; '.join(titles)}.",
    )


@in_our_style
def heatmap_grid(
    images: Sequence[np.ndarray],
    heatmaps: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None],
    titles: Sequence[str],
    title: str = "Heat-maps",
) -> Figure:
    """Many radiographs under one kind of heat-map.

    Args:
        images: n arrays (H, W), 0..255.
        heatmaps: n maps (h, w) in [0, 1].
        masks: n arrays (H, W) bool, outlined, or None.
        titles: n texts, one above each.
        title: of the figure.
    """
    columns = min(len(images), 6)
    rows = -(-len(images) // columns)
    fig = new_figure(0.5 + min(9.9 / columns, 2.8) * rows, title)
    axes = add_panels(fig, rows, columns)
    for ax, image, heat, mask, text in zip(
        axes[: len(images)], images, heatmaps, masks, titles, strict=True
    ):
        draw_image(ax, overlay(image, heat), text)
        draw_outline(ax, mask)
    for ax in axes[len(images) :]:
        ax.set_axis_off()
    outlined = sum(mask is not None for mask in masks)
    return with_alt_text(
        fig,
        f"{title}: {thousands(len(images), 'radiograph')} under their heat-maps: "
        f"{', '.join(titles)};",
        f"{outlined} with the true region outlined.",
    )
