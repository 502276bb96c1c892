"""What a data source is, and what it gives: one row an image, and remarks on what was odd."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mura_utils.labels import join

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


def no_attributes(root: Path, paths: Sequence[str]) -> pd.DataFrame:
    """What `Source.attributes` gives where nothing more is known of an image."""
    return pd.DataFrame(index=pd.Index(paths, name="path"))


@dataclass(frozen=True)
class Source:
    """A data set that this package can read: a module of this folder holds one, as ``SOURCE``.

    Attributes:
        name: in parameters and tables.
        title: in figures and texts.
        recognize: whether a folder is this data set, or a part of it.
        list: from the data set's folder to its listing.
        mask: from that folder and an image's path to where the abnormality is: bool (H, W), of the
            image's size as stored; None without one.
        terms: what must be said wherever its images are shown: one or two sentences.
        private: whether its images must not be published.
        in_subfolders: whether a folder that contains the data set's may be given instead.
        attributes: from that folder and paths of images to what else is known of each of them: a
            row a path, in that order, and some of the columns `attributes.ATTRIBUTES`.
    """

    name: str
    title: str
    recognize: Callable[[Path], bool]
    list: Callable[[Path], Listing]
    mask: Callable[[Path, str], np.ndarray | None]
    terms: str
    private: bool = False
    in_subfolders: bool = True
    attributes: Callable[[Path, Sequence[str]], pd.DataFrame] = no_attributes


@dataclass(frozen=True)
class Listing:
    """The images of a data set, from its tables and file names; no image has been opened.

    Where a set has no patient ids, every image is its own patient and its own study (or every study
    its own patient, where the set has these), so that counts of patients and leakage between splits
    say nothing.

    Attributes:
        source: name of the data set.
        root: the folder as given by the user; a file is `root / path`.
        rows: `LISTING_COLUMNS`, one row an image, sorted by path, which is unique. A row whose file
            is missing or empty is kept: `manifest.scan` gives it its fault.
        remarks: columns path, kind, detail: what was left out or is odd, one row each.
        has_patients: whether the set says which images are of one patient.
        notes: sentences on how the set was understood, for whoever looks at it.
    """

    source: str
    root: Path
    rows: pd.DataFrame
    remarks: pd.DataFrame
    has_patients: bool = True
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say what the data set holds, in a few lines."""
        rows = self.rows
        alone = rows["patient"].nunique() == len(rows)
        unit = "image is its own patient and study" if alone else "study is its own patient"
        note = "" if self.has_patients else f" (no patient ids: every {unit})"
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
        lines += self.notes
        return "\n".join(lines)


def _counts(rows: pd.DataFrame) -> str:
    return (
        f"{len(rows):,} images, {rows['study'].nunique():,} studies, "
        f"{rows['patient'].nunique():,} patients"
    )


def _tally(values: pd.Series) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in values.value_counts().items())


def make_listing(
    source: str,
    root: Path,
    rows: pd.DataFrame,
    remarks: Iterable[pd.DataFrame],
    has_patients: bool = True,
    notes: Sequence[str] = (),
) -> Listing:
    """Complete `rows` with source and label, put everything in order, and wrap it up."""
    rows = rows.assign(source=source, label=[*map(join, rows["abnormality"], rows["body_part"])])
    rows = rows[list(LISTING_COLUMNS)].sort_values("path", ignore_index=True)
    everything = pd.concat([remark([], ""), *remarks], ignore_index=True)
    everything = everything.sort_values(["kind", "path"], ignore_index=True)
    return Listing(source, root, rows, everything, has_patients, tuple(notes))


def with_remarks(listing: Listing, remarks: Iterable[pd.DataFrame]) -> Listing:
    """The listing with more remarks, in order."""
    together = [listing.remarks, *remarks]
    return make_listing(
        listing.source, listing.root, listing.rows, together, listing.has_patients, listing.notes
    )


def remark(paths: Iterable[str], kind: str, detail: str | Iterable[str] = "") -> pd.DataFrame:
    """Remarks of one kind; `detail` is one for all or one for each."""
    paths = pd.Series(list(paths), dtype=str)
    details = detail if isinstance(detail, str) else list(detail)
    return pd.DataFrame({"path": paths, "kind": kind, "detail": details}).astype(str)
