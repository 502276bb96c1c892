"""The phantoms' abnormalities: fracture, hardware, lesion and joint disease of an arm's parts.

Every finding is made of parts that move with the bone that carries it, so that each view of a study
shows it from its own side, and so does the mask (roles "mark" and "metal").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from mura_utils.phantoms.anatomy import PROFILE_ROWS, WINDOWS, Cut, Part, find_bone, profile

# Where fractures, hardware and lesions sit: bone, and the range along it. A FINGER's ray is added.
_SITES = {
    "ELBOW": (("humerus", 0.82, 0.89), ("radius", 0.035, 0.07), ("ulna", 0.07, 0.13)),
    "FINGER": (("P", 0.3, 0.7), ("I", 0.35, 0.65)),
    "FOREARM": (("radius", 0.3, 0.8), ("ulna", 0.3, 0.8)),
    "HAND": (*((f"{name}{ray}", 0.3, 0.75) for name in "MP" for ray in (2, 3, 4, 5)),
             ("M1", 0.25, 0.7)),
    "HUMERUS": (("humerus", 0.3, 0.72),),
    "SHOULDER": (("humerus", 0.09, 0.16), ("clavicle", 0.45, 0.75)),
    "WRIST": (("radius", 0.86, 0.93), ("radius", 0.86, 0.93), ("ulna", 0.86, 0.93)),
}  # fmt: skip


class _Site(NamedTuple):
    bone: Part
    share: float  # of the bone's length
    place: np.ndarray  # mm, on the bone's bent axis
    axis: np.ndarray
    front: np.ndarray
    length: float
    width: float  # half of it
    scale: float  # the window's height over 200 mm: findings must be seen in it


class _Joint(NamedTuple):
    """A joint that can degenerate."""

    proximal: str  # bones that carry the two sides
    distal: str
    centre: np.ndarray
    radius: float  # half of its width, mm
    normal: np.ndarray  # unit, towards the distal side
    gap: float  # mm of joint space that can be lost
    moves: Callable[[Part], bool]  # what comes nearer


def _fixed_joint(proximal, distal, centre, radius, normal, gap, level) -> _Joint:
    return _Joint(proximal, distal, np.array(centre, float), radius, np.array(normal, float), gap,
                  lambda part: part.level >= level)  # fmt: skip


_RADIOCARPAL = _fixed_joint("radius", "lunate", (8, 0, 0), 16, (0, 1, 0), 3.0, 3)
_GLENOHUMERAL = _fixed_joint("scapula", "humerus", (-36, -553, -2), 19, (1, 0, 0), 3.5, 1)
_JOINTS = {
    "ELBOW": _fixed_joint("humerus", "ulna", (2, -241, 3), 22, (0, 1, 0), 2.0, 2),
    "FOREARM": _RADIOCARPAL,
    "HUMERUS": _GLENOHUMERAL,
    "SHOULDER": _GLENOHUMERAL,
    "WRIST": _RADIOCARPAL,
}


def _finger_joint(parts: list[Part], ray: int, names: str) -> _Joint:
    """The joint at the base of the first of the named phalanges, which all move with it."""
    bone = find_bone(parts, f"{names[0]}{ray}")
    normal = (bone.end - bone.start) / np.linalg.norm(bone.end - bone.start)
    before = {"P": "M", "I": "P", "D": "P" if ray == 1 else "I"}[names[0]]
    moved = {f"{name}{ray}" for name in names}
    return _Joint(f"{before}{ray}", bone.bone, bone.start - normal, bone.radius * 1.1, normal, 1.7,
                  lambda part: part.bone in moved)  # fmt: skip


def _site(parts: list[Part], body_part: str, ray: int, rng: np.random.Generator) -> _Site:
    name, low, high = _SITES[body_part][rng.integers(len(_SITES[body_part]))]
    if body_part == "FINGER":
        name = f"{'P' if ray == 1 else name}{ray}"
    bone, share = find_bone(parts, name), rng.uniform(low, high)
    return _locate(bone, share, WINDOWS[body_part].height / 200)


def _locate(bone: Part, share: float, scale: float) -> _Site:
    run = bone.end - bone.start
    length = float(np.linalg.norm(run))
    front = np.cross(bone.side, run / length)
    width, _, side_off, front_off = profile(bone.shape)[:4, int(share * PROFILE_ROWS)]
    off = (bone.side * side_off + front * front_off) * bone.radius
    return _Site(bone, share, bone.start + run * share + off, run / length, front, length,
                 float(width) * bone.radius, scale)  # fmt: skip


def _around(site: _Site, shape, start, end, radius, role, side=None, mu=0.0) -> Part:
    """A part that the site's bone carries."""
    if side is None:
        along_side = abs((end - start) @ site.bone.side) > 0.8 * np.linalg.norm(end - start)
        side = site.front if along_side else site.bone.side
    return Part(site.bone.level, site.bone.bone, shape, start, end, radius, role, side, mu)


