"""FracAtlas in the layout of its original download.

Abedeen et al., "FracAtlas: A Dataset for Fracture Classification, Localization and Segmentation of
Musculoskeletal Radiographs", Scientific Data 2023, doi 10.1038/s41597-023-02432-4 (CC BY 4.0).

The set has no patient ids. Every image counts as its own patient and its own study here, so no
split of FracAtlas can be shown to be free of leakage.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from mura_utils.data.sources import masks
from mura_utils.data.sources.coco import Coco, read_coco
from mura_utils.data.sources.files import (
    Files,
    find_trees,
    is_file,
    is_folder,
    one_tree,
    walk_files,
)
from mura_utils.data.sources.listing import Listing, Source, make_listing, remark
from mura_utils.data.sources.tables import (
    Table,
    drop_repeated,
    header_cells,
    read_flags,
    read_table,
    simple_name,
)
from mura_utils.errors import UserError

FOLDER = "FracAtlas"
TABLE = "dataset.csv"
ANNOTATIONS = "Annotations/COCO JSON/COCO_fracture_masks.json"
BODY_PARTS = ("hand", "leg", "hip", "shoulder")

_FLAGS = [*BODY_PARTS, "mixed", "fractured"]
_COLUMNS = ["image_id", *_FLAGS]
_FOLDERS = {False: "images/Non_fractured", True: "images/Fractured"}
_PROJECTIONS = ["frontal", "lateral", "oblique"]
_ABNORMALITY = {False: "Normal", True: "Abnormal"}


def looks_like_fracatlas(root: Path) -> bool:
    """Whether a folder is FracAtlas or a part of it: not a folder that contains it.

    A table with the column filestem is GRAZPEDWRI-DX's, which has the same name.
    """
    return any(is_folder(root / folder) for folder in _FOLDERS.values()) or (
        is_file(root / TABLE) and "filestem" not in map(simple_name, header_cells(root / TABLE))
    )


def find_fracatlas(root: Path) -> list[str]:
    """Where FracAtlas is in a folder, as `files.find_trees`."""
    return find_trees(root, looks_like_fracatlas)


def list_fracatlas(root: Path) -> Listing:
    """List FracAtlas; fractured is "Abnormal", and the view is always 1.

    - Rows with several body parts, or flagged as mixed, are left out ("several-body-parts"), and
      those with none ("no-body-part").
    - Listed images without a file stay in the rows ("missing-file"); files that no row lists are
      left out ("unlisted-file").
    - An image in the folder of the other label is a remark ("label-contradiction": the CSV is
      believed), as are a mask on a normal image ("mask-on-normal"), none on an abnormal one
      ("abnormal-without-mask"), and outlines in another frame than the image's ("mask-turned",
      "mask-scaled", "mask-size-mismatch"). Files and masks are compared for rows that are left out,
      too.
    - Other forms of the tables are accepted ("accepted-variant"). Rows that cannot be understood
      are left out ("malformed-row"), as are repeated ones ("repeated-row", or "contradictory-row"
      where they say something else) and annotations ("bad-annotation", "other-category",
      "mask-without-row").

    Args:
        root: `FracAtlas`, or a folder that contains it.

    Raises:
        UserError: the folder is not FracAtlas, or holds only part of it, or several of it.
    """
    below = one_tree(root, find_fracatlas(root), FOLDER)
    base = root / (below or "")
    missing = [
        name
        for name in (TABLE, *_FOLDERS.values(), ANNOTATIONS)
        if not os.path.lexists(base / name)
    ]
    if missing:
        raise UserError(
            f"{base} is not a whole FracAtlas: {', '.join(missing)} missing; put there what the "
            "downloaded archive has of it, or give the folder that was unpacked."
        )
    table = read_table(base / TABLE, f"a header with {', '.join(_COLUMNS)}")
    rows, remarks = _read_rows(table)
    found = walk_files(base, "images")
    rows, variants = _find_on_disk(rows, found.sizes.index)
    rows, more = drop_repeated(rows, table, _FLAGS)
    if not rows["path"].isin(found.sizes.index).any():
        raise UserError(
            f"{base} holds none of the {len(rows):,} images listed in {TABLE}: "
            f"{rows['path'].iloc[0]} is the first that is not there; put the images there."
        )
    coco = read_coco(base / ANNOTATIONS)
    remarks += [*variants, *more, *found.remarks(), *found.compare(rows["path"])]
    remarks += _compare(rows, found, coco) + _check_masks(base, rows, found, coco)

    parts = (rows[list(BODY_PARTS)] == "1").sum(axis=1)
    several = (parts > 1) | (rows["mixed"] == "1")
    none = (parts == 0) & ~several
    remarks += [
        remark(rows["path"][several], "several-body-parts", "left out"),
        remark(rows["path"][none], "no-body-part", "left out"),
    ]
    usable = rows[~several & ~none]
    if usable.empty:
        raise UserError(
            f"{base / TABLE} lists no image of one body part: of {len(rows):,} rows "
            f"{several.sum():,} have several or are mixed, and {none.sum():,} have none; the first "
            f"is {table.quote(rows.index[0])}."
        )
    image_id = usable["path"].map(lambda path: PurePosixPath(path).stem)
    listed = pd.DataFrame(
        {
            "path": usable["path"],
            "official_split": "",
            "patient": image_id,
            "study": image_id,
            "view": 1,
            "body_part": (usable[list(BODY_PARTS)] == "1").idxmax(axis=1).str.upper(),
            "abnormality": (usable["fractured"] == "1").map(_ABNORMALITY),
        }
    )
    everything = pd.concat(remarks)
    if below:
        listed["path"] = f"{below}/" + listed["path"]
        everything["path"] = f"{below}/" + everything["path"]
    deeper = remark([below] * (below not in (None, "", FOLDER)), "accepted-variant", "it is there")
    return make_listing("fracatlas", root, listed, [everything, deeper], has_patients=False)


def fracture_mask(root: Path, path: str) -> np.ndarray | None:
    """Draw the fractures of an image from their outlines, or boxes where there is no outline.

    Args:
        root: folder of the data set.
        path: of the image, relative to `root`.

    Returns:
        `(H, W)` bool in the frame of the stored image; None when no fracture is annotated, when
        what is annotated does not fit the image ("mask-size-mismatch"), or without an image.
    """
    image = root / path
    annotated = read_coco(image.parents[2] / ANNOTATIONS).images.get(image.name.lower())
    header = masks.read_header(image) if annotated else None
    return masks.draw(annotated, header) if annotated and header else None


def fracture_attributes(root: Path, paths: Sequence[str]) -> pd.DataFrame:
    """Metal, projections and number of fractures of each image, from dataset.csv.

    Returns:
        hardware (yes, no), projection (such as "frontal, lateral") and fractures (a number, missing
        for 0), where the table has them; missing where a cell cannot be understood.

    Raises:
        UserError: the table cannot be read.
    """
    table = read_table((root / paths[0]).parents[2] / TABLE, f"a header with {_COLUMNS[0]}")
    cells = table.cells.iloc[1:].set_axis(table.cells.iloc[0].map(simple_name), axis=1)
    images = cells["imageid"].map(_stem) if "imageid" in cells else pd.Series(dtype=str)
    cells = cells[~images.duplicated()].set_axis(images[~images.duplicated()])
    cells = cells.reindex(map(_stem, paths)).set_axis(pd.Index(paths, name="path"))
    found = {}
    if "hardware" in cells:
        found["hardware"] = read_flags(cells["hardware"]).map({"1": "yes", "0": "no"})
    if shown := [name for name in _PROJECTIONS if name in cells]:
        flags = cells[shown].apply(read_flags) == "1"
        found["projection"] = flags.apply(lambda row: ", ".join(row.index[row]) or None, axis=1)
    if "fracturecount" in cells:
        counts = pd.to_numeric(cells["fracturecount"], errors="coerce")
        found["fractures"] = counts.where(counts > 0)
    return pd.DataFrame(found, index=cells.index)


def _stem(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).stem.lower()


def _read_rows(table: Table) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """The columns image_id (without folders) and the flags as "0" and "1"; and remarks."""
    cells = table.named(_COLUMNS, FOLDER)
    rows = cells.assign(**{name: read_flags(cells[name]) for name in _FLAGS})
    rows["image_id"] = cells["image_id"].str.replace(r"^.*[\\/]", "", regex=True)
    good = rows.notna().all(axis=1) & (rows["image_id"] != "")
    if not good.any():
        raise UserError(
            f"{table.path}: none of its {len(rows):,} rows can be understood: "
            f"{table.quote(rows.index[0])}; expected an image and 0 or 1 for {', '.join(_FLAGS)}."
        )
    spelled = rows[_FLAGS].notna() & (rows[_FLAGS] != cells[_FLAGS])
    table.accept(good & spelled.any(axis=1), "flags are not spelled 0 and 1")
    table.accept(good & (rows["image_id"] != cells["image_id"]), "images have folders before them")
    bad = rows.index[~good]
    detail = f"expected an image and 0 or 1 for {', '.join(_FLAGS)}"
    return rows[good], [*table.remarks(), table.refuse(bad, "malformed-row", detail)]


def _find_on_disk(rows: pd.DataFrame, files: pd.Index) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """Add the column path: the file of a row, in the folder of its label or in the other one.

    A name counts as it is, else in other upper and lower case, else without its suffix.
    """
    fractured = rows["fractured"] == "1"
    suffixed = rows["image_id"].where(rows["image_id"].str.contains(".", regex=False), "")
    names = suffixed.where(suffixed != "", rows["image_id"] + ".jpg")
    here = fractured.map(_FOLDERS) + "/" + names
    there = (~fractured).map(_FOLDERS) + "/" + names
    path = here.where(here.isin(files) | ~there.isin(files), there)
    lost = ~path.isin(files)
    spare = pd.Series(files.difference(path), dtype=str)
    spare = spare[spare.str.rsplit("/", n=1).str[0].isin(_FOLDERS.values())]
    for simplify in (str.lower, lambda name: PurePosixPath(name).stem.lower()):
        if not lost.any():
            break
        simple = spare.map(lambda file, simplify=simplify: simplify(PurePosixPath(file).name))
        once = ~simple.duplicated(keep=False)
        on_disk = dict(zip(simple[once], spare[once], strict=True))
        found = rows["image_id"].map(simplify).map(on_disk)
        path = found.where(lost & found.notna(), path)
        lost = ~path.isin(files)
    other = ~lost & (path.str.rsplit("/", n=1).str[-1] != rows["image_id"])
    if not other.any():
        return rows.assign(path=path), []
    detail = f"names of {other.sum():,} files on disk differ in suffix, or in upper and lower case"
    return rows.assign(path=path), [remark([TABLE], "accepted-variant", detail)]


def _compare(rows: pd.DataFrame, found: Files, coco: Coco) -> list[pd.DataFrame]:
    """Remarks where table, folders and annotations disagree."""
    path, fractured = rows["path"], rows["fractured"] == "1"
    name = path.str.rsplit("/", n=1).str[-1].str.lower()
    masked = name.isin(coco.images.keys())
    contradicted = path.str.rsplit("/", n=1).str[0] != fractured.map(_FOLDERS)
    rowless = [image.name for key, image in coco.images.items() if key not in set(name)]
    return [
        remark(found.sizes.index.difference(path), "unlisted-file", f"not in {TABLE}; left out"),
        remark(
            path[contradicted],
            "label-contradiction",
            f"{TABLE} says " + fractured[contradicted].map(_ABNORMALITY) + ", and is believed",
        ),
        remark(path[masked & ~fractured], "mask-on-normal"),
        remark(path[~masked & fractured], "abnormal-without-mask"),
        remark(rowless, "mask-without-row", f"annotated, but not in {TABLE}"),
    ]


def _check_masks(base: Path, rows: pd.DataFrame, found: Files, coco: Coco) -> list[pd.DataFrame]:
    """Remarks on the COCO file, and on outlines that were drawn in another frame."""
    remarks = [remark([ANNOTATIONS], kind, detail) for kind, detail in coco.remarks]
    for path in rows["path"][rows["path"].isin(found.sizes.index)]:
        annotated = coco.images.get(PurePosixPath(path).name.lower())
        header = masks.read_header(base / path) if annotated else None
        fit = masks.describe_fit(annotated, header) if annotated and header else None
        if fit:
            remarks.append(remark([path], *fit))
    return remarks


SOURCE = Source(
    name="fracatlas",
    title="FracAtlas",
    recognize=looks_like_fracatlas,
    list=list_fracatlas,
    mask=fracture_mask,
    terms="The radiographs are from FracAtlas (Abedeen et al., Scientific Data 2023, doi "
    "10.1038/s41597-023-02432-4), licensed under CC BY 4.0 (creativecommons.org/licenses/by/4.0). "
    "They were resized, converted to gray and drawn over here. Keep this line on every copy.",
    attributes=fracture_attributes,
)
