"""Data sets, each turned into the same rows: MURA v1.1, FracAtlas, and phantoms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mura_utils.errors import UserError
from mura_utils.sources.fracatlas import fracture_mask, list_fracatlas, looks_like_fracatlas
from mura_utils.sources.listing import LISTING_COLUMNS, Listing
from mura_utils.sources.mura import TREE, list_mura, looks_like_mura

__all__ = ["LISTING_COLUMNS", "SOURCES", "Listing", "load_mask", "open_source"]

SOURCES = ("mura", "fracatlas", "phantom")


def open_source(root: Path | str, source: str = "auto") -> Listing:
    """List the images of the data set in a folder.

    Args:
        root: folder of the data set. For MURA either `MURA-v1.1` or the folder that contains it.
        source: one of `SOURCES`, or "auto" to recognise it from the folder's content.

    Raises:
        UserError: the folder is missing, holds something else, or only part of the data set.
    """
    root = Path(root)
    if not root.is_dir():
        state = "is not a folder" if root.exists() else "does not exist"
        raise UserError(f"{root} {state}; give the folder that holds the data set.")
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
        `(H, W)` bool, or None when the image has no mask.

    Raises:
        UserError: the folder is gone, or the source is unknown.
    """
    if not Path(root).is_dir():
        raise UserError(f"{root} does not exist; give the folder that holds the data set.")
    if source == "fracatlas":
        mask = fracture_mask(Path(root), path)
    elif source == "phantom":
        from mura_utils.sources.phantom import phantom_mask

        mask = phantom_mask(Path(root), path)
    elif source == "mura":
        mask = None
    else:
        raise UserError(f"source '{source}' is unknown; use {', '.join(map(repr, SOURCES))}.")
    if mask is None or shape is None or mask.shape == tuple(shape):
        return mask
    image = Image.fromarray(mask.astype(np.float32))
    return np.asarray(image.resize(tuple(shape)[::-1], Image.Resampling.BOX)) > 0


def _recognise(root: Path) -> str:
    """Name the data set in a folder; a phantom set is also a MURA tree, so it is asked first."""
    if root.name == TREE and (root.parent / "phantoms.json").is_file():
        raise UserError(f"{root} is the inside of a phantom set; give {root.parent} instead.")
    if (root / "phantoms.json").is_file() or (root / "phantoms.partial").is_file():
        return "phantom"
    if looks_like_fracatlas(root):
        return "fracatlas"
    if looks_like_mura(root):
        return "mura"
    raise UserError(
        f"{root} holds no data set that is known here: give the folder with MURA-v1.1/, with "
        "FracAtlas' dataset.csv and images/, or with phantoms (phantoms.json)."
    )


def _list_phantoms(root: Path) -> Listing:
    if not (root / "phantoms.json").is_file():
        raise UserError(
            f"{root} holds no complete set of phantoms (no phantoms.json); "
            "draw it with `mura data phantom`."
        )
    return list_mura(root, source="phantom")
