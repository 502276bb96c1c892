"""Crops of endless phantoms with dense targets, to pre-train on (`mura_utils.pretraining`).

An abnormal crop and a normal one are drawn and chosen alike: what tells them apart is the
abnormality and nothing else. Needs NumPy and Pillow, no deep learning library, so that worker
processes start quickly.
"""

from __future__ import annotations

import os
import threading
from multiprocessing import parent_process
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from mura_utils.phantoms.anatomy import KINDS, SEVERITIES, WINDOWS
from mura_utils.phantoms.dataset import BODY_PARTS, draw_case

CELL = 8
"""Side of a cell of the dense targets, pixels."""
_STREAM = 0x70726574  # "pret": seeds of crops are never those of a set of phantoms


class Crops(NamedTuple):
    """A batch; S is the crop's side and G = S / `CELL`.

    Attributes:
        images: (N, S, S, 1) uint8.
        body_parts: (N, 7) float32, one-hot over `BODY_PARTS`.
        findings: (N, 5) float32 probabilities of normal and of each of `KINDS`; between, where the
            crop cuts the abnormality off.
        places: (N, G, G, 4) float32, the share of each cell that each of `KINDS` covers.
    """

    images: np.ndarray
    body_parts: np.ndarray
    findings: np.ndarray
    places: np.ndarray


def draw_crops(
    seed: int, number: int, count: int, size: int, whole: int, variety: float = 1.0
) -> Crops:
    """Draw one batch; it depends on the arguments alone.

    Every crop has a phantom of its own. Half of the crops are normal; half show the whole
    radiograph, the others are taken around the finding, or where it would be, from the radiograph
    at 0.75 to 1.25 times `whole` pixels. At full variety, pose, aspect and exposure vary more than
    in a set of phantoms.

    Args:
        seed: of the sequence of batches.
        number: of the batch in it.
        count: crops, a multiple of 4.
        size: side of a crop, pixels, a multiple of 32.
        whole: side of a whole radiograph where the network will be used, pixels.
        variety: of pose, aspect and exposure, from 0, the phantoms' own, to 1.

    Example:
        >>> crops = draw_crops(seed=0, number=0, count=4, size=64, whole=128)
        >>> crops.images.shape, crops.places.shape
        ((4, 64, 64, 1), (4, 8, 8, 4))
    """
    rng = np.random.default_rng([_STREAM, seed, number])
    crops = []
    for index in range(count):
        abnormal, close = bool(index % 2), bool(index // 2 % 2)
        part, kind = rng.integers(len(BODY_PARTS)), rng.integers(len(KINDS))
        yaw = rng.choice(WINDOWS[BODY_PARTS[part]].yaws) + variety * rng.normal(0, 8)
        severity = str(rng.choice(SEVERITIES))
        image, mask = draw_case(rng, BODY_PARTS[part], KINDS[kind], abnormal, yaw, severity)
        window = _draw_window(mask, close, size, whole, variety, rng)
        covered, visible = window.cut_mask(mask)
        findings = np.zeros(1 + len(KINDS), np.float32)
        findings[[0, 1 + kind]] = (1 - visible, visible) if abnormal else (1, 0)
        places = np.zeros((*covered.shape, len(KINDS)), np.float32)
        places[..., kind] = abnormal * covered
        pixels = _vary_exposure(window.cut(image), variety, rng)
        body_parts = np.eye(len(BODY_PARTS), dtype=np.float32)[part]
        crops.append((pixels[..., None], body_parts, findings, places))
    return Crops(*(np.stack(arrays) for arrays in zip(*crops, strict=True)))


def end_with_the_parent() -> None:
    """Initialize a worker process: one whose parent was killed would wait for work for ever."""

    def watch() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _Window(NamedTuple):
    """A square of `size` pixels, turned, on an image stretched to `stretched` (width, height)."""

    size: int
    stretched: tuple[int, int]
    affine: tuple[float, ...]

    def cut(self, image: np.ndarray) -> np.ndarray:
        """Crop of an image, float32 (size, size)."""
        resized = Image.fromarray(image).resize(
            self.stretched, Image.Resampling.BILINEAR, reducing_gap=2.0
        )
        sides = (self.size, self.size)
        cut = resized.transform(
            sides, Image.Transform.AFFINE, self.affine, Image.Resampling.BILINEAR
        )
        return np.asarray(cut, np.float32)

    def cut_mask(self, mask: np.ndarray) -> tuple[np.ndarray, float]:
        """Coverage of the crop's cells (G, G), and how far the crop shows the finding, 0 to 1."""
        full = mask.mean() * self.stretched[0] * self.stretched[1]
        covered = self.cut(mask.astype(np.uint8) * 255) / 255
        cells = covered.reshape(self.size // CELL, CELL, -1, CELL).mean((1, 3))
        # A third of it is enough to see it, or a tenth of the crop's area.
        visible = max(3 * covered.sum() / full, 10 * covered.mean())
        return cells, float(min(visible, 1.0))


def _draw_window(
    mask: np.ndarray,
    close: bool,
    size: int,
    whole: int,
    variety: float,
    rng: np.random.Generator,
) -> _Window:
    scale = max(whole * rng.uniform(0.75, 1.25), size) if close else size
    width, height = scale * np.exp(variety * rng.normal(0, 0.1, 2))
    if close:
        rows, cols = np.nonzero(mask)
        chosen = rng.integers(len(rows))
        x = (cols[chosen] + 0.5) / mask.shape[1] * width + rng.normal(0, size / 5)
        y = (rows[chosen] + 0.5) / mask.shape[0] * height + rng.normal(0, size / 5)
    else:
        x, y = width / 2, height / 2
    x, y = (
        np.clip(place, size / 2, side - size / 2) if side > size else side / 2
        for place, side in ((x, width), (y, height))
    )
    angle = variety * rng.normal(0, np.radians(15))
    if rng.random() < variety * 0.2:
        angle += np.pi / 2 * rng.integers(1, 4)
    mirror, cosine, sine = rng.choice([-1, 1]), np.cos(angle), np.sin(angle)
    a, b, d, e = cosine * mirror, -sine, sine * mirror, cosine
    half = size / 2
    affine = (a, b, x - (a + b) * half, d, e, y - (d + e) * half)
    return _Window(size, (round(width), round(height)), affine)


def _vary_exposure(crop: np.ndarray, variety: float, rng: np.random.Generator) -> np.ndarray:
    """Gamma, contrast, brightness, inversion, blur and noise, beyond the phantoms' own; uint8."""
    exposed = (crop / 255) ** np.exp(variety * rng.normal(0, 0.3))
    exposed = exposed * np.exp(variety * rng.normal(0, 0.2)) + variety * rng.normal(0, 0.05)
    if rng.random() < variety * 0.1:
        exposed = 1 - exposed
    if rng.random() < variety * 0.3:
        exposed = ndimage.gaussian_filter(exposed, rng.uniform(0.3, 1.0))
    noise = rng.standard_normal(exposed.shape, np.float32) * variety * rng.uniform(0, 0.03)
    return np.clip(255 * (exposed + noise), 0, 255).astype(np.uint8)
