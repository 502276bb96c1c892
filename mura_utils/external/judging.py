"""``mura evaluate``: a run on another data set beside its own test split; any tool's answers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd

from mura_utils.data.manifest import admit, merge_body_parts, quality_report, scan
from mura_utils.data.sources import open_source
from mura_utils.errors import UserError
from mura_utils.evaluation import (
    LEVELS,
    PREDICTION_COLUMNS,
    describe_counts,
    evaluate,
    metric_text,
    metrics_table,
    predictions_frame,
)
from mura_utils.evaluation.record import SCHEMA
from mura_utils.experiments import Experiment
from mura_utils.external.answers import P_ABNORMAL, binary_predictions, read_answers
from mura_utils.external.subject import Subject
from mura_utils.labels import body_part, probability_columns
from mura_utils.labels import p_abnormal as sum_of_abnormal
from mura_utils.paths import reading, resolve, write_csv, write_json
from mura_utils.runs.record import require_trained, working_in

logger = logging.getLogger(__name__)

_SHOWN = 10  # excluded files

_OF_CLASSES = {"classes", "classes_without_images", "confusion", "roc"}

Metrics = dict[str, Any]


def evaluate_file(path: Path, threshold: float | None = None, out: Path | None = None) -> None:
    """Print the metrics of any tool's predictions, with 95% intervals over patients.

    Args:
        path: see `external.read_answers`.
        threshold: abnormal is P(abnormal) above it; None is the default of notebook 06.
        out: folder for ``metrics.json``; None writes nothing.

    Raises:
        UserError: the file is not understood; `out` is a run's folder.
    """
    _refuse_run(out)
    defaults = Experiment()
    answers = read_answers(path)
    for remark in answers.remarks:
        logger.info(remark)
    threshold = defaults.threshold if threshold is None else threshold
    metrics = _judge(answers.predictions, answers.binary, threshold, defaults.bootstrap)
    logger.info(f"An image or study is called abnormal above the threshold {threshold:g}.")
    _show({path.name: metrics})
    if out is not None:
        about = {"schema": SCHEMA, "file": path.name, "binary": answers.binary}
        write_json(out / "metrics.json", {**about, **metrics})
        logger.info(f"Written: {out / 'metrics.json'}")


def evaluate_run(
    run: str | Path,
    root: Path,
    source: str = "auto",
    binary: bool = False,
    out: Path | None = None,
    progress: bool = True,
) -> Path:
    """Test a run or an ensemble on another data set, and print its metrics beside its own.

    Images that the run was trained on are left out, and so are those whose label it has no class
    for, unless `binary`. All others count, whatever the data set's official split. Image size,
    squares and threshold are the run's; nothing is chosen on the data set.

    Args:
        run: the name of a run or an ensemble, or the path of its folder.
        root: the data set's folder.
        source: what it holds, see `data.sources.open_source`.
        binary: ask only normal or abnormal, of all body parts.
        out: folder for ``predictions.csv`` and ``metrics.json``; None is ``external/NAME/`` in the
            run's folder, NAME being that of `root`.
        progress: show progress bars.

    Returns:
        The folder written to. ``metrics.json`` comes last, and an earlier one is removed first, so
        that it always belongs to the predictions.

    Raises:
        UserError: there is no such trained run, or no such data set; no body part corresponds; no
            image is left; `out` is a run's folder, or holds the results of another data set.
    """
    _refuse_run(out)
    folder = require_trained(run)
    # Another folder leaves the run as it is, which may lie where nobody can write.
    held = nullcontext() if out else working_in(folder)
    out = out or folder / "external" / root.name
    _refuse_results_of_another(out, root)
    with held:
        subject = Subject.of(folder)
        rows, counts = _images(root, source, subject, progress)
        if not binary:
            rows, counts["without_a_class"] = _with_a_class(rows, subject, root)
        rows = rows.assign(split="external")
        probabilities = subject.answer(root, rows, progress)
        predictions = _predictions(rows, subject, probabilities, binary)
        rules, threshold = subject.rules, subject.rules.threshold
        logger.info(
            f"Threshold {threshold:.4g}, from the run: {rules.threshold_from}, {rules.rule}."
        )
        resamples = subject.members[0].experiment.bootstrap
        external = _judge(predictions, binary, threshold, resamples)
        tables = {"external": external}
        own = _own_predictions(subject, None if binary else set(rows["body_part"]))
        if own is not None:
            tables = {"internal": _judge(own, binary, threshold, resamples), **tables}
        (out / "metrics.json").unlink(missing_ok=True)
        write_csv(out / "predictions.csv", _to_keep(predictions, binary))
        about = {
            "schema": SCHEMA,
            "run": folder.name,
            "models": [member.model_sha256 for member in subject.members],
            "data": root.name,
            "folder": str(resolve(root)),
            "source": rows["source"].iloc[0],
            "split": "external",
            "binary": binary,
            "left_out": counts,
        }
        internal = tables.get("internal")
        write_json(out / "metrics.json", {**about, **external, "internal": internal})
    _show(tables)
    logger.info(f"Written: {out / 'predictions.csv'} and metrics.json beside it")
    return out


# --- which images -------------------------------------------------------------------------------


def _images(
    root: Path, source: str, subject: Subject, progress: bool
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The admitted images of a folder that the run was not trained on, and counts of the others."""
    listing = open_source(root, source)
    logger.info(f"{listing}")
    inventory = scan(listing, progress=progress)
    quality = quality_report(listing, inventory)
    merge = subject.members[0].experiment.merge
    rows = merge_body_parts(admit(inventory), merge)
    for entry in quality["excluded"][:_SHOWN]:
        logger.info("excluded: {path}: {fault}: {detail}".format(**entry))
    logger.info(
        f"{len(rows):,} of {len(inventory):,} listed images are usable, of all splits; 'mura data "
        "check' lists the others, and what is odd."
    )
    for name, parts in merge.items():
        logger.info(f"As in {subject.folder.name}, {_listed(parts)} count as {name}.")
    by_split = subject.images.groupby("split")["sha256"]
    known = {"train": set(), "validation": set()} | by_split.agg(set).to_dict()
    if "" in known["train"]:
        logger.info(
            f"{subject.folder.name} was made with read_pixels = false: whether it was trained on "
            "some of these images is not known."
        )
    trained_on = rows["sha256"].isin(known["train"])
    if trained_on.any():
        logger.info(
            f"Left out: {trained_on.sum():,} images, because {subject.folder.name} was trained on "
            "files with the same content."
        )
    if trained_on.all():
        raise UserError(
            f"{subject.folder.name} was trained on all {len(rows):,} images of {root}: give images "
            "that it has not seen."
        )
    rows = rows[~trained_on].reset_index(drop=True)
    validated = int(rows["sha256"].isin(known["validation"]).sum())
    if validated:
        logger.info(
            f"{validated:,} of the others are validation images of {subject.folder.name}, on which "
            "its epoch and threshold were chosen; they count."
        )
    excluded = {fault: count for fault, count in quality["counts"]["excluded"].items() if count}
    return rows, {"excluded": excluded, "trained_on": int(trained_on.sum())}


