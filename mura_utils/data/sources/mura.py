"""MURA v1.1 as Stanford ships it, and as copies of it look in the wild.

Rajpurkar et al., "MURA: Large Dataset for Abnormality Detection in Musculoskeletal Radiographs",
MIDL 2018. The data set is its CSV files: `*_image_paths.csv` says which images there are, and
`*_labeled_studies.csv` how each study was read. File and folder names are only compared with them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from mura_utils.data.sources.files import (
    find_trees,
    is_file,
    is_folder,
    names_in,
    one_tree,
    walk_files,
)
from mura_utils.data.sources.listing import Listing, Source, make_listing, remark
from mura_utils.data.sources.mura_tables import (
    SPLITS,
    TREE,
    is_image,
    parse_images,
    read_images,
    read_studies,
)
from mura_utils.errors import UserError, shown
from mura_utils.phantoms.dataset import CARD, PARTIAL

_ABNORMALITY = {"0": "Normal", "1": "Abnormal", "negative": "Normal", "positive": "Abnormal"}


def looks_like_mura(root: Path) -> bool:
    """Whether a folder is MURA or a part of it: not a folder that contains it."""
    return any(
        any(is_file(root / table) for table in _tables(split))
        or any(name.startswith("XR_") for name in names_in(root / split))
        for split in SPLITS
    )


def find_mura(root: Path) -> list[str]:
    """Where MURA is in a folder, as `files.find_trees`; the insides of phantom sets do not count.

    A folder `MURA-v1.1` in `root` is looked into first, and counts even where it is empty.
    """
    if is_folder(root / TREE) and not looks_like_mura(root):
        return [f"{TREE}/{below}".rstrip("/") for below in find_mura(root / TREE) or [""]]
    return find_trees(
        root,
        lambda folder: (
            looks_like_mura(folder) and (folder == root or not is_phantom_set(folder.parent))
        ),
    )


def is_phantom_set(root: Path) -> bool:
    """Whether a folder holds phantoms, or some of them."""
    return any(is_file(root / card) for card in (CARD, PARTIAL))


def list_mura(root: Path, source: str = "mura") -> Listing:
    """List a MURA tree, or phantoms in the same layout.

    - A study's label is the one in `*_labeled_studies.csv`; where the folder's name says otherwise
      it is a remark ("label-contradiction").
    - Listed images without a file stay in the rows ("missing-file"); files that no row lists are
      left out ("unlisted-file", and "stray-file" for `._image1.png` and other foreign names).
    - Images of a study without a label are left out ("unlabeled-study").
    - Without `*_image_paths.csv` the images are the files found in labeled studies
      ("rebuilt-image-paths").
    - Other forms of tables, paths and labels are accepted ("accepted-variant"); rows that cannot be
      understood are left out ("malformed-row", "other-split"), as are repeated ones
      ("repeated-row", or "contradictory-row" where the label is another one).

    Args:
        root: `MURA-v1.1`, or a folder that contains it.
        source: what to write into the column of that name.

    Raises:
        UserError: the folder is not MURA, or holds only part of it, or several of it.
    """
    below = one_tree(root, find_mura(root), "MURA")
    if below is None:
        raise UserError(
            f"{root} is not MURA: neither {TREE}/ nor train/XR_* or train_labeled_studies.csv is "
            "in it; give the folder that was unpacked."
        )
    base = root / below
    _require_whole(base)
    rows, remarks = zip(*(_list_split(base, split) for split in SPLITS), strict=True)
    rows, remarks = pd.concat(rows), pd.concat(remarks)
    if below:
        rows["path"] = f"{below}/" + rows["path"]
        remarks["path"] = f"{below}/" + remarks["path"]
    deeper = remark([below] * (below not in ("", TREE)), "accepted-variant", "MURA is in there")
    return make_listing(source, root, rows, [remarks, deeper])


def _tables(split: str) -> tuple[str, str]:
    return f"{split}_labeled_studies.csv", f"{split}_image_paths.csv"


def _require_whole(base: Path) -> None:
    """Refuse a tree without a split's folder or labels, and say exactly what is missing."""
    missing = {
        split: [name for name in (split, _tables(split)[0]) if not os.path.lexists(base / name)]
        for split in SPLITS
    }
    lost = [f"{name}/" if name in SPLITS else name for names in missing.values() for name in names]
    if not lost:
        return
    whole = [f"all of {split} is there, and " for split in SPLITS if not missing[split]]
    raise UserError(
        f"{base} holds only part of MURA: {', '.join(lost)} missing; {''.join(whole)}both train "
        f"and valid are needed: put what is missing there, from {TREE}.zip."
    )