def _ball(site: _Site, centre, radius, role, mu=0.0, shape="ball") -> Part:
    half = site.axis * radius
    return _around(site, shape, centre - half, centre + half, radius, role, mu=mu)


def _fracture(parts: list[Part], site: _Site, rng: np.random.Generator) -> list[Part]:
    """Break the bone: bent at the site, its fragments off by a step, a dark gap between them.

    The bone's far ends stay in their joints.
    """
    bone, width = site.bone, site.width
    angle = rng.uniform(0, 2 * np.pi)
    across = bone.side * np.cos(angle) + site.front * np.sin(angle)
    bend = across * width * rng.uniform(0.1, 0.4)
    step = across * width * rng.uniform(0.1, 0.5) * rng.choice([-1, 1])
    reach = min((1.3 * width + 2) / site.length, site.share, 1 - site.share)
    margin = reach * site.length + rng.uniform(0.5, 0.9) * max(site.scale, 0.5)
    tilt = tuple(rng.uniform(-0.7, 0.7, 2) * width)
    jag, phase = width * rng.uniform(0.08, 0.16), rng.uniform(0, 6)
    place = bone.start + site.axis * site.length * site.share + bend
    beyond = site.axis * site.length * reach
    near = replace(
        bone,
        end=place - step + beyond,
        span=(0.0, site.share + reach),
        cut=Cut(1, margin, tilt, jag, phase),
    )
    far = replace(
        bone,
        start=place + step - beyond,
        span=(site.share - reach, 1.0),
        cut=Cut(0, margin, tilt, jag, phase),
    )
    mark = _ball(site, site.place + bend, width * 1.15 + 3 * site.scale, "mark")
    return [near if part is bone else part for part in parts] + [far, mark]


def _plate(site: _Site, out: np.ndarray, rng: np.random.Generator) -> list[Part]:
    """A plate on the bone's surface with a row of screws across it."""
    half = min(max(2.8 * site.width, 15 * site.scale), 34.0, 0.4 * site.length)
    thin = max(0.085 * site.width, 0.6 * site.scale)
    middle = min(site.share, 0.97 - half / site.length)  # no plate beyond the bone's end
    site = _locate(site.bone, max(middle, 0.03 + half / site.length), site.scale)
    base = site.place + out * site.width * 1.05
    across = np.cross(site.axis, out)
    run = site.axis * half
    parts = [_around(site, "plate", base - run, base + run, 0.42 * site.width, "metal", across)]
    for share in np.linspace(-0.86, 0.86, int(rng.integers(4, 8))):
        if len(parts) > 1 and rng.random() < 0.15:  # an empty hole
            continue
        head = base + run * share
        tip = head - out * site.width * rng.uniform(1.9, 2.3)
        parts.append(_around(site, "rod", head, tip, thin, "metal"))
        parts.append(_ball(site, head, 2.0 * thin, "metal"))
    return parts


def _wires(site: _Site, out: np.ndarray, rng: np.random.Generator) -> list[Part]:
    """Two crossed wires."""
    across = np.cross(site.axis, out)
    parts = []
    for sign in (-1, 1):
        lean = rng.uniform(0.25, 0.55)
        way = site.axis * np.cos(lean) + (across * sign + out * 0.3) * np.sin(lean)
        reach = way * max(2.6 * site.width, 12 * site.scale)
        thin = max(0.09 * site.width, 0.6 * site.scale)
        parts.append(
            _around(site, "rod", site.place - reach, site.place + 0.9 * reach, thin, "metal")
        )
    return parts