def _with_a_class(
    rows: pd.DataFrame, subject: Subject, root: Path
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The images whose label is one of the run's classes, and how many others of each label."""
    classes = subject.networks.classes
    known = rows["label"].isin(classes)
    if not known.any():
        raise UserError(
            f"{subject.folder.name} knows {_listed(map(body_part, classes))}, and {root} has "
            f"{_listed(rows['body_part'])}: nothing corresponds; --binary asks only normal or "
            "abnormal."
        )
    others = {label: int(n) for label, n in rows["label"][~known].value_counts().items()}
    if others:
        tally = ", ".join(f"{label} {count:,}" for label, count in others.items())
        logger.info(f"Left out, as {subject.folder.name} has no such class: {tally}.")
    return rows[known].reset_index(drop=True), others


def _listed(parts: Any) -> str:
    return ", ".join(sorted(set(parts)))


# --- answers and metrics ------------------------------------------------------------------------


def _predictions(
    rows: pd.DataFrame, subject: Subject, probabilities: Any, binary: bool
) -> pd.DataFrame:
    classes = subject.networks.classes
    if not binary:
        return predictions_frame(rows, classes, probabilities)
    answers = pd.DataFrame(probabilities, columns=probability_columns(classes))
    return binary_predictions(rows, sum_of_abnormal(answers))


def _own_predictions(subject: Subject, body_parts: set[str] | None) -> pd.DataFrame | None:
    """The run's answers on its own test split, of these body parts."""
    test = subject.test_predictions()
    if test is None:
        logger.info(f"No internal numbers: {subject.folder.name} has not completed 06_evaluation.")
        return None
    kept = test if body_parts is None else test[test["body_part"].isin(body_parts)]
    if kept.empty:
        logger.info("No internal numbers: the run's test split has none of these body parts.")
        return None
    if len(kept) < len(test):
        logger.info(f"Internal: only {_listed(kept['body_part'])}, as in the external images.")
    return kept


def _to_keep(predictions: pd.DataFrame, binary: bool) -> pd.DataFrame:
    """The content of predictions.csv, which `external.read_answers` reads again."""
    if not binary:
        return predictions
    known = predictions[[*PREDICTION_COLUMNS]]
    return known.assign(**{P_ABNORMAL: sum_of_abnormal(predictions)})


def _refuse_run(out: Path | None) -> None:
    if out is not None and (out / "state.json").exists():
        raise UserError(
            f"--out {out} is a run, whose own metrics.json would be replaced: give another folder."
        )


def _refuse_results_of_another(out: Path, root: Path) -> None:
    path = out / "metrics.json"
    if not path.is_file():
        return
    data = str(resolve(root))
    with reading(path) as earlier:
        tested = earlier.get("folder", data)
    if tested != data:
        raise UserError(
            f"{out} holds the results of {tested}: give another folder with --out for those of "
            f"{data}."
        )


def _judge(predictions: pd.DataFrame, binary: bool, threshold: float, resamples: int) -> Metrics:
    """What `evaluate` gives; of the binary question only what answers it."""
    metrics = evaluate(predictions, threshold, resamples)
    dropped = {level for level in LEVELS if not level.startswith("binary")} | _OF_CLASSES
    return {key: value for key, value in metrics.items() if not (binary and key in dropped)}


def _show(metrics: Mapping[str, Metrics]) -> None:
    """Print counts, and the metrics of each set in a column of its own."""
    for name, of in metrics.items():
        logger.info(f"{name}: {describe_counts(of['counts'])}.")
    resamples = next(iter(metrics.values()))["bootstrap"]["resamples"]
    logger.info(f"With 95% intervals over patients, {resamples:,} resamples:")
    table = side_by_side(metrics).to_string()
    logger.info(table)
    if " W" in table:
        logger.info("W: Wilson's interval, where no resample can differ.")


def side_by_side(metrics: Mapping[str, Metrics]) -> pd.DataFrame:
    """One row a level and metric, one column a set: value and interval as text.

    Example:
        >>> auroc = {"value": 0.8, "low": 0.7, "high": 0.9}
        >>> table = side_by_side({"external": {"binary_image": {"auroc": auroc}}})
        >>> table.loc[("binary, per image", "auroc"), "external"]
        '0.800 [0.700, 0.900]'
    """
    columns = {}
    for name, of in metrics.items():
        table = metrics_table({level: {} for level in LEVELS} | dict(of))
        texts = [metric_text(row) for row in table.to_dict("records")]
        columns[name] = pd.Series(texts, pd.MultiIndex.from_frame(table[["level", "metric"]]))
    return pd.DataFrame(columns)
