"""Files decoded and resized once: the pixel cache."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.contrib.concurrent import thread_map

from mura_utils import paths
from mura_utils.cache import map_array
from mura_utils.data import squares
from mura_utils.data.images import read_hashed_image
from mura_utils.errors import UserError
from mura_utils.terminal import hide_bars

# Part of the caches' keys; raise it when read_image or resize give other pixels than before.
CACHE_VERSION = 2

_REMEDY = "restore it or make the manifest again (notebook 02)"


def load_pixels(
    root: Path,
    manifest: pd.DataFrame,
    size: int,
    cache_dir: Path | None = None,
    progress: bool = True,
    resize: str = "stretch",
) -> np.ndarray:
    """Decode and resize all images of a manifest once; later calls map the stored file.

    Args:
        root: folder that the manifest's paths are relative to.
        manifest: one row an image, with path and sha256 (empty where pixels were not read; the
            file's length and time of change then stand for its content).
        size: side of the square images, in pixels.
        cache_dir: folder of the stored file, `pixels-<digest>.npy`; None is `paths.cache_dir()`.
        progress: show a progress bar while decoding.
        resize: how an image becomes a square, see `squares.resize`.

    Returns:
        Read-only memory map (N, size, size) uint8, in the order of the manifest.

    Raises:
        UserError: a file vanished or changed since the manifest was made, or the disk is too small.
        ImageFault: an image cannot be decoded.
    """
    root = paths.resolve(root)
    contents = content_keys(root, manifest)
    shape = size if resize == "stretch" else (size, resize)
    key = repr((CACHE_VERSION, shape, list(zip(manifest["path"], contents, strict=True)))).encode()
    folder = paths.cache_dir() if cache_dir is None else Path(cache_dir)
    target = folder / f"pixels-{hashlib.sha256(key).hexdigest()[:16]}.npy"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        needed, free = len(manifest) * size * size, shutil.disk_usage(folder).free
        if needed > free:
            raise UserError(
                f"The pixel cache needs {needed / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB "
                "free; make room or point MURA_CACHE_DIR to a larger disk."
            )
        with paths.atomic_write(target) as temporary:
            pixels = np.lib.format.open_memmap(
                temporary, mode="w+", dtype=np.uint8, shape=(len(manifest), size, size)
            )

            def store(row: int, path: str, content: str | tuple) -> None:
                file = root / path
                image, found = read_hashed_image(file)
                if isinstance(content, str) and found != content:
                    raise UserError(f"{file} has changed since the manifest was made; {_REMEDY}.")
                pixels[row] = squares.resize(image, size, resize)

            # Threads: Pillow decodes and resizes, and hashlib hashes, outside the interpreter lock.
            thread_map(
                store,
                range(len(manifest)),
                manifest["path"],
                contents,
                desc=f"decoding at {size} px",
                unit="image",
                disable=hide_bars(progress),
            )
            pixels.flush()
            pixels._mmap.close()  # Windows renames no file that is mapped
    return map_array(target)


def content_keys(root: Path, manifest: pd.DataFrame) -> list[str | tuple]:
    """What stands for each image's content in a cache's key.

    The SHA-256 of the file, or, where the manifest was made without reading files, path, length
    and time of change.

    Raises:
        UserError: a file without SHA-256 is missing.

    Example:
        >>> content_keys(Path("MURA-v1.1"), pd.DataFrame({"path": ["a.png"], "sha256": ["e3b0"]}))
        ['e3b0']
    """
    hashes = manifest["sha256"].astype(object).fillna("")
    return [
        sha256 or _stat_key(root / path)
        for path, sha256 in zip(manifest["path"], hashes, strict=True)
    ]


def _stat_key(file: Path) -> tuple[str, int, int]:
    try:
        stat = file.stat()
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing; {_REMEDY}.") from error
    return str(file), stat.st_size, stat.st_mtime_ns
