"""The phantoms' abnormalities: fracture, hardware, lesion and joint disease of an arm's parts.

Each is obvious, moderate or subtle. Every finding is made of parts that move with the bone that
carries it, so that each view of a study shows it from its own side, and so does the mask (roles
"mark" and "metal").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from mura_utils.phantoms.anatomy import Cut, Part, Seam, find_bone
from mura_utils.phantoms.sites import Site, around, ball, find_site, locate


class _Break(NamedTuple):
    """Ranges of a fracture with displacement: shares of the half-width, and mm for the gap."""

    bend: tuple[float, float]
    step: tuple[float, float]
    gap: tuple[float, float]


class _Focus(NamedTuple):
    """Ranges of a lesion: changes of attenuation in a ball, the chance of a rim, and its balls."""

    lytic: tuple[float, float]
    sclerotic: tuple[float, float]
    rim: float
    balls: int


class _Wear(NamedTuple):
    """Ranges of joint disease: shares of joint space lost, hardening, length of spurs, cysts."""

    lost: tuple[float, float]
    hardening: tuple[float, float]
    spurs: tuple[float, float]  # shares of the joint's half-width
    cysts: float


# A subtle fracture is a hairline without displacement.
_BREAKS = {
    "obvious": _Break((0.1, 0.4), (0.1, 0.5), (0.5, 0.9)),
    "moderate": _Break((0, 0.1), (0.03, 0.12), (0.25, 0.5)),
}
_FOCI = {
    "obvious": _Focus((0.4, 0.62), (0.3, 0.55), 0.5, 5),
    "moderate": _Focus((0.2, 0.32), (0.18, 0.3), 0.25, 3),
    "subtle": _Focus((0.2, 0.28), (0.15, 0.22), 0.0, 2),
}
_WEARS = {
    "obvious": _Wear((0.8, 1.2), (0.6, 1.0), (1.05, 1.3), 0.6),
    "moderate": _Wear((0.6, 0.85), (0.35, 0.55), (0.95, 1.1), 0.3),
    "subtle": _Wear((0.35, 0.6), (0.2, 0.35), (0.9, 1.02), 0.0),
}


class _Joint(NamedTuple):
    """A joint that can degenerate."""

    proximal: str  # bones that carry the two sides
    distal: str
    center: np.ndarray
    radius: float  # half of its width, mm
    normal: np.ndarray  # unit, towards the distal side
    gap: float  # mm of joint space that can be lost
    moves: Callable[[Part], bool]  # what comes nearer


def _fixed_joint(proximal, distal, center, radius, normal, gap, level) -> _Joint:
    return _Joint(proximal, distal, np.array(center, float), radius, np.array(normal, float), gap,
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


def _fracture(parts: list[Part], site: Site, severity: str, rng: np.random.Generator) -> list[Part]:
    """Break the bone: bent at the site, its fragments off by a step, a dark gap between them.

    The bone's far ends stay in their joints.
    """
    if severity == "subtle":
        return _hairline(parts, site, rng)
    bone, width, ranges = site.bone, site.width, _BREAKS[severity]
    angle = rng.uniform(0, 2 * np.pi)
    across = bone.side * np.cos(angle) + site.front * np.sin(angle)
    bend = across * width * rng.uniform(*ranges.bend)
    step = across * width * rng.uniform(*ranges.step) * rng.choice([-1, 1])
    reach = min((1.3 * width + 2) / site.length, site.share, 1 - site.share)
    margin = reach * site.length + rng.uniform(*ranges.gap) * max(site.scale, 0.5)
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
    mark = ball(site, site.place + bend, width * 1.15 + 3 * site.scale, "mark")
    return [near if part is bone else part for part in parts] + [far, mark]


def _hairline(parts: list[Part], site: Site, rng: np.random.Generator) -> list[Part]:
    """A fine oblique line across the bone, often not all the way, and nothing displaced."""
    width = site.width
    seam = Seam(
        share=site.share,
        width=rng.uniform(0.7, 1.1) * max(site.scale, 0.6),
        depth=rng.uniform(0.45, 0.7),
        tilt=tuple(rng.uniform(0.25, 0.9, 2) * width * rng.choice([-1, 1], 2)),
        jag=width * rng.uniform(0.08, 0.16),
        phase=rng.uniform(0, 6),
        until=rng.choice([rng.uniform(0.0, 0.6), 1.0]),
    )
    mark = ball(site, site.place, width * 1.15 + 3 * site.scale, "mark")
    cracked = replace(site.bone, seams=(*site.bone.seams, seam))
    return [cracked if part is site.bone else part for part in parts] + [mark]


def _plate(site: Site, out: np.ndarray, rng: np.random.Generator) -> list[Part]:
    """A plate on the bone's surface with a row of screws across it."""
    half = min(max(2.8 * site.width, 15 * site.scale), 34.0, 0.4 * site.length)
    thin = max(0.085 * site.width, 0.6 * site.scale)
    middle = min(site.share, 0.97 - half / site.length)  # no plate beyond the bone's end
    site = locate(site.bone, max(middle, 0.03 + half / site.length), site.scale)
    base = site.place + out * site.width * 1.05
    across = np.cross(site.axis, out)
    run = site.axis * half
    parts = [around(site, "plate", base - run, base + run, 0.42 * site.width, "metal", across)]
    for share in np.linspace(-0.86, 0.86, int(rng.integers(4, 8))):
        if len(parts) > 1 and rng.random() < 0.15:  # an empty hole
            continue
        head = base + run * share
        tip = head - out * site.width * rng.uniform(1.9, 2.3)
        parts.append(around(site, "rod", head, tip, thin, "metal"))
        parts.append(ball(site, head, 2.0 * thin, "metal"))
    return parts


