"""The phantoms' radiography: path lengths along parallel rays, through an exposure curve.

What attenuates is added up as an X-ray does it: an elliptical cylinder's chord along the ray, in mm
of cortical bone. Bones are drawn at half the image's resolution, soft tissue at a quarter.
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy import ndimage

from mura_utils.phantoms.anatomy import (
    PROFILE_ROWS,
    SHAPES,
    WINDOWS,
    Cut,
    Part,
    Seam,
    Window,
    pose,
    profile,
    rotation,
)

METAL = 9.0  # attenuation of steel, relative to cortical bone
_TISSUE = 0.13

# --- Projection ----------------------------------------------------------------------------------


class _Shadow(NamedTuple):
    """A part in the image plane."""

    part: Part
    scale: float  # pixels per mm
    start: np.ndarray  # (x, y), pixels
    end: np.ndarray
    side: float  # shares of the half-width and half-depth directions that lie across the shadow
    front: float
    stretch: float  # of the rays in a part that is seen foreshortened

    def halved(self) -> _Shadow:
        """The same shadow in an image of half the resolution."""
        return self._replace(scale=self.scale / 2, start=self.start / 2, end=self.end / 2)


def _project(parts: list[Part], camera: np.ndarray, center, scale: float) -> list[_Shadow]:
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
    first, last = (starts - center) @ flat * scale, (ends - center) @ flat * scale
    sides, fronts = sides @ flat, fronts @ flat
    shadows = []
    for i, part in enumerate(parts):
        middle, run = (first[i] + last[i]) / 2, last[i] - first[i]
        seen = float(np.hypot(*run))
        unit = run / seen if seen > 1e-6 else np.array([0.0, 1.0])
        # Seen end on, a cylinder is still as long as it is thick (but a screw is only its head).
        thick = 2.0 if part.shape == "rod" else 1.5 * float(profile(part.shape)[0].max())
        shown = max(seen, thick * part.radius * scale)
        across, half = np.array([-unit[1], unit[0]]), unit * shown / 2
        shares = float(sides[i] @ across), float(fronts[i] @ across)
        stretch = min(lengths[i] * scale / shown, 2.0)
        shadows.append(_Shadow(part, scale, middle - half, middle + half, *shares, stretch))
    return shadows


@functools.cache
def _reach(name: str) -> float:
    """The farthest that a shape gets from its axis, in units of the part's radius."""
    width, depth, side, front = np.abs(profile(name)[:4])
    return float((np.maximum(width, depth) + side + front).max())


def _rectangle(shadow: _Shadow, shape: tuple[int, int]) -> tuple[slice, slice] | None:
    """Rows and columns of an image (H, W) that the shadow can touch; None if it is outside."""
    reach = _reach(shadow.part.shape) * shadow.part.radius * shadow.scale
    (x0, y0), (x1, y1) = shadow.start.tolist(), shadow.end.tolist()
    left, right = max(int(min(x0, x1) - reach), 0), min(int(max(x0, x1) + reach) + 2, shape[1])
    top, bottom = max(int(min(y0, y1) - reach), 0), min(int(max(y0, y1) + reach) + 2, shape[0])
    return (slice(top, bottom), slice(left, right)) if left < right and top < bottom else None


def _edge(shadow: _Shadow, line: Cut | Seam, ratio: np.ndarray) -> np.ndarray:
    """How far (pixels) an oblique, jagged line is from a straight one, from edge to edge."""
    tilt = line.tilt[0] * shadow.side + line.tilt[1] * shadow.front
    jag = np.sin(4 * ratio + line.phase) + 0.5 * np.sin(9 * ratio + 2 * line.phase)
    return (tilt * ratio + line.jag * jag) * shadow.scale


def _cut_share(shadow: _Shadow, along: np.ndarray, ratio: np.ndarray, length: float) -> np.ndarray:
    """1 on the bone's side of its fracture line, 0 beyond, a pixel of ramp between."""
    cut, edge = shadow.part.cut, _edge(shadow, shadow.part.cut, ratio)
    from_end = (1 - along if cut.end else along) * length - cut.margin * shadow.scale
    return np.clip(from_end + (-edge if cut.end else edge) + 0.5, 0, 1)


