"""Data sets, each turned into the same rows: MURA, FracAtlas, GRAZPEDWRI-DX, phantoms, your own.

A data set is one `Source`, which a module of this folder holds under the name ``SOURCE``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import numpy as np
import pandas as pd

from mura_utils.data.sources.files import find_trees, is_folder, reason_of
from mura_utils.data.sources.listing import LISTING_COLUMNS, Listing, Source, no_attributes
from mura_utils.data.sources.mura import is_phantom_set
from mura_utils.data.sources.mura_tables import TREE
from mura_utils.errors import UserError

__all__ = [
    "LISTING_COLUMNS",
    "SOURCES",
    "Listing",
    "Source",
    "load_attributes",
    "load_mask",
    "no_attributes",
    "open_source",
]

_MODULES = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]

SOURCES = {module.SOURCE.name: module.SOURCE for module in _MODULES if hasattr(module, "SOURCE")}
"""Every data source by its name."""


def open_source(root: Path | str, source: str = "auto") -> Listing:
    """List the images of the data set in a folder.

    Args:
        root: folder of the data set, or one that contains it, up to three levels above.
        source: a name in `SOURCES`, or "auto" to recognize it from the folder's content.

    Raises:
        UserError: the folder is missing, holds something else, or only part of the data set.
    """
    root = Path(root)
    _require_folder(root)
    return _named(_recognize(root) if source == "auto" else source).list(root)


def load_mask(source: str, root: Path | str, path: str) -> np.ndarray | None:
    """Load where the abnormality is.

    Args:
        source: a name in `SOURCES`; MURA has no masks.
        root: folder of the data set, as given to `open_source`.
        path: the image's path, relative to `root`.

    Returns:
        `(H, W)` bool in the frame of the image as it is stored, whatever its EXIF orientation; None
        when the image has no mask, or one that belongs to another picture.

    Raises:
        UserError: the folder is gone, the source is unknown, or a mask cannot be read.
    """
    _require_folder(Path(root))
    return _named(source).mask(Path(root), path)


def load_attributes(source: str, root: Path, paths: Sequence[str]) -> pd.DataFrame:
    """Load what a data set says of its images besides their labels.

    Args:
        source: a name in `SOURCES`; MURA says nothing.
        root: folder of the data set, as given to `open_source`.
        paths: of the images, relative to `root`.

    Returns:
        A row a path, in their order, and some of the columns `attributes.ATTRIBUTES`; none without
        paths.

    Raises:
        UserError: the folder is gone, the source is unknown, or a table cannot be read.
    """
    if not len(paths):
        return no_attributes(root, paths)
    _require_folder(root)
    return _named(source).attributes(root, paths)


def _require_folder(root: Path) -> None:
    if is_folder(root) and os.access(root, os.R_OK | os.X_OK):
        return
    try:
        root.stat()
    except FileNotFoundError:
        state = "does not exist"
    except (OSError, ValueError) as error:
        state = f"cannot be read ({reason_of(error)})"
    else:
        denied = "cannot be read (Permission denied)"
        state = denied if is_folder(root) else "is not a folder"
    raise UserError(f"{root} {state}; give the folder that holds the data set.")


def _recognize(root: Path) -> str:
    """Name the data set in a folder; a phantom set is also a MURA tree, so it is asked first."""
    if root.name == TREE and is_phantom_set(root.parent):
        raise UserError(f"{root} is the inside of a phantom set; give {root.parent} instead.")
    if name := _source_of(root):
        return name
    found = {place: _nested(root / place) for place in find_trees(root, _nested)}
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    if found:
        places = ", ".join(f"{source} in {place}" for place, source in found.items())
        raise UserError(f"{root} holds several data sets ({places}); give the folder of one.")
    if is_folder(root / TREE):
        return "mura"
    for parent in root.absolute().parents[:3]:
        if _nested(parent):
            raise UserError(f"{root} is a part of the data set in {parent}; give that folder.")
    raise UserError(
        f"{root} holds no data set that is known here: give the folder with MURA-v1.1/, with "
        "FracAtlas' dataset.csv and images/, with GRAZPEDWRI-DX's dataset.csv and images_part1/ "
        "to images_part4/, with phantoms (phantoms.json), or with a CSV file of your own images "
        "(docs/your_data.md)."
    )


def _source_of(root: Path) -> str:
    """The data set that a folder is, or is a part of; "" for none."""
    return next((name for name, source in SOURCES.items() if source.recognize(root)), "")


def _nested(root: Path) -> str:
    """The same, of those that may lie below the folder that was given."""
    name = _source_of(root)
    return name if name and SOURCES[name].in_subfolders else ""


def _named(source: str) -> Source:
    if source not in SOURCES:
        known = ", ".join(map(repr, SOURCES))
        raise UserError(f"source '{source}' is unknown; use 'auto', {known}.")
    return SOURCES[source]
