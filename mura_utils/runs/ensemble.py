"""The folder of an ensemble: what it was made of, and whether that still lies there.

It holds ``ensemble.json``, which makes it an ensemble, and what notebook 06 writes for a run:
``predictions.csv``, ``metrics.json`` and ``operating_point.json``. A soup has a ``model.keras`` of
its own; every other ensemble answers with the models of its members, and counts only while these
are the ones that it was made of.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mura_utils.errors import UserError
from mura_utils.experiments import Experiment, validate_parameters
from mura_utils.paths import reading, runs_dir, write_json
from mura_utils.runs.record import (
    ENSEMBLE,
    chosen_number,
    find_run,
    is_ensemble,
    is_trained,
    read_experiment,
    require_trained,
)


@dataclass(frozen=True)
class Member:
    """A trained run as an ensemble takes it.

    Attributes:
        folder: of the run.
        model_sha256: of the network's weights, see `training.describe_training`.
        classes: its labels, in the order of its outputs.
        val_accuracy: share of the validation images with the right label.
        seconds: how long its training took.
        experiment: its parameters.
    """

    folder: Path
    model_sha256: str
    classes: list[str]
    val_accuracy: float
    seconds: float
    experiment: Experiment

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.name


@dataclass(frozen=True)
class Ensemble:
    """What an ensemble is made of.

    Attributes:
        members: at least one, all of the same classes.
        soup: whether the mean of the members' weights answers, not the mean of their answers.
        flip: whether the mirror image of each image is answered as well.
        val_accuracy: share of the validation images that get the right label.
    """

    members: tuple[Member, ...]
    soup: bool
    flip: bool
    val_accuracy: float

    @property
    def classes(self) -> list[str]:
        """The labels, in the order of the outputs."""
        return self.members[0].classes

    @property
    def title(self) -> str:
        """Its members in words, as in "mean of a, b"."""
        names = ", ".join(member.name for member in self.members)
        return f"{'soup' if self.soup else 'mean'} of {names}" + ", mirrored too" * self.flip

    @property
    def parameters(self) -> dict[str, Any]:
        """The members' parameters, without name and seed: a value, or a list where they differ."""
        records = [member.experiment.model_dump() for member in self.members]
        merged = {}
        for key in [key for key in records[0] if key not in ("name", "seed")]:
            values = {json.dumps(record[key]): record[key] for record in records}
            merged[key] = values.popitem()[1] if len(values) == 1 else [*values.values()]
        return merged


@dataclass(frozen=True)
class Networks:
    """Whose mean a run's answer is.

    Attributes:
        files: of the models.
        resize: how each model's images become squares, see `data.squares.resize`.
        tabular: what each model reads of a patient, see `data.tabular.COLUMNS`.
        second_look: whether each model reads an image twice, see `network.second_look`.
        flip: whether each answers the mirror image as well.
        taught: whether masks taught all of them where a finding is, see `mask_supervision`.
        classes: labels, in the order of the outputs.
        threshold: abnormal is P(abnormal) above it, as the runs' parameter says.
        described_in: the file that names the classes.
    """

    files: list[Path]
    resize: list[str]
    tabular: list[list[str]]
    second_look: list[bool]
    flip: bool
    taught: bool
    classes: list[str]
    threshold: float
    described_in: Path


@dataclass(frozen=True)
class Rules:
    """What notebook 06 has chosen on validation images for a run or an ensemble.

    Attributes:
        threshold: an image is abnormal if P(abnormal) is above it.
        threshold_from: the file that it was read from.
        rule: by which it was chosen; "the parameter threshold" where 06 has chosen none.
        temperature: divides the logits to calibrate them; None if 06 has fitted none.
    """

    threshold: float
    threshold_from: str
    rule: str
    temperature: float | None

    @classmethod
    def of(cls, folder: Path, networks: Networks) -> Rules:
        """Those of a run or an ensemble.

        Raises:
            UserError: a file of notebook 06 is damaged.
        """
        temperature = chosen_number(folder / "calibration.json", "temperature")
        path = folder / "operating_point.json"
        threshold = chosen_number(path, "threshold")
        if threshold is None:
            parameters = ENSEMBLE if is_ensemble(folder) else "experiment.yaml"
            return cls(networks.threshold, parameters, "the parameter threshold", temperature)
        with reading(path) as point:
            return cls(threshold, path.name, str(point["rule"]), temperature)