def _seam_share(
    shadow: _Shadow, seam: Seam, along: np.ndarray, ratio: np.ndarray, length: float
) -> np.ndarray:
    """1 in the middle of a seam, 0 away from it; one that is finer than a pixel is fainter."""
    low, high = shadow.part.span
    wide = seam.width * shadow.scale / 2
    drawn = max(wide, 0.6)
    off = (low + along * (high - low) - seam.share) * length / (high - low)
    share = wide / drawn * np.exp(-(((off - _edge(shadow, seam, ratio)) / drawn) ** 2))
    return share * np.clip((seam.until - ratio * np.sign(shadow.side)) / 0.25 + 1, 0, 1)


def _cast(shadow: _Shadow, shape: tuple[int, int]) -> tuple[tuple[slice, slice], np.ndarray] | None:
    """Attenuation (mm of cortex) of one part: rectangle and values; None if outside the image.

    A ray that passes an ellipse (a, b) off its center has a chord of 2ab/w * sqrt(1 - (off/w)^2),
    where w is the half-width that is seen.
    """
    place = _rectangle(shadow, shape)
    if place is None:
        return None
    part, size = shadow.part, np.float32(shadow.part.radius * shadow.scale)
    table = profile(part.shape)
    if part.span != (0.0, 1.0):
        low, high = (int(share * (PROFILE_ROWS - 1)) for share in part.span)
        table = table[:, low : high + 1]
    width, depth, side, front, width_in, depth_in, marrow = table
    a, b = np.float32(shadow.side), np.float32(shadow.front)
    half = np.hypot(width * a, depth * b) * size + np.float32(1e-3)
    shift = (side * a + front * b) * size
    reach = float((half + np.abs(shift)).max())

    rows, cols = place
    run = shadow.end - shadow.start
    length = float(np.hypot(*run))
    ux, uy = (run / length).astype(np.float32)
    xs = np.arange(cols.start, cols.stop, dtype=np.float32) - np.float32(shadow.start[0])
    ys = np.arange(rows.start, rows.stop, dtype=np.float32) - np.float32(shadow.start[1])
    along = np.add.outer(ys * (uy / length), xs * (ux / length))
    off = np.add.outer(ys * ux, xs * -uy)
    inside = np.flatnonzero((along >= 0) & (along < 1) & (np.abs(off) < reach))
    along, off = along.ravel()[inside], off.ravel()[inside]
    row = (along * np.float32(table.shape[1])).astype(np.intp)
    off -= shift[row]
    ratio = off / half[row]
    chord = (2 * width * depth * size**2 / half)[row]
    values = chord * np.sqrt(np.maximum(1 - ratio * ratio, 0))
    if SHAPES[part.shape].cortex[1]:
        half_in = np.hypot(width_in * a, depth_in * b) * size + np.float32(1e-3)
        within = np.sqrt(np.maximum(1 - (off / half_in[row]) ** 2, 0))
        values -= (2 * width_in * depth_in * size**2 / half_in * (1 - marrow))[row] * within
    values *= np.minimum(np.minimum(along, 1 - along) * np.float32(length), 1)  # no jagged ends
    if part.cut:
        values *= _cut_share(shadow, along, ratio, length)
    for seam in part.seams:
        values *= 1 - seam.depth * _seam_share(shadow, seam, along, ratio, length)
    patch = np.zeros((rows.stop - rows.start, cols.stop - cols.start), np.float32)
    patch.ravel()[inside] = values * np.float32(shadow.stretch / shadow.scale)
    return place, patch


# --- Image ---------------------------------------------------------------------------------------


@functools.cache
def _tiles() -> tuple[np.ndarray, np.ndarray]:
    """Grain of the image and trabecular texture, (1024, 1024), cut at random for each image."""
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