def _hardware(parts: list[Part], site: _Site, rng: np.random.Generator) -> list[Part]:
    """A plate with screws, a nail along the marrow, or wires; the metal is its own mask."""
    angle = rng.choice([0, np.pi / 2, np.pi]) + rng.normal(0, 0.3)
    out = site.bone.side * np.cos(angle) + site.front * np.sin(angle)
    choice = rng.random()
    if choice < 0.2 and site.width < 14 and site.bone.bone != "clavicle":
        low, high = (site.bone.start + site.axis * site.length * share for share in (0.08, 0.92))
        nail = _around(site, "rod", low, high, 0.28 * site.width, "metal")
        return [*parts, nail]
    if choice < 0.4 and site.scale < 1.2:
        return [*parts, *_wires(site, out, rng)]
    return [*parts, *_plate(site, out, rng)]


def _lesion(parts: list[Part], site: _Site, rng: np.random.Generator) -> list[Part]:
    """A lytic focus, perhaps with a hard rim, or a sclerotic one: overlapping balls."""
    size = max(site.width * rng.uniform(0.6, 0.9), 5.5 * site.scale)
    lytic, rim = rng.random() < 0.65, rng.random() < 0.5
    balls = []
    for _ in range(5):
        offset = rng.uniform(-0.45, 0.45, 3) * size
        place = site.place + offset + site.axis * rng.uniform(-0.3, 0.3) * size
        radius = size * rng.uniform(0.5, 0.8)
        mu = -rng.uniform(0.4, 0.62) if lytic else rng.uniform(0.3, 0.55)
        if lytic and rim:
            balls.append(_ball(site, place, radius * 1.25, "density", 0.35, "shell"))
        balls.append(_ball(site, place, radius, "density", mu))
        balls.append(_ball(site, place, radius * 1.2, "mark"))
    return [*parts, *balls]


def _joint_disease(parts: list[Part], joint: _Joint, rng: np.random.Generator) -> list[Part]:
    """Narrow the joint space, harden both sides of it, and add spurs and perhaps cysts."""
    gap, size, normal = joint.normal * joint.gap * rng.uniform(0.8, 1.2), joint.radius, joint.normal
    parts = [
        replace(part, start=part.start - gap, end=part.end - gap) if joint.moves(part) else part
        for part in parts
    ]
    across = np.array([normal[1], -normal[0], 0])
    added = []
    for name, sign in ((joint.proximal, -1), (joint.distal, 1)):
        bone = find_bone(parts, name)
        site = _Site(bone, 0, joint.centre, normal, across, 1, size, 1)
        bed = joint.centre + normal * sign * 0.2 * size
        edge, mu = across * size, rng.uniform(0.6, 1.0)
        bed_ends, deep = (bed - edge, bed + edge), 0.28 * size
        added.append(_around(site, "ball", *bed_ends, deep, "density", normal, mu))
        for way in (-1, 1):
            root = joint.centre + across * way * size * 0.62 + normal * sign * 0.42 * size
            reach = across * way * size * rng.uniform(1.05, 1.3)
            tip = joint.centre + reach + normal * sign * 0.06 * size
            added.append(_around(site, "spur", root, tip, 0.2 * size, "bone"))
        if rng.random() < 0.6:
            cyst = bed + across * rng.uniform(-0.5, 0.5) * size + normal * sign * 0.3 * size
            added.append(_ball(site, cyst, 0.2 * size, "density", -0.6))
    deep = normal * size * 0.8
    added.append(_around(site, "ball", joint.centre - deep, joint.centre + deep, 1.3 * size, "mark",
                         across))  # fmt: skip
    return [*parts, *added]


def add_finding(
    parts: list[Part], body_part: str, kind: str, ray: int, rng: np.random.Generator
) -> list[Part]:
    """The anatomy with one finding of `kind` (of `KINDS`); `ray` is the finger of interest."""
    if kind == "joint disease":
        if body_part in _JOINTS:
            return _joint_disease(parts, _JOINTS[body_part], rng)
        rays = [ray] if body_part == "FINGER" else rng.choice([1, 2, 3, 4, 5], 3, replace=False)
        for chosen in map(int, rays):
            names = "PD" if chosen == 1 else str(rng.choice(["PID", "ID", "D"], p=[0.2, 0.4, 0.4]))
            parts = _joint_disease(parts, _finger_joint(parts, chosen, names), rng)
        return parts
    make = {"fracture": _fracture, "hardware": _hardware, "lesion": _lesion}[kind]
    return make(parts, _site(parts, body_part, ray, rng), rng)
