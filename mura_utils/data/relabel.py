"""Other labels, for the evaluation only: how much do its numbers depend on who read the studies?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from mura_utils.data.sources.tables import Table, read_flags, read_table
from mura_utils.errors import UserError
from mura_utils.evaluation.metrics import LEVELS, evaluate
from mura_utils.evaluation.predictions import study_predictions
from mura_utils.labels import ABNORMAL, NORMAL, classes_of, join

_EXPECTED = "a header with study or path, and abnormality (Normal or Abnormal, or 0 or 1)"

# What differs between spellings of one path: pattern, replacement.
_TIDY = (
    (r"\\+", "/"),
    (r"^.*/(?=(?:train|valid)/xr_)", ""),  # folders before MURA's own
    (r"_(?:positive|negative)(?=/|$)", ""),  # the label, which may be the one that changes
    (r"^(?:\./)+|/+$", ""),
)


def evaluate_relabeled(
    predictions: pd.DataFrame, file: Path | None, threshold: float, bootstrap: int = 1000
) -> dict[str, Any] | None:
    """The key ``relabel`` of metrics.json: every metric once more, with other labels.

    Args:
        predictions: rows of predictions.csv to evaluate.
        file: as of `relabeled`; None without one.
        threshold: abnormal is P(abnormal) above it.
        bootstrap: resamples of the patients.

    Returns:
        What `relabeled` counts, and the levels of `evaluate`; None without a file.

    Raises:
        UserError: as `relabeled`.
    """
    if file is None:
        return None
    changed, counts = relabeled(predictions, file)
    metrics = evaluate(changed, threshold, bootstrap)
    return counts | {level: metrics[level] for level in LEVELS}


def relabeled(predictions: pd.DataFrame, file: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Give images and studies the labels of a CSV file, as an overlay: nothing is written.

    A row names a study, and then all of its images, or one image, which prevails. MURA's own paths
    match with or without a slash at the end, folders before them, and whatever their ``_positive``
    or ``_negative`` says. A table of MURA without a header is taken too.

    Args:
        predictions: rows of predictions.csv to evaluate, such as those of test.
        file: CSV with the columns study or path (a row may leave one of two empty) and abnormality.

    Returns:
        `predictions` with other values of abnormality and label, and what was done: ``file`` (its
        name), ``rows`` (repeated ones once), ``unmatched`` (rows that name none of these images and
        studies) and how many labels changed: ``images``, ``studies``.

    Raises:
        UserError: the file is no such table, a row cannot be understood or contradicts an earlier
            one, or a label belongs to no class of the model.
    """
    labels, table = _read(file)
    keys = {name: _key(predictions[name]) for name in ("study", "path")}
    of_image = keys["path"].map(labels["abnormality"])
    of_image = of_image.fillna(keys["study"].map(labels["abnormality"]))
    abnormality = of_image.fillna(predictions["abnormality"])
    label = pd.Series([*map(join, abnormality, predictions["body_part"])], predictions.index)
    unknown = predictions.index[~label.isin(classes_of(predictions)) & of_image.notna()]
    if len(unknown):
        image = unknown[0]
        named = (keys[name][image] for name in ("path", "study"))
        key = next(key for key in named if key in labels.index)
        what = f"it makes {predictions['path'][image]} {label[image]}, no class of the model"
        raise table.error(labels.loc[key, "row"], what)
    changed = predictions.assign(abnormality=abnormality, label=label)
    before, after = (study_predictions(rows)["abnormality"] for rows in (predictions, changed))
    return changed, {
        "file": file.name,
        "rows": len(labels),
        "unmatched": int((~labels.index.isin([*keys["study"], *keys["path"]])).sum()),
        "images": int((abnormality != predictions["abnormality"]).sum()),
        "studies": int((before != after).sum()),
    }


def _read(file: Path) -> tuple[pd.DataFrame, Table]:
    """The abnormality that each key gets, and the number of its row; and the table."""
    table = read_table(file, _EXPECTED)
    names, flags = _columns(table)
    labels = pd.DataFrame(
        {"key": _key(names), "abnormality": flags.map({"1": ABNORMAL, "0": NORMAL})}
    )
    labels["row"] = labels.index
    for row in labels.index[(names == "") | labels["abnormality"].isna()]:
        lacks = "it names no study and no path" if names[row] == "" else "its label is none"
        raise table.error(row, lacks)
    first = labels.drop_duplicates("key").set_index("key")
    contrary = labels["abnormality"] != labels["key"].map(first["abnormality"])
    for row in labels.index[contrary]:
        earlier = first.loc[labels.loc[row, "key"], "row"]
        raise table.error(row, f"it contradicts row {earlier}")
    return first, table


def _columns(table: Table) -> tuple[pd.Series, pd.Series]:
    """What each row names, and its label as "1", "0" or None."""
    cells = table.cells
    if cells.shape[1] == 2 and "/" in cells.iloc[0, 0].replace("\\", "/"):  # MURA's, no header
        return cells[0], read_flags(cells[1])
    header = cells.iloc[0].str.lower()
    cells = cells.iloc[1:].set_axis(header, axis=1)
    named = [name for name in ("path", "study") if name in cells]
    if header.duplicated().any() or not named or "abnormality" not in cells:
        raise table.error(table.cells.index[0], "its columns are not those expected")
    if cells.empty:
        raise UserError(f"{table.path} has a header and no rows: list studies, or give no file.")
    names = cells[named[0]]
    for name in named[1:]:
        names = names.where(names != "", cells[name])
    return names, read_flags(cells["abnormality"])


def _key(paths: pd.Series) -> pd.Series:
    """One spelling of each path.

    Example:
        >>> _key(pd.Series(["MURA-v1.1/valid/XR_HAND/patient1/study1_positive/"])).tolist()
        ['valid/xr_hand/patient1/study1']
    """
    keys = paths.astype(str).str.lower()
    for pattern, replacement in _TIDY:
        keys = keys.str.replace(pattern, replacement, regex=True)
    return keys
