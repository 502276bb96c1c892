"""Phantoms: procedural radiographs in MURA's folder layout, for a machine without data.

`anatomy` knows the arm, `findings` its abnormalities, `radiography` how they look on a radiograph;
here people and their studies are made up and written to disk as MURA is.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from mura_utils import report
from mura_utils.errors import UserError
from mura_utils.locks import waiting
from mura_utils.paths import atomic_write, read_json, write_csv, write_json, write_text
from mura_utils.phantoms.anatomy import KINDS, WINDOWS, Part, draw_arm, find_bone
from mura_utils.phantoms.findings import add_finding
from mura_utils.phantoms.radiography import Study, take_radiograph
from mura_utils.terminal import hide_bars

TREE = "MURA-v1.1"
CARD = "phantoms.json"
PARTIAL = "phantoms.partial"
VERSION = 2

BODY_PARTS = tuple(report.MURA_TRAIN_IMAGES)


def _examine(arm: list[Part], body_part: str, kind: str | None, left: bool, rng) -> Study:
    """Anatomy of one study: the person's arm within the window, with its finding."""
    window = WINDOWS[body_part]
    parts, centre = [part for part in arm if part.level in window.levels], np.array(window.centre)
    ray = int(rng.choice([1, 2, 2, 3, 3, 4, 5]))
    if body_part == "FINGER":
        finger = find_bone(arm, f"P{ray}")
        centre = finger.start + 0.95 * (finger.end - finger.start)
        if rng.random() < 0.6:  # the other fingers are folded away
            parts = [part for part in parts if part.level == 3 or part.bone.endswith(str(ray))]
    if kind:
        parts = add_finding(parts, body_part, kind, ray, rng)
    return Study(body_part, parts, centre, left)


def _views(body_part: str, count: int, rng: np.random.Generator) -> list[float]:
    yaws = WINDOWS[body_part].yaws
    return [yaws[i % len(yaws)] if rng.random() < 0.9 else yaws[0] for i in range(count)]


