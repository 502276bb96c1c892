"""The tables of a data set as they look in the wild: other separators, encodings, words for yes.

What is harmless is accepted, and counted: each table's variants become one remark each.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from mura_utils.data.sources.files import is_file, read_bytes
from mura_utils.data.sources.listing import remark
from mura_utils.errors import UserError, shown

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig", "a byte-order mark comes first"),
    (codecs.BOM_UTF16_LE, "utf-16", "it is encoded as UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "it is encoded as UTF-16"),
)
_SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
_MAX_COLUMNS = 256
_HINT = "sep="  # with which Excel's files may begin, to name the separator
_HEAD_BYTES = 65_536
_TRUE = ("1", "positive", "abnormal", "true", "t", "yes", "y")
_FALSE = ("0", "negative", "normal", "false", "f", "no", "n")
_FLAGS = dict.fromkeys(_TRUE, "1") | dict.fromkeys(_FALSE, "0")


@dataclass
class Table:
    """A CSV file of a data set, and what was unusual about it.

    Attributes:
        path: the file.
        expected: what should be in it, for messages.
        cells: strings without surrounding blanks, "" where there is none; the index is the row's
            number in the file, from 1; blank rows are gone.
        variants: sentences on what was accepted although it is not the official form.
    """

    path: Path
    expected: str
    cells: pd.DataFrame
    variants: list[str] = field(default_factory=list)

    def accept(self, changed: pd.Series, what: str) -> None:
        """Note a variant of the cells for which `changed` (bool, indexed by row) is true."""
        rows = changed.index[changed]
        if len(rows):
            self.variants.append(f"{what} ({len(rows):,} rows, the first is {self.quote(rows[0])})")

    def quote(self, row: int) -> str:
        """A row for a message, with its number: `row 3, 'a,b'`."""
        return f"row {row}, {shown(','.join(self.cells.loc[row]).rstrip(','))}"

    def error(self, row: int, what: str) -> UserError:
        """The sentence that stops at a row: what is wrong, the row, and what was expected."""
        return UserError(f"{self.path}: {what}: {self.quote(row)}; expected {self.expected}.")

    def named(
        self, required: Sequence[str], data_set: str, optional: Sequence[str] = ()
    ) -> pd.DataFrame:
        """The cells below the header in columns by name, in whatever case the header spells them.

        Args:
            required: names of columns that must be there.
            data_set: whose table it should be, for messages.
            optional: names of columns that may be there; all others are left out.

        Raises:
            UserError: a required column is missing, one is there twice, or there are no rows.
        """
        header, first = self.cells.iloc[0], self.cells.index[0]
        wanted = {simple_name(name): name for name in (*required, *optional)}
        columns = {
            column: wanted[name]
            for column, name in header.map(simple_name).items()
            if name in wanted
        }
        missing = [name for name in required if name not in columns.values()]
        if missing:
            what = f"it is not the table of {data_set}, as column {', '.join(missing)} is missing"
            raise self.error(first, what)
        if len(columns) > len(set(columns.values())):
            raise self.error(first, "two columns have the same name")
        if (header[list(columns)] != pd.Series(columns)).any():
            self.variants.append("the header is spelled in another way")
        if len(self.cells) == 1:
            raise self.error(first, "a header is its only row")
        return self.cells.iloc[1:][list(columns)].rename(columns=columns)

    def remarks(self) -> list[pd.DataFrame]:
        """The variants as remarks ("accepted-variant") on the table."""
        names = [self.path.name] * len(self.variants)
        return [remark(names, "accepted-variant", self.variants)]

    def refuse(self, rows: pd.Index, kind: str, detail: str) -> pd.DataFrame:
        """A remark for each of `rows`, on the table, that quotes the row."""
        details = (f"{self.quote(row)}: {detail}; left out" for row in rows)
        return remark([self.path.name] * len(rows), kind, details)


def read_table(path: Path, expected: str) -> Table:
    """Read a CSV file without a notion of its header.

    Commas, semicolons, tabs and bars separate; UTF-8 (with or without a mark), UTF-16 and Latin-1
    are read; LF, CRLF and CR end lines.

    Args:
        path: the file.
        expected: what should be in it, for messages.

    Raises:
        UserError: it is no regular file, unreadable, empty, no text, or no table.
    """
    text, variants = _decode(path, read_bytes(path))
    lines = _lines(text)
    if lines[0].lower().startswith(_HINT):
        lines[0] = ""
        variants.append("its first line names the separator, as Excel's do")
    text = "\n".join(lines)
    if not text.strip():
        raise UserError(f"{path} holds no rows, only blank lines; expected {expected}.")
    separator = _separator(lines)
    if separator != ",":
        variants.append(f"cells are separated by {_SEPARATORS[separator]}")
    widths = [line.count(separator) + 1 for line in lines]
    columns = max(widths)
    if columns > _MAX_COLUMNS:
        raise UserError(
            f"{path} is not a table: row {widths.index(columns) + 1} has {columns:,} cells."
        )
    try:
        cells = pd.read_csv(
            io.StringIO(text),
            sep=separator,
            header=None,
            names=range(columns),
            index_col=False,
            dtype=str,
            keep_default_na=False,
            skip_blank_lines=False,
        )
    except (pd.errors.ParserError, ValueError) as error:
        raise UserError(f"{path} is not a CSV file: {' '.join(str(error).split())}.") from error
    cells.index += 1
    cells = cells.fillna("").apply(lambda column: column.str.strip())
    used = (cells != "").any()
    if not used.all() and '"' not in text:
        variants.append("empty columns are ignored")
    cells = cells.loc[(cells != "").any(axis=1), used]
    cells.columns = range(cells.shape[1])
    if cells.empty:
        raise UserError(f"{path} holds no rows, only separators; expected {expected}.")
    return Table(path, expected, cells, variants)


def simple_name(name: str) -> str:
    """A column's name in lower case, without blanks and signs.

    Example:
        >>> simple_name("Image ID")
        'imageid'
    """
    return re.sub(r"[\W_]", "", name.lower())


def drop_repeated(
    rows: pd.DataFrame, table: Table, said: Sequence[str]
) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """Keep the first row of each image.

    Args:
        rows: with the column path; an image is a file name in any case.
        table: where they are from.
        said: the columns that should not differ between rows of an image.

    Returns:
        The rows, and remarks on the others: "repeated-row", or "contradictory-row".
    """
    name = rows["path"].str.lower().str.rsplit("/", n=1).str[-1]
    repeated = name.duplicated()
    first = rows[~repeated].set_index(name[~repeated]).loc[name[repeated], list(said)]
    contrary = (rows.loc[repeated, list(said)].to_numpy() != first.to_numpy()).any(axis=1)
    again = rows[repeated]
    details = [f"{table.quote(row)}: an earlier row says something else, and counts"
               for row in again.index[contrary]]  # fmt: skip
    return rows[~repeated], [
        remark(again["path"][~contrary], "repeated-row", f"in {table.path.name}; the first counts"),
        remark(again["path"][contrary], "contradictory-row", details),
    ]


def read_flags(cells: pd.Series) -> pd.Series:
    """Read yes and no in any spelling.

    Args:
        cells: strings.

    Returns:
        "1" or "0", in whatever form it was written (1.0, TRUE, yes, positive …); None where it is
        neither.
    """
    if cells.isin(["0", "1"]).all():
        return cells
    spellings = pd.Series(cells.unique())
    words = spellings.str.strip(" '\"").str.lower()
    numbers = pd.to_numeric(words, errors="coerce")
    flags = words.map(_FLAGS).where(numbers.isna(), numbers.map({0.0: "0", 1.0: "1"}))
    return cells.map(dict(zip(spellings, flags.where(flags.notna(), None), strict=True)))


def header_cells(path: Path) -> list[str]:
    """The first row of a table that is not blank, from the head of the file; [] if it has none.

    A table is recognized by it, so whatever cannot be read is no table here.
    """
    if not is_file(path):
        return []
    try:
        with path.open("rb") as file:
            data = file.read(_HEAD_BYTES)
        lines = _lines(_decode(path, data)[0])
    except (OSError, UserError):
        return []
    lines = [line for line in lines if line.strip() and not line.lower().startswith(_HINT)]
    rows = csv.reader(lines[:1], delimiter=_separator(lines))
    return [cell.strip() for row in rows for cell in row]


def _lines(text: str) -> list[str]:
    """The lines of a text, whichever of LF, CRLF and CR end them."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _separator(lines: list[str]) -> str:
    """What separates the cells: of the marks that all first lines hold, the most frequent.

    A comma inside of cells, such as those of a box, is not in the header.
    """
    sample = [line for line in lines if line.strip()][:20]
    counts = {mark: [line.count(mark) for line in sample] for mark in _SEPARATORS}
    return max(counts, key=lambda mark: (all(counts[mark]), sum(counts[mark])))


def _decode(path: Path, data: bytes) -> tuple[str, list[str]]:
    """The text of a file, and what is unusual about its encoding."""
    encoding, variants = "utf-8", []
    for mark, name, what in _MARKS:
        if data.startswith(mark):
            encoding, variants = name, [what]
    if not variants and b"\0" in data[:200]:  # every other byte of UTF-16 is 0 in English text
        encoding = "utf-16-le" if data[1:200:2].count(0) > data[:200:2].count(0) else "utf-16-be"
        variants = ["it is encoded as UTF-16, without a mark"]
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        if encoding != "utf-8":
            raise UserError(f"{path} is not text: it is neither UTF-8 nor UTF-16.") from None
        text, variants = data.decode("latin-1"), ["it is not UTF-8, and was read as Latin-1"]
    if "\0" in text:
        raise UserError(f"{path} is not text: it holds zero bytes.")
    return text, variants
