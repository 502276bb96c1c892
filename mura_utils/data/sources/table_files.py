"""Which file a cell of a table means, however the paths are spelled and wherever they began."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable

import pandas as pd

from mura_utils.data.images import SUFFIXES

_SAMPLE = 20  # paths by which the folders before them are found


def find_files(cells: pd.Series, files: pd.Index) -> pd.Series:
    """The file that each cell means.

    A path counts as it is written; then in other upper and lower case; then without or with another
    suffix of `images.SUFFIXES`. Where no path at all is there, the folders that all of them begin
    with may be others. A name without folders may be anywhere. What fits several files fits none.

    Args:
        cells: paths as written, with slashes or backslashes.
        files: posix and relative to the table's folder.

    Returns:
        Entries of `files`, missing where there is none; the index is that of `cells`.

    Example:
        >>> files = pd.Index(["images/a.png", "images/b.dcm"])
        >>> find_files(pd.Series(["C:\\\\scans\\\\A.PNG", "C:\\\\scans\\\\b.png"]), files).tolist()
        ['images/a.png', 'images/b.dcm']
    """
    if cells.empty:
        return cells
    written = tidy(cells)
    found = written.where(written.isin(files)).astype(object)
    pictures = [file for file in files if file.lower().endswith(SUFFIXES)]
    spellings = {spell: (written.map(spell), _unique(pictures, spell)) for spell in (_fold, _bare)}
    for wanted, on_disk in spellings.values():
        found = found.fillna(wanted.map(on_disk))
    if found.isna().all():
        for wanted, on_disk in spellings.values():
            found = found.fillna(_elsewhere(wanted, on_disk))
    for spell, (wanted, _) in spellings.items():
        names = _unique(pictures, lambda file, spell=spell: _name(spell(file)))
        found = found.fillna(wanted.where(~wanted.str.contains("/")).map(names))
    return found


def tidy(cells: pd.Series) -> pd.Series:
    """Paths in posix form that lead nowhere outside of a folder.

    Example:
        >>> tidy(pd.Series([r".\\images\\a.png", "/scans/../a.png"])).tolist()
        ['images/a.png', 'scans/a.png']
    """
    slashed = cells.str.strip(" '\"").str.replace(r"[\\/]+", "/", regex=True)
    return slashed.str.replace(r"(?:^|(?<=/))(?:\.{1,2}/)+", "", regex=True).str.lstrip("/")


def _fold(path: str) -> str:
    """One spelling of upper and lower case, and of letters with marks, which macOS takes apart."""
    return unicodedata.normalize("NFC", path).casefold()


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _bare(path: str) -> str:
    """The same without the suffix of an image."""
    folded = _fold(path)
    suffix = next((end for end in SUFFIXES if folded.endswith(end)), "")
    return folded.removesuffix(suffix)


def _unique(files: Iterable[str], spell: Callable[[str], str]) -> dict[str, str]:
    """Files by a spelling that only one of them has."""
    spelled = pd.Series([*files], dtype=object)
    keys = spelled.map(spell)
    once = ~keys.duplicated(keep=False)
    return dict(zip(keys[once], spelled[once], strict=True))


def _elsewhere(wanted: pd.Series, on_disk: dict[str, str]) -> pd.Series:
    """The files with other folders before all paths: those under which most of a sample are."""
    parts = wanted.str.split("/")
    shared = _shared_folders(parts)
    by_name: dict[str, list[str]] = {}
    for key in on_disk:
        by_name.setdefault(_name(key), []).append(key)
    votes: Counter[tuple[int, str]] = Counter()
    for path in parts.iloc[:_SAMPLE]:
        end = "/" + "/".join(path[shared:])
        for key in by_name.get(path[-1], []):
            if f"/{key}".endswith(end):
                file = key.split("/")
                same = _common_length(path[::-1], file[::-1])
                votes[len(path) - same, "/".join(file[: len(file) - same])] += 1
    best = votes.most_common(2)
    if not best or (len(best) > 1 and best[0][1] == best[1][1]):
        return pd.Series(None, wanted.index, dtype=object)
    (dropped, before), _ = best[0]
    moved = parts.str[dropped:].str.join("/").radd(f"{before}/" if before else "")
    return moved.map(on_disk)


def _shared_folders(parts: pd.Series) -> int:
    """With how many folders all paths begin, in the same order."""
    folders = [path[:-1] for path in parts]
    return _common_length(min(folders), max(folders))


def _common_length(one: list[str], other: list[str]) -> int:
    """How many entries two lists begin with that are the same."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
