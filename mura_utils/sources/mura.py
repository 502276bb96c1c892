"""MURA v1.1 as Stanford ships it, and as copies of it look in the wild.

Rajpurkar et al., "MURA: Large Dataset for Abnormality Detection in Musculoskeletal Radiographs",
MIDL 2018. The data set is its CSV files: `*_image_paths.csv` says which images there are, and
`*_labeled_studies.csv` how each study was read. File and folder names are only compared with them.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mura_utils.errors import UserError
from mura_utils.sources.listing import Listing, file_remarks, make_listing, remark, walk_files

TREE = "MURA-v1.1"
SPLITS = ("train", "valid")

_STUDY = (
    r"(?P<study>{split}/XR_(?P<body_part>[A-Z]+)/(?P<patient>patient\d+)"
    r"/study\d+_(?P<verdict>positive|negative))"
)
_IMAGE = _STUDY + r"/image(?P<view>\d+)\.png"
_ABNORMALITY = {"0": "Normal", "1": "Abnormal", "negative": "Normal", "positive": "Abnormal"}


def looks_like_mura(root: Path) -> bool:
    """Whether a folder is, or contains, MURA or a part of it."""
    base = _base(root)
    return base != root or any(
        (base / table).is_file() or any((base / split).glob("XR_*"))
        for split in SPLITS
        for table in _tables(split)
    )


def list_mura(root: Path, source: str = "mura") -> Listing:
    """List a MURA tree, or phantoms in the same layout.

    - A study's label is the one in `*_labeled_studies.csv`; where the folder's name says otherwise
      it is a remark ("label-contradiction").
    - Listed images without a file stay in the rows ("missing-file"); files that no row lists are
      left out ("unlisted-file", and "stray-file" for `._image1.png` and other foreign names).
    - Images of a study without a label are left out ("unlabelled-study").
    - Without `*_image_paths.csv` the images are the files found in labelled studies
      ("rebuilt-image-paths").

    Args:
        root: `MURA-v1.1` or the folder that contains it.
        source: what to write into the column of that name.

    Raises:
        UserError: the folder is not MURA, or holds only part of it.
    """
    base = _base(root)
    if not looks_like_mura(root):
        raise UserError(
            f"{root} is not MURA: neither MURA-v1.1/ nor train/XR_* or train_labeled_studies.csv "
            "is in it; give the folder that was unpacked."
        )
    missing = [
        name
        for split in SPLITS
        for name in (f"{split}/", _tables(split)[0])
        if not (base / name).exists()
    ]
    if missing:
        raise UserError(
            f"{base} holds only part of MURA: {', '.join(missing)} missing; copy all of it again."
        )

    rows, remarks = zip(*(_list_split(base, split) for split in SPLITS), strict=True)
    rows, remarks = pd.concat(rows), pd.concat(remarks)
    if base != root:
        rows["path"] = f"{TREE}/" + rows["path"]
        remarks["path"] = f"{TREE}/" + remarks["path"]
    return make_listing(source, root, rows, [remarks])


def _base(root: Path) -> Path:
    return root / TREE if (root / TREE).is_dir() else root


def _tables(split: str) -> tuple[str, str]:
    return f"{split}_labeled_studies.csv", f"{split}_image_paths.csv"


def _list_split(base: Path, split: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows and remarks of one official split, with paths relative to `base`."""
    studies_csv, images_csv = _tables(split)
    files = walk_files(base, split)
    proper = files.index.str.fullmatch(_IMAGE.format(split=split))
    stray, files = files[~proper], files[proper]
    studies, remarks = _read_table(base / studies_csv, _STUDY.format(split=split), ["0", "1"])

    if (base / images_csv).is_file():
        images, more = _read_table(base / images_csv, _IMAGE.format(split=split))
        remarks += more
    else:
        images = _parse(files.index.to_series(), _IMAGE.format(split=split))
        images = images[images["study"].isin(studies["path"])]
        detail = f"the file is missing; {len(images):,} images found in labelled studies are used"
        remarks.append(remark([images_csv], "rebuilt-image-paths", detail))
    if not images["path"].isin(files.index).any():
        raise UserError(
            f"{base / split} holds none of the {len(images):,} images listed in {images_csv}; "
            "copy the data set again."
        )

    studies = studies.assign(abnormality=studies["value"].map(_ABNORMALITY))
    labels = images["study"].map(studies.set_index("path")["abnormality"])
    images = images.assign(abnormality=labels, view=images["view"].astype("int64"))
    unlabelled = images[images["abnormality"].isna()]
    rows = images[images["abnormality"].notna()]
    contradicted = studies[studies["verdict"].map(_ABNORMALITY) != studies["abnormality"]]
    unlisted = files.index.difference(images["path"])
    remarks += [
        *file_remarks(rows["path"], files),
        remark(stray.index, "stray-file", "not a file of MURA; ignored"),
        remark(unlisted, "unlisted-file", f"not listed in {images_csv}; left out"),
        remark(unlabelled["path"], "unlabelled-study", f"no label in {studies_csv}; left out"),
        remark(
            contradicted["path"],
            "label-contradiction",
            f"{studies_csv} says " + contradicted["abnormality"] + ", and is believed",
        ),
        remark(
            studies["path"][~studies["path"].isin(images["study"])],
            "study-without-images",
            f"in {studies_csv}, but none of its images is listed",
        ),
    ]
    return rows.assign(official_split=split), pd.concat(remarks)


def _read_table(
    path: Path, pattern: str, values: list[str] | None = None
) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """Read one of MURA's CSV files, with or without a header, prefix, CR or trailing slash.

    Args:
        path: the file.
        pattern: what a path must match; its groups become columns.
        values: what the second column may hold; None: there is no second column.

    Returns:
        The table of unique paths (path, value, the pattern's groups), and remarks on other rows.
    """
    try:
        cells = pd.read_csv(
            path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig"
        ).rename(columns={0: "path", 1: "value"})
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        reason = str(error).strip()
        raise UserError(f"{path} is not a CSV file of MURA ({reason}); copy it again.") from error
    if values and "value" not in cells:
        raise UserError(f"{path} has no column with labels; copy it again.")
    if "/" not in cells["path"].iloc[0]:
        cells = cells.iloc[1:].reset_index(drop=True)  # a header

    table = _parse(cells["path"].str.strip().str.removeprefix(f"{TREE}/").str.rstrip("/"), pattern)
    good = table["study"].notna()
    if values:
        table["value"] = cells["value"].str.strip()
        good &= table["value"].isin(values)
    if not good.any():
        raise UserError(f"{path} lists no path of MURA v1.1; copy it again.")
    repeated = table[good]["path"].duplicated()
    remarks = [
        remark(table[~good]["path"], "malformed-row", f"in {path.name}; left out"),
        remark(table[good][repeated]["path"], "repeated-row", f"in {path.name}; the first counts"),
    ]
    return table[good][~repeated], remarks


def _parse(paths: pd.Series, pattern: str) -> pd.DataFrame:
    """Columns path and those of the pattern's groups; missing values where it does not match."""
    table = paths.str.extract(f"^{pattern}$")
    table.insert(0, "path", paths)
    return table.reset_index(drop=True)
