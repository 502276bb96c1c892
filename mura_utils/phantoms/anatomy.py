"""The phantoms' anatomy: one arm in millimetres, its poses and its abnormalities.

The arm is a list of tapering elliptical cylinders (`Part`), described in the tables `_BONES`,
`_RAYS`, `_FLESH` and the profiles `SHAPES`. A body part is a window onto that arm (`WINDOWS`), a
pose turns parts about joints, and an abnormality splits, shifts or adds parts. So all views of a
study show the same anatomy and the same finding.

Axes: x to the radial (lateral) side, y from the shoulder to the fingertips, z to the palm; the
origin is the wrist. It is a right arm, palm up; left ones are mirrored when they are projected.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

KINDS = ("fracture", "hardware", "lesion", "joint disease")
SEVERITIES = ("obvious", "moderate", "subtle")
PROFILE_ROWS = 512

# --- Shapes --------------------------------------------------------------------------------------


class Shape(NamedTuple):
    """Profile of a cylinder: rows of (position 0..1, half-width, half-depth, offsets side, front).

    Lengths are in units of the part's `radius`. `caps` are the rounded shares of the length at
    both ends, `power` how square they are (2 is an ellipse), `cortex` the wall's thickness at the
    ends and in the middle, `marrow` the attenuation inside, relative to cortex, likewise.
    """

    rows: tuple[tuple[float, ...], ...]
    caps: tuple[float, float] = (0.05, 0.05)
    power: float = 2.0
    cortex: tuple[float, float] = (0.12, 0.3)
    marrow: tuple[float, float] = (0.42, 0.2)


_EVEN = ((0, 1, 1, 0, 0), (1, 1, 1, 0, 0))


def _solid(rows=_EVEN, cap: float = 0.5, power: float = 2.0) -> Shape:
    return Shape(rows, (cap, cap), power, (0, 0), (1, 1))


SHAPES = {
    "humerus": Shape(
        ((0, 15, 17, 8, 0), (.03, 20, 20, 5, 0), (.08, 21, 20, 2, 0), (.16, 15.5, 15, 0, 0),
         (.28, 11.5, 12, 0, 0), (.55, 10.5, 11, 0, 0), (.72, 11.5, 9.5, 0, 0),
         (.84, 17, 8.5, -1, 0), (.92, 25, 8, -3, 1), (.96, 29, 7, -4, 1),
         (.985, 25, 7, -2, 2), (1, 21, 7, 0, 3)),
        (.05, .025), 2.4, (.8, 4.2), (.25, .12)),
    "radius": Shape(
        ((0, 10.3, 10.3, 0, 0), (.03, 10.5, 10.5, 0, 0), (.06, 7.2, 7.2, -1, 0),
         (.12, 7.4, 7.4, -1, 0), (.16, 9, 8.6, -2, 1), (.22, 7.5, 7.5, 0, 0),
         (.5, 7.6, 6.6, 5, 0), (.7, 7.6, 7, 4, 0), (.84, 9, 7.6, 1.5, 0), (.92, 13, 9.5, 0, 0),
         (.965, 15.5, 11, 0, 0), (1, 15, 10.5, .5, 0)),
        (.014, .022), 2.6, (.8, 3.0), (.3, .14)),
    "ulna": Shape(
        ((0, 9, 8, 1, -2), (.03, 10, 11, 1, 1), (.08, 9.4, 11, 0, 1), (.18, 7.6, 8.4, 0, 0),
         (.4, 6.8, 7.4, -1, 0), (.7, 5.9, 5.9, 0, 0), (.9, 5.2, 5.2, 0, 0), (.955, 6.6, 6.6, 0, 0),
         (.98, 8, 8, 0, 0), (1, 7.4, 7.6, 0, 0)),
        (.03, .018), 2.4, (.8, 2.6), (.3, .16)),
    "metacarpal": Shape(
        ((0, 1, 1, 0, 0), (.07, 1.03, 1, 0, 0), (.2, .74, .76, 0, .05), (.5, .56, .6, 0, -.12),
         (.75, .66, .7, 0, 0), (.9, .98, .95, 0, .08), (1, .86, .85, 0, .05)),
        (.06, .16), 2.4, (.09, .25), (.34, .12)),
    "phalanx": Shape(
        ((0, 1, .85, 0, 0), (.06, 1.05, .88, 0, 0), (.22, .78, .66, 0, -.05),
         (.55, .6, .52, 0, -.14), (.8, .66, .56, 0, 0), (.92, .84, .72, 0, .05),
         (1, .76, .66, 0, .05)),
        (.06, .13), 2.6, (.09, .25), (.34, .12)),
    "tuft": Shape(
        ((0, 1, .8, 0, 0), (.1, 1.05, .8, 0, 0), (.35, .66, .5, 0, 0), (.65, .5, .36, 0, 0),
         (.86, .74, .4, 0, 0), (1, .62, .34, 0, 0)),
        (.1, .16), 2.4, (.1, .22), (.36, .2)),
    "carpal": Shape(
        ((0, .88, .9, 0, 0), (.5, 1, 1, 0, 0), (1, .9, .9, 0, 0)),
        (.42, .42), 2.6, (.11, .11), (.33, .33)),
    "waist": Shape(
        ((0, .95, .95, 0, 0), (.45, .82, .85, 0, 0), (1, 1, 1, 0, 0)),
        (.3, .36), 2.4, (.11, .11), (.33, .33)),
    "head": Shape(_EVEN, (.5, .5), 2.0, (.025, .025), (.16, .16)),
    "lump": Shape(_EVEN, (.5, .5), 2.0, (.08, .08), (.28, .28)),
    "spur": Shape(((0, 1, 1, 0, 0), (1, .4, .4, 0, 0)), (.3, .5), 2.0, (.2, .2), (.6, .6)),
    "olecranon": Shape(
        ((0, .75, .95, 0, 0), (.45, 1, 1.1, 0, 0), (1, .9, .8, 0, 0)), (.3, .45), 2.0, (.07, .07),
        (.17, .17)),
    "neck": Shape(
        ((0, .45, .3, 0, 0), (.5, .6, .5, 0, 0), (1, 1.05, .8, 0, 0)), (.2, .06), 2.0, (.07, .07),
        (.25, .25)),
    "tube": Shape(_EVEN, (.25, .25), 2.2, (.14, .18), (.28, .22)),
    "blade": Shape(
        ((0, 12, 3, 0, 0), (.12, 26, 3, 9, 0), (.28, 33, 3.4, 15, 0), (.42, 28, 3, 9, 0),
         (.7, 19, 3, 2, 0), (.92, 10, 3.2, -4, 0), (1, 6, 3, -6, 0)),
        (.1, .08), 2.2, (1, 1), (.6, .55)),
    "clavicle": Shape(
        ((0, 10, 9, 0, 0), (.12, 8, 7, -3, 6), (.4, 5.8, 5.8, -5, 9), (.7, 6, 5, 2, -2),
         (.9, 7, 5.5, 5, -6), (1, 6.5, 5, 4, -4)),
        (.03, .04), 2.4, (.7, 2.0), (.3, .16)),
    "back rib": Shape(
        ((0, 5, 4, 0, 0), (.25, 5, 4, 15, 0), (.5, 5, 4, 20, 0), (.75, 5.4, 4, 15, 0),
         (1, 6, 4, 0, 0)),
        (.02, .03), 2.0, (.8, 1), (.2, .16)),
    "front rib": Shape(
        ((0, 5, 3.4, 0, 0), (.25, 5, 3.4, -15, 0), (.5, 5, 3.4, -20, 0), (.75, 5.4, 3.4, -15, 0),
         (1, 6, 3.4, 0, 0)),
        (.02, .03), 2.0, (.7, .8), (.14, .1)),
    "ball": _solid(),
    "rod": _solid(cap=.03, power=4.0),
    "plate": _solid(((0, 1, .34, 0, 0), (1, 1, .34, 0, 0)), .06, 3.0),
    "sleeve": Shape(_EVEN, (.004, .004), 2.0, (.09, .09), (0, 0)),
    "shell": Shape(_EVEN, (.5, .5), 2.0, (.2, .2), (0, 0)),
    "flesh": _solid(((0, 1, .95, 0, 0), (1, 1, .95, 0, 0)), .16, 2.2),
    "upper arm": _solid(
        ((0, .95, .9, 0, 0), (.2, 1.1, 1, 0, 0), (.45, 1, 1, 0, 0), (.8, .86, .9, 0, 0),
         (1, .86, .86, 0, 0)), .1, 2.0),
    "forearm": _solid(
        ((0, .9, .9, 0, 0), (.25, 1.06, 1, 0, 0), (.6, .82, .75, 0, 0), (.9, .6, .48, 0, 0),
         (1, .62, .46, 0, 0)), .07),
    "palm": _solid(
        ((0, .72, .42, 0, 0), (.4, .98, .38, 0, 0), (.8, 1, .3, 0, 0), (1, .9, .26, 0, 0)),
        .14, 2.4),
}  # fmt: skip


@functools.cache
def profile(name: str) -> np.ndarray:
    """Table (7, 512) along a shape: half-width, half-depth, offsets, inner widths, marrow."""
    # Imported here, as it takes half a second, and every command reads this module's names.
    from scipy.interpolate import PchipInterpolator

    shape = SHAPES[name]
    t = (np.arange(PROFILE_ROWS) + 0.5) / PROFILE_ROWS
    knots = np.array(shape.rows, float)
    width, depth, side, front = PchipInterpolator(knots[:, 0], knots[:, 1:])(t).T

    def cap(t: np.ndarray) -> np.ndarray:
        inset = np.maximum(1 - t / shape.caps[0], 1 - (1 - t) / shape.caps[1])
        return (1 - np.clip(inset, 0, 1) ** shape.power) ** (1 / shape.power)

    middle = np.clip(1.5 * np.sin(np.pi * t) - 0.45, 0, 1)
    cortex, marrow = (low + (high - low) * middle for low, high in (shape.cortex, shape.marrow))
    # The marrow ends before the bone does: the plate under the cartilage is cortex.
    inner = cap(np.clip(0.5 + (t - 0.5) * (1 + 0.6 * min(shape.caps)), 0, 1))
    walls = [np.maximum(radius - cortex, 0) * inner for radius in (width, depth)]
    return np.array([width * cap(t), depth * cap(t), side, front, *walls, marrow], np.float32)


# --- The arm -------------------------------------------------------------------------------------

# Levels order the arm: 0 trunk, 1 upper arm, 2 forearm, 3 hand, 4 fingers. Rows: level, bone,
# shape, start, end, radius; parts of one bone merge, bones add up.
_BONES = (
    *((0, f"rib{i}", "back rib", (-255, -636 + 33 * i, -30), (-158 + 13 * i, -600 + 37 * i, 0), 1)
      for i in range(6)),
    *((0, f"rib{i}", "front rib", (-262, -546 + 38 * i, 60), (-158 + 13 * i, -600 + 37 * i, 0), 1)
      for i in range(5)),
    (0, "scapula", "blade", (-96, -602, -22), (-102, -462, -26), 1),
    (0, "scapula", "tube", (-50, -546, -8), (-104, -464, -26), 4.6),
    (0, "scapula", "tube", (-112, -588, -24), (-110, -470, -26), 2.6),
    (0, "scapula", "neck", (-92, -566, -18), (-42, -555, -4), 14),
    (0, "scapula", "lump", (-44, -577, -4), (-40, -534, -4), 7),
    (0, "scapula", "tube", (-112, -572, -30), (-26, -595, -20), 5.5),
    (0, "scapula", "lump", (-38, -600, -18), (10, -587, 2), 7.5),
    (0, "scapula", "tube", (-62, -584, 0), (-30, -572, 24), 6),
    (0, "clavicle", "clavicle", (-205, -592, 18), (-27, -605, -4), 1),
    (1, "humerus", "humerus", (2, -570, 0), (2, -244, 0), 1),
    (1, "humerus", "head", (-12, -577, 0), (-12, -529, 0), 23.5),
    (1, "humerus", "head", (-12, -263, 2), (-12, -241, 2), 12),
    (1, "humerus", "head", (12, -263, 3), (12, -242, 3), 11),
    (2, "ulna", "ulna", (-9, -243, -3), (-15, -7, 0), 1),
    (2, "ulna", "olecranon", (-8, -270, -11), (-9, -226, -5), 10),
    (2, "ulna", "tube", (-20, -12, -2), (-21, 1, -3), 2.6),
    (2, "radius", "radius", (15, -239, 2), (8, -2, 0), 1),
    (2, "radius", "tube", (17, -15, 0), (22, 6, 0), 5),
    (3, "scaphoid", "waist", (11, 5, 0), (22, 23, 5), 7.4),
    (3, "lunate", "carpal", (2, 1, 0), (0, 15, 0), 8),
    (3, "triquetrum", "carpal", (-14, 5, -1), (-9, 19, -1), 7.2),
    (3, "pisiform", "lump", (-14, 7, 9), (-12, 16, 9), 4.6),
    (3, "trapezium", "carpal", (25, 21, 6), (27, 34, 7), 7.2),
    (3, "trapezoid", "carpal", (14, 23, 0), (16, 36, 0), 6.2),
    (3, "capitate", "waist", (1, 13, 0), (5, 37, 0), 7.6),
    (3, "hamate", "carpal", (-7, 17, 0), (-10, 36, 0), 8),
    (3, "hamate", "lump", (-9, 25, 8), (-8, 32, 8), 3.2),
)  # fmt: skip
# Ray: base of the metacarpal, its heading (degrees from y to x), lengths of the metacarpal and the
# phalanges, radius of the metacarpal's base.
_RAYS = {
    1: ((29, 36, 7), 40, (44, 31, 23), 7.4),
    2: ((17, 37, 0), 7, (65, 40, 24, 17), 7.8),
    3: ((5, 38, 0), 1, (63, 44, 28, 18), 7.8),
    4: ((-6, 37, 0), -6, (56, 41, 27, 18), 7.0),
    5: ((-15, 36, 0), -13, (52, 33, 19, 16), 6.8),
}
_FLESH = (
    (0, "trunk", "flesh", (-262, -660, 0), (-262, -300, 0), 165, "flesh"),
    (0, "trunk", "flesh", (-230, -606, 0), (0, -572, 0), 44, "flesh"),
    (0, "trunk", "flesh", (-70, -570, -10), (-130, -400, -10), 46, "flesh"),
    (0, "trunk", "flesh", (-250, -600, 0), (-235, -320, 0), 100, "lung"),
    (1, "upper arm", "upper arm", (4, -612, 0), (2, -222, 0), 48, "flesh"),
    (2, "forearm", "forearm", (2, -282, 0), (2, 14, 0), 44, "flesh"),
    (3, "palm", "palm", (1, -12, 0), (-1, 106, 0), 42, "flesh"),
)


class Cut(NamedTuple):
    """A fracture's edge: `margin` mm before the part's end (`end` 1) or after its start (0)."""

    end: int
    margin: float
    tilt: tuple[float, float]  # mm of obliquity from the axis to the surface, to side and front
    jag: float  # mm
    phase: float


class Seam(NamedTuple):
    """A dark line across a part that stays whole; a dense one where `depth` is negative."""

    share: float  # where, along the whole shape
    width: float  # mm
    depth: float  # share of the attenuation that is lost in its middle
    tilt: tuple[float, float] = (0.0, 0.0)  # tilt, jag and phase as a cut's
    jag: float = 0.0
    phase: float = 0.0
    until: float = 1.0  # how far it goes across, from one edge (-1) to the other (1)


@dataclass(frozen=True)
class Part:
    """One tapering elliptical cylinder; `bone` says what it moves with, `role` how it is drawn.

    "bone" adds path length, "flesh" thickness, "metal" much of both; "lung" thins the flesh;
    "density" multiplies the bone that it overlaps by up to 1 + mu; "mark" only enters the mask;
    "foreign" adds mu times its path length and is no finding.
    """

    level: int
    bone: str
    shape: str
    start: np.ndarray
    end: np.ndarray
    radius: float
    role: str
    side: np.ndarray  # the direction of the half-width, roughly: made square to the axis when drawn
    mu: float = 0.0
    span: tuple[float, float] = (0.0, 1.0)  # the piece of the shape that this part is
    cut: Cut | None = None
    seams: tuple[Seam, ...] = ()


def _part(level, bone, shape, start, end, radius, role="bone", side=None, mu=0.0) -> Part:
    start, end = np.asarray(start, float), np.asarray(end, float)
    if side is None:  # across the arm; for parts that lie across it themselves, along it
        along_x = abs(end[0] - start[0]) > 0.8 * np.linalg.norm(end - start)
        side = np.array([0, -1.0, 0]) if along_x else np.array([1.0, 0, 0])
    return Part(level, bone, shape, start, end, radius, role, side, mu)


def _ray_parts(ray: int, stretch: float, thick: float) -> Iterator[Part]:
    point, heading, lengths, radius = _RAYS[ray]
    direction = np.array([np.sin(np.radians(heading)), np.cos(np.radians(heading)), 0.0])
    side = np.array([direction[1], -direction[0], 0.0])
    if ray == 1:  # the thumb is turned by some 60 degrees: its AP is the hand's oblique
        side = side * 0.5 + np.array([0, 0, 0.87])
    names, sizes = ("MPD", (1, 1, 0.9)) if ray == 1 else ("MPID", (1, 1, 0.84, 0.74))
    for name, length, size in zip(names, lengths, sizes, strict=True):
        end = point + direction * length * stretch
        shape = {"M": "metacarpal", "D": "tuft"}.get(name, "phalanx")
        level, bone = (3 if name == "M" else 4), f"{name}{ray}"
        yield _part(level, bone, shape, point, end, radius * size * thick, side=side)
        if name != "M" or ray == 1:  # the other metacarpals lie in the palm
            root, tip = point - direction * 6, end + direction * (5 if name == "D" else 3)
            width = (8.8 if name in "ID" else 9.6) + (2 if ray == 1 else 0)
            yield _part(level, bone, "flesh", root, tip, width, "flesh")
        point = end + direction * 2.2


def draw_arm(rng: np.random.Generator) -> list[Part]:
    """A person's arm: proportions differ by some per cent from the tables."""
    thick, fat = rng.uniform(0.9, 1.1), rng.uniform(0.88, 1.15)
    parts = [_part(*row[:5], row[5] * (thick if row[0] > 0 else 1)) for row in _BONES]
    parts += [_part(*row[:5], row[5] * fat, row[6]) for row in _FLESH]
    for ray in _RAYS:
        parts += _ray_parts(ray, rng.uniform(0.95, 1.05), thick)
    return parts


