"""Make a run of the mean of several, as ``mura ensemble`` does.

Without mirror images and without a soup no network is loaded: notebook 06 has kept what each member
answered on the images of validation and test.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mura_utils.data.dataset import Images, load_images
from mura_utils.data.relabel import evaluate_relabeled
from mura_utils.errors import UserError, naming_damage, shown
from mura_utils.evaluation import (
    PREDICTION_COLUMNS,
    calibration_record,
    choose_operating_point,
    clinical_use,
    conformal_record,
    constant_answer,
    evaluate,
    fit_temperature,
    judge_operating_point,
    metrics_record,
    metrics_table,
    predictions_frame,
    risk_coverage,
)
from mura_utils.experiments import data_root, relabel_file, validate_parameters
from mura_utils.labels import probabilities_of, probability_columns
from mura_utils.paths import atomic_write, read_table, runs_dir, write_csv, write_json
from mura_utils.runs.ensemble import (
    Ensemble,
    Member,
    read_member,
    require_members,
    write_ensemble,
)
from mura_utils.runs.model_card import write_model_card
from mura_utils.runs.pipeline import discard
from mura_utils.runs.record import is_ensemble, is_tested, working_in, write_completed
from mura_utils.sections import Evaluation

logger = logging.getLogger(__name__)

_COMPARED = [*PREDICTION_COLUMNS, "sha256"]

_SHOWN = ("accuracy", "kappa", "auroc", "sensitivity", "specificity")


def make_ensemble(
    runs: Sequence[str | Path],
    name: str = "",
    flip: bool = False,
    soup: bool = False,
    overwrite: bool = False,
) -> Path:
    """Average runs into ``runs/<name>/``, with the files that notebook 06 writes for a run.

    All members have the same weight. They may differ in everything but their images, labels and
    split, and the parameters of notebook 06; so no member has learned from an image that another is
    tested on.

    Args:
        runs: names in ``runs/``, or folders; trained, and tested unless `soup`. One is enough with
            `flip`.
        name: of the ensemble; made of the members' names where it is empty.
        flip: average over each image and its mirror image as well.
        soup: average the members' weights (see `network.soup.mean_network`), not their answers.
        overwrite: replace an ensemble of that name, never a run.

    Returns:
        The ensemble's folder. It appears as a whole.

    Raises:
        UserError: runs that are too few, given twice, not trained, not tested, ensembles
            themselves, or of other classes, images, labels or splits; a name in use; a soup of
            different networks; damaged files.
    """
    members = _members(runs, soup)
    if len(members) < 2 and (soup or not flip):
        raise UserError(
            "An ensemble needs two runs or more: name them, or average the answers of one run over "
            "mirror images with --flip alone."
        )
    name = name or _name(members, flip, soup)
    folder = runs_dir() / validate_parameters({"name": name}, "mura ensemble").name
    _refuse_in_use(folder, overwrite)
    manifest = _common_manifest(members)
    experiment = _common_evaluation(members)
    classes = members[0].classes
    held_out = manifest[manifest["split"] != "train"]
    with working_in(folder), atomic_write(folder) as temporary:
        temporary.mkdir()
        answers = (
            _soup_answers(members, manifest, flip, temporary / "model.keras")
            if soup
            else _answers(members, manifest, flip)
        )
        # float32, as networks answer and 06 writes it
        mean = np.mean([*answers], axis=0, dtype=float).astype(np.float32)
        predictions = predictions_frame(held_out, classes, mean)
        test, validation = (
            predictions[predictions["split"] == split] for split in ("test", "validation")
        )
        metrics = evaluate(test, experiment.threshold, experiment.bootstrap)
        constant = constant_answer(manifest, classes, experiment.threshold)
        point = choose_operating_point(
            validation,
            experiment.operating_point,
            experiment.operating_target,
            experiment.threshold,
        )
        fitted = fit_temperature(validation)
        sections = {
            "operating_point": judge_operating_point(test, point, experiment.bootstrap),
            "calibration": calibration_record(test, fitted, experiment.bootstrap),
            "conformal": conformal_record(validation, test, experiment.bootstrap),
            "risk_coverage": risk_coverage(test, experiment.bootstrap),
            "clinical": clinical_use(predictions, experiment.bootstrap),
            "relabel": evaluate_relabeled(
                test, relabel_file(experiment), experiment.threshold, experiment.bootstrap
            ),
        }
        accuracy = float((validation["label"] == validation["predicted"]).mean())
        ensemble = Ensemble(members, soup, flip, accuracy)
        write_csv(temporary / "predictions.csv", predictions)
        source = manifest["source"].iloc[0]
        write_json(temporary / "operating_point.json", point)
        write_json(temporary / "calibration.json", fitted)
        described = metrics_record(source, metrics, constant, **sections)
        write_json(temporary / "metrics.json", described)
        write_ensemble(temporary, ensemble)
        write_completed(temporary, [])
        require_members(folder.name, ensemble)  # unless a training of one ended meanwhile
        write_model_card(temporary, folder.name)
        _refuse_in_use(folder, overwrite)
        discard(folder)
    alone = ", ".join(f"{member.val_accuracy:.3f}" for member in members)
    logger.info(
        f"{folder.name}, {ensemble.title}: validation accuracy {accuracy:.3f}, alone {alone}."
    )
    table = metrics_table(metrics)
    logger.info(f"{metrics['counts']['images']:,} test images, with 95% intervals:")
    logger.info(table[table["metric"].isin(_SHOWN)].round(3).to_string(index=False))
    if fitted["not_fitted"]:
        logger.info(f"Temperature 1, not fitted: {fitted['not_fitted']}.")
    logger.info(f"The ensemble {folder.name}: {folder}")
    return folder


def _members(runs: Sequence[str | Path], soup: bool) -> tuple[Member, ...]:
    members: list[Member] = []
    for run in runs:
        member = read_member(run)
        if member.folder in [other.folder for other in members]:
            raise UserError(f"The run {member.name} is given twice: name each member once.")
        if not soup and not is_tested(member.folder):
            raise UserError(
                f"The run {member.name} has not completed 06_evaluation, whose predictions are "
                "averaged: go on with 'mura run' and --from 06."
            )
        members.append(member)
    return tuple(members)


def _name(members: Sequence[Member], flip: bool, soup: bool) -> str:
    """What the members' names share but for their seeds, and the kind of ensemble."""
    stems = {re.sub(r"-seed\d+$", "", member.name) for member in members}
    kind = "soup" if soup else "ensemble" if len(members) > 1 else ""
    parts = [*(stems if len(stems) == 1 else ()), kind, "flip" if flip else ""]
    return "-".join(filter(None, parts))


