"""FracAtlas in the layout of its original download.

Abedeen et al., "FracAtlas: A Dataset for Fracture Classification, Localization and Segmentation of
Musculoskeletal Radiographs", Scientific Data 2023, doi 10.1038/s41597-023-02432-4 (CC BY 4.0).

The set has no patient ids. Every image counts as its own patient and its own study here, so no
split of FracAtlas can be shown to be free of leakage.
"""

from __future__ import annotations

import functools
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from mura_utils.errors import UserError
from mura_utils.paths import read_json
from mura_utils.sources.listing import Listing, file_remarks, make_listing, remark, walk_files

TABLE = "dataset.csv"
ANNOTATIONS = "Annotations/COCO JSON/COCO_fracture_masks.json"
BODY_PARTS = ("hand", "leg", "hip", "shoulder")

_FLAGS = [*BODY_PARTS, "mixed", "fractured"]
_FOLDERS = {False: "images/Non_fractured", True: "images/Fractured"}
_ABNORMALITY = {False: "Normal", True: "Abnormal"}


def looks_like_fracatlas(root: Path) -> bool:
    """Whether a folder is FracAtlas or a part of it."""
    return (root / TABLE).is_file() or any((root / folder).is_dir() for folder in _FOLDERS.values())


def list_fracatlas(root: Path) -> Listing:
    """List FracAtlas; fractured is "Abnormal", and the view is always 1.

    - Rows with several body parts, or flagged as mixed, are left out ("several-body-parts"), and
      those with none ("no-body-part").
    - Listed images without a file stay in the rows ("missing-file"); files that no row lists are
      left out ("unlisted-file").
    - An image in the folder of the other label is a remark ("label-contradiction": the CSV is
      believed), as are a mask on a normal image ("mask-on-normal") and none on an abnormal one
      ("abnormal-without-mask"). Files and masks are compared for rows that are left out, too.

    Raises:
        UserError: the folder is not FracAtlas, or holds only part of it.
    """
    missing = [
        name for name in (TABLE, *_FOLDERS.values(), ANNOTATIONS) if not (root / name).exists()
    ]
    if missing:
        raise UserError(
            f"{root} is not a whole FracAtlas: {', '.join(missing)} missing; give the folder that "
            "was unpacked, or unpack it again."
        )
    table, remarks = _read_table(root / TABLE)
    files = walk_files(root, "images")

    # A file is looked for in the folder of its label, then in the other one.
    fractured = table["fractured"] == "1"
    here = fractured.map(_FOLDERS) + "/" + table["image_id"]
    there = (~fractured).map(_FOLDERS) + "/" + table["image_id"]
    contradicted = ~here.isin(files.index) & there.isin(files.index)
    table["path"] = here.where(~contradicted, there)

    parts = (table[list(BODY_PARTS)] == "1").sum(axis=1)
    several = (parts > 1) | (table["mixed"] == "1")
    none = (parts == 0) & ~several
    masked = table["image_id"].isin(_annotations(root))
    remarks += [
        *file_remarks(table["path"], files),
        remark(files.index.difference(table["path"]), "unlisted-file", f"not in {TABLE}; left out"),
        remark(
            table["path"][contradicted],
            "label-contradiction",
            f"{TABLE} says " + fractured[contradicted].map(_ABNORMALITY) + ", and is believed",
        ),
        remark(table["path"][several], "several-body-parts", "left out"),
        remark(table["path"][none], "no-body-part", "left out"),
        remark(table["path"][masked & ~fractured], "mask-on-normal"),
        remark(table["path"][~masked & fractured], "abnormal-without-mask"),
    ]
    rows = table[~several & ~none]
    image_id = rows["image_id"].map(lambda name: PurePosixPath(name).stem)
    rows = pd.DataFrame(
        {
            "path": rows["path"],
            "official_split": "",
            "patient": image_id,
            "study": image_id,
            "view": 1,
            "body_part": (rows[list(BODY_PARTS)] == "1").idxmax(axis=1).str.upper(),
            "abnormality": fractured[rows.index].map(_ABNORMALITY),
        }
    )
    if rows.empty:
        raise UserError(f"{root / TABLE} lists no image of one body part; copy it again.")
    return make_listing("fracatlas", root, rows, remarks)


def fracture_mask(root: Path, path: str) -> np.ndarray | None:
    """Draw the fractures of an image from its polygons, or its box where a polygon is missing.

    Args:
        root: folder of the data set.
        path: of the image, relative to `root`.

    Returns:
        `(H, W)` bool in the image's own size, or None when no fracture is annotated.
    """
    annotation = _annotations(root).get(PurePosixPath(path).name)
    if annotation is None:
        return None
    size, shapes = annotation
    canvas = Image.new("1", size)
    draw = ImageDraw.Draw(canvas)
    for polygons, (left, top, width, height) in shapes:
        for polygon in polygons:
            draw.polygon(polygon, fill=1)
        if not polygons:
            draw.rectangle((left, top, left + width, top + height), fill=1)
    return np.asarray(canvas)


def _read_table(path: Path) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """Read `dataset.csv` as strings; rows with impossible or repeated content become remarks."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        reason = str(error).strip()
        raise UserError(f"{path} is not a CSV file ({reason}); copy it again.") from error
    missing = [name for name in ("image_id", *_FLAGS) if name not in table]
    if missing:
        raise UserError(
            f"{path} is not the table of FracAtlas: column {', '.join(missing)} missing; "
            "copy it again."
        )
    table = table[["image_id", *_FLAGS]]
    good = table[_FLAGS].isin(["0", "1"]).all(axis=1) & (table["image_id"] != "")
    repeated = good & table["image_id"].duplicated()
    remarks = [
        remark(table["image_id"][~good], "malformed-row", f"in {path.name}; left out"),
        remark(table["image_id"][repeated], "repeated-row", f"in {path.name}; the first counts"),
    ]
    return table[good & ~repeated].copy(), remarks


def _annotations(root: Path) -> dict[str, tuple[tuple[int, int], list]]:
    """Per file name: the image's (width, height), and a (polygons, box) for each fracture."""
    path = root / ANNOTATIONS
    try:
        return _parse_annotations(path, path.stat().st_mtime_ns)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; unpack FracAtlas again.") from None
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not a COCO file ({error!r}); unpack FracAtlas again."
        ) from error


@functools.lru_cache(maxsize=1)
def _parse_annotations(path: Path, modified: int) -> dict[str, tuple[tuple[int, int], list]]:
    """Parse once for a version of the file, as notebook 07 asks for one image at a time."""
    coco = read_json(path)
    images = {image["id"]: image for image in coco["images"]}
    found: dict[str, tuple[tuple[int, int], list]] = {}
    for shape in coco["annotations"]:
        image = images[shape["image_id"]]
        size = (image["width"], image["height"])
        _, shapes = found.setdefault(image["file_name"], (size, []))
        polygons = [polygon for polygon in shape.get("segmentation") or () if len(polygon) >= 6]
        shapes.append((polygons, shape["bbox"]))
    return found