# --- Window and pose -----------------------------------------------------------------------------


class Window(NamedTuple):
    """What a radiograph of a body part shows."""

    levels: tuple[int, ...]
    center: tuple[float, float, float]  # mm; of FINGER it is the finger's
    height: float  # mm
    aspect: tuple[float, float]  # width / height
    yaws: tuple[float, ...]  # degrees about the arm's axis: 0 is AP, 90 lateral
    fingers_up: bool


WINDOWS = {
    "ELBOW": Window((1, 2), (2, -248, 4), 165, (0.7, 1.1), (0, 90, 35), False),
    "FINGER": Window((3, 4), (0, 0, 0), 112, (0.38, 0.72), (0, 90, 40), True),
    "FOREARM": Window((1, 2, 3), (2, -124, 0), 315, (0.3, 0.52), (0, 90), False),
    "HAND": Window((2, 3, 4), (4, 86, 0), 228, (0.7, 0.95), (0, 42, 75), True),
    "HUMERUS": Window((0, 1, 2), (0, -412, 0), 390, (0.32, 0.55), (0, 80), False),
    "SHOULDER": Window((0, 1), (-52, -548, 0), 205, (0.85, 1.2), (0, -25, 20), False),
    "WRIST": Window((2, 3, 4), (3, 10, 0), 138, (0.6, 0.85), (0, 90, 45), True),
}
_WRIST, _ELBOW, _SHOULDER = (4, 12, 0), (2, -250, 3), (-12, -553, 0)


