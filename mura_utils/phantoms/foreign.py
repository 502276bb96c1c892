"""Images that are no bone radiograph, to test whether a network's familiarity notices them.

Nothing is downloaded: two photographs come with scikit-learn, the rest is drawn.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_sample_images

_SIDE = 400  # pixels, of what is drawn
_RIBS = 9  # on each side


def foreign_images(
    radiographs: Sequence[np.ndarray], each: int = 10, seed: int = 0
) -> dict[str, list[np.ndarray]]:
    """Draw images that are no bone radiograph, the same number of every kind.

    Args:
        radiographs: `each` or more bone radiographs (H, W) uint8, of which negatives are made.
        each: images of a kind.
        seed: another draws others.

    Returns:
        Images (H, W) uint8 by kind: photographs, noise, patterns, text pages, charts, chests and
        negatives.

    Example:
        >>> found = foreign_images([np.zeros((9, 9), np.uint8)], each=1)
        >>> {kind: image.shape for kind, (image,) in found.items()}["chest"]
        (400, 400)
        >>> int(found["negative"][0].min())
        255
    """
    found = {
        kind: [draw(np.random.default_rng([seed, number, row])) for row in range(each)]
        for number, (kind, draw) in enumerate(_DRAWN.items())
    }
    return found | {"negative": [255 - image for image in radiographs[:each]]}


def _photograph(rng: np.random.Generator) -> np.ndarray:
    """A part of one of scikit-learn's two photographs, as luma."""
    photographs = load_sample_images().images
    image = Image.fromarray(photographs[rng.integers(len(photographs))]).convert("L")
    width, height = (int(side * rng.uniform(0.3, 1)) for side in image.size)
    left, top = rng.integers(image.width - width + 1), rng.integers(image.height - height + 1)
    return np.asarray(image.crop((left, top, left + width, top + height)))


def _noise(rng: np.random.Generator) -> np.ndarray:
    """Noise, each pixel by itself or blurred to clouds; of gray levels, or of black and white."""
    values = gaussian_filter(rng.normal(size=(_SIDE, _SIDE)), rng.choice([0, 2, 8, 30]))
    return _levels(values > values.mean() if rng.random() < 0.3 else values)


def _pattern(rng: np.random.Generator) -> np.ndarray:
    """A gradient, rings, stripes or a chessboard."""
    y, x = np.mgrid[-1 : 1 : _SIDE * 1j, -1 : 1 : _SIDE * 1j]
    angle, waves = rng.uniform(0, 2 * np.pi), rng.uniform(2, 20)
    along, across = (x * np.cos(angle + turn) + y * np.sin(angle + turn) for turn in (0, np.pi / 2))
    patterns = [
        along,
        np.sin(waves * np.hypot(x, y)),
        np.sin(waves * along),
        np.sign(np.sin(waves * along) * np.sin(waves * across)),
    ]
    return _levels(patterns[rng.integers(len(patterns))])


def _text_page(rng: np.random.Generator) -> np.ndarray:
    """Lines of letters, dark on a light page or light on a dark screen."""
    paper, ink = (rng.integers(200, 256), rng.integers(0, 60))[:: rng.choice([1, -1])]
    size = int(rng.integers(10, 22))
    page = Image.new("L", (_SIDE, int(_SIDE * 1.3)), int(paper))
    letters = [*string.ascii_letters, *" " * 12]
    lines = ["".join(rng.choice(letters, 2 * _SIDE // size)) for _ in range(page.height // size)]
    draw = ImageDraw.Draw(page)
    for number, line in enumerate(lines[2:-2], start=2):
        draw.text((20, number * size), line, fill=int(ink), font=ImageFont.load_default(size - 3))
    return np.asarray(page)


def _chart(rng: np.random.Generator) -> np.ndarray:
    """A figure of Matplotlib's: lines, bars or points."""
    fig = Figure(figsize=(4, 4), dpi=100)
    canvas = FigureCanvasAgg(fig)
    ax = fig.add_subplot(title="results", xlabel="epoch", ylabel="loss")
    values = rng.normal(size=(3, 12)).cumsum(axis=1)
    kind = rng.integers(3)
    for row in values:
        (ax.plot, ax.bar, ax.scatter)[kind](np.arange(12), row)
    canvas.draw()
    return np.asarray(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("L"))


def _chest(rng: np.random.Generator) -> np.ndarray:
    """A chest from the front: lungs, heart, spine, ribs, collarbones and diaphragm."""
    y, x = np.mgrid[-1 : 1 : _SIDE * 1j, -1 : 1 : _SIDE * 1j] / rng.uniform(0.9, 1.1)
    x = x * rng.choice([-1, 1]) + rng.uniform(-0.05, 0.05)
    side = np.abs(x)

    def ellipse(cx: float, cy: float, a: float, b: float) -> np.ndarray:
        return np.hypot((x - cx) / a, (y - cy) / b) < 1

    trunk = (side < 0.75 + 0.15 * np.tanh(4 * (y + 0.5))) & (y > -0.85 + 0.5 * side**2)
    density = 0.55 * (trunk | (ellipse(0, -1, 0.22, 0.4)))
    lungs = (ellipse(-0.4, 0, 0.3, 0.68) | ellipse(0.4, 0, 0.3, 0.68)) & (y < 0.5 - 0.2 * side)
    density[lungs] = rng.uniform(0.1, 0.2)
    density[ellipse(0.13, 0.25, rng.uniform(0.22, 0.32), 0.3)] = 0.7
    density += 0.2 * (side < 0.08) * (1 + 0.2 * np.sign(np.sin(40 * y)))
    for height in np.linspace(-0.75, 0.6, _RIBS) + rng.uniform(-0.02, 0.02, _RIBS):
        for bend in (0.5, -0.5):  # the back's ribs fall to the side, the front's rise to it
            rib = np.abs(y - height - bend * (side - 0.3) ** 2 * 1.5 - 0.2 * bend * side) < 0.02
            density += 0.12 * (rib & (side < 0.68) & trunk)
    density += 0.2 * ((np.abs(y + 0.72 + 0.15 * side) < 0.025) & (side > 0.08) & (side < 0.7))
    density = gaussian_filter(density, 2) + rng.normal(0, 0.015, density.shape)
    return _levels(density)


def _levels(values: np.ndarray) -> np.ndarray:
    """Stretched to gray levels, (H, W) uint8."""
    values = values.astype(float) - values.min()
    return np.rint(255 * values / values.max()).astype(np.uint8)


_DRAWN: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "photograph": _photograph,
    "noise": _noise,
    "pattern": _pattern,
    "text page": _text_page,
    "chart": _chart,
    "chest": _chest,
}
