"""Trees in MURA's layout: of its real shape, or tiny, for tests and benchmarks.

rows = real_rows()          # one row an image, as many as MURA has, in every class
write_tree(tmp_path, rows)  # tmp_path/MURA-v1.1/..., four CSV files in the official form
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from mura_utils.report import MURA_TRAIN_IMAGES, MURA_VALID_IMAGES, MURA_VALID_STUDIES

# Studies per body part, (normal, abnormal), in MURA's train list: only their totals are published
# (8,280 and 5,177), shared out here in proportion to the images.
_TRAIN_STUDIES = {
    "ELBOW": (1104, 698), "FINGER": (1185, 685), "FOREARM": (439, 230), "HAND": (1532, 517),
    "HUMERUS": (254, 208), "SHOULDER": (1590, 1451), "WRIST": (2176, 1388),
}  # fmt: skip
# Patients with several body parts, and with two studies of the same one: together they are the
# difference between studies and patients (13,457 - 11,184 and 1,199 - 783).
_TRAIN_PAIRS = (1467, 806)
_VALID_PAIRS = (248, 168)


def real_rows(seed: int = 0) -> pd.DataFrame:
    """Rows as MURA has them: split, patient, body_part, study, abnormal (bool), view.

    Exact: images, studies and patients of each split, patients with several body parts, images of
    each class. Not modelled: who has studies of both labels, and more than two studies a patient.
    """
    rng = np.random.default_rng(seed)
    train = _split_rows(
        "train", MURA_TRAIN_IMAGES, _TRAIN_STUDIES, _TRAIN_PAIRS, first_patient=1, rng=rng
    )
    first_valid = 1 + train["patient"].nunique()
    valid = _split_rows(
        "valid", MURA_VALID_IMAGES, MURA_VALID_STUDIES, _VALID_PAIRS, first_valid, rng=rng
    )
    return pd.concat([train, valid], ignore_index=True)


def tiny_rows() -> pd.DataFrame:
    """Eight images: two body parts, both labels, both splits; patient 1 has two body parts."""
    studies = [
        ("train", 1, "WRIST", 1, True, 2),
        ("train", 1, "HAND", 1, False, 1),
        ("train", 2, "WRIST", 1, False, 1),
        ("train", 3, "HAND", 1, True, 2),
        ("valid", 4, "WRIST", 1, True, 1),
        ("valid", 5, "HAND", 1, False, 1),
    ]
    return _views(pd.DataFrame(studies, columns=_STUDY_COLUMNS))


def image_paths(rows: pd.DataFrame, verdict: pd.Series | None = None) -> pd.Series:
    """Path of each row's image below MURA-v1.1; `verdict` (bool) names the folder differently."""
    abnormal = rows["abnormal"] if verdict is None else verdict
    return (
        rows["split"]
        + "/XR_"
        + rows["body_part"]
        + "/patient"
        + rows["patient"].astype(str).str.zfill(5)
        + "/study"
        + rows["study"].astype(str)
        + np.where(abnormal, "_positive", "_negative")
        + "/image"
        + rows["view"].astype(str)
        + ".png"
    )


def png(seed: int = 0, side: int = 40, mode: str = "L") -> bytes:
    """A small PNG of noise, another for each seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(stream, "PNG")
    return stream.getvalue()


def write_tree(
    root: Path,
    rows: pd.DataFrame,
    content: bytes | Callable[[int], bytes] = png,
    prefix: str = "MURA-v1.1/",
    header: bool = False,
    newline: str = "\n",
    slash: str = "/",
) -> Path:
    """Write `rows` below `root / MURA-v1.1` and return that folder.

    Args:
        root: parent of the tree.
        rows: as `real_rows`.
        content: gives the bytes of image number i; or the bytes of all, then hard links of one.
        prefix: what the CSV paths start with.
        header: whether the CSV files have a header line.
        newline: their line ends.
        slash: what study paths end with.
    """
    tree = root / "MURA-v1.1"
    paths = image_paths(rows)
    folders = paths.str.rsplit("/", n=1).str[0]
    for folder in folders.unique():
        (tree / folder).mkdir(parents=True)
    for number, path in enumerate(paths):
        if callable(content):
            (tree / path).write_bytes(content(number))
        elif number == 0:
            (tree / path).write_bytes(content)
        else:
            (tree / path).hardlink_to(tree / paths[0])
    for split in ("train", "valid"):
        here = rows["split"] == split
        labels = folders[here].drop_duplicates()
        studies = (
            prefix + labels + slash + "," + rows["abnormal"][labels.index].astype(int).astype(str)
        )
        for name, lines, title in (
            ("image_paths", prefix + paths[here], "path"),
            ("labeled_studies", studies, "path,label"),
        ):
            text = newline.join([title] * header + lines.tolist()) + newline
            (tree / f"{split}_{name}.csv").write_text(text, newline="")
    return tree


_STUDY_COLUMNS = ["split", "patient", "body_part", "study", "abnormal", "views"]


def _split_rows(
    split: str,
    images: dict[str, tuple[int, int]],
    studies_of: dict[str, tuple[int, int]],
    pairs: tuple[int, int],
    first_patient: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    # For each body part a shuffled stack of studies: (abnormal, views).
    stacks: dict[str, list[tuple[bool, int]]] = {}
    for part, counts in studies_of.items():
        studies = []
        for abnormal, count in zip((False, True), counts, strict=True):
            # Every study has one image, the others fall at random.
            spare = images[part][abnormal] - count
            views = 1 + rng.multinomial(spare, np.full(count, 1 / count))
            studies += [(abnormal, int(number)) for number in views]
        stacks[part] = [studies[index] for index in rng.permutation(len(studies))]

    rows, patient = [], first_patient
    several, same = pairs
    for pair in range(several + same):
        # From the fullest stacks, so that there are always two to draw from.
        first, second = sorted(stacks, key=lambda part: len(stacks[part]))[:-3:-1]
        if pair >= several:
            second = first
        for study, part in enumerate((first, second), start=1):
            number = study if pair >= several else 1
            rows.append((split, patient, part, number, *stacks[part].pop()))
        patient += 1
    for part, studies in stacks.items():
        for study in studies:
            rows.append((split, patient, part, 1, *study))
            patient += 1
    return _views(pd.DataFrame(rows, columns=_STUDY_COLUMNS))


def _views(studies: pd.DataFrame) -> pd.DataFrame:
    """One row a view instead of one row a study."""
    rows = studies.loc[studies.index.repeat(studies["views"])]
    rows = rows.assign(view=rows.groupby(level=0).cumcount() + 1)
    return rows.drop(columns="views").reset_index(drop=True)


def remarks(listing) -> dict[str, int]:
    """How many remarks of each kind a listing has."""
    return listing.remarks["kind"].value_counts().to_dict()


def edit(table: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Rewrite the lines of a CSV file."""
    lines = table.read_text().splitlines()
    table.write_text("\n".join(change(lines)) + "\n")