def _bone_plane(shadows: list[_Shadow], shape: tuple[int, int]) -> np.ndarray:
    """Path length (mm of cortex) through bone and metal: bones add up, parts of a bone merge."""
    total = np.zeros(shape, np.float32)
    bones = sorted((s for s in shadows if s.part.role == "bone"), key=lambda s: s.part.bone)
    for _, group in itertools.groupby(bones, lambda shadow: shadow.part.bone):
        casts = [cast for shadow in group if (cast := _cast(shadow, shape))]
        if len(casts) == 1:
            total[casts[0][0]] += casts[0][1]
        elif casts:
            bone = np.zeros(shape, np.float32)
            for place, values in casts:
                np.maximum(bone[place], values, out=bone[place])
            total += bone
    for shadow in shadows:
        if shadow.part.role == "density" and (cast := _cast(shadow, shape)):
            place, values = cast
            total[place] *= 1 + shadow.part.mu * np.minimum(values / (1.2 * shadow.part.radius), 1)
    for shadow in shadows:
        if shadow.part.role == "metal" and (cast := _cast(shadow, shape)):
            total[cast[0]] += METAL * cast[1]
        if shadow.part.role == "foreign" and (cast := _cast(shadow, shape)):
            total[cast[0]] += shadow.part.mu * cast[1]
    return total


def _flesh_plane(shadows: list[_Shadow], shape: tuple[int, int]) -> np.ndarray:
    """Path length (mm of cortex) through soft tissue: its parts merge, lungs thin it."""
    total = np.zeros(shape, np.float32)
    for shadow in sorted(shadows, key=lambda shadow: shadow.part.role):  # flesh before lung
        if shadow.part.role in ("flesh", "lung") and (cast := _cast(shadow, shape)):
            place, values = cast
            if shadow.part.role == "flesh":
                np.maximum(total[place], values, out=total[place])
            else:
                total[place] -= 0.6 * np.minimum(values, total[place])
    total = ndimage.uniform_filter(total, 3, mode="nearest")
    return _TISSUE * 60 * (1 - np.exp(-total / 60))  # thick parts are exposed longer


def _mask_plane(shadows: list[_Shadow], shape: tuple[int, int]) -> np.ndarray:
    """Where the finding is: marks and metal, two pixels larger."""
    mask = np.zeros(shape, bool)
    for shadow in shadows:
        if shadow.part.role in ("mark", "metal") and (cast := _cast(shadow, shape)):
            mask[cast[0]] |= cast[1] > 0
    return ndimage.binary_dilation(mask, iterations=2) if mask.any() else mask


