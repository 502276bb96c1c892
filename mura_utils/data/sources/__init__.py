"""Data sets, each turned into the same rows: MURA v1.1, FracAtlas, and phantoms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mura_utils.data.sources.files import find_trees, is_file, is_folder, reason_of
from mura_utils.data.sources.fracatlas import fracture_mask, list_fracatlas, looks_like_fracatlas
from mura_utils.data.sources.listing import LISTING_COLUMNS, Listing, with_remarks
from mura_utils.data.sources.mura import is_phantom_set, list_mura, looks_like_mura
from mura_utils.data.sources.mura_tables import TREE
from mura_utils.errors import UserError

__all__ = ["LISTING_COLUMNS", "SOURCES", "Listing", "load_mask", "open_source"]

SOURCES = ("mura", "fracatlas", "phantom")


def open_source(root: Path | str, source: str = "auto") -> Listing:
    """List the images of the data set in a folder.

    Args:
        root: folder of the data set, or one that contains it, up to three levels above.
        source: one of `SOURCES`, or "auto" to recognise it from the folder's content.

    Raises:
        UserError: the folder is missing, holds something else, or only part of the data set.
    """
    root = Path(root)
    _require_folder(root)
    if source == "auto":
        source = _recognise(root)
    if source == "mura":
        return list_mura(root)
    if source == "fracatlas":
        return list_fracatlas(root)
    if source == "phantom":
        return _list_phantoms(root)
    raise UserError(f"source '{source}' is unknown; use 'auto', {', '.join(map(repr, SOURCES))}.")


def load_mask(
    source: str, root: Path | str, path: str, shape: tuple[int, int] | None = None
) -> np.ndarray | None:
    """Load where the abnormality is.

    Args:
        source: one of `SOURCES`; MURA has no masks.
        root: folder of the data set, as given to `open_source`.
        path: the image's path, relative to `root`.
        shape: `(H, W)` of the result, stretched as the image is by `images.resize`; a pixel counts
            as soon as the abnormality touches it, so that a thin line is never lost. None: the
            image's own size.

    Returns:
        `(H, W)` bool in the frame of the image as it is stored, whatever its EXIF orientation; None
        when the image has no mask, or one that belongs to another picture.

    Raises:
        UserError: the folder is gone, the source is unknown, or a mask cannot be read.
    """
    _require_folder(Path(root))
    if source == "fracatlas":
        mask = fracture_mask(Path(root), path)
    elif source == "phantom":
        from mura_utils.phantoms.dataset import phantom_mask

        mask = phantom_mask(Path(root), path)
    elif source == "mura":
        mask = None
    else:
        raise UserError(f"source '{source}' is unknown; use {', '.join(map(repr, SOURCES))}.")
    if mask is None or shape is None or mask.shape == tuple(shape):
        return mask
    image = Image.fromarray(mask.astype(np.float32))
    return np.asarray(image.resize(tuple(shape)[::-1], Image.Resampling.BOX)) > 0


def _require_folder(root: Path) -> None:
    if is_folder(root):
        return
    try:
        root.stat()
    except FileNotFoundError:
        state = "does not exist"
    except (OSError, ValueError) as error:
        state = f"cannot be read ({reason_of(error)})"
    else:
        state = "is not a folder"
    raise UserError(f"{root} {state}; give the folder that holds the data set.")


def _recognise(root: Path) -> str:
    """Name the data set in a folder; a phantom set is also a MURA tree, so it is asked first."""
    if root.name == TREE and is_phantom_set(root.parent):
        raise UserError(f"{root} is the inside of a phantom set; give {root.parent} instead.")
    if is_phantom_set(root):
        return "phantom"
    found = {place: _source_of(root / place) for place in find_trees(root, _source_of)}
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    if found:
        places = ", ".join(f"{source} in {place}" for place, source in found.items())
        raise UserError(f"{root} holds several data sets ({places}); give the folder of one.")
    if is_folder(root / TREE):
        return "mura"
    for parent in root.absolute().parents[:3]:
        if _source_of(parent):
            raise UserError(f"{root} is a part of the data set in {parent}; give that folder.")
    raise UserError(
        f"{root} holds no data set that is known here: give the folder with MURA-v1.1/, with "
        "FracAtlas' dataset.csv and images/, or with phantoms (phantoms.json)."
    )


def _source_of(root: Path) -> str:
    """The data set that a folder is, or is a part of; "" for none."""
    if looks_like_fracatlas(root):
        return "fracatlas"
    return "mura" if looks_like_mura(root) and not is_phantom_set(root.parent) else ""


def _list_phantoms(root: Path) -> Listing:
    if not is_file(root / "phantoms.json"):
        raise UserError(
            f"{root} holds no complete set of phantoms (no phantoms.json); "
            "draw it with `mura data phantom`."
        )
    from mura_utils.phantoms.dataset import check_masks

    listing = list_mura(root, source="phantom")
    abnormal = listing.rows["path"][listing.rows["abnormality"] == "Abnormal"]
    return with_remarks(listing, check_masks(root, abnormal))
