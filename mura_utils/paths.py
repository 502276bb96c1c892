"""Where data, runs and caches live, and how files are written there.

Folders never depend on the current directory: they are beside the package (``data/``, ``runs/``,
``cache/``) unless ``MURA_DATA_DIR``, ``MURA_RUNS_DIR`` or ``MURA_CACHE_DIR`` say otherwise.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from mura_utils.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[1]


def _folder(variable: str, name: str) -> Path:
    return Path(os.environ.get(variable) or REPOSITORY / name).expanduser().resolve()


def data_dir() -> Path:
    """Folder of the data sets: ``$MURA_DATA_DIR``, else ``data/`` beside the package."""
    return _folder("MURA_DATA_DIR", "data")


def runs_dir() -> Path:
    """Folder of the runs: ``$MURA_RUNS_DIR``, else ``runs/`` beside the package."""
    return _folder("MURA_RUNS_DIR", "runs")


def cache_dir() -> Path:
    """Folder of what can be computed again: ``$MURA_CACHE_DIR``, else ``cache/``."""
    return _folder("MURA_CACHE_DIR", "cache")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` if the block succeeds.

    A reader, and a run killed at any moment, sees the old file or the new one, never a half. The
    temporary name keeps the suffix, for writers that choose their format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically as UTF-8 with LF line ends."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, content: Any) -> None:
    """Write `content` atomically as indented JSON; NaN and infinity are refused."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        UserError: the file is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON ({error}); delete it and make it again.") from error


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write `frame` atomically as CSV without its index."""
    with atomic_write(path) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")