def _list_split(base: Path, split: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows and remarks of one official split, with paths relative to `base`."""
    studies_csv, images_csv = _tables(split)
    found = walk_files(base, split)
    proper = is_image(found.sizes.index, split)
    files = found.sizes.index[proper]
    studies, remarks = read_studies(base / studies_csv, split)

    if os.path.lexists(base / images_csv):
        images, more = read_images(base / images_csv, split)
        images, renamed = _find_on_disk(images, files, images_csv)
        remarks += more + renamed
    else:
        images = parse_images(files, split)
        once = ~images["path"].duplicated() & images["study"].isin(studies["path"])
        images = images.assign(path=files)[once]
        detail = f"the file is missing; {len(images):,} images found in labeled studies are used"
        remarks.append(remark([images_csv], "rebuilt-image-paths", detail))
    if not images["path"].isin(files).any():
        raise UserError(_none_on_disk(base, split, images["path"], found.sizes.index))

    studies = studies.assign(abnormality=studies["value"].map(_ABNORMALITY))
    labels = images["study"].map(studies.set_index("path")["abnormality"])
    images = images.assign(abnormality=labels, view=images["view"].astype("int64"))
    unlabeled = images[images["abnormality"].isna()]
    rows = images[images["abnormality"].notna()]
    contradicted = studies[studies["verdict"].map(_ABNORMALITY) != studies["abnormality"]]
    unlisted = files.difference(images["path"])
    remarks += [
        *found.remarks(),
        *found.compare(rows["path"]),
        remark(found.sizes.index[~proper], "stray-file", "not a file of MURA; ignored"),
        remark(unlisted, "unlisted-file", f"not listed in {images_csv}; left out"),
        remark(unlabeled["path"], "unlabeled-study", f"no label in {studies_csv}; left out"),
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


def _find_on_disk(
    images: pd.DataFrame, files: pd.Index, images_csv: str
) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """Take the path on disk where it differs from the listed one only in upper and lower case."""
    lost = ~images["path"].isin(files)
    if not lost.any():
        return images, []
    spare = files.difference(images["path"])
    on_disk = pd.Series(spare, index=spare.str.lower())
    on_disk = on_disk[~on_disk.index.duplicated(keep=False)]
    renamed = images["path"][lost].str.lower().map(on_disk).dropna()
    if renamed.empty:
        return images, []
    images = images.assign(path=renamed.reindex(images.index).fillna(images["path"]))
    detail = (
        "upper and lower case differ on disk "
        f"({len(renamed):,} files, the first is {renamed.iloc[0]})"
    )
    return images, [remark([images_csv], "accepted-variant", detail)]


def _none_on_disk(base: Path, split: str, listed: pd.Series, there: pd.Index) -> str:
    """The sentence for a split none of whose listed images is on disk."""
    studies_csv, images_csv = _tables(split)
    if listed.empty:
        return (
            f"{base / split} holds no image of the studies in {studies_csv}, and {images_csv} is "
            "missing; unpack the images there."
        )
    others = f"{len(there):,} other files, such as {shown(there[0])}" if len(there) else "no file"
    return (
        f"{base / split} holds none of the {len(listed):,} images listed in {images_csv}: the "
        f"first is {listed.iloc[0]}, and there is {others}; unpack the images there."
    )


def _is_mura(root: Path) -> bool:
    return looks_like_mura(root) and not is_phantom_set(root.parent)


def _no_mask(root: Path, path: str) -> None:
    """MURA does not say where an abnormality is."""


SOURCE = Source(
    name="mura",
    title="MURA",
    recognize=_is_mura,
    list=list_mura,
    mask=_no_mask,
    terms="Do not publish or share this page: it shows radiographs of MURA, whose research use "
    "agreement forbids to pass images on, thumbnails and overlays included.",
    private=True,
)
