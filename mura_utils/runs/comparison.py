"""Trained runs side by side: one row an experiment, over its seeds (report Fig. 28)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mura_utils import report
from mura_utils.errors import UserError, naming_damage
from mura_utils.evaluation.paired import compare_paired
from mura_utils.evaluation.predictions import PREDICTION_COLUMNS, require_columns
from mura_utils.paths import read_table, reading
from mura_utils.runs.ensemble import read_ensemble, require_members
from mura_utils.runs.record import (
    chosen_number,
    find_run,
    is_ensemble,
    is_tested,
    is_trained,
    read_experiment,
)

REPORT_COLUMNS = {name: f"report_mura_image_split_{name}" for name in ("val_accuracy", "val_loss")}
"""The columns of `compare` that hold the report's values, by their names in `report.FIG_28`."""

NOT_TRAINED = "not trained"

_TEST_METRICS = {
    "test_accuracy": ("image", "accuracy"),
    "test_kappa": ("image", "kappa"),
    "test_auroc_abnormal": ("binary_image", "auroc"),
    "test_kappa_study": ("binary_study", "kappa"),
}
"""Columns, and where `evaluation.evaluate` puts their values."""

_HEADINGS = {
    "val_accuracy": ("validation accuracy", 3),
    "val_loss": ("validation loss", 3),
    "accuracy": ("training accuracy", 3),
    "loss": ("training loss", 3),
    "test_accuracy": ("test accuracy", 3),
    "test_kappa": ("test kappa, all classes per image", 3),
    "test_auroc_abnormal": ("test AUROC, abnormal per image", 3),
    "test_kappa_study": ("test kappa, binary per study", 3),
    "epochs": ("epochs", 1),
    "seconds": ("seconds of training", 0),
    REPORT_COLUMNS["val_accuracy"]: ("the report's validation accuracy (MURA, image split)", 2),
    REPORT_COLUMNS["val_loss"]: ("the report's validation loss (MURA, image split)", 2),
}
"""Columns of numbers: heading, and decimals shown."""

_MEASURES = [column for column in _HEADINGS if column not in REPORT_COLUMNS.values()]
_OF_TRAINING = [column for column in _MEASURES if column not in _TEST_METRICS]


def find_runs(arguments: Iterable[str | Path]) -> tuple[list[Path], dict[str, str]]:
    """The folders of trained runs among `arguments`, each once, and why the others are left out.

    Args:
        arguments: names in ``runs/``, or paths of folders.

    Raises:
        UserError: there is no trained run among them.
    """
    folders: list[Path] = []
    left_out = {}
    for argument in arguments:
        try:
            folder = find_run(argument)
            if not folder.is_dir():
                left_out[str(argument)] = "there is no such run"
            elif not is_trained(folder):
                left_out[str(argument)] = NOT_TRAINED
            elif folder not in folders:
                _read(folder)
                folders.append(folder)
        except UserError as error:
            left_out[str(argument)] = str(error)
    if not folders:
        reasons = "; ".join(f"{name}: {reason.rstrip('.')}" for name, reason in left_out.items())
        raise UserError(f"There is no trained run ({reasons}); train one with 'mura run'.")
    return folders, left_out


def compare(folders: Sequence[Path]) -> pd.DataFrame:
    """Trained runs, grouped over seeds; the best mean validation accuracy comes first.

    Runs form a group when they differ in `seed` and `name` only. A seed counts once: a second run
    of the same seed begins another group. A group is labeled with its runs' name without
    ``-seed<k>``, or with their full names where another group has that label. An ensemble is a
    group by itself, labeled with its name.

    Args:
        folders: of trained runs.

    Returns:
        One row a group, indexed by label: runs (how many), tested (how many of them have completed
        06_evaluation), names; ensemble (of what, empty for runs); the mean of each measure and, as
        ``<measure>_sd``, its standard deviation (n - 1, NaN for one run); `REPORT_COLUMNS`, NaN
        where the report has no such run; source, protocol. The measures are val_accuracy, val_loss,
        accuracy and loss of the best epoch, epochs and seconds of the training, and over the tested
        runs test_accuracy, test_kappa (all classes, per image), test_auroc_abnormal (per image) and
        test_kappa_study (binary). An ensemble's seconds are those of all its members; what only a
        training has (val_loss, accuracy, loss, epochs) is NaN.

    Raises:
        UserError: there are no folders.
    """
    rows = {label: _describe(group) for label, group in _groups(folders).items()}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("experiment")
    return table.sort_values("val_accuracy", ascending=False, kind="stable")


