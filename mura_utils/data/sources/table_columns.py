"""Somebody's own table of images: which CSV file it is, and what its columns and cells mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mura_utils.data.sources.files import names_in, printable
from mura_utils.data.sources.listing import remark
from mura_utils.data.sources.tables import Table, header_cells, read_flags, read_table
from mura_utils.errors import UserError, shown
from mura_utils.labels import ABNORMAL, NORMAL

REQUIRED = ("path", "body_part", "abnormality")

NAMES = {
    "path": ("path", "file", "filename", "filepath", "image", "imagefile", "imagename",
             "imagepath", "imageid", "img"),
    "body_part": ("bodypart", "part", "bodyregion", "region", "anatomy", "bodypartexamined"),
    "abnormality": ("abnormality", "label", "abnormal", "isabnormal", "target", "class",
                    "fracture", "fractured"),
    "patient": ("patient", "patientid", "patientnumber", "pid", "subject", "subjectid"),
    "study": ("study", "studyid", "studyuid", "studyinstanceuid", "exam", "examid",
              "accession", "accessionnumber"),
    "view": ("view", "viewposition", "projection"),
    "split": ("split", "subset", "set", "partition"),
    "age": ("age", "patientage", "ageyears", "ageinyears"),
    "sex": ("sex", "gender", "patientsex"),
    "mask": ("mask", "maskpath", "maskfile"),
    "box": ("box", "bbox", "boundingbox"),
}  # fmt: skip
"""What a column may be called, in lower case without blanks and signs; the first name prevails, and
of abnormality the first two in this order."""

_PREVAIL = {"abnormality": 2}
_SUFFIXES = (".csv", ".tsv")
_UNKNOWN = ("na", "n/a", "#n/a", "<na>", "nan", "none", "null", "-")
_SPLITS = (
    dict.fromkeys(("train", "training"), "train")
    | dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
    | dict.fromkeys(("test", "testing", "holdout"), "test")
)
_SEXES = (
    dict.fromkeys(("f", "female", "woman", "girl"), "F")
    | dict.fromkeys(("m", "male", "man", "boy"), "M")
    | dict.fromkeys(("o", "other", "diverse"), "O")
)
_YEARS = {"": 1, "y": 1, "m": 1 / 12, "w": 7 / 365.25, "d": 1 / 365.25}
OLDEST = 130
"""Years of age that are believed."""
_MOST_VALUES = 5  # to show of a column


@dataclass(frozen=True)
class Columns:
    """What the columns of a table were understood as.

    Attributes:
        table: the file.
        cells: its rows below the header, one column each of `NAMES` that it has; indexed by the
            row's number in the file. What stands for "unknown" (NA, None, -) is "".
        headers: what each of these columns is called in the file.
        unused: what the others are called.
    """

    table: Table
    cells: pd.DataFrame
    headers: dict[str, str]
    unused: tuple[str, ...]

    def describe(self) -> str:
        """Say which column was understood as what."""
        used = ", ".join(f"{role} = {shown(self.headers[role])}" for role in self.headers)
        unused = ", ".join(map(shown, self.unused)) or "none"
        return f"columns of {self.table.path.name}: {used}; not used: {unused}"

    def text(self, role: str) -> pd.Series:
        """The cells of a column, "" where there is none."""
        return self.cells.get(role, pd.Series("", self.cells.index))

    def error(self, role: str, rows: pd.Index, expected: str) -> UserError:
        """The sentence that stops at a cell: file, row, value, and what was expected."""
        value, more = shown(self.cells.loc[rows[0], role]), len(rows) - 1
        others = f" (and {more:,} more rows have such a value)" if more else ""
        return UserError(
            f"{self.table.path}: row {rows[0]}: {shown(self.headers[role])} is {value}, "
            f"expected {expected}{others}; correct it, or leave the cell empty."
        )


def candidates(root: Path) -> dict[Path, set[str]]:
    """The tables in a folder that list images, and which of `NAMES` each has a column for."""
    found = {}
    for name in sorted(names_in(root)):
        if name.lower().endswith(_SUFFIXES) and name[0] != "." and printable(name) == name:
            header = header_cells(root / name)
            roles = {role for role in NAMES if _named(role, header)}
            if "path" in roles and len(roles & {*REQUIRED}) > 1:
                found[root / name] = roles
    return found


def find_table(root: Path) -> Path:
    """The table of a folder: of its CSV files the only one with all columns that are required.

    Raises:
        UserError: there is none, or there are several; says which columns are missing.
    """
    found = candidates(root)
    whole = [path for path, roles in found.items() if roles >= {*REQUIRED}]
    if len(whole) == 1:
        return whole[0]
    if whole:
        names = ", ".join(path.name for path in whole)
        raise UserError(
            f"{root} holds several tables of images ({names}): leave one of them there, or give "
            "the others another suffix than .csv."
        )
    for path, roles in found.items():
        missing = [role for role in REQUIRED if role not in roles]
        called = " and ".join(f"{role} (or {', '.join(NAMES[role][1:4])})" for role in missing)
        raise UserError(
            f"{path} has no column for {called}: its columns are "
            f"{', '.join(map(shown, header_cells(path)))}; rename one or add it."
        )
    raise UserError(
        f"{root} holds no CSV file with the columns {', '.join(REQUIRED)}; docs/your_data.md has "
        "one to copy."
    )


def read_columns(path: Path) -> Columns:
    """Read a table of images.

    Raises:
        UserError: it cannot be read, has no rows, or two columns that may be the same.
    """
    table = read_table(path, f"a header with {', '.join(REQUIRED)}")
    header, cells = table.cells.iloc[0], table.cells.iloc[1:]
    if cells.empty:
        raise UserError(f"{path} has a header and no rows: list one image a row.")
    columns = {role: _only(table, role, _named(role, header.tolist())) for role in NAMES}
    columns = {role: column for role, column in columns.items() if column is not None}
    unused = header[[column for column in header.index if column not in columns.values()]]
    cells = cells[[*columns.values()]].set_axis([*columns], axis=1)
    cells = cells.mask(cells.apply(lambda column: column.str.lower().isin(_UNKNOWN)), "")
    headers = {role: header[column] for role, column in columns.items()}
    return Columns(table, cells, headers, tuple(name for name in unused if name))


def usable_rows(columns: Columns) -> tuple[pd.Index, pd.DataFrame]:
    """The rows that have every required cell, and remarks on the others ("malformed-row").

    Raises:
        UserError: there are none.
    """
    empty = columns.cells[list(REQUIRED)] == ""
    bad = empty.index[empty.any(axis=1)]
    if len(bad) == len(empty):
        raise UserError(
            f"{columns.table.path}: none of its {len(bad):,} rows has a value for all of "
            f"{', '.join(REQUIRED)}: {columns.table.quote(bad[0])}; fill them in."
        )
    refused = columns.table.refuse(bad, "malformed-row", f"one of {', '.join(REQUIRED)} is empty")
    return empty.index.difference(bad), refused


def abnormalities(columns: Columns, rows: pd.Index) -> pd.Series:
    """ABNORMAL or NORMAL of each row.

    Raises:
        UserError: a cell is neither.
    """
    flags = read_flags(columns.cells.loc[rows, "abnormality"])
    if flags.isna().any():
        raise columns.error(
            "abnormality",
            rows[flags.isna()],
            "0 or 1, normal or abnormal, no or yes, negative or positive",
        )
    return flags.map({"1": ABNORMAL, "0": NORMAL})


def body_parts(columns: Columns, rows: pd.Index) -> pd.Series:
    """The body part of each row in capitals, with single blanks."""
    return columns.cells.loc[rows, "body_part"].str.upper().str.split().str.join(" ")


def splits(columns: Columns, rows: pd.Index) -> pd.Series:
    """Each row's "train", "validation" or "test", "" where none is given.

    Raises:
        UserError: a cell is something else.
    """
    cells = columns.text("split").loc[rows]
    found = cells.str.lower().map({**_SPLITS, "": ""})
    if found.isna().any():
        raise columns.error("split", rows[found.isna()], "train, validation or test")
    return found


def ages(cells: pd.Series) -> pd.Series:
    """Years as float, NaN where there is no age from 0 to 130; 6M and 10D are months and days.

    Example:
        >>> ages(pd.Series(["12", "7,5", "012Y", "6M", "old", ""])).tolist()
        [12.0, 7.5, 12.0, 0.5, nan, nan]
    """
    parts = cells.str.lower().str.extract(r"^(?P<number>\d+(?:[.,]\d*)?)\s*(?P<unit>[ymwd]?)$")
    years = parts["number"].str.replace(",", ".").astype(float) * parts["unit"].map(_YEARS)
    return years.where(years <= OLDEST)


def sexes(cells: pd.Series) -> pd.Series:
    """F, M or O; missing where a cell is none of them, in any usual spelling.

    Example:
        >>> sexes(pd.Series(["female", "M", "?"])).tolist()
        ['F', 'M', None]
    """
    return cells.str.lower().map(_SEXES).astype(object).where(lambda found: found.notna(), None)


def boxes(cells: pd.Series) -> pd.Series:
    """The boxes in each cell: left, top, width and height, pixels; missing where it has none.

    Example:
        >>> boxes(pd.Series(["10 20 30 40; 5 5 8 8", "[1, 2, 3, 4]", "10 20", ""])).tolist()
        [((10.0, 20.0, 30.0, 40.0), (5.0, 5.0, 8.0, 8.0)), ((1.0, 2.0, 3.0, 4.0),), None, None]
    """
    return cells.map(_boxes).astype(object)


def _boxes(cell: str) -> tuple[tuple[float, ...], ...] | None:
    numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", cell)]
    found = tuple(tuple(numbers[start : start + 4]) for start in range(0, len(numbers), 4))
    plain = re.fullmatch(r"[-\d.,;|\s()\[\]]+", cell) and found and not len(numbers) % 4
    return found if plain and all(min(box[2:]) >= 1 for box in found) else None


def read_optional(
    columns: Columns, role: str, rows: pd.Index, read: Callable[[pd.Series], pd.Series]
) -> tuple[pd.Series, pd.DataFrame]:
    """The values of a column's cells, with a remark ("odd-cell") on those that count as unknown.

    Args:
        columns: of the table, which may lack this one.
        role: of `NAMES`.
        rows: the ones to read.
        read: from cells to values, missing where a cell is none.
    """
    cells = columns.text(role).loc[rows]
    values = read(cells)
    odd = rows[(cells != "") & values.isna()]
    if odd.empty:
        return values, remark([], "odd-cell")
    different = cells[odd].unique()
    some = ", ".join(map(shown, different[:_MOST_VALUES]))
    more = " …" if len(different) > _MOST_VALUES else ""
    detail = (
        f"{shown(columns.headers[role])} of {len(odd):,} rows is no {role}, and counts as unknown: "
        f"{some}{more}; the first is row {odd[0]}"
    )
    return values, remark([columns.table.path.name], "odd-cell", detail)


def _named(role: str, header: Iterable[str]) -> dict[int, str]:
    """The columns that may be meant, by their place, with their simple names."""
    simple = (re.sub(r"[\W_]", "", name.lower()) for name in header)
    return {place: name for place, name in enumerate(simple) if name in NAMES[role]}


def _only(table: Table, role: str, named: dict[int, str]) -> int | None:
    """The place of a role's column; None without one."""
    for name in NAMES[role][: _PREVAIL.get(role, 1)]:
        if [*named.values()].count(name) == 1:
            return next(place for place, other in named.items() if other == name)
    if len(named) > 1:
        header = " and ".join(shown(table.cells.iloc[0, place]) for place in named)
        raise UserError(
            f"{table.path}: the columns {header} may each be the {role}: call one of them {role}."
        )
    return next(iter(named), None)
