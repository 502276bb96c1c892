"""What the folder of a run says of itself: its parameters, which notebooks are complete, its lock.

``experiment.yaml`` holds every parameter as run, ``state.json`` the notebooks whose artefacts are
complete and up to date. Files of a notebook that is not in that list may be there, from before it
was started again: nobody reads them.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from mura_utils.errors import UserError, shown
from mura_utils.experiments import (
    Experiment,
    owner,
    read_parameters,
    save_experiment,
    validate_parameters,
)
from mura_utils.locks import claim
from mura_utils.paths import read_json, read_table, reading, resolve, runs_dir, write_json
from mura_utils.runs.stages import NOTEBOOKS

ENSEMBLE = "ensemble.json"
"""The file that makes a folder an ensemble, see `runs.ensemble`; no notebook works in it."""

HELD = "MURA_LOCKED_RUN"
"""Variable in which a process names the run that it holds, for the kernels that it starts."""


# --- parameters ---------------------------------------------------------------------------------


def read_record(folder: Path) -> dict[str, Any]:
    """The parameters that a run was made with; empty for a new run."""
    path = folder / "experiment.yaml"
    return read_parameters(path) if path.exists() else {}


def read_experiment(folder: Path) -> Experiment:
    """The experiment that a run was made with; what an earlier version lacks has its default.

    Raises:
        UserError: the record is damaged.
    """
    return validate_parameters(read_record(folder), where=str(folder / "experiment.yaml"))


def refuse_changes(
    given: Mapping[str, Any], record: Mapping[str, Any], name: str, number: str
) -> None:
    """Refuse a parameter of a notebook before `number` that differs from the run's record.

    Raises:
        UserError: names the parameter and the notebook to go back to.
    """
    parameter = first_change(given, record, number)
    if parameter is not None:
        raise UserError(
            f"{parameter} = {shown(given[parameter])}, but the run {name} was made with "
            f"{shown(made_with(record)[parameter])} in notebook {owner(parameter)}: start again "
            "from there, or choose another name."
        )


def first_change(given: Mapping[str, Any], record: Mapping[str, Any], number: str) -> str | None:
    """The first parameter of a notebook before `number` that differs from a run's record."""
    before = made_with(record)
    for parameter, value in given.items():
        if owner(parameter) < number and before[parameter] != value:
            return parameter
    return None


