"""What looks like a finding on the phantoms and is none: such a study is normal.

A healed fracture, the canal of a nutrient artery, a child's growth plates, metal that lies on the
skin, and a cast. They are as frequent in normal studies as in abnormal ones, and enter no mask.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mura_utils.phantoms.anatomy import WINDOWS, Part, Seam, find_bone
from mura_utils.phantoms.radiography import METAL
from mura_utils.phantoms.sites import around, ball, find_site, locate

LOOKALIKES = ("healed fracture", "nutrient canal", "metal marker", "cast")
GROWTH_PLATE = "growth plate"
"""Of the person rather than of a study: all long bones of a child have them."""

_PLATES = {"humerus": (0.105, 0.925), "radius": (0.035, 0.955), "ulna": (0.96,), "M1": (0.13,),
           "M": (0.84,), "P": (0.12,), "I": (0.12,), "D": (0.14,)}  # fmt: skip
# Where a canal can be: a shaft in the window, and the range along it.
_CANALS = {
    "ELBOW": (("radius", 0.22, 0.3), ("humerus", 0.68, 0.74)),
    "FINGER": (("P", 0.4, 0.6), ("I", 0.4, 0.6)),
    "FOREARM": (("radius", 0.3, 0.5), ("ulna", 0.3, 0.5)),
    "HAND": tuple((f"M{ray}", 0.4, 0.6) for ray in (2, 3, 4, 5)),
    "HUMERUS": (("humerus", 0.45, 0.65),),
    "SHOULDER": (("humerus", 0.22, 0.28), ("clavicle", 0.4, 0.6)),
    "WRIST": (("radius", 0.76, 0.83), ("ulna", 0.76, 0.85)),
}
# The bone in a cast, the range along it that is covered (beyond its ends too), and half its width.
_CASTS = {
    "ELBOW": ("ulna", -0.05, 0.75, 50),
    "FINGER": ("P", -0.35, 2.2, 11.5),
    "FOREARM": ("radius", 0.1, 1.12, 46),
    "HAND": ("radius", 0.75, 1.27, 40),
    "HUMERUS": ("humerus", 0.18, 0.95, 54),
    "WRIST": ("radius", 0.55, 1.2, 35),
}
_SKIN = {0: 30, 1: 40, 2: 26, 3: 15, 4: 8}
"""Millimetres from a bone to where metal lies on the skin, by level."""
_PLASTER = 0.16  # attenuation, relative to cortical bone


def add_growth_plates(arm: list[Part], rng: np.random.Generator) -> list[Part]:
    """A child's arm: a dark line between a dense pair near the ends of every long bone."""
    width, grown = rng.uniform(1.0, 1.6), rng.uniform(0.5, 0.8)
    found = set()

    def at(part: Part) -> tuple[float, ...]:
        if part.role != "bone" or part.bone in found:
            return ()
        found.add(part.bone)
        return _PLATES.get(part.bone) or _PLATES.get(part.bone.rstrip("12345"), ())

    def plates(part: Part) -> tuple[Seam, ...]:
        seams = []
        small = 1.0 if part.level < 3 else 0.6
        length = float(np.linalg.norm(part.end - part.start))
        for share in at(part):
            jag, phase = 0.4 * small, rng.uniform(0, 6)
            off = 1.5 * width * small / length
            for place, wide, depth in ((share, width, grown), (share - off, 0.8, -0.35),
                                       (share + off, 0.8, -0.35)):  # fmt: skip
                seams.append(Seam(place, wide * small, depth, jag=jag, phase=phase))
        return tuple(seams)

    return [replace(part, seams=(*part.seams, *plates(part))) for part in arm]


def _healed_fracture(
    parts: list[Part], body_part: str, ray: int, rng: np.random.Generator
) -> list[Part]:
    """A dense band where the line was, and callus around it: the bone is whole."""
    site = find_site(parts, body_part, ray, rng)
    width, bone = site.width, site.bone
    seam = Seam(
        site.share,
        width=rng.uniform(2.0, 3.6) * max(site.scale, 0.6),
        depth=-rng.uniform(0.25, 0.5),
        tilt=tuple(rng.uniform(-0.6, 0.6, 2) * width),
        jag=width * 0.1,
        phase=rng.uniform(0, 6),
    )
    healed = replace(bone, seams=(*bone.seams, seam))
    half = site.axis * width * rng.uniform(1.4, 2.2)
    middle = site.place + rng.uniform(-0.2, 0.2) * width * bone.side
    bulge = width + rng.uniform(1.2, 2.6) * max(site.scale, 0.6)
    mu = rng.uniform(0.7, 1.3) * max(site.scale, 0.6) / bulge
    callus = around(site, "ball", middle - half, middle + half, bulge, "foreign", mu=mu)
    return [healed if part is bone else part for part in parts] + [callus]