def draw_case(
    rng: np.random.Generator, body_part: str, kind: str, abnormal: bool, yaw: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a radiograph with an abnormality, or the same one as it would be without.

    Person, pose, framing, exposure and grain are equal, so that the abnormality is the difference.

    Args:
        rng: the only source of chance.
        body_part: one of `BODY_PARTS`.
        kind: the abnormality, one of `KINDS`.
        abnormal: whether it is there.
        yaw: direction of the view in degrees about the arm: 0 is AP, 90 lateral.

    Returns:
        The image, uint8 (H, W), longest side 512; and the mask, bool (H, W), of the abnormality, or
        of about the place where it would be.
    """
    arm, left = draw_arm(rng), bool(rng.random() < 0.5)
    anatomy, exposure = rng.integers(2**32, size=2)

    def examine(finding: str | None) -> Study:
        return _examine(arm, body_part, finding, left, np.random.default_rng(anatomy))

    study = examine(kind)
    if not abnormal:
        # `take_radiograph` centres what marks the finding, here without the finding as well.
        marks = [part for part in study.parts if part.role in ("mark", "metal")]
        study = examine(None)
        study.parts.extend(replace(part, role="mark") for part in marks)
    return take_radiograph(study, yaw, np.random.default_rng(exposure))


class _Order(NamedTuple):
    """What one patient's folder will hold: studies as (body part, kind or None)."""

    split: str
    number: int
    studies: list[tuple[str, str | None]]


def _quotas(total: int) -> dict[tuple[str, bool], int]:
    """Studies per (body part, abnormal), near MURA's shares, no class without its minimum."""
    shares = {
        (part, abnormal): counts[abnormal]
        for part, counts in report.MURA_TRAIN_IMAGES.items()
        for abnormal in (False, True)
    }
    least = max(1, min(4, total // (2 * len(shares))))
    rest, whole = total - least * len(shares), sum(shares.values())
    exact = {key: rest * count / whole for key, count in shares.items()}
    quotas = {key: least + int(value) for key, value in exact.items()}
    by_remainder = sorted(exact, key=lambda key: int(exact[key]) - exact[key])
    for key in by_remainder[: total - sum(quotas.values())]:
        quotas[key] += 1
    return quotas


def _deal(split: str, first: int, patients: int, rng: np.random.Generator) -> list[_Order]:
    """Give each patient of a split one to three studies; half of the later ones repeat the part."""
    sizes = rng.choice([1, 2, 3], patients, p=[0.7, 0.22, 0.08])
    studies_left = [key for key, count in _quotas(int(sizes.sum())).items() for _ in range(count)]
    studies_left = [studies_left[i] for i in rng.permutation(len(studies_left))]
    kinds = itertools.cycle(rng.permutation(KINDS).tolist())
    orders = []
    for number, size in enumerate(sizes, first):
        own = [studies_left.pop()]
        while len(own) < size:
            same = [i for i, key in enumerate(studies_left) if key[0] == own[0][0]]
            own.append(studies_left.pop(same[-1] if same and rng.random() < 0.5 else -1))
        studies = [(part, next(kinds) if abnormal else None) for part, abnormal in own]
        orders.append(_Order(split, number, studies))
    return orders


def _save(path: Path, image: np.ndarray, mode: str = "L") -> None:
    with atomic_write(path) as temporary:
        # Run-length matching is twice as fast as the default and as small: grain does not repeat.
        Image.fromarray(image).convert(mode).save(temporary, compress_level=1, compress_type=3)


def _draw_patient(root: Path, order: _Order, seed: int) -> list[tuple[str, str]]:
    """Write one patient's images and masks; return (path, kind or "") in order."""
    rng = np.random.default_rng([seed, order.number])
    arm = draw_arm(rng)
    counts: dict[str, int] = {}
    rows = []
    for body_part, kind in order.studies:
        counts[body_part] = counts.get(body_part, 0) + 1
        label = "positive" if kind else "negative"
        folder = (
            f"{order.split}/XR_{body_part}/patient{order.number:05d}/"
            f"study{counts[body_part]}_{label}"
        )
        study = _examine(arm, body_part, kind, bool(rng.random() < 0.5), rng)
        mode = "RGB" if rng.random() < 0.1 else "L"
        views = rng.choice([1, 2, 3, 4, 5], p=[0.1, 0.32, 0.38, 0.16, 0.04])
        for i, yaw in enumerate(_views(body_part, views, rng), 1):
            image, mask = take_radiograph(study, yaw, rng)
            path = f"{folder}/image{i}.png"
            _save(root / TREE / path, image, mode)
            if kind:
                _save(root / "masks" / path, mask.astype(np.uint8) * 255)
            rows.append((f"{TREE}/{path}", kind or ""))
    return rows


def _claim(root: Path, recipe: dict) -> bool:
    """Mark `root` as ours. False if the complete set of this recipe is there already."""
    for marker in (CARD, PARTIAL):
        if (root / marker).is_file():
            found = read_json(root / marker)
            if {key: found.get(key) for key in recipe} != recipe:
                raise UserError(
                    f"{root} holds phantoms of another recipe ({marker}); choose another folder, "
                    "or delete that one yourself."
                )
            if marker == CARD:
                return False
            for stray in root.rglob(".*.tmp.png"):  # of the interrupted run's own atomic writes
                stray.unlink()
            return True
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(
            f"{root} holds something that is no set of phantoms; choose an empty or a new folder."
        )
    write_json(root / PARTIAL, recipe)
    return True


def _write_tables(root: Path, split: str, rows: list[tuple[str, str]]) -> None:
    """MURA's two CSV files of a split, as published: no header, LF, a slash after studies."""
    paths = [path for path, _ in rows]
    studies = dict.fromkeys(path.rsplit("/", 1)[0] + "/" for path in paths)
    labelled = [f"{study},{int(study.endswith('_positive/'))}" for study in studies]
    write_text(root / TREE / f"{split}_image_paths.csv", "\n".join(paths) + "\n")
    write_text(root / TREE / f"{split}_labeled_studies.csv", "\n".join(labelled) + "\n")


def draw_phantoms(
    root: Path | str,
    patients: int = 120,
    seed: int = 0,
    official_valid_fraction: float = 0.1,
    workers: int | None = None,
    progress: bool = False,
) -> dict:
    """Draw a set of phantoms in MURA's layout; about four images a patient.

    Writes `root/MURA-v1.1/{train,valid}/XR_*/…/image*.png` with MURA's four CSV files, a mask (8
    bits, 255 is abnormal) for each abnormal image at the same path under `root/masks`, the kinds of
    abnormality in `root/abnormalities.csv` (path, kind), and last `root/phantoms.json`. The bytes
    depend on `patients`, `seed` and `official_valid_fraction` alone. Nothing is done where that
    very set is complete; an interrupted one is drawn again.

    Args:
        root: a new or empty folder, or one with phantoms of the same recipe.
        patients: at least 28, for all 14 classes to be in both official splits.
        seed: another one draws other people.
        official_valid_fraction: the share of patients in `valid`, in (0, 1).
        workers: processes; None is one a core.
        progress: show a bar.

    Returns:
        The content of phantoms.json: recipe and counts.

    Raises:
        UserError: too few patients, a bad fraction, or `root` holds anything else.
    """
    root = Path(root)
    least = 2 * len(BODY_PARTS)
    if patients < 2 * least:
        raise UserError(
            f"patients is {patients}; ask for {2 * least} or more, so that both official splits "
            "hold all 14 classes."
        )
    if not 0 < official_valid_fraction < 1:
        raise UserError(
            f"official_valid_fraction is {official_valid_fraction}; it must lie between 0 and 1."
        )
    recipe = {"version": VERSION, "patients": patients, "seed": seed,
              "official_valid_fraction": official_valid_fraction}  # fmt: skip
    if (root / CARD).is_file() and not _claim(root, recipe):
        return read_json(root / CARD)
    with waiting(root.absolute().with_name(f".{root.name}.lock"), f"draws phantoms in {root}"):
        return _draw(root, recipe, least, workers, progress)


def _draw(root: Path, recipe: dict, least: int, workers: int | None, progress: bool) -> dict:
    if not _claim(root, recipe):
        return read_json(root / CARD)
    patients, seed = recipe["patients"], recipe["seed"]
    share = recipe["official_valid_fraction"]
    valid = min(max(round(patients * share), least), patients - least)
    rng = np.random.default_rng(seed)
    orders = _deal("train", 1, patients - valid, rng)
    orders += _deal("valid", patients - valid + 1, valid, rng)
    pool = joblib.Parallel(n_jobs=workers or joblib.cpu_count(), return_as="generator")
    done = pool(joblib.delayed(_draw_patient)(root, order, seed) for order in orders)
    rows = sorted(
        row
        for patient in tqdm(
            done, "phantoms", len(orders), unit="patient", disable=hide_bars(progress)
        )
        for row in patient
    )
    for split in ("train", "valid"):
        _write_tables(root, split, [row for row in rows if row[0].startswith(f"{TREE}/{split}/")])
    abnormal = pd.DataFrame([row for row in rows if row[1]], columns=["path", "kind"])
    write_csv(root / "abnormalities.csv", abnormal)
    studies = sum(len(order.studies) for order in orders)
    card = {**recipe, "studies": studies, "images": len(rows), "abnormal_images": len(abnormal)}
    write_json(root / CARD, card)
    (root / PARTIAL).unlink()
    return card
