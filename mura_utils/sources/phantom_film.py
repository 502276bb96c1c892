"""The phantoms' radiography: path lengths along parallel rays, through a film curve.

What attenuates is added up as an X-ray does it: an elliptical cylinder's chord along the ray, in mm
of cortical bone. Bones are drawn at half the image's resolution, soft tissue at a quarter.
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from mura_utils.sources.phantom_arm import (
    PROFILE_ROWS,
    SHAPES,
    WINDOWS,
    Part,
    Window,
    pose,
    profile,
    rotation,
)

_METAL = 9.0  # attenuation of steel, relative to cortical bone
_TISSUE = 0.13

# --- Projection ----------------------------------------------------------------------------------



class _Shadow(NamedTuple):
    """A part in the image plane: end points (pixels), unit of the half-width, stretch of the rays."""

    part: Part
    start: np.ndarray
    end: np.ndarray
    side: float  # share of the half-width direction that lies across the shadow
    front: float
    stretch: float


def _project(parts: list[Part], camera: np.ndarray, centre, scale: float) -> list[_Shadow]:
    """Orthographic shadows of the parts; `scale` is pixels per millimetre."""
    starts, ends, sides = (
        np.array([getattr(part, name) for part in parts]) for name in ("start", "end", "side")
    )
    lengths = np.linalg.norm(ends - starts, axis=1)
    axes = (ends - starts) / lengths[:, None]
    sides = sides - axes * (sides * axes).sum(1, keepdims=True)
    sides /= np.linalg.norm(sides, axis=1, keepdims=True)
    fronts = np.cross(sides, axes)
    flat = camera[:2].T
    first, last = (starts - centre) @ flat * scale, (ends - centre) @ flat * scale
    sides, fronts = sides @ flat, fronts @ flat
    shadows = []
    for i, part in enumerate(parts):
        middle, run = (first[i] + last[i]) / 2, last[i] - first[i]
        seen = float(np.hypot(*run))
        unit = run / seen if seen > 1e-6 else np.array([0.0, 1.0])
        # A cylinder seen end on is still as wide as it is thick.
        shown = max(seen, 1.5 * part.radius * float(profile(part.shape)[0].max()) * scale
                    if part.shape != "rod" else 2 * part.radius * scale)  # fmt: skip
        across = np.array([-unit[1], unit[0]])
        stretch = min(lengths[i] * scale / shown, 2.0) / scale
        half = unit * shown / 2
        shadows.append(_Shadow(part, middle - half, middle + half, float(sides[i] @ across),
                               float(fronts[i] @ across), stretch))  # fmt: skip
    return shadows


def _cast(shadow: _Shadow, scale: float, shape: tuple[int, int], grid: float = 1.0):
    """Attenuation (mm of cortex) of one part: its rectangle of the image and the values, or None."""
    part = shadow.part
    table = profile(part.shape)
    if part.span != (0.0, 1.0):
        low, high = (int(t * (PROFILE_ROWS - 1)) for t in part.span)
        table = table[:, low : high + 1]
    a, b = shadow.side, shadow.front
    size = part.radius * scale * grid
    width, depth, side, front, width_in, depth_in, marrow = table
    half = np.hypot(width * a, depth * b) * size + 1e-3
    shift = (side * a + front * b) * size
    reach = float((half + np.abs(shift)).max())
    (x0, y0), (x1, y1) = shadow.start * grid, shadow.end * grid
    left, right = max(int(min(x0, x1) - reach), 0), min(int(max(x0, x1) + reach) + 2, shape[1])
    top, bottom = max(int(min(y0, y1) - reach), 0), min(int(max(y0, y1) + reach) + 2, shape[0])
    if left >= right or top >= bottom:
        return None
    length = float(np.hypot(x1 - x0, y1 - y0))
    ux, uy = (x1 - x0) / length, (y1 - y0) / length
    xs = np.arange(left, right, dtype=np.float32) - np.float32(x0)
    ys = (np.arange(top, bottom, dtype=np.float32) - np.float32(y0))[:, None]
    along = (xs * np.float32(ux / length) + ys * np.float32(uy / length)).ravel()
    inside = np.flatnonzero((along >= 0) & (along < 1))
    off = (xs * np.float32(-uy) + ys * np.float32(ux)).ravel()[inside]
    near = np.abs(off) < reach
    inside, off = inside[near], off[near]
    along = along[inside]
    row = (along * table.shape[1]).astype(np.intp)
    off = off - shift[row]
    ratio = off / half[row]
    # Chord through an ellipse: 2 a b / (half-width seen) * sqrt(1 - ratio^2), in mm.
    chord = (2 * width * depth * size * size / half)[row] * np.sqrt(np.maximum(1 - ratio**2, 0))
    values = chord
    if SHAPES[part.shape].cortex[1]:
        half_in = np.hypot(width_in * a, depth_in * b) * size + 1e-3
        chord_in = (2 * width_in * depth_in * size * size / half_in)[row]
        chord_in = chord_in * np.sqrt(np.maximum(1 - (off / half_in[row]) ** 2, 0))
        values = chord - chord_in * (1 - marrow[row])
    if part.cut:
        tilt = (part.cut.tilt[0] * a + part.cut.tilt[1] * b) * scale
        jag = np.sin(4 * ratio + part.cut.phase) + 0.5 * np.sin(9 * ratio + 2 * part.cut.phase)
        edge = tilt * ratio + part.cut.jag * scale * jag
        from_end = (1 - along if part.cut.end else along) * length - part.cut.margin * scale
        values = values * np.clip(from_end + (-edge if part.cut.end else edge) + 0.5, 0, 1)
    patch = np.zeros((bottom - top) * (right - left), np.float32)
    patch[inside] = values * np.float32(shadow.stretch / grid)
    return (slice(top, bottom), slice(left, right)), patch.reshape(bottom - top, right - left)



# --- Image ---------------------------------------------------------------------------------------

@functools.cache
def _tiles() -> tuple[np.ndarray, np.ndarray]:
    """Film grain and trabecular texture, (1024, 1024), cut at random for each image."""
    rng = np.random.default_rng(20180522)
    white = rng.standard_normal((2, 1024, 1024), np.float32)
    grain = ndimage.gaussian_filter(white[0], 0.6, mode="wrap")
    fine, coarse = (ndimage.gaussian_filter(white[1], sigma, mode="wrap") for sigma in (1.1, 3.5))
    texture = fine - coarse
    return grain / grain.std(), texture / texture.std()


def _crop(tile: np.ndarray, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    top, left = rng.integers(0, 1024 - 512, 2)
    return tile[top : top + shape[0], left : left + shape[1]]


def _enlarge(image: np.ndarray, shape: tuple[int, int], how=Image.Resampling.BICUBIC) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize(shape[::-1], how))


def _bone_plane(shadows: list[_Shadow], scale: float, shape: tuple[int, int]) -> np.ndarray:
    """Path length (mm of cortex) through bone and metal: bones add up, parts of a bone merge."""
    total = np.zeros(shape, np.float32)
    bones = [shadow for shadow in shadows if shadow.part.role == "bone"]
    bones.sort(key=lambda shadow: shadow.part.bone)
    for _, group in itertools.groupby(bones, lambda shadow: shadow.part.bone):
        bone = np.zeros(shape, np.float32)
        for shadow in group:
            if cast := _cast(shadow, scale, shape):
                place, values = cast
                np.maximum(bone[place], values, out=bone[place])
        total += bone
    for shadow in shadows:
        if shadow.part.role in ("density", "metal") and (cast := _cast(shadow, scale, shape)):
            place, values = cast
            if shadow.part.role == "metal":
                total[place] += _METAL * values
            else:
                share = np.minimum(values / (1.2 * shadow.part.radius), 1)
                total[place] *= 1 + shadow.part.mu * share
    return total


def _flesh_plane(shadows: list[_Shadow], scale: float, shape: tuple[int, int]) -> np.ndarray:
    """Path length (mm of cortex) through soft tissue, drawn coarsely: its parts merge, and sag."""
    total = np.zeros(shape, np.float32)
    for shadow in shadows:
        if shadow.part.role == "flesh" and (cast := _cast(shadow, scale, shape, 0.5)):
            place, values = cast
            np.maximum(total[place], values, out=total[place])
    for shadow in shadows:
        if shadow.part.role == "lung" and (cast := _cast(shadow, scale, shape, 0.5)):
            place, values = cast
            total[place] -= 0.6 * np.minimum(values, total[place])
    total = ndimage.uniform_filter(total, 3, mode="nearest")
    return _TISSUE * 60 * (1 - np.exp(-total / 60))


def _mask_plane(shadows: list[_Shadow], scale: float, shape: tuple[int, int]) -> np.ndarray:
    """Where the finding is: marks and metal, two pixels larger."""
    mask = np.zeros(shape, bool)
    for shadow in shadows:
        if shadow.part.role in ("mark", "metal") and (cast := _cast(shadow, scale, shape)):
            place, values = cast
            mask[place] |= values > 0
    return ndimage.binary_dilation(mask, iterations=2) if mask.any() else mask


def _expose(bone: np.ndarray, flesh: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Film density in [0, 1] of the path lengths, unevenly exposed and noisy."""
    shape = bone.shape
    grain, texture = _tiles()
    path = np.maximum(bone * (1 + 0.09 * _crop(texture, shape, rng)) + flesh, 0)  # bicubic rings
    reference = np.percentile(path[::6, ::6], 97) + 1e-3
    film = 1 - np.exp(path * np.float32(-rng.uniform(0.8, 1.5) / reference))
    film *= np.float32(1 / (1 - np.exp(-2.2)))
    if rng.random() < 0.5:
        film **= np.float32(rng.uniform(0.8, 1.3))
    slopes = rng.normal(0, 0.09, 2)
    heel = [1 + slope * np.linspace(-1, 1, size, dtype=np.float32) for slope, size in zip(slopes, shape)]
    film *= heel[0][:, None] * heel[1].astype(np.float32)
    film += np.float32(abs(rng.normal(0.02, 0.03)))
    film += np.float32(rng.uniform(0.006, 0.02)) * (0.5 + film) * _crop(grain, shape, rng)
    return film