def differing_parameters(folders: Sequence[Path]) -> pd.DataFrame:
    """The parameters that are not the same in all groups of `compare`; columns are its labels.

    Where members of an ensemble differ, its value is the list of theirs.
    """
    groups = _groups(folders)
    values = {label: json.loads(group["parameters"].iloc[0]) for label, group in groups.items()}
    table = pd.DataFrame(
        {label: pd.Series(parameters, dtype=object) for label, parameters in values.items()}
    )
    differs = [len(set(row)) > 1 for row in table.map(json.dumps).to_numpy()]
    return table[differs].rename_axis("parameter")


def compare_on_same_images(first: Path, second: Path) -> tuple[pd.DataFrame, str]:
    """Two tested runs, or ensembles, on the test images that they share.

    Each is judged at the threshold of its ``operating_point.json``, or, without that file, at the
    one of its ``metrics.json``.

    Returns:
        The table of `evaluation.paired.compare_paired`, and a line on what was compared.

    Raises:
        UserError: a run is not tested or damaged, or the test images are not the same.
    """
    tables, thresholds = [], []
    for folder in (first, second):
        if not is_tested(folder):
            raise UserError(
                f"The run {folder.name} is not tested: go on with 'mura run', or leave out "
                "--paired."
            )
        path = folder / "predictions.csv"
        with naming_damage(path, "run 06_evaluation again"):
            predictions = read_table(path)
            require_columns(predictions, (*PREDICTION_COLUMNS, "predicted"))
            if predictions["path"].duplicated().any():
                raise ValueError("it names an image twice")
            tables.append(predictions[predictions["split"] == "test"].reset_index(drop=True))
        threshold = chosen_number(folder / "operating_point.json", "threshold")
        if threshold is None:
            with reading(folder / "metrics.json") as described:
                threshold = float(described["threshold"])
        thresholds.append(threshold)
    compared = compare_paired(*tables, (thresholds[0], thresholds[1]))
    images, studies, patients = (tables[0][name].nunique() for name in ("path", "study", "patient"))
    line = (
        f"{first.name} (threshold {thresholds[0]:.3g}) and {second.name} ({thresholds[1]:.3g}) on "
        f"the same {images:,} test images, {studies:,} studies, {patients:,} patients:"
    )
    return compared.set_axis([first.name, second.name, *compared.columns[2:]], axis=1), line


def table(runs_folder: Path) -> pd.DataFrame:
    """All trained runs in a folder, compared by training and validation, ready for display.

    What the test images say stays out: notebook 05 shows this, and only 06 opens the test set.
    """
    folders, left_out = find_runs(sorted(runs_folder.glob("[!.]*/")))
    for name, reason in left_out.items():
        if reason != NOT_TRAINED:
            print(f"Left out, {Path(name).name}: {reason}")
    compared = compare(folders)
    return format_table(compared.assign(tested=0, **dict.fromkeys(_TEST_METRICS, np.nan)))


def format_table(compared: pd.DataFrame) -> pd.DataFrame:
    """The table of `compare` as text, "0.812 ± 0.010"; columns without any number are left out."""
    runs = compared["runs"].astype(str)
    partly = compared["tested"].between(1, compared["runs"] - 1)
    columns = {"runs": runs.mask(partly, runs + compared["tested"].map(" ({} tested)".format))}
    if compared["ensemble"].any():
        columns["ensemble"] = compared["ensemble"]
    for name, (heading, decimals) in _HEADINGS.items():
        if compared[name].notna().any():
            spread = compared.get(f"{name}_sd", pd.Series(np.nan, compared.index))
            columns[heading] = [
                _text(mean, deviation, decimals)
                for mean, deviation in zip(compared[name], spread, strict=True)
            ]
    return pd.DataFrame(columns).join(compared[["source", "protocol"]])


