"""MURA's CSV files, in the official form and in those that spreadsheets and scripts make of it."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from mura_utils.data.sources.listing import remark
from mura_utils.data.sources.tables import Table, read_flags, read_table

TREE = "MURA-v1.1"
SPLITS = ("train", "valid")

_STUDY = (
    r"(?P<study>{split}/XR_(?P<body_part>[A-Z]+)/(?P<patient>patient[0-9]+)"
    r"/study[0-9]+_(?P<verdict>positive|negative))"
)
_IMAGE = rf"(?P<path>{_STUDY}/image(?P<view>[0-9][0-9]?[0-9]?)\.png)"
_ANY_CASE = re.IGNORECASE | re.ASCII
_EXAMPLE = "MURA-v1.1/{split}/XR_WRIST/patient00001/study1_positive/"
_LABEL_HEADERS = ("label", "labels", "abnormal", "abnormality", "class", "target", "diagnosis")

# What makes an unusual path a usual one, in this order: what is said of it, pattern, replacement.
_TIDY = (
    ("paths have blanks or quotes around them", r"^[\s'\"]+|[\s'\"]+$", ""),
    ("paths have backslashes", r"\\+", "/"),
    ("paths have './' or '//' in them", r"(?:^|(?<=/))\./|(?<=/)/+", ""),
    ("", rf"^{TREE}/", ""),
    ("paths start with other folders", rf"(?i)^.*/(?=(?:{'|'.join(SPLITS)})/XR_)", ""),
    ("", r"/$", ""),
)


def read_images(path: Path, split: str) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """Read `*_image_paths.csv`, with or without a header.

    Returns:
        Columns path, study, body_part, patient, verdict and view, one row an image; and remarks.

    Raises:
        UserError: no row names an image of that split.
    """
    table, paths, _ = _open(path, _EXAMPLE.format(split=split) + "image1.png")
    images = _parse_paths(table, paths, _IMAGE.format(split=split))
    _note_columns(table, 1)
    return _settle(table, images, paths, split)


def read_studies(path: Path, split: str) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """Read `*_labeled_studies.csv`, with or without a header.

    Returns:
        Columns path, study (the same), body_part, patient, verdict and value ("0" or "1"), one row
        a study; and remarks.

    Raises:
        UserError: no row labels a study of that split, or the labels cannot be found.
    """
    table, paths, header = _open(path, _EXAMPLE.format(split=split) + ",1")
    column = _label_column(table, paths, header)
    cells = table.cells.loc[paths.index, column]
    studies = _parse_paths(table, paths, _STUDY.format(split=split))
    studies.insert(0, "path", studies["study"])
    studies["value"] = read_flags(cells)
    spelled = studies["value"].notna() & (studies["value"] != cells)
    table.accept(spelled, "labels are not spelled 0 and 1")
    if column < paths.name:
        table.variants.append("the label comes before the path")
    _note_columns(table, 2)
    return _settle(table, studies, paths, split)


def parse_images(paths: pd.Index, split: str) -> pd.DataFrame:
    """The columns of `read_images` from paths of files; missing values where one is no image."""
    texts = pd.Series(paths, dtype=str)
    return _canonical(texts.str.extract(f"^{_IMAGE.format(split=split)}$", flags=_ANY_CASE))


def is_image(paths: pd.Index, split: str) -> pd.Series:
    """Whether each path is, but for upper and lower case, one of an image of MURA."""
    return paths.str.fullmatch(_IMAGE.format(split=split), flags=_ANY_CASE)


def _open(path: Path, example: str) -> tuple[Table, pd.Series, pd.Series | None]:
    """The table, its column of paths without a header, and the header, if there is one."""
    table = read_table(path, f"rows like {example!r}")
    column = _path_column(table)
    cells = table.cells[column]
    if "/" in cells.iloc[0] or "\\" in cells.iloc[0]:
        return table, cells, None
    if len(cells) == 1:
        raise table.error(cells.index[0], "a header is its only row")
    return table, cells.iloc[1:], table.cells.iloc[0]


def _path_column(table: Table) -> int:
    if table.cells.shape[1] == 1:
        return 0
    for sought in ("XR_", "(?i)XR_"):
        hits = table.cells.apply(lambda column, sought=sought: column.str.contains(sought).sum())
        if hits.any():
            return int(hits.idxmax())
    raise table.error(table.cells.index[0], "no column holds paths of MURA")


def _label_column(table: Table, paths: pd.Series, header: pd.Series | None) -> int:
    """The column that holds yes and no; a header decides between several."""
    others = table.cells.drop(columns=paths.name)
    if header is not None:
        named = header[others.columns].str.lower().isin(_LABEL_HEADERS)
        others = others[others.columns[named]] if named.sum() == 1 else others
    others = others.loc[paths.index]
    hits = others.apply(lambda column: read_flags(column).notna().sum())
    if not hits.any():
        raise table.error(paths.index[0], "no column holds labels")
    best = hits.index[hits == hits.max()]
    if len(best) > 1:
        numbers = others[best].apply(pd.to_numeric, errors="coerce")
        best = best[~(numbers.diff().iloc[1:] == 1).all()]  # not 0, 1, 2, ...
    if len(best) != 1:
        raise table.error(paths.index[0], "several columns may be the label; call one 'label'")
    return int(best[0])


def _note_columns(table: Table, used: int) -> None:
    more = table.cells.shape[1] - used
    if more:
        table.variants.append(f"{more} more columns are ignored")


def _parse_paths(table: Table, paths: pd.Series, pattern: str) -> pd.DataFrame:
    """The groups of `pattern` in each path; missing values where it cannot be understood."""
    found = paths.str.extract(f"^(?:{TREE}/)?{pattern}/?$")
    odd = paths[found["study"].isna()]
    if odd.empty:
        return found
    changes = {}
    for what, unusual, usual in _TIDY:
        tidied = odd.str.replace(unusual, usual, regex=True)
        changes[what] = tidied != odd
        odd = tidied
    spelled = odd.str.extract(f"^{pattern}$", flags=_ANY_CASE)
    understood = _canonical(spelled)
    changes["upper and lower case are not as in MURA"] = (understood != spelled).any(axis=1)
    good = understood["study"].notna()
    for what, changed in changes.items():
        if what:
            table.accept(changed & good, what)
    found.loc[good.index[good]] = understood[good]
    return found


def _canonical(groups: pd.DataFrame) -> pd.DataFrame:
    """Groups of a pattern in MURA's own upper and lower case."""
    lower = groups.apply(lambda column: column.str.lower())
    lower["body_part"] = lower["body_part"].str.upper()
    for column in lower.columns.intersection(["path", "study"]):
        lower[column] = lower[column].str.replace(
            "/xr_[a-z]+/", lambda found: found[0].upper(), regex=True
        )
    return lower


