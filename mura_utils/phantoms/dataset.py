"""Phantoms: procedural radiographs in MURA's folder layout, for a machine without data.

`anatomy` knows the arm, `findings` its abnormalities, `lookalikes` what only looks like one,
`radiography` how they look on a radiograph; here people and their studies are made up and written
to disk as MURA is, and `faults` damages some of the files.
"""

from __future__ import annotations

import itertools
from collections import Counter
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
from mura_utils.phantoms.anatomy import KINDS, SEVERITIES, WINDOWS, Part, draw_arm, find_bone
from mura_utils.phantoms.faults import plant_faults
from mura_utils.phantoms.findings import add_finding
from mura_utils.phantoms.lookalikes import GROWTH_PLATE, add_growth_plates, add_lookalike, fits
from mura_utils.phantoms.people import Person, describe_person
from mura_utils.phantoms.radiography import Study, take_radiograph
from mura_utils.terminal import hide_bars

TREE = "MURA-v1.1"
CARD = "phantoms.json"
PEOPLE = "patients.csv"
PARTIAL = "phantoms.partial"
VERSION = 3

BODY_PARTS = tuple(report.MURA_TRAIN_IMAGES)

_MIX = (0.5, 0.25, 0.25)
"""Shares of the severities: with them the demo's network is right in most cases, not in all."""
_CHILDREN = 0.12
_LOOKALIKES = 0.4
"""Share of the studies with something that only looks like a finding."""


class _Plan(NamedTuple):
    """What one study will show: a finding or None, and whether its label says otherwise."""

    body_part: str
    kind: str | None
    severity: str = "obvious"
    mislabeled: bool = False


class _Drawn(NamedTuple):
    """One image of the set."""

    path: str
    kind: str  # of the finding, or ""
    severity: str
    lookalikes: str  # separated by semicolons


def _draw_person(rng: np.random.Generator) -> tuple[list[Part], bool]:
    """A person's arm, and whether it is a child's."""
    arm, child = draw_arm(rng), bool(rng.random() < _CHILDREN)
    return (add_growth_plates(arm, rng) if child else arm), child


def _examine(
    arm: list[Part], plan: _Plan, left: bool, rng: np.random.Generator
) -> tuple[Study, str]:
    """Anatomy of one study: the person's arm within the window; and its look-alike, or ""."""
    body_part = plan.body_part
    window = WINDOWS[body_part]
    parts, center = [part for part in arm if part.level in window.levels], np.array(window.center)
    ray = int(rng.choice([1, 2, 2, 3, 3, 4, 5]))
    if body_part == "FINGER":
        finger = find_bone(arm, f"P{ray}")
        center = finger.start + 0.95 * (finger.end - finger.start)
        if rng.random() < 0.6:  # the other fingers are folded away
            parts = [part for part in parts if part.level == 3 or part.bone.endswith(str(ray))]
    lookalike = str(rng.choice(fits(body_part))) if rng.random() < _LOOKALIKES else ""
    if lookalike:
        parts = add_lookalike(parts, body_part, lookalike, ray, rng)
    if plan.kind:
        parts = add_finding(parts, body_part, plan.kind, ray, rng, plan.severity)
    return Study(body_part, parts, center, left), lookalike


def _views(body_part: str, count: int, rng: np.random.Generator) -> list[float]:
    yaws = WINDOWS[body_part].yaws
    return [yaws[i % len(yaws)] if rng.random() < 0.9 else yaws[0] for i in range(count)]