def read_member(run: str | Path) -> Member:
    """A run that can be a member.

    Raises:
        UserError: there is no such trained run, its record is damaged, or it is an ensemble itself.
    """
    folder = require_trained(run)
    if is_ensemble(folder):
        inside = " ".join(member.name for member in read_ensemble(folder).members)
        raise UserError(f"{folder.name} is an ensemble itself: give its members instead, {inside}.")
    experiment = read_experiment(folder)
    with reading(folder / "training.json") as training:
        return Member(
            folder,
            model_sha256=str(training["model_sha256"]),
            classes=[str(label) for label in training["classes"]],
            val_accuracy=float(training["best"]["val_accuracy"]),
            seconds=float(training["seconds"]),
            experiment=experiment,
        )


def write_ensemble(folder: Path, ensemble: Ensemble) -> None:
    """Write ``ensemble.json``; members in ``runs/`` are named, others are paths."""
    members = [
        {
            "run": member.name if member.folder.parent == runs_dir() else str(member.folder),
            "model_sha256": member.model_sha256,
            "val_accuracy": member.val_accuracy,
            "seconds": member.seconds,
            "parameters": member.experiment.model_dump(),
        }
        for member in ensemble.members
    ]
    content = {
        "members": members,
        "soup": ensemble.soup,
        "flip": ensemble.flip,
        "classes": ensemble.classes,
        "val_accuracy": ensemble.val_accuracy,
    }
    write_json(folder / ENSEMBLE, content)


def read_ensemble(folder: Path) -> Ensemble:
    """What an ensemble was made of.

    Raises:
        UserError: its file is damaged.
    """
    path = folder / ENSEMBLE
    with reading(path) as content:
        classes = [str(label) for label in content["classes"]]
        members = tuple(
            Member(
                find_run(str(member["run"])),
                model_sha256=str(member["model_sha256"]),
                classes=classes,
                val_accuracy=float(member["val_accuracy"]),
                seconds=float(member["seconds"]),
                experiment=validate_parameters(
                    member["parameters"], where=f"{path}, {member['run']}"
                ),
            )
            for member in content["members"]
        )
        soup, flip = content["soup"], content["flip"]
        if not members or not isinstance(soup, bool) or not isinstance(flip, bool):
            raise ValueError("members, soup or flip")
        return Ensemble(members, soup, flip, float(content["val_accuracy"]))


def require_members(name: str, ensemble: Ensemble) -> None:
    """Refuse an ensemble whose members are not the ones that it was made of.

    A soup has taken their weights and needs them no longer.

    Raises:
        UserError: names the first member that is gone, not trained, or trained again since.
    """
    for member in () if ensemble.soup else ensemble.members:
        again = f"make {name} again with 'mura ensemble' and --overwrite"
        if not is_trained(member.folder):
            raise UserError(
                f"The ensemble {name} needs its member {member.folder}, which is no trained run "
                f"any more: train that, then {again}."
            )
        if read_member(member.folder).model_sha256 != member.model_sha256:
            raise UserError(
                f"The ensemble {name} was made before its member {member.name} was trained again: "
                f"{again}."
            )


def networks_of(folder: Path) -> Networks:
    """The networks that answer for a trained run, which may be an ensemble.

    Raises:
        UserError: its record is damaged, or a member is not the one that it was made of.
    """
    if not is_ensemble(folder):
        described_in = folder / "training.json"
        with reading(described_in) as training:
            classes = list(training["classes"])
        experiment = read_experiment(folder)
        return Networks(
            files=[folder / "model.keras"],
            resize=[experiment.resize],
            tabular=[experiment.tabular],
            second_look=[experiment.second_look],
            flip=False,
            taught=experiment.mask_supervision > 0,
            classes=classes,
            threshold=experiment.threshold,
            described_in=described_in,
        )
    ensemble = read_ensemble(folder)
    require_members(folder.name, ensemble)
    own = [folder] if ensemble.soup else [member.folder for member in ensemble.members]
    experiments = [member.experiment for member in ensemble.members]
    return Networks(
        files=[place / "model.keras" for place in own],
        resize=[experiment.resize for experiment in experiments][: len(own)],
        tabular=[experiment.tabular for experiment in experiments][: len(own)],
        second_look=[experiment.second_look for experiment in experiments][: len(own)],
        flip=ensemble.flip,
        taught=all(experiment.mask_supervision > 0 for experiment in experiments),
        classes=ensemble.classes,
        threshold=experiments[0].threshold,
        described_in=folder / ENSEMBLE,
    )