@functools.cache
def _letter(letter: str, size: int, framed: bool) -> Image.Image:
    image = Image.new("L", (2 * size, 2 * size))
    pen = ImageDraw.Draw(image)
    pen.text((size, size), letter, 255, ImageFont.load_default(size), anchor="mm")
    if framed:
        pen.ellipse((0.28 * size, 0.28 * size, 1.72 * size, 1.72 * size), outline=255, width=2)
    return image


def _finish(film: np.ndarray, left: bool, rng: np.random.Generator) -> np.ndarray:
    """Collimator, side marker and frame: uint8."""
    rows, cols = film.shape
    if rng.random() < 0.65:
        inset = rng.uniform(0.01, 0.09, 4) * min(rows, cols)
        corners = np.array([[inset[0], inset[1]], [cols - inset[2], inset[1]],
                            [cols - inset[2], rows - inset[3]], [inset[0], rows - inset[3]]])  # fmt: skip
        turn = rotation(2, rng.normal(0, 2.5))[:2, :2]
        corners = (corners - (cols / 2, rows / 2)) @ turn.T + (cols / 2, rows / 2)
        shutter = Image.new("L", (cols // 2, rows // 2), int(rng.choice([0, 0, 12])))
        ImageDraw.Draw(shutter).polygon([tuple(c / 2) for c in corners], fill=255)
        film = film * (_enlarge(np.asarray(shutter), (rows, cols), Image.Resampling.BILINEAR) / np.float32(255))
    image = Image.fromarray(np.clip(film * 255, 0, 255).astype(np.uint8))
    if rng.random() < 0.8:
        size = int(rng.integers(18, 34))
        glyph = _letter("L" if left else "R", size, bool(rng.random() < 0.3))
        glyph = glyph.rotate(float(rng.normal(0, 12)), Image.Resampling.BILINEAR)
        corner = rng.integers(0, 2, 2) * (np.array([cols, rows]) - 2 * size - 0.12 * min(cols, rows))
        place = tuple(int(v) for v in corner + rng.uniform(0.02, 0.1, 2) * min(cols, rows))
        image.paste(int(rng.integers(215, 256)), place, glyph)
    if rng.random() < 0.05:
        ImageDraw.Draw(image).rectangle((0, 0, cols - 1, rows - 1), outline=255, width=int(rng.integers(2, 8)))
    return np.asarray(image)


def _frame(window: Window, fingers: bool, rng: np.random.Generator) -> tuple[tuple[int, int], float, float]:
    """Shape of the image (longest side 512), pixels per mm, and turn of the arm in it (degrees)."""
    low, high = window.aspect
    aspect = rng.uniform(0.21, 0.3) if high < 0.75 and rng.random() < 0.03 else rng.uniform(low, high)
    height = window.height * rng.uniform(0.88, 1.15)
    rows, cols = (512, round(512 * aspect)) if aspect <= 1 else (round(512 / aspect), 512)
    scale = rows / height
    turn = rng.normal(0, 8) + (180 if window.fingers_up else 0)
    if rng.random() < 0.06:
        turn += 180
    if rng.random() < 0.1:
        turn += rng.choice([-90, 90])
        rows, cols = cols, rows
    return (rows, cols), scale, turn


class Study(NamedTuple):
    """What one examination is of."""

    body_part: str
    parts: list[Part]
    centre: np.ndarray  # mm: where the beam is centred
    left: bool


def take_radiograph(study: Study, yaw: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One view of a study's anatomy: image uint8 (H, W) and mask bool (H, W)."""
    window = WINDOWS[study.body_part]
    parts = pose(study.parts, study.body_part, yaw, rng)
    shape, scale, turn = _frame(window, study.body_part == "FINGER", rng)
    camera = rotation(2, turn) @ rotation(0, rng.normal(0, 4)) @ rotation(1, yaw + rng.normal(0, 6))
    if study.left:
        camera[0] *= -1
    half = shape[0] // 2, shape[1] // 2
    centre = np.asarray(study.centre)
    shadows = _project(parts, camera, centre, scale / 2)
    middle = np.array(half[::-1]) * (0.5 + rng.uniform(-0.04, 0.04, 2))
    found = [(s.start + s.end) / 2 for s in shadows if s.part.role in ("mark", "metal")]
    if found:  # keep the finding inside the collimated field
        there, size = np.mean(found, 0) + middle, np.array(half[::-1])
        middle = middle + np.clip(there, 0.22 * size, 0.78 * size) - there
    shadows = [s._replace(start=s.start + middle, end=s.end + middle) for s in shadows]
    bone = _enlarge(_bone_plane(shadows, scale / 2, half), shape)
    flesh = _enlarge(_flesh_plane(shadows, scale / 2, (half[0] // 2, half[1] // 2)), shape)
    mask = _enlarge(_mask_plane(shadows, scale / 2, half), shape, Image.Resampling.NEAREST)
    return _finish(_expose(bone, flesh, rng), study.left, rng), mask