def made_with(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of an earlier version may lack a parameter: it ran as today's default does."""
    return {**Experiment().model_dump(), **record}


def refuse_seen(folder: Path, weights: Path) -> None:
    """Refuse weights of an earlier run that learned from images which this run holds back.

    Images are compared by their content. Nothing is known of a model that is in no run's folder.

    Args:
        folder: of this run, whose notebook 03 is complete.
        weights: the earlier run's ``model.keras``.

    Raises:
        UserError: a test image was the earlier run's training or validation image, or a validation
            image its training image; or the content of images is not known.
    """
    if not all(weights.with_name(name).is_file() for name in ("manifest.csv", "splits.csv")):
        return
    here, there = (_contents(each) for each in (folder, weights.parent))
    for run, contents in ((folder, here), (weights.parent, there)):
        if "" in set().union(*contents.values()):
            raise UserError(
                f"weights: whether {weights} has learned from this run's images is not known, as "
                f"notebook 01 of {run.name} has opened no file: give read_pixels = True there."
            )
    learned = set(there["train"])
    seen = {
        "validation": learned & set(here["validation"]),
        "test": (learned | set(there["validation"])) & set(here["test"]),
    }
    if count := sum(map(len, seen.values())):
        raise UserError(
            f"weights: {weights} has learned from {count} of this run's {len(here['validation'])} "
            f"validation and {len(here['test'])} test images: give this run the protocol, the "
            "fractions and the split_seed of that one, or other weights."
        )


def images_of(folder: Path) -> pd.DataFrame:
    """The admitted images of a run with their split: manifest.csv joined with splits.csv.

    Raises:
        UserError: the two files do not name the same images, each once.
    """
    manifest, splits = (read_table(folder / name) for name in ("manifest.csv", "splits.csv"))
    if sorted(manifest["path"]) != sorted(splits["path"]) or splits["path"].duplicated().any():
        raise UserError(
            f"{folder}: manifest.csv and splits.csv do not name the same images, each once: run "
            "02_data_preprocessing and 03_data_preparation again."
        )
    return manifest.merge(splits, on="path")


def _contents(folder: Path) -> dict[str, list[str]]:
    """The sha256 of a run's images in each split."""
    images = images_of(folder)
    return {
        split: images.loc[images["split"] == split, "sha256"].tolist()
        for split in ("train", "validation", "test")
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide results."""
    libraries = ("tensorflow", "keras", "numpy", "pandas", "scikit-learn", "tf-keras-vis")
    return {"python": platform.python_version()} | {name: version(name) for name in libraries}


# --- what is complete ---------------------------------------------------------------------------


def completed(folder: Path) -> list[str]:
    """Notebooks whose artefacts in `folder` are complete and up to date, in order.

    Raises:
        UserError: state.json holds something else.
    """
    path = folder / "state.json"
    if not path.exists():
        return []
    try:
        state = read_json(path)
    except UserError:
        state = None
    done = state.get("completed") if isinstance(state, dict) else None
    if not isinstance(done, list) or done != list(NOTEBOOKS[: len(done)]):
        raise UserError(
            f"{path} does not list the completed notebooks in order, as this series writes it; "
            "restore it, or move the folder away and make the run again."
        )
    return done


def state_text(folder: Path) -> str:
    """What tells whether a notebook was started or completed since: `state.json`, or nothing."""
    path = folder / "state.json"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def begin(folder: Path, experiment: Experiment, notebook: str) -> None:
    """Record that `notebook` starts with these parameters: it and later ones are out of date.

    The state comes first, so that a kill between the two files leaves no artefact next to
    parameters that it was not made with.

    Raises:
        UserError: the folder is an ensemble's.
    """
    _refuse_ensemble(folder)
    write_completed(folder, [name for name in completed(folder) if name < notebook])
    save_experiment(experiment, folder / "experiment.yaml")


def write_completed(folder: Path, names: list[str]) -> None:
    """Record which notebooks are complete."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(folder / "state.json", {"completed": names, "changed": now})


def clear_leftovers(folder: Path) -> None:
    """Clear what a kill left half-written in a run that nobody works in.

    Of a notebook that had completed its artefacts, what was executed up to there is kept.
    """
    done = completed(folder)
    for leftover in folder.glob(".*.tmp.*"):
        leftover.unlink()
    for partial in folder.glob(".*.partial.ipynb"):
        name = partial.name.removeprefix(".").removesuffix(".partial.ipynb")
        with suppress(ValueError):  # killed while it was written
            if name in done:
                drop_machine_paths(partial)
                partial.replace(folder / f"{name}.ipynb")
        partial.unlink(missing_ok=True)


def drop_machine_paths(path: Path) -> None:
    """Drop the folders of this machine that papermill writes into the notebook's metadata."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for key in ("input_path", "output_path"):
        content["metadata"]["papermill"].pop(key, None)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def require(folder: Path, before: str) -> None:
    """Refuse to go on where an earlier notebook is not complete.

    Raises:
        UserError: names the notebook to run first, or the folder is an ensemble's.
    """
    _refuse_ensemble(folder)
    done = completed(folder)
    for name in NOTEBOOKS[: NOTEBOOKS.index(before)]:
        if name not in done:
            run = f"the run {folder.name!r} has not" if done else f"no run {folder.name!r} has"
            raise UserError(
                f"{before} needs what {name} writes, and {run} completed that: run {name} first, "
                f"with name = {folder.name!r}."
            )


def is_ensemble(folder: Path) -> bool:
    """Whether the folder is an ensemble's, which answers with the models of other runs."""
    return (folder / ENSEMBLE).is_file()


def _refuse_ensemble(folder: Path) -> None:
    if is_ensemble(folder):
        raise UserError(
            f"The run {folder.name} is an ensemble, in which no notebook works: choose another "
            "name, or go on with one of its members."
        )


def is_trained(folder: Path) -> bool:
    """Whether the run has a trained model that belongs to its parameters, or is an ensemble."""
    return is_ensemble(folder) or "05_modeling" in completed(folder)


def is_tested(folder: Path) -> bool:
    """Whether that model's metrics on the test split are there."""
    return is_ensemble(folder) or "06_evaluation" in completed(folder)


def chosen_number(path: Path, key: str) -> float | None:
    """A number that notebook 06 has chosen, from a JSON file of the run's folder.

    Args:
        path: such as that of operating_point.json or calibration.json.
        key: in the file.

    Returns:
        None where there is no such file or number, or 06 was started again since.

    Raises:
        UserError: the file is damaged.
    """
    if not (is_tested(path.parent) and path.is_file()):
        return None
    with reading(path) as content:
        return None if content[key] is None else float(content[key])


def find_run(run: str | Path) -> Path:
    """The folder of a run: a name in ``runs/``, else a path. It need not exist.

    Raises:
        UserError: no folder can be there: the name is too long, or links lead in a circle.
    """
    named = runs_dir() / run
    try:
        return resolve(named if named.is_dir() else run)
    except OSError as error:
        raise UserError(
            f"{shown(str(run))} names no run ({error.strerror}): give a name in {runs_dir()}, or a "
            "folder."
        ) from None


def require_trained(run: str | Path) -> Path:
    """The folder of a trained run, given by name or path.

    Raises:
        UserError: there is no such run, or its model is missing or out of date.
    """
    folder = find_run(run)
    if not (folder / "state.json").exists():
        raise UserError(
            f"There is no trained run {str(run)!r} in {runs_dir()}: train it with 'mura run'."
        )
    if not is_trained(folder):
        raise UserError(
            f"The run {folder.name} is not trained: its 05_modeling has not been completed since "
            "it was last started; go on with 'mura run'."
        )
    return folder


# --- who works in it ----------------------------------------------------------------------------

_held: dict[Path, FileLock] = {}  # by this process


def lock(folder: Path) -> None:
    """Claim a run's folder for this process, until `release` or the end of the process.

    Does nothing where this process, or the one that started its kernel, holds it already.

    Raises:
        UserError: another process works in it.
    """
    folder = resolve(folder)
    if folder in _held or os.environ.get(HELD) == str(folder):
        return
    _held[folder] = claim(
        folder.parent / ".locks" / f"{folder.name}.lock",
        f"Another process works in the run {folder.name}: a command, or a notebook whose kernel "
        "still runs. Wait until it ends or stop it, or choose another name.",
    )


def release(folder: Path) -> None:
    """Give up what `lock` claimed."""
    held = _held.pop(resolve(folder), None)
    if held is not None:
        held.release()


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Hold a run's folder inside the block.

    Raises:
        UserError: another process works in it.
    """
    was_held = resolve(folder) in _held
    lock(folder)
    try:
        yield
    finally:
        if not was_held:
            release(folder)
