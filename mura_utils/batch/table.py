"""A CSV file that grows batch by batch, and goes on after a process was killed at any moment.

Next to ``predictions.csv`` lies ``predictions.csv.json``: what the numbers depend on. Only a
process that would write the same numbers goes on.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mura_utils.errors import UserError, shown
from mura_utils.locks import claim
from mura_utils.paths import read_json, write_all, write_json

_ELSE = "give another --out, or remove that file to begin again"


class Table:
    """An opened table.

    Attributes:
        path: of the CSV file.
        done: rows that are there.
    """

    def __init__(self, path: Path, stream: io.RawIOBase, done: int) -> None:
        """Take an opened file that ends behind `done` rows."""
        self.path, self.done = path, done
        self._stream = stream

    def append(self, rows: Sequence[Sequence[Any]]) -> None:
        """Write rows at once; None becomes an empty cell.

        Raises:
            UserError: the disk is full, or the file cannot be written any more.
        """
        self._write(_encode(rows))
        self.done += len(rows)

    def _write(self, data: bytes) -> None:
        """Write bytes that are no rows, as the header is."""
        try:
            write_all(self._stream, data)
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written ({error.strerror}): after that is put right, the "
                "same command goes on there."
            ) from error


@contextmanager
def open_table(
    path: Path,
    about: Mapping[str, Any],
    columns: Sequence[str],
    keys: Sequence[str],
    block: int,
) -> Iterator[Table]:
    """Begin a table, or go on with one behind its last whole block of rows.

    What a killed process wrote of the next block is dropped, a half line too: that block is written
    again, from the same images in the same batch.

    Args:
        path: of the CSV file.
        about: what its numbers depend on, ready for JSON.
        columns: its header.
        keys: the first cell of each row, in order, when it is complete.
        block: rows.

    Raises:
        UserError: the file is another's, or was begun with other `about`, `columns` or `keys`; or
            another process writes it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = claim(
        path.with_name(f".{path.name}.lock"),
        f"Another process writes {path}: wait until it ends, or give another --out.",
    )
    try:
        _prepare(path, about)
        with path.open("r+b", buffering=0) as stream:  # what is written outlives the process
            done, end = _whole_blocks(path, columns, keys, block)
            stream.truncate(end)
            stream.seek(end)
            table = Table(path, stream, done)
            if not end:
                table._write(_encode([columns]))
            yield table
    finally:
        lock.release()


def _prepare(path: Path, about: Mapping[str, Any]) -> None:
    """Make sure that there is a file, empty or of the same kind."""
    described = path.with_name(f"{path.name}.json")
    if path.is_dir():
        raise UserError(f"{path} is a folder: --out names a file where it ends in .csv.")
    if not path.exists():
        if described.exists() and not _is_ours(described):
            raise UserError(f"{described} exists, and is not of a table: give another --out.")
        write_json(described, about)
        path.touch()
        return
    if not _is_ours(described):
        raise UserError(f"{path} exists, and 'mura predict' has not begun it: give another --out.")
    before = read_json(described)
    for key, value in about.items():
        if before.get(key) != value:
            raise UserError(
                f"{path} was begun with {key} = {shown(before.get(key))}, and now {key} is "
                f"{shown(value)}: {_ELSE}."
            )


def _is_ours(described: Path) -> bool:
    if not described.is_file():
        return False
    content = read_json(described)
    return isinstance(content, dict) and content.get("made_by") == "mura predict"


def _whole_blocks(
    path: Path, columns: Sequence[str], keys: Sequence[str], block: int
) -> tuple[int, int]:
    """How many rows to keep, and where in the file they end; 0, 0 without a header."""
    header = _encode([columns])
    with path.open("rb") as stream:
        begins = stream.read(len(header))
        if begins != header:
            if header.startswith(begins):
                return 0, 0
            raise UserError(f"{path} does not begin with the columns that it had: {_ELSE}.")
        kept = 0, len(header)
        for number, (row, end) in enumerate(_rows(stream, len(header)), start=1):
            if len(row) != len(columns):
                break
            if number > len(keys) or row[0] != keys[number - 1]:
                now = f"is {shown(keys[number - 1])}" if number <= len(keys) else "are no more"
                raise UserError(
                    f"{path}, row {number:,}, is of {shown(row[0])}, but now there {now}: images "
                    f"were added or removed since; {_ELSE}."
                )
            if number % block == 0 or number == len(keys):
                kept = number, end
        return kept


def _rows(stream: io.BufferedReader, start: int) -> Iterator[tuple[list[str], int]]:
    """The whole rows from here to the first damage, each with the position where it ends."""
    end, line = start, b""

    def lines() -> Iterator[str]:
        nonlocal end, line
        for line in stream:
            end += len(line)
            yield line.decode()

    try:
        for row in csv.reader(lines(), strict=True):
            if not line.endswith(b"\n"):
                return
            yield row, end
    except (csv.Error, UnicodeDecodeError):
        return


def _encode(rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
