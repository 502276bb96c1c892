"""GRAZPEDWRI-DX, children's wrists with boxes, in the layout of its original download.

Nagy et al., "A pediatric wrist trauma X-ray dataset (GRAZPEDWRI-DX) for machine learning",
Scientific Data 2022, doi 10.1038/s41597-022-01328-z (CC BY 4.0).

Abnormal means that a fracture is visible in the image (column fracture_visible), as in FracAtlas;
the masks are the boxes of fractures. An image that shows another finding only, such as metal, is
normal, with a remark.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from mura_utils.data.sources import masks
from mura_utils.data.sources.coco import AnnotatedImage, Fracture
from mura_utils.data.sources.files import (
    Files,
    find_trees,
    is_file,
    is_folder,
    one_tree,
    reason_of,
    walk_files,
)
from mura_utils.data.sources.listing import Listing, Source, make_listing, remark
from mura_utils.data.sources.table_columns import OLDEST
from mura_utils.data.sources.tables import (
    Table,
    drop_repeated,
    header_cells,
    read_flags,
    read_table,
    simple_name,
)
from mura_utils.errors import UserError, shown

FOLDER = "GRAZPEDWRI-DX"
TABLE = "dataset.csv"
LABELS = ("folder_structure/yolov5/labels", "yolov5/labels", "labels")
"""Where the boxes may be, one text file an image; the first folder that exists counts."""

CLASSES = (
    *("boneanomaly", "bonelesion", "foreignbody", "fracture", "metal"),
    *("periostealreaction", "pronatorsign", "softtissue", "text"),
)
"""What a box shows, by its number."""

_COLUMNS = ("filestem", "patient_id", "study_number", "fracture_visible")
_MORE = ("gender", "age", "projection", "metal", "cast", "diagnosis_uncertain")
_PARTS = tuple(f"images_part{number}" for number in (1, 2, 3, 4))
_SPLITS = ("", "train", "valid", "val", "test")  # folders into which recipes for YOLO move files
_SUFFIXES = (".png", ".jpg", ".jpeg")
_NOTHING = {"text"}
_ABNORMALITY = {"0": "Normal", "1": "Abnormal"}
_PROJECTIONS = {1: "frontal", 2: "lateral", 3: "oblique"}


def looks_like_grazpedwri(root: Path) -> bool:
    """Whether a folder is GRAZPEDWRI-DX or a part of it: not a folder that contains it."""
    return "filestem" in map(simple_name, header_cells(root / TABLE)) or any(
        is_folder(root / folder) for folder in (*_PARTS, LABELS[0])
    )


def find_grazpedwri(root: Path) -> list[str]:
    """Where GRAZPEDWRI-DX is in a folder, as `files.find_trees`."""
    return find_trees(root, looks_like_grazpedwri)


def list_grazpedwri(root: Path) -> Listing:
    """List GRAZPEDWRI-DX: all are wrists, a visible fracture is "Abnormal".

    The images may be in the four parts' folders or in any other; an image is known by its name.
    Patients and studies are the table's; an empty fracture_visible is "Normal". Views are numbered
    within their study.

    - Listed images without a file stay in the rows ("missing-file"); images that no row lists, and
      second copies, are left out ("unlisted-file").
    - Label and boxes are compared: "abnormal-without-mask" (also without a file of boxes),
      "mask-on-normal", and "other-finding-on-normal", an image without a visible fracture that has
      a box of something else than text. The label is believed.
    - "uncertain-diagnosis": its readers were not certain; it is kept.
    - Rows that cannot be understood are left out ("malformed-row"), also those whose file name
      belongs to another patient, and repeated ones ("repeated-row", "contradictory-row"), as are
      boxes ("bad-annotation", "mask-without-row").

    Args:
        root: `GRAZPEDWRI-DX`, or a folder that contains it.

    Raises:
        UserError: the folder is not GRAZPEDWRI-DX, or holds only part of it, or several of it.
    """
    below = one_tree(root, find_grazpedwri(root), FOLDER)
    base = root / (below or "")
    labels = _label_folder(base)
    table = read_table(base / TABLE, f"a header with {', '.join(_COLUMNS)}")
    rows, remarks = _read_rows(table)
    found = walk_files(base, "")
    rows, unlisted = _find_images(rows, found)
    rows, repeated = drop_repeated(rows, table, _COLUMNS[1:])
    if not rows["path"].isin(found.sizes.index).any():
        raise UserError(
            f"{base} holds none of the {len(rows):,} images listed in {TABLE}: "
            f"{rows['path'].iloc[0]} is the first that is not there; unpack {_PARTS[0]}.zip to "
            f"{_PARTS[-1]}.zip there."
        )
    remarks += [*unlisted, *repeated, *found.remarks(), *found.compare(rows["path"])]
    remarks += _check_boxes(base, labels, rows, found)
    if "diagnosis_uncertain" in rows:
        uncertain = read_flags(rows["diagnosis_uncertain"]) == "1"
        remarks.append(remark(rows["path"][uncertain], "uncertain-diagnosis", "kept"))

    study = rows["patient_id"] + "-" + rows["study_number"]
    listed = pd.DataFrame(
        {
            "path": rows["path"],
            "official_split": "",
            "patient": rows["patient_id"],
            "study": study,
            "view": rows.sort_values("filestem").groupby(study).cumcount() + 1,
            "body_part": "WRIST",
            "abnormality": rows["fracture_visible"].map(_ABNORMALITY),
        }
    )
    everything = pd.concat(remarks)
    if below:
        listed["path"] = f"{below}/" + listed["path"]
        everything["path"] = f"{below}/" + everything["path"]
    return make_listing("grazpedwri", root, listed, [everything])


def fracture_mask(root: Path, path: str) -> np.ndarray | None:
    """Draw the boxes of an image's fractures.

    Args:
        root: folder of the data set.
        path: of the image, relative to `root`.

    Returns:
        `(H, W)` bool in the frame of the stored image; None when no fracture has a box, or without
        an image.

    Raises:
        UserError: there is no folder of boxes.
    """
    image = root / path
    base = _base_of(image)
    label_file = _label_file(_label_folder(base), image.stem)
    boxes, _ = _read_boxes(label_file) if label_file else ([], [])
    fractures = [box for name, box in boxes if name == "fracture"]
    header = masks.read_header(image) if fractures else None
    if header is None:
        return None
    size = header.displayed
    pixels = np.rint(np.multiply(fractures, (*size, *size))).tolist()
    drawn = [Fracture(box=tuple(box)) for box in pixels]
    return masks.draw(AnnotatedImage(image.name, size, drawn), header)


def wrist_attributes(root: Path, paths: Sequence[str]) -> pd.DataFrame:
    """What dataset.csv says of each image's patient and content.

    Returns:
        age (years), sex (F, M or O), projection (frontal, lateral, oblique), hardware and cast
        (yes, no), diagnosis (certain, uncertain), where the table has the column; missing where a
        cell cannot be understood. An empty flag is no.

    Raises:
        UserError: the table cannot be read.
    """
    table = read_table(_base_of(root / paths[0]) / TABLE, "a header with filestem")
    cells = table.named(_COLUMNS[:1], FOLDER, _MORE)
    stems = cells["filestem"].map(_key)
    cells = cells[~stems.duplicated()].set_axis(stems[~stems.duplicated()])
    cells = cells.reindex(map(_key, paths)).set_axis(pd.Index(paths, name="path"))
    found = {}
    if "age" in cells:
        years = pd.to_numeric(cells["age"], errors="coerce")
        found["age"] = years.where(years.between(0, OLDEST)).astype(float)
    if "gender" in cells:
        sex = cells["gender"].str.upper()
        found["sex"] = sex.where(sex.isin([*"FMO"]))
    if "projection" in cells:
        found["projection"] = pd.to_numeric(cells["projection"], errors="coerce").map(_PROJECTIONS)
    for column, name, words in (
        ("metal", "hardware", {"0": "no", "1": "yes"}),
        ("cast", "cast", {"0": "no", "1": "yes"}),
        ("diagnosis_uncertain", "diagnosis", {"0": "certain", "1": "uncertain"}),
    ):
        if column in cells:
            found[name] = read_flags(cells[column].replace("", "0")).map(words)
    return pd.DataFrame(found, index=cells.index)


def _stem(name: str) -> str:
    """The name of an image without folders and without the suffix of a picture."""
    name = PurePosixPath(name.replace("\\", "/"))
    return name.stem if name.suffix.lower() in _SUFFIXES else name.name


def _key(name: str) -> str:
    return _stem(name).lower()


def _base_of(image: Path) -> Path:
    """The folder with the table, above an image."""
    base = next((folder for folder in image.parents if is_file(folder / TABLE)), None)
    if base is None:
        raise UserError(f"No folder above {image} has {TABLE} any longer; put it back.")
    return base


def _label_folder(base: Path) -> Path:
    folder = next((base / name for name in LABELS if is_folder(base / name)), None)
    missing = [] if is_file(base / TABLE) else [TABLE]
    missing += [] if folder else [LABELS[0]]
    if folder is None or missing:
        raise UserError(
            f"{base} is not a whole {FOLDER}: {', '.join(missing)} missing; put there what was "
            "downloaded, with folder_structure.zip unpacked."
        )
    return folder


def _label_file(labels: Path, stem: str) -> Path | None:
    files = (labels / split / f"{stem}.txt" for split in _SPLITS)
    return next((file for file in files if is_file(file)), None)


def _read_rows(table: Table) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """The usable rows: stems, ids as "0001" and "01", fracture_visible as "0" and "1"; remarks."""
    cells = table.named(_COLUMNS, FOLDER, _MORE)
    rows = cells.assign(
        filestem=cells["filestem"].map(_stem),
        fracture_visible=read_flags(cells["fracture_visible"].replace("", "0")),
    )
    ids = cells[["patient_id", "study_number"]].apply(pd.to_numeric, errors="coerce")
    named = pd.to_numeric(rows["filestem"].str.extract(r"^(\d+)_", expand=False))
    good = (
        rows["fracture_visible"].notna()
        & (ids.ge(0) & ids.mod(1).eq(0)).all(axis=1)
        & named.eq(ids["patient_id"])
    )
    expected = "expected a file stem that begins with its patient_id, a study_number, and 1, 0 or "
    expected += "nothing for fracture_visible"
    if not good.any():
        raise UserError(
            f"{table.path}: none of its {len(rows):,} rows can be understood: "
            f"{table.quote(rows.index[0])}; {expected}."
        )
    table.accept(
        good & (rows["filestem"] != cells["filestem"]),
        "images have folders before them, or a suffix",
    )
    refused = table.refuse(rows.index[~good], "malformed-row", expected)
    rows, ids = rows[good], ids[good].astype(int).astype(str)
    rows["patient_id"] = ids["patient_id"].str.zfill(4)
    rows["study_number"] = ids["study_number"].str.zfill(2)
    return rows, [*table.remarks(), refused]


def _find_images(rows: pd.DataFrame, found: Files) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """Add the column path, of the first file with that name; and remarks on the other images."""
    files = pd.Series(sorted([*found.sizes.index, *found.odd]), dtype=str)
    files = files[files.str.lower().str.endswith(_SUFFIXES)]
    stems, wanted = files.map(_key), rows["filestem"].map(_key)
    listed = stems.isin(wanted)
    taken = listed & ~stems.duplicated()
    on_disk = dict(zip(stems[taken], files[taken], strict=True))
    names = rows["filestem"] + ".png"
    path = [on_disk.get(stem, name) for stem, name in zip(wanted, names, strict=True)]
    folders = files.map(_parent)
    beside = ~listed & folders.isin(folders[taken])
    first = stems[listed & ~taken].map(on_disk)
    return rows.assign(path=path), [
        remark(files[beside], "unlisted-file", f"not in {TABLE}; left out"),
        remark(files[first.index], "unlisted-file", "the same name as " + first + "; left out"),
    ]


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _check_boxes(base: Path, labels: Path, rows: pd.DataFrame, found: Files) -> list[pd.DataFrame]:
    """Remarks where label and boxes disagree, and on boxes that cannot be used."""
    odd: list[tuple[str, str, str]] = []
    for row in rows[rows["path"].isin(found.sizes.index)].itertuples():
        file = _label_file(labels, PurePosixPath(row.path).stem)
        boxes, bad = _read_boxes(file) if file else ([], [])
        odd += [(file.relative_to(base).as_posix(), "bad-annotation", why) for why in bad]
        shows = {name for name, _ in boxes}
        if row.fracture_visible == "1" and "fracture" not in shows:
            why = "no box is of a fracture" if file else "there is no file of its boxes"
            odd.append((row.path, "abnormal-without-mask", why))
        elif row.fracture_visible == "0" and "fracture" in shows:
            odd.append((row.path, "mask-on-normal", ""))
        elif row.fracture_visible == "0" and shows - _NOTHING:
            odd.append((row.path, "other-finding-on-normal", ", ".join(sorted(shows - _NOTHING))))
    folder = labels.relative_to(base).as_posix()
    files = pd.Series(found.sizes.index, dtype=str)
    files = files[files.str.startswith(f"{folder}/") & files.str.endswith(".txt")]
    stems = files.str.lower().str.rsplit("/", n=1).str[-1].str.removesuffix(".txt")
    rowless = files[~stems.isin(rows["filestem"].map(_key))]
    return [
        pd.DataFrame(odd, columns=["path", "kind", "detail"], dtype=str),
        remark(rowless, "mask-without-row", f"boxes of an image that is not in {TABLE}"),
    ]


def _read_boxes(file: Path) -> tuple[list[tuple[str, tuple[float, ...]]], list[str]]:
    """Read the boxes of an image: a class and four numbers a line, as YOLO has them.

    Returns:
        What each shows (of `CLASSES`) and where: left, top, width and height as shares of the
        image's; and why others cannot be used.
    """
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return [], [f"it cannot be read ({reason_of(error)})"]
    boxes, bad = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            kind, *place = map(float, line.split())
            x, y, width, height = place
        except ValueError:
            bad.append(f"line {number}, {shown(line)}: not a class and four numbers; left out")
            continue
        inside = 0 <= x <= 1 and 0 <= y <= 1 and 0 < width <= 1 and 0 < height <= 1
        if not inside or kind not in range(len(CLASSES)):
            bad.append(f"line {number}, {shown(line)}: no such class, or no such box; left out")
            continue
        boxes.append((CLASSES[int(kind)], (x - width / 2, y - height / 2, width, height)))
    return boxes, bad


SOURCE = Source(
    name="grazpedwri",
    title="GRAZPEDWRI-DX",
    recognize=looks_like_grazpedwri,
    list=list_grazpedwri,
    mask=fracture_mask,
    terms="The radiographs are from GRAZPEDWRI-DX (Nagy et al., Scientific Data 2022, doi "
    "10.1038/s41597-022-01328-z), licensed under CC BY 4.0 (creativecommons.org/licenses/by/4.0). "
    "They were resized, reduced to 8 bits and drawn over here. Keep this line on every copy.",
    attributes=wrist_attributes,
)