def _wires(site: Site, out: np.ndarray, rng: np.random.Generator) -> list[Part]:
    """Two crossed wires."""
    across = np.cross(site.axis, out)
    parts = []
    for sign in (-1, 1):
        lean = rng.uniform(0.25, 0.55)
        way = site.axis * np.cos(lean) + (across * sign + out * 0.3) * np.sin(lean)
        reach = way * max(2.6 * site.width, 12 * site.scale)
        thin = max(0.09 * site.width, 0.6 * site.scale)
        parts.append(
            around(site, "rod", site.place - reach, site.place + 0.9 * reach, thin, "metal")
        )
    return parts


def _screw(site: Site, out: np.ndarray, rng: np.random.Generator) -> list[Part]:
    """A single fine screw, within the bone's width, whose surroundings belong to the mask."""
    way = out + site.axis * rng.uniform(-0.4, 0.4)
    way = way / np.linalg.norm(way) * site.width
    head, tip = site.place + way, site.place - way * rng.uniform(0.3, 0.9)
    thin = max(0.07 * site.width, 0.45 * site.scale)
    screw = around(site, "rod", head, tip, thin, "metal")
    mark = ball(site, site.place, site.width, "mark")
    return [screw, ball(site, head, 1.6 * thin, "metal"), mark]


def _hardware(parts: list[Part], site: Site, severity: str, rng: np.random.Generator) -> list[Part]:
    """A plate with screws or a nail along the marrow, wires, or a screw; the metal is the mask."""
    angle = rng.choice([0, np.pi / 2, np.pi]) + rng.normal(0, 0.3)
    out = site.bone.side * np.cos(angle) + site.front * np.sin(angle)
    if severity == "subtle":
        return [*parts, *_screw(site, out, rng)]
    if severity == "moderate":
        return [*parts, *_wires(site, out, rng)]
    if rng.random() < 0.3 and site.width < 14 and site.bone.bone != "clavicle":
        low, high = (site.bone.start + site.axis * site.length * share for share in (0.08, 0.92))
        nail = around(site, "rod", low, high, 0.28 * site.width, "metal")
        return [*parts, nail]
    return [*parts, *_plate(site, out, rng)]


