"""Your own data: a CSV file that lists images, in the folder that holds them.

The page docs/your_data.md says which columns there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mura_utils.data.images import SUFFIXES, ImageFault, read_image
from mura_utils.data.sources import masks
from mura_utils.data.sources.coco import AnnotatedImage, Fracture
from mura_utils.data.sources.listing import Listing, Source, make_listing, remark
from mura_utils.data.sources.table_columns import Columns, candidates
from mura_utils.data.sources.table_rows import (
    ATTRIBUTES,
    TableImages,
    known_images,
    read_images,
)
from mura_utils.errors import UserError
from mura_utils.labels import ABNORMAL, NORMAL


def looks_like_table(root: Path) -> bool:
    """Whether a folder holds a CSV file that lists images, be it with a column too few."""
    return bool(candidates(root))


def list_table(root: Path) -> Listing:
    """List the images of a table.

    - Without a column for patients every image is its own patient, or every study where there are
      studies; so is an image whose cell is empty ("no-id").
    - The split test becomes the official list "valid", which is the test set here, and the other
      splits "train". A patient in both is a remark ("patient-in-two-splits").
    - Rows without path, body part or label are left out ("malformed-row"), as are those that list
      an image again ("repeated-row", or "contradictory-row" where they say something else).
    - Listed images without a file stay in the rows ("missing-file"); images that no row lists are
      left out ("unlisted-file").
    - Ages, sexes and boxes that are none count as unknown ("odd-cell"), as do masks without a file
      ("missing-mask"). Masks and boxes are compared with labels and images, as FracAtlas' are.

    Args:
        root: the folder with the table.

    Raises:
        UserError: there is no such table, or several; a label or split is none; no image is there.
    """
    images = read_images(root)
    rows, name = images.rows, images.columns.table.path.name
    on_disk = images.files.sizes.index
    there = rows[rows["path"].isin(on_disk)]
    if there.empty:
        raise UserError(
            f"{root} holds none of the {len(rows):,} images listed in {name}: "
            f"{rows['path'].iloc[0]} is the first that is not there; put the images there."
        )
    pictures = {file for file in on_disk if file.lower().endswith(SUFFIXES)}
    unlisted = sorted(pictures - {*rows["path"], *rows["mask"]})
    remarks = [
        *images.columns.table.remarks(),
        *images.remarks,
        *images.files.remarks(),
        *images.files.compare(rows["path"]),
        remark(unlisted, "unlisted-file", f"not in {name}; left out"),
        *_check_masks(root, there, images.columns),
    ]
    has_patients = "patient" in images.columns.headers
    return make_listing("table", root, rows, remarks, has_patients, [*_notes(images)])


def table_mask(root: Path, path: str) -> np.ndarray | None:
    """Where the finding of an image is: its mask, or its boxes where it has none.

    Returns:
        bool (H, W) in the frame of the stored image; None without either, or where the mask belongs
        to a picture of another shape.

    Raises:
        UserError: the table or the mask cannot be read.
    """
    images = known_images(root)
    if path not in images.index:
        return None
    mask, boxes = images.loc[path, ["mask", "boxes"]]
    header = _header(root / path) if mask or boxes else None
    if header is None:
        return None
    if mask:
        return masks.fit_mask(masks.read_mask(root / mask), header)
    return masks.draw(_boxed(path, boxes), header)


def table_attributes(root: Path, paths: Sequence[str]) -> pd.DataFrame:
    """Age, sex and projection of each image, where the table says them of any.

    Raises:
        UserError: the table cannot be read.
    """
    images = known_images(root)
    known = [name for name in ATTRIBUTES if images[name].notna().any()]
    return images[known].reindex(pd.Index(paths, name="path"))


def _check_masks(root: Path, images: pd.DataFrame, columns: Columns) -> list[pd.DataFrame]:
    """Remarks on masks and boxes that contradict the labels, or do not lie on their images."""
    if not {"mask", "box"} & columns.headers.keys():
        return []
    marked = (images["mask"] != "") | (images["boxes"].str.len() > 0)
    abnormality = images["abnormality"]
    remarks = [
        remark(images["path"][marked & (abnormality == NORMAL)], "mask-on-normal"),
        remark(images["path"][~marked & (abnormality == ABNORMAL)], "abnormal-without-mask"),
    ]
    for row in images[marked].itertuples():
        header = _header(root / row.path)
        mask = masks.read_header(root / row.mask) if row.mask else None
        if row.mask and mask is None:
            remarks.append(remark([row.path], "mask-unreadable", f"{row.mask} is no PNG or JPEG"))
        elif header is not None:
            drawn = _boxed(row.path, row.boxes)
            drawn.size = mask.stored if mask else None
            fit = masks.describe_fit(drawn, header)
            remarks += [remark([row.path], *fit)] if fit else []
    return remarks


def _boxed(path: str, boxes: Sequence[tuple[float, ...]]) -> AnnotatedImage:
    return AnnotatedImage(path, None, [Fracture(box=box) for box in boxes])


def _header(path: Path) -> masks.Header | None:
    """The header of an image; of a format without EXIF its size; None if it cannot be read."""
    found = masks.read_header(path)
    if found is not None:
        return found
    try:
        height, width = read_image(path).shape
    except ImageFault:
        return None
    return masks.Header(width, height)


def _notes(images: TableImages) -> list[str]:
    """How the columns were understood, and what their absence means."""
    headers = images.columns.headers
    notes = [images.columns.describe()]
    if "study" not in headers:
        notes.append("no study ids: every image is its own study")
    if "split" in headers:
        notes.append(
            "official valid is the split test, the test set; official train is all others, from "
            "which validation is drawn anew"
        )
    return notes


SOURCE = Source(
    name="table",
    title="own data",
    recognize=looks_like_table,
    list=list_table,
    mask=table_mask,
    terms="The radiographs are from a data set of the user's own: its owner decides who may see "
    "them.",
    private=True,
    in_subfolders=False,
    attributes=table_attributes,
)