def _expose(bone: np.ndarray, flesh: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness in [0, 1] of the path lengths, unevenly exposed and noisy."""
    shape = bone.shape
    grain, texture = _tiles()
    grained = bone * (1 + np.float32(0.09) * _crop(texture, shape, rng))
    path = np.maximum(grained + flesh, 0)  # bicubic enlargement rings
    reference = np.percentile(path[::6, ::6], 97) + 1e-3
    radiograph = 1 - np.exp(path * np.float32(-rng.uniform(0.8, 1.5) / reference))
    radiograph *= np.float32(1 / (1 - np.exp(-2.2)))
    if rng.random() < 0.5:
        radiograph **= np.float32(rng.uniform(0.8, 1.3))
    down, right = (
        1 + rng.normal(0, 0.09) * np.linspace(-1, 1, size, dtype=np.float32) for size in shape
    )  # the heel effect
    radiograph *= np.multiply.outer(down, right).astype(np.float32)
    radiograph += np.float32(abs(rng.normal(0.02, 0.03)))
    radiograph += (
        np.float32(rng.uniform(0.006, 0.02)) * (0.5 + radiograph) * _crop(grain, shape, rng)
    )
    return radiograph


@functools.cache
def _letter(letter: str, size: int, framed: bool) -> Image.Image:
    image = Image.new("L", (2 * size, 2 * size))
    pen = ImageDraw.Draw(image)
    pen.text((size, size), letter, 255, ImageFont.load_default(size), anchor="mm")
    if framed:
        pen.ellipse((0.28 * size, 0.28 * size, 1.72 * size, 1.72 * size), outline=255, width=2)
    return image


def _collimate(radiograph: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Close the shutters: a slightly turned rectangle, dark outside."""
    size = np.array(radiograph.shape[::-1])
    inset = rng.uniform(0.01, 0.09, 4) * size.min()
    left, top, right, bottom = inset[0], inset[1], size[0] - inset[2], size[1] - inset[3]
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]]) - size / 2
    corners = corners @ rotation(2, rng.normal(0, 2.5))[:2, :2].T + size / 2
    shutter = Image.new("L", tuple(int(side) for side in size // 2), int(rng.choice([0, 0, 12])))
    ImageDraw.Draw(shutter).polygon([tuple(corner / 2) for corner in corners], fill=255)
    shutter = shutter.filter(ImageFilter.BoxBlur(1))
    shutter = shutter.resize(radiograph.shape[::-1], Image.Resampling.BILINEAR)
    return radiograph * (np.asarray(shutter) * np.float32(1 / 255))


def _finish(radiograph: np.ndarray, left: bool, rng: np.random.Generator) -> np.ndarray:
    """Collimator, side marker and white frame, each on some images; uint8."""
    if rng.random() < 0.65:
        radiograph = _collimate(radiograph, rng)
    image = Image.fromarray(np.clip(radiograph * 255, 0, 255).astype(np.uint8))
    short, room = min(radiograph.shape), np.array(radiograph.shape[::-1])
    if rng.random() < 0.8:
        size = int(rng.integers(18, 34))
        glyph = _letter("L" if left else "R", size, bool(rng.random() < 0.3))
        glyph = glyph.rotate(float(rng.normal(0, 12)), Image.Resampling.BILINEAR)
        corner = rng.integers(0, 2, 2) * (room - 2 * size - 0.12 * short)
        place = corner + rng.uniform(0.02, 0.1, 2) * short
        image.paste(int(rng.integers(215, 256)), tuple(int(v) for v in place), glyph)
    if rng.random() < 0.05:
        edge = (0, 0, radiograph.shape[1] - 1, radiograph.shape[0] - 1)
        ImageDraw.Draw(image).rectangle(edge, outline=255, width=int(rng.integers(2, 8)))
    return np.asarray(image)


def _frame(window: Window, rng: np.random.Generator) -> tuple[tuple[int, int], float, float]:
    """Shape of the image (longest side 512), pixels per mm, turn of the arm in it (degrees)."""
    low, high = window.aspect
    narrow = high < 0.75 and rng.random() < 0.03
    aspect = rng.uniform(0.21, 0.3) if narrow else rng.uniform(low, high)
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
    center: np.ndarray  # mm: where the beam is centered
    left: bool


def take_radiograph(
    study: Study, yaw: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One view of a study's anatomy: image uint8 (H, W) and mask bool (H, W)."""
    window = WINDOWS[study.body_part]
    parts = pose(study.parts, study.body_part, yaw, rng)
    shape, scale, turn = _frame(window, rng)
    tilt, yaw = rng.normal(0, 4), yaw + rng.normal(0, 6)
    camera = rotation(2, turn) @ rotation(0, tilt) @ rotation(1, yaw)
    if study.left:
        camera[0] *= -1
    half = shape[0] // 2, shape[1] // 2
    size = np.array(half[::-1])
    shadows = _project(parts, camera, study.center, scale / 2)
    middle = size * (0.5 + rng.uniform(-0.04, 0.04, 2))
    found = [s for s in shadows if s.part.role in ("mark", "metal")]
    if found:  # keep the finding inside the collimated field
        there = np.mean([(s.start + s.end) / 2 for s in found], 0) + middle
        shift = np.clip(there, 0.22 * size, 0.78 * size) - there
        if max(np.hypot(*(s.end - s.start)) for s in found) > max(size) / 2:
            # A nail along the whole bone: its middle may lie far from the body part.
            shift = np.clip(shift, -0.28 * size, 0.28 * size)
        middle = middle + shift
    shadows = [s._replace(start=s.start + middle, end=s.end + middle) for s in shadows]
    bone = _enlarge(_bone_plane(shadows, half), shape)
    quarter = half[0] // 2, half[1] // 2
    flesh = _flesh_plane([s.halved() for s in shadows], quarter)
    flesh = _enlarge(flesh, shape, Image.Resampling.BILINEAR)
    mask = _enlarge(_mask_plane(shadows, half), shape, Image.Resampling.NEAREST)
    return _finish(_expose(bone, flesh, rng), study.left, rng), mask