def _lesion(parts: list[Part], site: Site, severity: str, rng: np.random.Generator) -> list[Part]:
    """A lytic focus, perhaps with a hard rim, or a sclerotic one: overlapping balls."""
    focus = _FOCI[severity]
    size = max(site.width * rng.uniform(0.6, 0.9), 5.5 * site.scale)
    lytic, rim = rng.random() < 0.65, rng.random() < focus.rim
    balls = []
    for _ in range(focus.balls):
        offset = rng.uniform(-0.45, 0.45, 3) * size
        place = site.place + offset + site.axis * rng.uniform(-0.3, 0.3) * size
        radius = size * rng.uniform(0.5, 0.8)
        mu = -rng.uniform(*focus.lytic) if lytic else rng.uniform(*focus.sclerotic)
        if lytic and rim:
            balls.append(ball(site, place, radius * 1.25, "density", 0.35, "shell"))
        balls.append(ball(site, place, radius, "density", mu))
        balls.append(ball(site, place, radius * 1.2, "mark"))
    return [*parts, *balls]


def _joint_disease(
    parts: list[Part], joint: _Joint, severity: str, rng: np.random.Generator
) -> list[Part]:
    """Narrow the joint space, harden both sides of it, and add spurs and perhaps cysts."""
    wear, size, normal = _WEARS[severity], joint.radius, joint.normal
    gap = normal * joint.gap * rng.uniform(*wear.lost)
    parts = [
        replace(part, start=part.start - gap, end=part.end - gap) if joint.moves(part) else part
        for part in parts
    ]
    across = np.array([normal[1], -normal[0], 0])
    added = []
    for name, sign in ((joint.proximal, -1), (joint.distal, 1)):
        bone = find_bone(parts, name)
        site = Site(bone, 0, joint.center, normal, across, 1, size, 1)
        bed = joint.center + normal * sign * 0.2 * size
        edge, mu = across * size, rng.uniform(*wear.hardening)
        bed_ends, deep = (bed - edge, bed + edge), 0.28 * size
        added.append(around(site, "ball", *bed_ends, deep, "density", normal, mu))
        for way in (-1, 1):
            root = joint.center + across * way * size * 0.62 + normal * sign * 0.42 * size
            reach = across * way * size * rng.uniform(*wear.spurs)
            tip = joint.center + reach + normal * sign * 0.06 * size
            added.append(around(site, "spur", root, tip, 0.2 * size, "bone"))
        if rng.random() < wear.cysts:
            cyst = bed + across * rng.uniform(-0.5, 0.5) * size + normal * sign * 0.3 * size
            added.append(ball(site, cyst, 0.2 * size, "density", -0.6))
    deep = normal * size * 0.8
    added.append(around(site, "ball", joint.center - deep, joint.center + deep, 1.3 * size, "mark",
                         across))  # fmt: skip
    return [*parts, *added]


def add_finding(
    parts: list[Part],
    body_part: str,
    kind: str,
    ray: int,
    rng: np.random.Generator,
    severity: str = "obvious",
) -> list[Part]:
    """The anatomy with one finding.

    Args:
        parts: what the body part's window shows.
        body_part: a key of `WINDOWS`.
        kind: one of `KINDS`.
        ray: the finger of interest, 1 to 5.
        rng: the only source of chance.
        severity: one of `SEVERITIES`.
    """
    if kind == "joint disease":
        if body_part in _JOINTS:
            return _joint_disease(parts, _JOINTS[body_part], severity, rng)
        rays = [ray] if body_part == "FINGER" else rng.choice([1, 2, 3, 4, 5], 3, replace=False)
        for chosen in map(int, rays):
            names = "PD" if chosen == 1 else str(rng.choice(["PID", "ID", "D"], p=[0.2, 0.4, 0.4]))
            joint = _finger_joint(parts, chosen, names)
            parts = _joint_disease(parts, joint, severity, rng)
        return parts
    make = {"fracture": _fracture, "hardware": _hardware, "lesion": _lesion}[kind]
    return make(parts, find_site(parts, body_part, ray, rng), severity, rng)