def _settle(
    table: Table, rows: pd.DataFrame, paths: pd.Series, split: str
) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """Drop rows without a path or a label, and repeated ones; with all remarks on the table."""
    name = table.path.name
    good = rows.notna().all(axis=1)
    bad = paths[~good]
    if not good.any():
        raise table.error(bad.index[0], f"none of its {len(bad):,} rows can be understood")
    (other,) = set(SPLITS) - {split}
    elsewhere = bad.str.contains(rf"(?i)(?:^|[\\/]){other}[\\/]+XR_")
    rows = rows[good]
    repeated = rows["path"].duplicated()
    again, first = rows[repeated], rows[~repeated]
    contrary = pd.Series(False, again.index)
    if "value" in rows:
        contrary = again["value"] != again["path"].map(first.set_index("path")["value"])
    details = [f"{table.quote(row)}: an earlier row has the other label, and counts"
               for row in again.index[contrary]]  # fmt: skip
    return first, [
        *table.remarks(),
        table.refuse(bad.index[~elsewhere], "malformed-row", f"expected {table.expected}"),
        table.refuse(bad.index[elsewhere], "other-split", f"it belongs to {other}"),
        remark(again["path"][~contrary], "repeated-row", f"in {name}; the first counts"),
        remark(again["path"][contrary], "contradictory-row", details),
    ]
