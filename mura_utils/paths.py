"""Where data, runs and caches live, and how files are written there.

In a clone of the repository, folders never depend on the current directory: ``data/``, ``runs/``
and ``cache/`` are next to the package unless ``MURA_DATA_DIR``, ``MURA_RUNS_DIR`` or
``MURA_CACHE_DIR`` say otherwise. A copy that was installed with ``pip install .`` keeps them in the
folder that `mura init` has filled with notebooks, from anywhere below it; without one, in the
current folder.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from mura_utils.errors import UserError

_CLONE = Path(__file__).resolve().parents[1]
_INSTALLED = Path(sysconfig.get_path("data")) / "share" / "mura-utils"

REPOSITORY = _CLONE if (_CLONE / "notebooks").is_dir() else _INSTALLED
"""What holds ``notebooks/`` and ``experiments/``: the clone, or their installed copy."""

_TEXT_COLUMNS = (
    *("path", "source", "official_split", "patient", "study", "body_part", "abnormality"),
    *("label", "mode", "sha256", "fault", "detail"),
)


def _folder(variable: str, name: str) -> Path:
    return resolve(os.environ.get(variable) or _home() / name)


def _home() -> Path:
    """The folder of data, runs and caches."""
    if REPOSITORY == _CLONE:
        return REPOSITORY
    here = Path.cwd()
    made = (place for place in (here, *here.parents) if _is_a_series(place))
    return next(made, here)


def _is_a_series(place: Path) -> bool:
    return all((place / name).is_dir() for name in ("notebooks", "experiments"))


def copy_series(folder: Path) -> list[Path]:
    """Copy the notebooks and experiments into a folder, as ``mura init`` does.

    Returns:
        The files made.

    Raises:
        UserError: one of them is there already; nothing is copied then.
    """
    files = [
        (source, folder / source.relative_to(REPOSITORY))
        for kind in ("notebooks/*.ipynb", "experiments/*.yaml")
        for source in sorted(REPOSITORY.glob(kind))
    ]
    for _, target in files:
        if os.path.lexists(target):
            raise UserError(f"{target} exists: choose another folder; nothing was copied.")
    for source, target in files:
        with atomic_write(target) as temporary:
            shutil.copyfile(source, temporary)
    return [target for _, target in files]


def expand(path: str | Path) -> Path:
    """The path with ``~`` replaced by the user's home.

    Raises:
        UserError: there is no such home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: no home folder is known for '~'; write the path out.") from None


def resolve(path: str | Path) -> Path:
    """The absolute path, without links and ``~``.

    Raises:
        UserError: there is no such home, or links lead in a circle.
    """
    try:
        return expand(path).resolve()
    except RuntimeError:
        raise UserError(f"{path}: its links lead in a circle; give another path.") from None


def data_dir() -> Path:
    """Folder of the data sets: ``$MURA_DATA_DIR``, else ``data/`` next to the package."""
    return _folder("MURA_DATA_DIR", "data")


def runs_dir() -> Path:
    """Folder of the runs: ``$MURA_RUNS_DIR``, else ``runs/`` next to the package."""
    return _folder("MURA_RUNS_DIR", "runs")


def cache_dir() -> Path:
    """Folder of what can be computed again: ``$MURA_CACHE_DIR``, else ``cache/``."""
    return _folder("MURA_CACHE_DIR", "cache")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; rename it onto `path` if the block succeeds.

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


def write_all(stream: io.RawIOBase, data: bytes) -> None:
    """Write all of `data`: a raw stream takes less than it is given on a disk that fills up."""
    left = memoryview(data)
    while left:
        left = left[stream.write(left) :]


def write_json(path: Path, content: Any) -> None:
    """Write `content` atomically as indented JSON; NaN and infinity are refused."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        UserError: the file is missing, or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run what writes it again.") from None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not JSON ({error}): it was changed after it was written; run what wrote it "
            "again."
        ) from error


@contextmanager
def reading(path: Path) -> Iterator[Any]:
    """Yield the content of a JSON file that this project wrote, for a block that takes it apart.

    Raises:
        UserError: the file is not JSON, or lacks what the block looks for.
    """
    content = read_json(path)
    try:
        yield content
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path} does not hold what this version writes there ({type(error).__name__}: {error})"
            ": run what wrote it again."
        ) from error


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV of this project: identifiers stay text, and empty text stays empty text."""
    frame = pd.read_csv(path, dtype=dict.fromkeys(_TEXT_COLUMNS, str))
    text = [name for name in _TEXT_COLUMNS if name in frame]
    frame[text] = frame[text].fillna("")
    return frame


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write `frame` atomically as CSV without its index."""
    with atomic_write(path) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")