def _nutrient_canal(
    parts: list[Part], body_part: str, ray: int, rng: np.random.Generator
) -> list[Part]:
    """A fine dark channel that runs obliquely through the cortex of a shaft, with even edges."""
    name, low, high = _CANALS[body_part][rng.integers(len(_CANALS[body_part]))]
    if body_part == "FINGER":
        name = f"{'P' if ray == 1 else name}{ray}"
    share = rng.uniform(low, high)
    site = locate(find_bone(parts, name), share, WINDOWS[body_part].height / 200)
    angle = rng.uniform(0, 2 * np.pi)
    out = site.bone.side * np.cos(angle) + site.front * np.sin(angle)
    run = site.axis * rng.uniform(1.1, 1.8) * site.width * rng.choice([-1, 1])
    start, end = site.place + out * site.width * 0.95 - run / 2, site.place + run / 2
    thin = max(0.09 * site.width, 0.45 * site.scale)
    return [*parts, around(site, "rod", start, end, thin, "density", mu=-rng.uniform(0.3, 0.5))]


def _metal_marker(
    parts: list[Part], body_part: str, ray: int, rng: np.random.Generator
) -> list[Part]:
    """Metal on the skin: a ball that marks where it hurts, a clip, or a ring on a finger."""
    site = find_site(parts, body_part, ray, rng)
    choice, size = rng.random(), max(site.scale, 0.5)
    if site.bone.bone[0] in "PI" and choice < 0.5:
        phalanx = find_bone(parts, f"P{site.bone.bone[-1]}")
        site = locate(phalanx, rng.uniform(0.3, 0.5), site.scale)
        across, front = site.bone.side * 9, site.front * 7
        start, end = site.place + front - across, site.place + front + across
        return [*parts, around(site, "rod", start, end, 0.9, "foreign", mu=METAL)]
    angle = rng.uniform(0, 2 * np.pi)
    out = site.bone.side * np.cos(angle) + site.front * np.sin(angle)
    place = site.place + out * _SKIN[site.bone.level]
    place = place + site.axis * rng.uniform(-1.5, 1.5) * site.width
    if choice < 0.75:
        return [*parts, ball(site, place, rng.uniform(1.2, 1.8) * size, "foreign", METAL)]
    lean = rng.uniform(-1, 1)
    way = (site.axis * np.cos(lean) + site.bone.side * np.sin(lean)) * rng.uniform(3, 5) * size
    return [*parts, around(site, "rod", place - way, place + way, 0.7 * size, "foreign", mu=METAL)]


def _cast(parts: list[Part], body_part: str, ray: int, rng: np.random.Generator) -> list[Part]:
    """A sleeve of plaster around the limb, of turns that are not equally thick."""
    name, low, high, half = _CASTS[body_part]
    bone = find_bone(parts, f"{name}{ray}" if body_part == "FINGER" else name)
    site = locate(bone, 0.5, 1.0)
    other = find_bone(parts, "ulna").start if name == "radius" else bone.start
    middle = (other + bone.start) / 2
    turns = [(low, high, 1.0)]
    for _ in range(int(rng.integers(3, 7))):
        start = rng.uniform(low, high)
        turns.append((start, start + rng.uniform(0.15, 0.4) * (high - low), rng.uniform(0.1, 0.4)))
    mu = _PLASTER * rng.uniform(0.8, 1.3)
    added = []
    for *ends, share in turns:
        start, end = (middle + site.axis * site.length * min(at, high) for at in ends)
        radius = half * rng.uniform(0.97, 1.03)
        added.append(around(site, "sleeve", start, end, radius, "foreign", bone.side, mu * share))
    return [*parts, *added]


_MAKE = {
    "healed fracture": _healed_fracture,
    "nutrient canal": _nutrient_canal,
    "metal marker": _metal_marker,
    "cast": _cast,
}


def add_lookalike(
    parts: list[Part], body_part: str, kind: str, ray: int, rng: np.random.Generator
) -> list[Part]:
    """The anatomy with something that is no finding.

    Args:
        parts: what the body part's window shows.
        body_part: a key of `WINDOWS`.
        kind: one of those that fit it.
        ray: the finger of interest, 1 to 5.
        rng: the only source of chance.
    """
    return _MAKE[kind](parts, body_part, ray, rng)


def fits(body_part: str) -> list[str]:
    """The kinds of `LOOKALIKES` that a body part can have.

    Example:
        >>> fits("SHOULDER")
        ['healed fracture', 'nutrient canal', 'metal marker']
    """
    return [kind for kind in LOOKALIKES if kind != "cast" or body_part in _CASTS]