def _text(mean: float, deviation: float, decimals: int) -> str:
    if np.isnan(mean):
        return "–"
    return f"{mean:.{decimals}f}" + ("" if np.isnan(deviation) else f" ± {deviation:.{decimals}f}")


def _groups(folders: Sequence[Path]) -> dict[str, pd.DataFrame]:
    """The runs of each group, by its label."""
    if not folders:
        raise UserError("There is no trained run to compare: train one with 'mura run'.")
    runs = pd.DataFrame([_read(folder) for folder in folders])
    # Of two runs of one seed, that of a sweep belongs to the sweep's group.
    runs = runs.sort_values(["alone", "stem", "seed", "name"], kind="stable")
    alike = ["ensemble", "parameters"]
    runs["repetition"] = runs.groupby([*alike, "seed"]).cumcount()
    groups = [group for _, group in runs.groupby([*alike, "repetition"], sort=False)]
    labels = [_stems(group) for group in groups]
    for column in ("name", "folder"):
        labels = [
            label if labels.count(label) == 1 else ", ".join(group[column])
            for label, group in zip(labels, groups, strict=True)
        ]
    return dict(zip(labels, groups, strict=True))


def _read(folder: Path) -> dict[str, Any]:
    """One run as a row: its name, parameters and measures."""
    row = _read_ensemble(folder) if is_ensemble(folder) else _read_run(folder)
    row |= {"name": folder.name, "folder": str(folder), "tested": is_tested(folder)}
    row |= dict.fromkeys(_TEST_METRICS)
    if row["tested"]:
        with reading(folder / "metrics.json") as metrics:
            row["source"] = str(metrics["source"])  # what "auto" has recognized
            for column, (level, metric) in _TEST_METRICS.items():
                value = metrics[level][metric]["value"]
                row[column] = None if value is None else float(value)
    return row


def _read_run(folder: Path) -> dict[str, Any]:
    parameters = read_experiment(folder).model_dump()
    seed = parameters.pop("seed")
    del parameters["name"]
    stem = re.sub(r"-seed\d+$", "", folder.name)
    with reading(folder / "training.json") as described:
        values = {**described["best"], **described}
        measures = {name: float(values[name]) for name in _OF_TRAINING}
    return {
        **measures,
        "ensemble": "",
        "stem": stem,
        "alone": stem == folder.name,
        "seed": seed,
        "parameters": json.dumps(parameters, sort_keys=True),
        "source": parameters["source"],
        "protocol": parameters["protocol"],
    }


def _read_ensemble(folder: Path) -> dict[str, Any]:
    ensemble = read_ensemble(folder)
    require_members(folder.name, ensemble)
    return {
        **dict.fromkeys(_OF_TRAINING, np.nan),
        "val_accuracy": ensemble.val_accuracy,
        "seconds": sum(member.seconds for member in ensemble.members),
        "ensemble": ensemble.title,
        "stem": folder.name,
        "alone": True,
        "seed": 0,
        "parameters": json.dumps(ensemble.parameters, sort_keys=True),
        "source": ensemble.members[0].experiment.source,
        "protocol": ensemble.members[0].experiment.protocol,
    }


def _describe(group: pd.DataFrame) -> dict[str, Any]:
    """The row of a group: means and standard deviations over its seeds."""
    tested = group[group["tested"]]
    row: dict[str, Any] = {
        "runs": len(group),
        "tested": len(tested),
        "names": ", ".join(group["name"]),
        "ensemble": group["ensemble"].iloc[0],
    }
    for measure in _MEASURES:
        rows = tested if measure in _TEST_METRICS else group
        values = rows[measure].to_numpy(float)
        row[measure] = values.mean() if len(values) else np.nan
        row[f"{measure}_sd"] = values.std(ddof=1) if len(values) > 1 else np.nan
    stems = "" if row["ensemble"] else _stems(group)
    for value, column in REPORT_COLUMNS.items():
        row[column] = report.FIG_28[value].get(stems, np.nan)
    known = tested if len(tested) else group
    return {**row, **known.iloc[0][["source", "protocol"]]}


def _stems(group: pd.DataFrame) -> str:
    return ", ".join(group["stem"].unique())
