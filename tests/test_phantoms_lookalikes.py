"""Severities, and look-alikes: they are to be seen, enter no mask, and say nothing of the label."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mura_utils.phantoms.anatomy import KINDS, SEVERITIES, WINDOWS, Seam, draw_arm, find_bone
from mura_utils.phantoms.dataset import draw_case
from mura_utils.phantoms.lookalikes import LOOKALIKES, add_growth_plates, add_lookalike, fits
from mura_utils.phantoms.radiography import Study, take_radiograph


def arm(seed: int, body_part: str):
    parts = draw_arm(np.random.default_rng(seed))
    return [part for part in parts if part.level in WINDOWS[body_part].levels]


def view(parts, body_part: str, seed: int, yaw: float = 0.0):
    center = np.array(WINDOWS[body_part].center, float)
    if body_part == "FINGER":
        center = find_bone(parts, "P2").end
    study = Study(body_part, parts, center, False)
    image, mask = take_radiograph(study, yaw, np.random.default_rng(seed))
    return image.astype(float), mask


@pytest.mark.parametrize("kind", KINDS)
def test_a_finding_is_seen_the_less_the_subtler_it_is(kind: str) -> None:
    means = []
    for severity in SEVERITIES:
        differences = []
        for seed in range(4):
            (there, mask), (gone, _) = (
                draw_case(np.random.default_rng(seed), "WRIST", kind, shown, severity=severity)
                for shown in (True, False)
            )
            assert mask.any()
            changed = np.abs(there.astype(float) - gone) > 12
            differences.append(changed.sum())
        assert min(differences) > 0
        means.append(np.mean(differences))
    assert means[0] > means[1] > means[2]


@pytest.mark.parametrize(
    ("kind", "body_part"),
    [(kind, part) for kind in LOOKALIKES for part in WINDOWS if kind in fits(part)],
)
def test_a_lookalike_is_to_be_seen_and_in_no_mask(kind: str, body_part: str) -> None:
    parts = arm(1, body_part)
    plain, _ = view(parts, body_part, 5)
    seen = []
    for seed in range(3):
        alike = add_lookalike(parts, body_part, kind, 2, np.random.default_rng(seed))
        image, mask = view(alike, body_part, 5)
        assert not mask.any()
        seen.append((np.abs(image - plain) > 12).sum())
    assert max(seen) > 8, seen


def test_growth_plates_are_dark_lines_of_a_child_and_in_no_mask() -> None:
    parts = arm(2, "WRIST")
    child = add_growth_plates(parts, np.random.default_rng(0))
    assert find_bone(child, "radius").seams and not find_bone(child, "lunate").seams
    (grown, _), (image, mask) = view(parts, "WRIST", 3), view(child, "WRIST", 3)
    assert not mask.any()
    assert ((grown - image) > 15).sum() > 40
    assert (np.abs(grown - image) > 12).mean() < 0.05  # the rest of the hand is as it was


def test_a_seam_is_a_line_where_it_is_placed_and_can_end_midway() -> None:
    parts = arm(4, "FOREARM")
    radius = find_bone(parts, "radius")

    def changed(seam: Seam) -> np.ndarray:
        lined = [replace(radius, seams=(seam,)) if part is radius else part for part in parts]
        return view(lined, "FOREARM", 1)[0] - view(parts, "FOREARM", 1)[0]

    dark, dense = (changed(Seam(0.5, 3.0, depth)) for depth in (0.8, -0.8))
    half = changed(Seam(0.5, 3.0, 0.8, until=0.0))
    assert dark.min() < -20 and dark.max() < 5
    assert dense.max() > 20 and dense.min() > -5
    assert 0.2 < (half < -8).sum() / (dark < -8).sum() < 0.85
    rows = np.nonzero((dark < -8).any(1))[0]
    assert np.ptp(rows) < 60  # of 512: across the bone, not along it


def test_lookalikes_are_independent_of_the_finding() -> None:
    from mura_utils.phantoms import dataset

    shown = {
        kind: [
            dataset._examine(
                draw_arm(np.random.default_rng(0)),
                dataset._Plan("HAND", kind),
                False,
                np.random.default_rng(seed),
            )[1]
            for seed in range(40)
        ]
        for kind in (None, *KINDS)
    }
    assert set(map(tuple, shown.values())) == {tuple(shown[None])}
    assert set(shown[None]) == {"", *LOOKALIKES}
