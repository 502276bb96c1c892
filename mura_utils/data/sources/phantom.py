"""Phantoms as a data set: MURA's layout, and a mask for each abnormal image."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from mura_utils.data.sources.files import is_file
from mura_utils.data.sources.listing import (
    Listing,
    Source,
    no_attributes,
    remark,
    with_remarks,
)
from mura_utils.data.sources.masks import read_header, read_mask
from mura_utils.data.sources.mura import is_phantom_set, list_mura
from mura_utils.errors import UserError, naming_damage
from mura_utils.labels import ABNORMAL
from mura_utils.phantoms.dataset import CARD, PEOPLE, TREE


def list_phantoms(root: Path) -> Listing:
    """List a complete set of phantoms, as `list_mura`, with remarks on its masks.

    Raises:
        UserError: the set is not complete.
    """
    if not is_file(root / CARD):
        raise UserError(
            f"{root} holds no complete set of phantoms (no {CARD}); "
            "draw it with `mura data phantom`."
        )
    listing = list_mura(root, source="phantom")
    abnormal = listing.rows["path"][listing.rows["abnormality"] == ABNORMAL]
    return with_remarks(listing, check_masks(root, abnormal))


def phantom_mask(root: Path | str, path: str) -> np.ndarray | None:
    """Mask of the abnormality in a phantom.

    Args:
        root: the folder of the set, or the MURA-v1.1 folder in it.
        path: of the image, relative to `root`.

    Returns:
        bool (H, W), of the image's size; None where there is no mask, as for normal images, or one
        of another size ("mask-size-mismatch").

    Raises:
        UserError: the mask cannot be read.
    """
    place = _mask_path(Path(root), path)
    if not os.path.lexists(place):
        return None
    mask, image = read_mask(place), read_header(Path(root) / path)
    return mask if image and mask.shape == image.stored[::-1] else None


def phantom_attributes(root: Path, paths: Sequence[str]) -> pd.DataFrame:
    """What is known of each image: finding, severity, lookalike, age and sex.

    They stand in abnormalities.csv, lookalikes.csv and, by the patient's folder, patients.csv;
    older sets lack the last two.

    Raises:
        UserError: a table is damaged.
    """
    known = no_attributes(root, paths)
    drawn = _table(root / "abnormalities.csv", "path", ["kind", "severity"])
    if drawn is not None:
        known = drawn.rename(columns={"kind": "finding"}).reindex(paths)
    alike = _table(root / "lookalikes.csv", "path", ["lookalikes"])
    if alike is not None:
        said = alike["lookalikes"].reindex(paths).fillna("none")
        said = said.mask(said.str.contains(";"), "several")
        known = known.assign(lookalike=said.to_numpy(object))
    people = _table(root / PEOPLE, "patient", ["age", "sex"])
    if people is not None:
        said = people.reindex([PurePosixPath(path).parts[-3] for path in paths])
        known = known.assign(age=said["age"].to_numpy(float), sex=said["sex"].to_numpy(object))
    return known


def _table(path: Path, key: str, columns: Sequence[str]) -> pd.DataFrame | None:
    """Some columns of a table of the set, by another one; None where the set has no such table."""
    if not is_file(path):
        return None
    with naming_damage(path, "draw the phantoms again with `mura data phantom`"):
        table = pd.read_csv(path).drop_duplicates(key).set_index(key)[[*columns]]
        return table.astype({"age": float}) if "age" in columns else table


def check_masks(root: Path, paths: Iterable[str]) -> list[pd.DataFrame]:
    """Remarks on the masks of abnormal images: absent, unreadable, or of another size.

    Args:
        root: the folder of the set.
        paths: of the abnormal images, relative to `root`.

    Returns:
        Remarks of the kinds "abnormal-without-mask", "mask-unreadable" and "mask-size-mismatch".
    """
    remarks = []
    for path in paths:
        place, image = _mask_path(root, path), read_header(root / path)
        mask = read_header(place)
        if not os.path.lexists(place):
            remarks.append(remark([path], "abnormal-without-mask"))
        elif mask is None:
            remarks.append(remark([path], "mask-unreadable", f"{place} is no PNG"))
        elif image and mask.stored != image.stored:
            sizes = " x ".join(map(str, mask.stored)), " x ".join(map(str, image.stored))
            detail = "the mask has {} pixels, its image {}; the mask is not used".format(*sizes)
            remarks.append(remark([path], "mask-size-mismatch", detail))
    return remarks


def _mask_path(root: Path, path: str) -> Path:
    home = root.parent if root.name == TREE else root
    return home / "masks" / path.removeprefix(f"{TREE}/")


SOURCE = Source(
    name="phantom",
    title="phantom",
    recognize=is_phantom_set,
    list=list_phantoms,
    mask=phantom_mask,
    terms="The images are phantoms, drawn by a program: they show no patient, and results on them "
    "say nothing about results on radiographs of patients.",
    in_subfolders=False,
    attributes=phantom_attributes,
)
