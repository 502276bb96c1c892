"""What lies in a data set's folder: only regular files are opened, and nothing here can hang."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mura_utils.data.images import not_a_file
from mura_utils.data.sources.listing import remark
from mura_utils.errors import UserError

_SEARCH_DEPTH = 3
_SEARCH_FOLDERS = 2000


@dataclass(frozen=True)
class Files:
    """What one walk through a folder found; all paths are posix and relative to the same root.

    Attributes:
        sizes: bytes of each regular file, indexed by path.
        odd: per path of something that is not a regular file, what it is.
        unreadable: per folder that was not entered, why.
        misnamed: paths that are not UTF-8, with "?" for what cannot be read.
    """

    sizes: pd.Series
    odd: dict[str, str]
    unreadable: dict[str, str]
    misnamed: list[str]

    def remarks(self) -> list[pd.DataFrame]:
        """What was not opened: "not-a-regular-file", "unreadable-folder", "unreadable-name"."""
        return [
            remark(self.odd, "not-a-regular-file", (f"it is {what}" for what in self.odd.values())),
            remark(self.unreadable, "unreadable-folder", self.unreadable.values()),
            remark(self.misnamed, "unreadable-name", "its name is not UTF-8; left out"),
        ]

    def compare(self, listed: pd.Series) -> list[pd.DataFrame]:
        """Remarks on listed paths without a file ("missing-file"), or with an empty one.

        The second kind is "zero-byte-file".
        """
        sizes = self.sizes.reindex(listed)
        missing = sizes.index[sizes.isna()]
        reasons = map(self._reason, missing)
        return [
            remark(missing, "missing-file", (f"listed, but {reason}" for reason in reasons)),
            remark(sizes.index[sizes == 0], "zero-byte-file", "listed, but the file is empty"),
        ]

    def _reason(self, path: str) -> str:
        """Why a listed path has no file."""
        if path in self.odd:
            return f"it is {self.odd[path]}"
        for folder in self.unreadable:
            if path.startswith(f"{folder}/"):
                return f"the folder {folder} cannot be read ({self.unreadable[folder]})"
        return "there is no such file"


def walk_files(root: Path, folder: str) -> Files:
    """Look at everything below `root / folder` ("" for `root` itself), without opening a file.

    One pass of `os.scandir`: the type of an entry comes with its name, so only files are statted.
    Links are followed, but never into a folder that they lie in.

    Raises:
        UserError: `root / folder` itself cannot be read.
    """
    sizes: dict[str, int] = {}
    odd: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    misnamed: list[str] = []
    pending = [folder]
    while pending:
        here = pending.pop()
        try:
            with os.scandir(f"{root}/{here}") as scan:
                entries = list(scan)
        except OSError as error:
            if here == folder:
                raise UserError(f"{root / here} cannot be read: {reason_of(error)}.") from error
            unreadable[here] = reason_of(error)
            continue
        for entry in entries:
            path = f"{here}/{entry.name}" if here else entry.name
            if not path.isascii() and path != printable(path):
                misnamed.append(printable(path))
                continue
            try:
                if entry.is_dir():
                    if entry.is_symlink() and _is_loop(root, folder, path):
                        unreadable[path] = "a link to a folder that it lies in; not followed"
                    else:
                        pending.append(path)
                elif entry.is_file():
                    sizes[path] = entry.stat().st_size
                else:
                    odd[path] = _describe(entry.path)
            except OSError as error:
                odd[path] = _describe(entry.path, error)
    index = pd.Index(list(sizes), dtype=str)
    return Files(
        pd.Series(list(sizes.values()), index, dtype="int64"), odd, unreadable, sorted(misnamed)
    )


def read_bytes(path: Path) -> bytes:
    """Read a regular file.

    Raises:
        UserError: it is something else, cannot be read, or is empty.
    """
    try:
        what = not_a_file(path.stat().st_mode)
        if what is None:
            data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {reason_of(error)}.") from error
    if what is not None:
        raise UserError(f"{path} cannot be read: it is {what}, not a file.")
    if not data:
        raise UserError(f"{path} is empty (0 bytes).")
    return data


def find_trees(root: Path, looks_like: Callable[[Path], bool]) -> list[str]:
    """Find a data set in a folder, or up to three folders below it, where an archive put it.

    Args:
        root: the folder that the user gave.
        looks_like: whether a folder is such a data set.

    Returns:
        The folders, posix and relative to `root` ("" for `root` itself), nearest first; of several
        levels only the first one at which there are any. Of a root that holds thousands of folders
        only the first 2,000 are looked at.
    """
    if looks_like(root):
        return [""]
    level, left = [""], _SEARCH_FOLDERS
    for _ in range(_SEARCH_DEPTH):
        inside = (f"{here}{name}/" for here in level for name in _folders(root / here))
        level = list(itertools.islice(inside, left))
        left -= len(level)
        found = [here.rstrip("/") for here in level if looks_like(root / here)]
        if found:
            return found
    return []


def one_tree(root: Path, found: list[str], what: str) -> str | None:
    """The only one of the folders that `find_trees` found, or None if there is none.

    Raises:
        UserError: there are several.
    """
    if len(found) > 1:
        folders = ", ".join(found[:5])
        raise UserError(f"{root} holds {what} {len(found)} times ({folders}); give one of them.")
    return found[0] if found else None


def names_in(folder: Path) -> list[str]:
    """The names in a folder; none where it cannot be read."""
    try:
        with os.scandir(folder) as scan:
            return [entry.name for entry in scan]
    except OSError:
        return []


def is_file(path: Path) -> bool:
    """Whether a path leads to a regular file; False also where nobody may look."""
    return os.path.isfile(path)  # noqa: PTH113, as Path.is_file raises PermissionError


def is_folder(path: Path) -> bool:
    """Whether a path leads to a folder; False also where nobody may look."""
    return os.path.isdir(path)  # noqa: PTH112, as Path.is_dir raises PermissionError


def printable(text: str) -> str:
    """`text` with "?" for what no text can hold, as the names of some files do."""
    return text.encode(errors="replace").decode()


def reason_of(error: Exception) -> str:
    """The reason of an error, without the path."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file, or it is a link to one that is gone"
    return getattr(error, "strerror", None) or str(error)


def _folders(folder: Path) -> list[str]:
    """Folders that a person may have unpacked a data set into."""
    return [
        name
        for name in sorted(names_in(folder))
        if not name.startswith((".", "__MACOSX"))
        and printable(name) == name
        and is_folder(folder / name)
    ]


def _is_loop(root: Path, folder: str, path: str) -> bool:
    """Whether a link leads to a folder on the way to it, or to one above the data set."""
    target = (root / path).stat()
    parts = path.split("/")[:-1]
    way = [root / "/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    home = Path(os.path.realpath(root / folder))
    return any(os.path.samestat(target, place.stat()) for place in (*way, home, *home.parents))


def _describe(path: str, error: OSError | None = None) -> str:
    """What an entry is that is neither a file nor a folder."""
    try:
        return not_a_file(Path(path).stat().st_mode) or "a file that cannot be read"
    except FileNotFoundError:
        return "a link to a file that is gone"
    except OSError as found:
        return f"unreadable ({reason_of(error or found)})"
