"""The images of somebody's own table: one row each, with its file, its ids and what else is known.

A table is read once for each of its versions, as masks are asked for image by image.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mura_utils.data.sources import table_columns as meaning
from mura_utils.data.sources.files import Files, walk_files
from mura_utils.data.sources.listing import remark
from mura_utils.data.sources.table_columns import Columns
from mura_utils.data.sources.table_files import find_files, tidy

ATTRIBUTES = ("age", "sex", "projection")

_OFFICIAL = {"train": "train", "validation": "train", "test": "valid", "": ""}
_LARGEST_VIEW = 9999


@dataclass(frozen=True)
class TableImages:
    """The images of a table.

    Attributes:
        columns: of the table.
        rows: one an image: path (a file, or what is written where there is none), body_part,
            abnormality, official_split, patient, study, view; mask (path, or ""), boxes (a tuple of
            them); age (years, NaN), sex (F, M, O or missing), projection (text or missing).
        files: what lies in the folder.
        remarks: on rows and cells.
    """

    columns: Columns
    rows: pd.DataFrame
    files: Files
    remarks: list[pd.DataFrame]


def read_images(root: Path) -> TableImages:
    """Read the table of a folder, and find the files that it means.

    Raises:
        UserError: there is no such table, or several; it has no usable row; a label or split is
            none.
    """
    columns = meaning.read_columns(meaning.find_table(root))
    rows, refused = meaning.usable_rows(columns)
    files = walk_files(root, "")
    masks, lost = _mask_paths(columns, rows, files.sizes.index)
    boxes, odd_boxes = meaning.read_optional(columns, "box", rows, meaning.boxes)
    images = pd.DataFrame(
        {
            "path": _image_paths(columns, rows, files.sizes.index.difference(masks.unique())),
            "body_part": meaning.body_parts(columns, rows),
            "abnormality": meaning.abnormalities(columns, rows),
            "official_split": meaning.splits(columns, rows).map(_OFFICIAL),
            "mask": masks,
            "boxes": boxes.map(lambda found: found or ()),
        }
    )
    attributes, odd = _attributes(columns, rows)
    images, repeated = _drop_repeated(images.join(attributes), columns)
    images, unnamed = _with_ids(images, columns)
    remarks = [refused, lost, odd_boxes, *odd, *repeated, *unnamed, _patients_twice(images)]
    return TableImages(columns, images.reset_index(drop=True), files, remarks)


def known_images(root: Path) -> pd.DataFrame:
    """The rows of `read_images`, indexed by path; read again where the table has changed.

    Raises:
        UserError: as `read_images`.
    """
    status = _find_table(root, root.stat().st_mtime_ns if root.is_dir() else 0).stat()
    return _read_version(root, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=2)
def _find_table(root: Path, _time: int) -> Path:
    return meaning.find_table(root)


@functools.lru_cache(maxsize=2)
def _read_version(root: Path, _time: int, _size: int) -> pd.DataFrame:
    return read_images(root).rows.set_index("path")


def _image_paths(columns: Columns, rows: pd.Index, files: pd.Index) -> pd.Series:
    """The file of each row, or a path that leads to none."""
    cells = columns.cells.loc[rows, "path"]
    found = find_files(cells, files)
    changed = found.notna() & (found != cells)
    columns.table.accept(changed, "paths are written in another way than on disk")
    return found.fillna(tidy(cells))


def _mask_paths(
    columns: Columns, rows: pd.Index, files: pd.Index
) -> tuple[pd.Series, pd.DataFrame]:
    """The file of each row's mask, "" without one; and remarks on cells that name none."""
    cells = columns.text("mask").loc[rows]
    cells = cells[cells != ""]
    found = find_files(cells, files)
    lost = cells.index[found.isna()]
    details = (f"row {row}: there is no file {cells[row]}" for row in lost)
    remarks = remark(columns.cells.loc[lost, "path"], "missing-mask", details)
    return found.reindex(rows).fillna(""), remarks


def _attributes(columns: Columns, rows: pd.Index) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """Age, sex, projection and view of each row; a view that is no number is a projection."""
    ages, odd_ages = meaning.read_optional(columns, "age", rows, meaning.ages)
    sexes, odd_sexes = meaning.read_optional(columns, "sex", rows, meaning.sexes)
    views = columns.text("view").loc[rows]
    numbers = pd.to_numeric(views, errors="coerce")
    numbered = numbers.between(1, _LARGEST_VIEW) & (numbers % 1 == 0)
    named = (views != "") & (not numbered[views != ""].all())
    known = pd.DataFrame(
        {
            "age": ages,
            "sex": sexes,
            "projection": views.where(named).astype(object),
            "view": numbers.mask(named),
        }
    )
    return known, [odd_ages, odd_sexes]


def _drop_repeated(
    images: pd.DataFrame, columns: Columns
) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """Keep the first row of each image, with the boxes of all rows that say the same of it."""
    repeated = images["path"].duplicated()
    if not repeated.any():
        return images, []
    said = ["body_part", "abnormality"]
    first = images[~repeated].set_index("path")[said].reindex(images["path"])
    contrary = pd.Series((images[said].to_numpy() != first.to_numpy()).any(axis=1), images.index)
    boxes = images[~contrary].groupby("path")["boxes"].sum()
    kept = images[~repeated].assign(boxes=images["path"].map(boxes))
    name = columns.table.path.name
    again = images["path"][repeated & ~contrary]
    details = (
        f"{columns.table.quote(row)}: an earlier row says something else, and counts"
        for row in images.index[contrary]
    )
    return kept, [
        remark(again, "repeated-row", f"in {name}; the first counts, and the boxes of all"),
        remark(images["path"][contrary], "contradictory-row", details),
    ]


def _with_ids(images: pd.DataFrame, columns: Columns) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """Add patient, study and view.

    Where no patient is named, the study is one, else the image. A study belongs to its patient and
    to one body part. Views that are not numbered are, in the order of their paths.
    """
    path, ids = images["path"], columns.cells.reindex(images.index)
    none = pd.Series("", images.index)
    patient, study = ids.get("patient", none), ids.get("study", none)
    remarks = [
        remark(path[ids[role] == ""], "no-id", f"no {role}: it counts as one of its own")
        for role in ("patient", "study")
        if role in ids
    ]
    owner = patient.where(patient != "", study.where(study != "", path))
    examination = (owner + "/" + study).where(study != "", path)
    parts = images["body_part"].groupby(examination).transform("nunique")
    examination = examination.where(parts < 2, examination + "/" + images["body_part"])
    order = images.assign(study=examination).sort_values("path").groupby("study").cumcount() + 1
    view = images["view"].fillna(order).astype(int)
    return images.assign(patient=owner, study=examination, view=view), remarks


def _patients_twice(images: pd.DataFrame) -> pd.DataFrame:
    """Remarks on patients with images in the test split and in another: one each."""
    split = images[images["official_split"] != ""]
    lists = split.groupby("patient")["official_split"].transform("nunique")
    twice = split[lists > 1].drop_duplicates("patient")
    details = (f"patient {patient} is in test and in another split" for patient in twice["patient"])
    return remark(twice["path"], "patient-in-two-splits", details)
