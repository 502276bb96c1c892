"""What every source gives: one row an image, and remarks on what was met on the way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

LISTING_COLUMNS = (
    "path",
    "source",
    "official_split",
    "patient",
    "study",
    "view",
    "body_part",
    "abnormality",
    "label",
)
"""`path` is posix and relative to the root; all are strings but `view`, an integer."""


@dataclass(frozen=True)
class Listing:
    """The images of a data set, from its tables and file names; no image has been opened.

    In FracAtlas, which has no patient ids, every image is its own patient and its own study, so
    counts of patients and leakage between splits say nothing there.

    Attributes:
        source: "mura", "fracatlas" or "phantom".
        root: the folder as given by the user; a file is `root / path`.
        rows: `LISTING_COLUMNS`, one row an image, sorted by path, which is unique. A row whose file
            is missing or empty is kept: `manifest.scan` gives it its fault.
        remarks: columns path, kind, detail: what was left out or is odd, one row each.
    """

    source: str
    root: Path
    rows: pd.DataFrame
    remarks: pd.DataFrame

    def __str__(self) -> str:
        """Say what the data set holds, in a few lines."""
        rows = self.rows
        note = (
            " (no patient ids: every image is its own patient and study)"
            if self.source == "fracatlas"
            else ""
        )
        lines = [
            f"{self.source} in the folder {self.root.name}",
            f"{_counts(rows)}{note}",
            "body parts: " + _tally(rows["body_part"]),
            "abnormality: " + _tally(rows["abnormality"]),
        ]
        lines += [
            f"official {split}: {_counts(part)}"
            for split, part in rows.groupby("official_split")
            if split
        ]
        lines.append("remarks: " + (_tally(self.remarks["kind"]) or "none"))
        return "\n".join(lines)


def _counts(rows: pd.DataFrame) -> str:
    return (
        f"{len(rows):,} images, {rows['study'].nunique():,} studies, "
        f"{rows['patient'].nunique():,} patients"
    )


def _tally(values: pd.Series) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in values.value_counts().items())


def make_listing(
    source: str, root: Path, rows: pd.DataFrame, remarks: Iterable[pd.DataFrame]
) -> Listing:
    """Complete `rows` with source and label, put everything in order, and wrap it up."""
    rows = rows.assign(source=source, label=rows["abnormality"] + "-" + rows["body_part"])
    rows = rows[list(LISTING_COLUMNS)].sort_values("path", ignore_index=True)
    everything = pd.concat([remark([], ""), *remarks], ignore_index=True)
    everything = everything.sort_values(["kind", "path"], ignore_index=True)
    return Listing(source, root, rows, everything)


def with_remarks(listing: Listing, remarks: Iterable[pd.DataFrame]) -> Listing:
    """The listing with more remarks, in order."""
    return make_listing(listing.source, listing.root, listing.rows, [listing.remarks, *remarks])


def remark(paths: Iterable[str], kind: str, detail: str | Iterable[str] = "") -> pd.DataFrame:
    """Remarks of one kind; `detail` is one for all or one for each."""
    paths = pd.Series(list(paths), dtype=str)
    details = detail if isinstance(detail, str) else list(detail)
    return pd.DataFrame({"path": paths, "kind": kind, "detail": details}).astype(str)
