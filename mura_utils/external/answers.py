"""Predictions of any tool, from a CSV file to the rows that `evaluation.evaluate` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mura_utils.data.sources.tables import Table, read_flags, read_table
from mura_utils.errors import UserError, shown
from mura_utils.evaluation import predictions_frame
from mura_utils.labels import (
    ABNORMAL,
    NORMAL,
    classes_of,
    join,
    p_abnormal,
    probability_columns,
    split,
)

P_ABNORMAL = "p_abnormal"
"""The column of a file that answers only the question normal or abnormal."""

_EXPECTED = f"a header with label or abnormality, and p:<label> of each class or {P_ABNORMAL}"
_FLAGS = {"1": ABNORMAL, "0": NORMAL}
_DECIMAL_COMMA = r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?"
_ROUNDING = 0.005  # of a probability with two decimals


@dataclass(frozen=True)
class Answers:
    """What a tool has answered, and what it was asked.

    Attributes:
        predictions: rows as of `evaluation.predictions_frame`.
        binary: whether only normal or abnormal was asked, and the body part is given.
        remarks: sentences on what was assumed, or left out.
    """

    predictions: pd.DataFrame
    binary: bool
    remarks: list[str]


def read_answers(path: Path) -> Answers:
    """Read the predictions of any tool.

    The truth is in the column label (``Abnormal-HAND``), or in abnormality (Abnormal or Normal, 1
    or 0) and, if known, body_part. The answer is in one column ``p:<label>`` for each class, or in
    p_abnormal. Optional are path, patient, study and split; other columns are ignored. Rows with a
    fault, as `batch.predict_folder` writes them, are left out. Commas, semicolons and tabs separate
    cells, and decimal commas are read.

    Args:
        path: the CSV file.

    Raises:
        UserError: names the line of the file, or the column: an empty cell, no probability,
            probabilities of a row that do not add up to 1, a label without a column, an image given
            twice, a study with two labels, or no truth, answer or row at all.
    """
    table = read_table(path, _EXPECTED)
    cells = _under_header(table)
    remarks = [f"{path.name}: {variant}." for variant in table.variants]
    cells, left_out = _of_test(cells, path)
    cells, faulty = _without_faults(cells, path)
    truth = _truth(cells, path)
    identity, assumed = _identity(cells, path)
    rows = pd.concat([identity, truth], axis=1).assign(split="test")
    _refuse_two_labels(rows, path)
    classes = classes_of(cells)
    if not classes and P_ABNORMAL not in cells:
        raise UserError(
            f"{path} has no probabilities: it needs a column p:<label> for each class, such as "
            f"p:Abnormal-HAND, or one column {P_ABNORMAL}."
        )
    columns = probability_columns(classes) or [P_ABNORMAL]
    probabilities = _numbers(cells[columns], path)
    remarks += left_out + faulty + assumed
    if not classes:
        return Answers(binary_predictions(rows, probabilities[P_ABNORMAL]), True, remarks)
    known = (rows["body_part"] != "").all()
    _refuse_classes(classes, rows["label"] if known else rows["label"][:0], path)
    _refuse_other_sums(probabilities, path)
    if not known:
        remarks.append("No body part is known: only normal or abnormal is evaluated.")
        return Answers(binary_predictions(rows, p_abnormal(probabilities)), True, remarks)
    return Answers(predictions_frame(rows, classes, probabilities), False, remarks)


def binary_predictions(rows: pd.DataFrame, p: pd.Series) -> pd.DataFrame:
    """P(abnormal) as predictions of the classes of each image's own body part.

    So all that takes predictions takes them, by body part too. The levels of `evaluation.LEVELS`
    that ask for the body part then say nothing.

    Args:
        rows: with `evaluation.PREDICTION_COLUMNS`; label is made of abnormality and body part.
        p: P(abnormal) of each row, in their order.

    Example:
        >>> rows = pd.DataFrame({"path": ["a.png"], "patient": "1", "study": "1", "split": "test"})
        >>> rows = rows.assign(body_part="HAND", abnormality="Abnormal")
        >>> table = binary_predictions(rows, pd.Series([0.25]))
        >>> table[["label", "p:Abnormal-HAND", "p:Normal-HAND"]].to_dict("records")
        [{'label': 'Abnormal-HAND', 'p:Abnormal-HAND': 0.25, 'p:Normal-HAND': 0.75}]
    """
    parts = rows["body_part"]
    classes = [join(kind, part) for kind in (ABNORMAL, NORMAL) for part in sorted(set(parts))]
    own = {
        label: np.where(parts == split(label)[1], p if split(label)[0] == ABNORMAL else 1 - p, 0)
        for label in classes
    }
    labels = [*map(join, rows["abnormality"], parts)]
    return predictions_frame(rows.assign(label=labels), classes, np.stack([*own.values()], axis=1))


def _under_header(table: Table) -> pd.DataFrame:
    """The rows below the header, indexed by their line in the file."""
    header = table.cells.iloc[0]
    probabilities = probability_columns(classes_of(pd.DataFrame(columns=[*header])))
    names = [name if name in probabilities else name.lower() for name in header]
    cells = table.cells.iloc[1:].set_axis(names, axis=1)
    if cells.empty:
        raise UserError(f"{table.path} has a header and no rows.")
    for name in names:
        if names.count(name) > 1 and name:
            raise UserError(f"{table.path} has two columns {shown(name)}: keep one of them.")
    if "" in names:
        line = cells.index[(cells.loc[:, ""].to_numpy().reshape(len(cells), -1) != "").any(axis=1)]
        raise UserError(
            f"{table.path}, line {line[0]}: there are more cells than the header names; where "
            "commas are decimal, separate cells by semicolons."
        )
    return cells


def _of_test(cells: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, list[str]]:
    """The rows of the test split, where a column tells several splits apart."""
    if len(set(cells.get("split", ""))) <= 1:
        return cells, []
    test = cells[cells["split"] == "test"]
    if test.empty:
        found = ", ".join(map(shown, sorted(set(cells["split"]))))
        raise UserError(
            f"{path}, column split: there are {found} and no 'test'; keep the rows to be evaluated."
        )
    return test, [f"{len(cells) - len(test):,} rows whose split is not test are left out."]


def _without_faults(cells: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, list[str]]:
    """The rows of images that could be read, where a column names the faults of the others."""
    faults = cells.get("fault", pd.Series("", cells.index))
    faulty = faults[faults != ""]
    if faulty.empty:
        return cells, []
    if len(faulty) == len(cells):
        raise UserError(f"{path}, column fault: no row is without one; there is nothing to judge.")
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in faulty.value_counts().items())
    return cells.drop(faulty.index), [f"{len(faulty):,} rows with a fault are left out ({kinds})."]


def _truth(cells: pd.DataFrame, path: Path) -> pd.DataFrame:
    """body_part, abnormality and label of each row."""
    if "label" in cells:
        pairs = [*map(split, cells["label"])]
        truth = pd.DataFrame(pairs, columns=["abnormality", "body_part"], index=cells.index)
        column = "label"
    elif "abnormality" in cells:
        abnormality = read_flags(cells["abnormality"]).map(_FLAGS)
        parts = cells.get("body_part", "")
        truth = pd.DataFrame({"abnormality": abnormality, "body_part": parts}, index=cells.index)
        column = "abnormality"
    else:
        raise UserError(
            f"{path} has no truth: it needs a column label, such as Abnormal-HAND, or abnormality."
        )
    for line, cell in cells[column][~truth["abnormality"].isin([ABNORMAL, NORMAL])].items():
        kinds = (ABNORMAL, NORMAL)
        form = " or ".join([join(kind, "HAND") for kind in kinds] if column == "label" else kinds)
        raise UserError(f"{path}, line {line}: the {column} is {shown(cell)}; give {form}.")
    without = truth["body_part"] == ""
    if without.any() and not without.all():
        raise UserError(
            f"{path}, line {without.idxmax()}: the body part is missing, which other lines have."
        )
    labels = map(join, truth["abnormality"], truth["body_part"])
    return truth.assign(label=cells["label"] if column == "label" else [*labels])


def _identity(cells: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, list[str]]:
    """path, patient and study of each row, which no two patients share."""
    for column in ("path", "patient", "study"):
        if column in cells and (cells[column] == "").any():
            line = (cells[column] == "").idxmax()
            raise UserError(f"{path}, line {line}: the {column} is empty.")
    lines = pd.Series(cells.index.astype(str), cells.index)
    remarks = []
    images = cells.get("path")
    if images is None:
        images = lines
        remarks.append("No column path: images are named by their line; repeated ones stay unseen.")
    elif images.duplicated().any():
        line = images.duplicated().idxmax()
        first = images.eq(images[line]).idxmax()
        raise UserError(
            f"{path}, line {line}: it repeats the image of line {first}, {shown(images[line])}; "
            "keep one of them."
        )
    studies = cells.get("study", lines)
    patients = cells.get("patient")
    if patients is None:
        patients = studies
        of = "study" if "study" in cells else "row"
        remarks.append(
            f"No column patient: each {of} is its own patient, and intervals are too narrow where "
            "patients have several."
        )
    if "study" not in cells:
        remarks.append("No column study: each row is its own study.")
    elif patients.groupby(studies).nunique().max() > 1:
        studies = patients + "/" + studies  # as in MURA, where every patient has a study1
    identity = {"path": images, "patient": patients, "study": studies}
    return pd.DataFrame(identity), remarks


def _refuse_two_labels(rows: pd.DataFrame, path: Path) -> None:
    first = rows.groupby("study")["label"].transform("first")
    for line, label in rows["label"][rows["label"] != first].items():
        raise UserError(
            f"{path}, line {line}: the study {shown(rows['study'][line])} has the labels "
            f"{first[line]} and {label}; a study has one."
        )


def _numbers(cells: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Probabilities of the same shape."""
    text = cells.apply(
        lambda column: column.where(
            ~column.str.fullmatch(_DECIMAL_COMMA), column.str.replace(",", ".")
        )
    )
    values = text.apply(pd.to_numeric, errors="coerce").astype(float)
    for row, column in np.argwhere(~((values >= 0) & (values <= 1)).to_numpy()):
        cell = cells.iloc[row, column]
        found = f"is {shown(cell)}" if cell else "is empty"
        raise UserError(
            f"{path}, line {cells.index[row]}: {cells.columns[column]} {found}; give a probability "
            "from 0 to 1."
        )
    return values


def _refuse_classes(classes: list[str], labels: pd.Series, path: Path) -> None:
    """Refuse classes that are neither normal nor abnormal, and labels that are no class."""
    for label in classes:
        if split(label)[0] not in (ABNORMAL, NORMAL):
            raise UserError(
                f"{path}, column p:{label}: a class is Abnormal-… or Normal-…, such as "
                "p:Abnormal-HAND."
            )
    for line, label in labels[~labels.isin(classes)].items():
        raise UserError(
            f"{path}, line {line}: the label {shown(label)} has no column p:{label}; the classes "
            f"there are {', '.join(classes)}."
        )


def _refuse_other_sums(probabilities: pd.DataFrame, path: Path) -> None:
    """Refuse rows that do not add up to 1, but for rounding to two decimals."""
    count = probabilities.shape[1]
    total = probabilities.sum(axis=1)
    off = (total - 1).abs() > max(0.01, _ROUNDING * count)
    if off.any():
        line = off.idxmax()
        raise UserError(
            f"{path}, line {line}: the probabilities of the {count} classes add up to "
            f"{total[line]:.3g}, not 1; give those of one softmax, or only {P_ABNORMAL}."
        )
