"""Places on the phantoms' bones, and parts that are carried by the bone that they are placed on.

Such parts move with their bone, so that each view of a study shows them from its own side.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mura_utils.phantoms.anatomy import PROFILE_ROWS, WINDOWS, Part, find_bone, profile

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


class Site(NamedTuple):
    """A place on a bone."""

    bone: Part
    share: float  # of the bone's length
    place: np.ndarray  # mm, on the bone's bent axis
    axis: np.ndarray
    front: np.ndarray
    length: float
    width: float  # half of it
    scale: float  # the window's height over 200 mm: findings must be seen in it


def find_site(parts: list[Part], body_part: str, ray: int, rng: np.random.Generator) -> Site:
    """Where in a body part a fracture, a lesion or metal is; `ray` is the finger of interest."""
    name, low, high = _SITES[body_part][rng.integers(len(_SITES[body_part]))]
    if body_part == "FINGER":
        name = f"{'P' if ray == 1 else name}{ray}"
    bone, share = find_bone(parts, name), rng.uniform(low, high)
    return locate(bone, share, WINDOWS[body_part].height / 200)


def locate(bone: Part, share: float, scale: float) -> Site:
    """A place at a share of a bone's length."""
    run = bone.end - bone.start
    length = float(np.linalg.norm(run))
    front = np.cross(bone.side, run / length)
    width, _, side_off, front_off = profile(bone.shape)[:4, int(share * PROFILE_ROWS)]
    off = (bone.side * side_off + front * front_off) * bone.radius
    return Site(bone, share, bone.start + run * share + off, run / length, front, length,
                 float(width) * bone.radius, scale)  # fmt: skip


def around(site: Site, shape, start, end, radius, role, side=None, mu=0.0) -> Part:
    """A part that the site's bone carries."""
    if side is None:
        along_side = abs((end - start) @ site.bone.side) > 0.8 * np.linalg.norm(end - start)
        side = site.front if along_side else site.bone.side
    return Part(site.bone.level, site.bone.bone, shape, start, end, radius, role, side, mu)


def ball(site: Site, center, radius, role, mu=0.0, shape="ball") -> Part:
    """A ball that the site's bone carries."""
    half = site.axis * radius
    return around(site, shape, center - half, center + half, radius, role, mu=mu)