def draw_case(
    rng: np.random.Generator,
    body_part: str,
    kind: str,
    abnormal: bool,
    yaw: float = 0.0,
    severity: str = "obvious",
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a radiograph with an abnormality, or the same one as it would be without.

    Person, pose, framing, exposure and grain are equal, so that the abnormality is the difference.

    Args:
        rng: the only source of chance.
        body_part: one of `BODY_PARTS`.
        kind: the abnormality, one of `KINDS`.
        abnormal: whether it is there.
        yaw: direction of the view in degrees about the arm: 0 is AP, 90 lateral.
        severity: of the abnormality, one of `SEVERITIES`.

    Returns:
        The image, uint8 (H, W), longest side 512; and the mask, bool (H, W), of the abnormality, or
        of about the place where it would be.
    """
    arm, left = _draw_person(rng)[0], bool(rng.random() < 0.5)
    anatomy, exposure = rng.integers(2**32, size=2)

    def examine(finding: str | None) -> Study:
        plan = _Plan(body_part, finding, severity)
        return _examine(arm, plan, left, np.random.default_rng(anatomy))[0]

    study = examine(kind)
    if not abnormal:
        # `take_radiograph` centers what marks the finding, here without the finding as well.
        marks = [part for part in study.parts if part.role in ("mark", "metal")]
        study = examine(None)
        study.parts.extend(replace(part, role="mark") for part in marks)
    return take_radiograph(study, yaw, np.random.default_rng(exposure))


class _Order(NamedTuple):
    """What one patient's folder will hold."""

    split: str
    number: int
    studies: list[_Plan]


def _quotas(total: int) -> dict[tuple[str, bool], int]:
    """Studies per (body part, abnormal), near MURA's shares, no class without its minimum."""
    shares = {
        (part, abnormal): counts[abnormal]
        for part, counts in report.MURA_TRAIN_IMAGES.items()
        for abnormal in (False, True)
    }
    least = max(1, min(4, total // 20))
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
        studies = [
            _Plan(part, next(kinds), str(rng.choice(SEVERITIES, p=_MIX)))
            if abnormal
            else _Plan(part, None)
            for part, abnormal in own
        ]
        orders.append(_Order(split, number, studies))
    return orders


def _mislabel(orders: list[_Order], share: float, rng: np.random.Generator) -> None:
    """Exchange labels of normal and abnormal studies of one body part and split."""
    places: dict[tuple, tuple[list, list]] = {}
    for order in orders:
        for index, plan in enumerate(order.studies):
            pair = places.setdefault((order.split, plan.body_part), ([], []))
            pair[plan.kind is not None].append((order, index))
    for pair in places.values():
        pairs = min(round(share * sum(map(len, pair)) / 2), *map(len, pair))
        for side in pair:
            for chosen in rng.permutation(len(side))[:pairs]:
                order, index = side[chosen]
                order.studies[index] = order.studies[index]._replace(mislabeled=True)


def _save(path: Path, image: np.ndarray, mode: str = "L") -> None:
    with atomic_write(path) as temporary:
        # Run-length matching is twice as fast as the default and as small: grain does not repeat.
        Image.fromarray(image).convert(mode).save(temporary, compress_level=1, compress_type=3)


def _draw_patient(
    root: Path, order: _Order, seed: int, age_effect: float
) -> tuple[Person, list[_Drawn]]:
    """Write one patient's images and masks."""
    rng = np.random.default_rng([seed, order.number])
    arm, child = _draw_person(rng)
    counts: Counter[str] = Counter()
    rows = []
    for plan in order.studies:
        body_part = plan.body_part
        counts[body_part] += 1
        positive = (plan.kind is not None) != plan.mislabeled
        folder = (
            f"{order.split}/XR_{body_part}/patient{order.number:05d}/"
            f"study{counts[body_part]}_{'positive' if positive else 'negative'}"
        )
        study, lookalike = _examine(arm, plan, bool(rng.random() < 0.5), rng)
        alike = ";".join(filter(None, [GROWTH_PLATE * child, lookalike]))
        severity = plan.severity if plan.kind else ""
        mode = "RGB" if rng.random() < 0.1 else "L"
        views = rng.choice([1, 2, 3, 4, 5], p=[0.1, 0.32, 0.38, 0.16, 0.04])
        for i, yaw in enumerate(_views(body_part, views, rng), 1):
            image, mask = take_radiograph(study, yaw, rng)
            path = f"{folder}/image{i}.png"
            _save(root / TREE / path, image, mode)
            if positive and plan.kind:
                _save(root / "masks" / path, mask.astype(np.uint8) * 255)
            rows.append(_Drawn(f"{TREE}/{path}", plan.kind or "", severity, alike))
    abnormal = any(plan.kind for plan in order.studies)
    return describe_person(order.number, child, abnormal, age_effect, seed), rows


def _claim(root: Path, recipe: dict) -> bool:
    """Mark `root` as ours. False if the complete set of this recipe is there already."""
    for marker in (CARD, PARTIAL):
        if (root / marker).is_file():
            found = {"age_effect": 0} | read_json(root / marker)  # older sets know no ages
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


def _tables(rows: list[_Drawn]) -> dict[str, list[str]]:
    """Lines of MURA's four CSV files, as published: no header, a slash after studies."""
    tables = {}
    for split in ("train", "valid"):
        paths = [row.path for row in rows if row.path.startswith(f"{TREE}/{split}/")]
        studies = dict.fromkeys(path.rsplit("/", 1)[0] + "/" for path in paths)
        labeled = [f"{study},{int(study.endswith('_positive/'))}" for study in studies]
        tables[f"{split}_image_paths.csv"] = paths
        tables[f"{split}_labeled_studies.csv"] = labeled
    return tables


def draw_phantoms(
    root: Path | str,
    patients: int = 120,
    seed: int = 0,
    faults: bool = False,
    label_noise: float = 0.0,
    official_valid_fraction: float = 0.45,
    age_effect: float = 0.0,
    workers: int | None = None,
    progress: bool = False,
) -> dict:
    """Draw a set of phantoms in MURA's layout; about four images a patient.

    Writes `root/MURA-v1.1/{train,valid}/XR_*/…/image*.png` with MURA's four CSV files, a mask (8
    bits, 255 is abnormal) for each abnormal image at the same path under `root/masks`, what is to
    be seen in `root/abnormalities.csv` (path, kind, severity) and `root/lookalikes.csv` (path,
    lookalikes), who they are in `root/patients.csv` (patient, age, sex), and last
    `root/phantoms.json`. The bytes depend on all arguments but `workers` and `progress`. Nothing is
    done where that very set is complete; an interrupted one is drawn again.

    Args:
        root: a new or empty folder, or one with phantoms of the same recipe.
        patients: at least 28, for all 14 classes to be in both official splits.
        seed: another one draws other people.
        faults: damage files and rows of tables, as `faults.plant_faults` says.
        label_noise: share of the studies, from 0 to 0.5, whose label is wrong; as many normal as
            abnormal ones of each body part. `abnormalities.csv` says what is there; there are masks
            where label and finding agree.
        official_valid_fraction: the share of patients in `valid`, in (0, 1).
        age_effect: see `people.describe_person`; no image depends on it.
        workers: processes; None is one a core.
        progress: show a bar.

    Returns:
        The content of phantoms.json: recipe; counts of studies and images; images by kind and
        severity, and by look-alike; the wrongly labeled studies; the planted faults.

    Raises:
        UserError: too few patients, a bad share, or `root` holds anything else.
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
    if not 0 <= label_noise <= 0.5:
        raise UserError(f"label_noise is {label_noise}; it must lie between 0 and 0.5.")
    if not 0 <= age_effect <= 1:
        raise UserError(f"age_effect is {age_effect}; it must lie between 0 and 1.")
    recipe = {"version": VERSION, "patients": patients, "seed": seed,
              "official_valid_fraction": official_valid_fraction, "faults": faults,
              "label_noise": label_noise, "age_effect": age_effect}  # fmt: skip
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
    _mislabel(orders, recipe["label_noise"], rng)
    pool = joblib.Parallel(n_jobs=workers or joblib.cpu_count(), return_as="generator")
    effect = recipe["age_effect"]
    done = pool(joblib.delayed(_draw_patient)(root, order, seed, effect) for order in orders)
    hidden = hide_bars(progress)
    drawn = [*tqdm(done, "phantoms", len(orders), unit="patient", disable=hidden)]
    people = [person for person, _ in drawn]
    rows = sorted(row for _, images in drawn for row in images)
    tables = _tables(rows)
    planted = []
    if recipe["faults"]:
        planted, moved = plant_faults(root, TREE, tables, rng)
        alike = {row.path: row.lookalikes for row in rows}
        twins = {entry["path"]: alike[entry["of"]] for entry in planted if "of" in entry}
        rows = [row._replace(lookalikes=twins.get(row.path, row.lookalikes)) for row in rows]
        rows = sorted(row._replace(path=moved.get(row.path, row.path)) for row in rows)
    for name, lines in tables.items():
        write_text(root / TREE / name, "\n".join(lines) + "\n")
    card = {**recipe, **_describe(rows, tables), "planted": planted}
    seen = pd.DataFrame(rows, columns=_Drawn._fields)
    write_csv(root / "abnormalities.csv", seen.loc[seen.kind != "", ["path", "kind", "severity"]])
    write_csv(root / "lookalikes.csv", seen.loc[seen.lookalikes != "", ["path", "lookalikes"]])
    write_csv(root / PEOPLE, pd.DataFrame(people, columns=Person._fields).astype({"age": "Int64"}))
    write_json(root / CARD, card)
    (root / PARTIAL).unlink()
    return card


def _describe(rows: list[_Drawn], tables: dict[str, list[str]]) -> dict:
    """Counts of what was drawn, for the card."""
    lines = [line for name, table in tables.items() if "studies" in name for line in table]
    labels = dict(line.rsplit("/,", 1) for line in reversed(lines))
    findings = {kind: dict.fromkeys(SEVERITIES, 0) for kind in KINDS}
    alike: Counter[str] = Counter()
    wrong = set()
    for row in rows:
        study = row.path.rsplit("/", 1)[0]
        alike.update(filter(None, row.lookalikes.split(";")))
        if row.kind:
            findings[row.kind][row.severity] += 1
        if labels.get(study) == str(int(not row.kind)):
            wrong.add(study)
    return {
        "studies": len({row.path.rsplit("/", 1)[0] for row in rows}),
        "images": len(rows),
        "abnormal_images": sum(row.kind != "" for row in rows),
        "findings": findings,
        "lookalikes": dict(sorted(alike.items())),
        "mislabeled": sorted(wrong),
    }