def _refuse_in_use(folder: Path, overwrite: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not is_ensemble(folder):
        raise UserError(f"{folder} exists and is no ensemble: choose another --name.")
    if not overwrite:
        raise UserError(
            f"The ensemble {folder.name} exists: choose another --name, or replace it with "
            "--overwrite."
        )


# --- what members have in common ----------------------------------------------------------------


def _common_evaluation(members: Sequence[Member]) -> Any:
    """The parameters of notebook 06 that all members ran with."""
    first, *others = members
    for other in others:
        for parameter in Evaluation.model_fields:
            ours, theirs = (getattr(one.experiment, parameter) for one in (first, other))
            if ours != theirs:
                raise UserError(
                    f"{parameter} = {shown(theirs)} in {other.name}, but {shown(ours)} in "
                    f"{first.name}: run 06_evaluation of one of them again with the other's value."
                )
    return first.experiment


def _common_manifest(members: Sequence[Member]) -> pd.DataFrame:
    """The first member's images with their splits, which are those of the others.

    Raises:
        UserError: names the run, the image and the column that differ, or the classes.
    """
    first, *others = members
    manifest = _manifest(first)
    ours = manifest[_COMPARED].set_index("path")
    for other in others:
        if other.classes != first.classes:
            raise UserError(
                f"{other.name} has the classes {', '.join(other.classes)}, but {first.name} "
                f"{', '.join(first.classes)}: members need the same classes in the same order."
            )
        theirs = _manifest(other)[_COMPARED].set_index("path")
        lacking = ours.index.symmetric_difference(theirs.index)
        if len(lacking):
            has, lacks = (first, other) if lacking[0] in ours.index else (other, first)
            raise UserError(
                f"{has.name} has the image {lacking[0]}, but {lacks.name} does not: members need "
                "the same images, labels and split."
            )
        differs = ours != theirs.loc[ours.index]
        if differs.to_numpy().any():
            image = differs.any(axis=1).idxmax()
            column = differs.loc[image].idxmax()
            raise UserError(
                f"{column} of {image} is {shown(theirs.loc[image, column])} in {other.name}, but "
                f"{shown(ours.loc[image, column])} in {first.name}: members need the same images, "
                "labels and split."
            )
    return manifest


def _manifest(member: Member) -> pd.DataFrame:
    columns = [name for name in _COMPARED if name != "split"]
    manifest = _read(member, "manifest.csv", "02_data_preprocessing", [*columns, "source"])
    splits = _read(member, "splits.csv", "03_data_preparation", ["path", "split"])
    with naming_damage(member.folder / "splits.csv", "run 03_data_preparation again"):
        if sorted(manifest["path"]) != sorted(splits["path"]):
            raise ValueError("it names other images than manifest.csv")
        return manifest.merge(splits, on="path", validate="one_to_one")


def _read(member: Member, name: str, notebook: str, columns: Sequence[str]) -> pd.DataFrame:
    with naming_damage(member.folder / name, f"run {notebook} again"):
        return read_table(member.folder / name)[[*columns]]


# --- answers ------------------------------------------------------------------------------------


def _answers(members: Sequence[Member], manifest: pd.DataFrame, flip: bool) -> Iterator[np.ndarray]:
    """Probabilities (n, K) of the images that are not trained on: each member's, and mirrored."""
    for member in members:
        yield _kept_answers(member, manifest)
        if flip:
            from mura_utils.network.build import load_model

            model = load_model(member.folder / "model.keras")
            yield _mirrored_answers(model, member, manifest)
            logger.info(f"{member.name} has answered the mirror images.")


def _kept_answers(member: Member, manifest: pd.DataFrame) -> np.ndarray:
    """What notebook 06 has kept, in the manifest's order."""
    path = member.folder / "predictions.csv"
    columns = ["path", *probability_columns(member.classes)]
    predictions = _read(member, path.name, "06_evaluation", columns)
    held_out = manifest.loc[manifest["split"] != "train", "path"]
    with naming_damage(path, "run 06_evaluation again"):
        if sorted(predictions["path"]) != sorted(held_out):
            raise ValueError("it has other images than splits.csv holds out")
        answers = probabilities_of(predictions.set_index("path").loc[held_out])
        answers = answers.to_numpy(np.float32)  # what the file was written from
        if not ((answers >= 0) & (answers <= 1)).all():
            raise ValueError("it has probabilities outside 0..1")
    return answers


def _soup_answers(
    members: Sequence[Member], manifest: pd.DataFrame, flip: bool, file: Path
) -> Iterator[np.ndarray]:
    """The same of the network of the members' mean weights, which is saved to `file`."""
    from mura_utils import frozen
    from mura_utils.network.soup import mean_network

    first, *others = members
    for other in others:
        for parameter in ("resize", "second_look"):
            ours, theirs = (getattr(each.experiment, parameter) for each in (first, other))
            if ours != theirs:
                raise UserError(
                    f"{parameter} = {theirs} in {other.name}, but {ours} in {first.name}: one "
                    "network reads all images alike; leave out --soup to average the answers."
                )
    model = mean_network({member.name: member.folder / "model.keras" for member in members})
    model.save(file)
    answers, how = frozen.predict(model, _images(first, manifest), first.experiment)
    logger.info(f"The soup: {how}")
    yield answers
    if flip:
        yield _mirrored_answers(model, first, manifest)
        logger.info("The soup has answered the mirror images.")


def _mirrored_answers(model: Any, member: Member, manifest: pd.DataFrame) -> np.ndarray:
    """A network's probabilities for the images mirrored left to right."""
    from mura_utils.network.second_look import answer

    images, experiment = _images(member, manifest), member.experiment
    rows = images.positions("validation", "test")
    options = {"mirrored": True, "second_look": experiment.second_look}
    return answer(model, images, rows, experiment.batch_size, **options)


def _images(member: Member, manifest: pd.DataFrame) -> Images:
    experiment = member.experiment
    root = data_root(experiment)
    size, resize = experiment.image_size, experiment.resize
    return load_images(root, manifest, size, resize, tabular=experiment.tabular)
