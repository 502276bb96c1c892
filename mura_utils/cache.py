"""What `cache/` holds, and how it is emptied.

Everything there can be made again: decoded pixels (`data.pixels`), activations of frozen networks
(`frozen.store`), and what npm has fetched (`export.onnx_web`). Each use renews an entry's time of
change.
"""

from __future__ import annotations

import mmap
import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from mura_utils import paths
from mura_utils.errors import UserError, naming_damage

_DAY = 86_400  # seconds
_AT_WORK = 600  # seconds: an unfinished pixel file that changed since then is being written


def map_array(path: Path) -> np.ndarray:
    """Map a stored array read-only, and mark it as used.

    Raises:
        UserError: the file is damaged.
    """
    with suppress(PermissionError):  # a colleague's cache, which we may only read
        os.utime(path)
    return _map(path)


def _map(path: Path) -> np.ndarray:
    with naming_damage(path, "remove it, it is made again"):
        return np.load(path, mmap_mode="r")


def read_soon(array: np.ndarray, row: int) -> None:
    """Ask the system to read a row of a mapped array from disk, and nothing around it.

    Without it the first touch of a row reads megabytes around it, which a file larger than memory
    has lost again when they are needed.

    Args:
        array: what `map_array` returns.
        row: its position on the first axis.
    """
    if not hasattr(mmap, "MADV_WILLNEED"):  # Windows
        return
    size = array.nbytes // len(array)
    start = array.offset + int(row) * size
    page = start - start % mmap.PAGESIZE
    array.base.madvise(mmap.MADV_WILLNEED, page, start + size - page)


@dataclass(frozen=True)
class Entry:
    """One file or folder of the cache.

    Attributes:
        path: where it is.
        size: bytes on disk.
        unused_for: days since it was last used.
        content: in words.
        in_use: whether a process is computing it.
    """

    path: Path
    size: int
    unused_for: float
    content: str
    in_use: bool


def entries(folder: Path | None = None) -> list[Entry]:
    """All entries, the one that was used last first.

    Args:
        folder: None is `paths.cache_dir()`.
    """
    folder = folder or paths.cache_dir()
    found = [
        *(_describe(path, _pixels(path)) for path in folder.glob("pixels-*.npy")),
        *(_describe(path, "pixels, unfinished") for path in folder.glob(".pixels-*.tmp.npy")),
        *(_describe(path, _features(path)) for path in folder.glob("features-*/")),
        *(
            _describe(path, "ONNX Runtime Web, from npm")
            for path in folder.glob("onnxruntime-*.tgz")
        ),
    ]
    return sorted(found, key=lambda entry: entry.unused_for)


def prune(days: float, folder: Path | None = None) -> tuple[list[Entry], list[Entry]]:
    """Remove the entries that were not used for `days`; 0 removes all.

    Returns:
        What was removed, and what was old enough and kept because a process is computing it.
    """
    old = [entry for entry in entries(folder) if entry.unused_for >= days]
    removed = [entry for entry in old if not entry.in_use]
    for entry in removed:
        if entry.path.is_dir():
            shutil.rmtree(entry.path)
        else:
            entry.path.unlink()
    return removed, [entry for entry in old if entry.in_use]


def _describe(path: Path, content: str) -> Entry:
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    changed = max((file.stat().st_mtime for file in files), default=path.stat().st_mtime)
    seconds = max(0.0, time.time() - changed)
    in_use = (
        _is_locked(path / ".lock")
        if path.is_dir()
        else path.name.startswith(".") and seconds < _AT_WORK
    )
    return Entry(path, sum(file.stat().st_size for file in files), seconds / _DAY, content, in_use)


def _pixels(path: Path) -> str:
    try:
        count, size, _ = _map(path).shape
    except ValueError:  # `UserError` is one
        return "damaged"
    return f"{count:,} images of {size} x {size} pixels"


def _features(path: Path) -> str:
    about_file = path / "about.json"
    if not about_file.is_file():
        return "activations, unfinished"
    whole, unfinished = (len(list(path.glob(f"view-*.{kind}"))) for kind in ("npy", "partial"))
    try:
        with paths.reading(about_file) as about:
            variants = "augmented version(s)" if about["augmentation"] else "plain version(s)"
            return (
                f"activations of {about['images']:,} images at {about['image_size']} px, "
                f"{whole} {variants}"
                + (f" and {unfinished} unfinished" if unfinished else "")
                + f", {about['network']}, {about['computed_by']}"
            )
    except UserError:
        return "damaged"


def _is_locked(lock: Path) -> bool:
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True