def rotation(axis: int, degrees: float) -> np.ndarray:
    """Matrix (3, 3) of a rotation about a coordinate axis.

    Example:
        >>> rotation(axis=2, degrees=90).round().tolist()
        [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def _turn(
    parts: list[Part], chosen: Callable[[Part], bool], center, axis: int, degrees: float
) -> list[Part]:
    """Rotate the chosen parts about `center`; positive is flexion (axis 0), adduction (axis 2)."""
    matrix, center = rotation(axis, degrees), np.asarray(center, float)
    shift = center - matrix @ center

    def turned(part: Part) -> Part:
        start, end, side = matrix @ part.start, matrix @ part.end, matrix @ part.side
        return replace(part, start=start + shift, end=end + shift, side=side)

    return [turned(part) if chosen(part) else part for part in parts]


def find_bone(parts: list[Part], name: str) -> Part:
    """The first, main part of a bone.

    Example:
        >>> find_bone(draw_arm(np.random.default_rng(0)), "radius").level  # 2: the forearm
        2
    """
    return next(part for part in parts if part.bone == name)


def _bend_fingers(parts: list[Part], lateral: bool, rng: np.random.Generator) -> list[Part]:
    curl = rng.uniform(0, 12) + (rng.uniform(0, 20) if lateral else 0)
    present = {part.bone for part in parts}
    for ray in _RAYS:
        fan = 7 * (ray - 2) if lateral and ray > 1 else 0  # or the fingers would hide each other
        for names, share in (("D", 0.6), ("ID", 1.2), ("PID", 0.8)):  # the outermost joint first
            bones = {f"{name}{ray}" for name in names} & present
            if f"{names[0]}{ray}" not in bones:
                continue
            joint = find_bone(parts, f"{names[0]}{ray}").start
            chosen = functools.partial(lambda bones, part: part.bone in bones, bones)
            angle = max(curl * share * rng.uniform(0.4, 1.4) + fan, 0)
            parts = _turn(parts, chosen, joint, 0, angle)
            if names == "PID":
                parts = _turn(parts, chosen, joint, 2, rng.normal(0, 3))
    return parts


def pose(parts: list[Part], body_part: str, yaw: float, rng: np.random.Generator) -> list[Part]:
    """Bend the joints: fingers and wrist a little, the elbow as the view asks.

    What lies in the window's middle stays there; its neighbors move.
    """
    lateral = abs(yaw) > 60
    if body_part in ("FINGER", "HAND", "WRIST"):
        parts = _bend_fingers(parts, lateral, rng)
        for axis in (0, 2):
            parts = _turn(parts, lambda part: part.level <= 2, _WRIST, axis, rng.normal(0, 6))
    elif body_part == "ELBOW":
        flexion = rng.uniform(60, 100) if lateral else rng.uniform(0, 12)
        parts = _turn(parts, lambda part: part.level >= 2, _ELBOW, 0, flexion)
    elif body_part == "FOREARM":
        flexion = rng.uniform(70, 95) if lateral else rng.uniform(0, 12)
        parts = _turn(parts, lambda part: part.level <= 1, _ELBOW, 0, -flexion)
    elif body_part == "HUMERUS":  # the arm is turned under the beam, not the person
        parts = _turn(parts, lambda part: part.level >= 2, _ELBOW, 0, rng.uniform(0, 40))
        parts = _turn(parts, lambda part: part.level == 0, _SHOULDER, 1, -0.8 * yaw)
        parts = _turn(parts, lambda part: part.level == 0, _SHOULDER, 2, rng.uniform(0, 20))
    else:
        parts = _turn(parts, lambda part: part.level >= 1, _SHOULDER, 2, -rng.uniform(-2, 35))
    return parts
