"""Run the notebooks of an experiment one after the other, headless, with papermill."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from mura_utils.errors import UserError
from mura_utils.experiments import (
    Experiment,
    data_root,
    experiment_file,
    owner,
    read_parameters,
    require_extractor,
    validate_parameters,
    weights_file,
)
from mura_utils.paths import REPOSITORY, resolve, runs_dir
from mura_utils.runs.kernels import execute, require_kernel
from mura_utils.runs.record import (
    begin,
    clear_leftovers,
    completed,
    drop_machine_paths,
    read_record,
    refuse_changes,
    require,
    working_in,
)
from mura_utils.runs.stages import NOTEBOOKS, select_notebooks

logger = logging.getLogger(__name__)


class NotebookFailed(UserError):
    """A notebook stopped: says where, why, and how to go on."""


def resolve_experiment(
    name: str | Path, changes: Mapping[str, Any], start: str = "01"
) -> Experiment:
    """The experiment of a file with changes; going on, what earlier notebooks ran with stays.

    Args:
        name: file, or name in ``experiments/``.
        changes: parameters that replace the file's.
        start: first notebook to run, two digits.

    Raises:
        UserError: as `load_experiment`.
    """
    path = experiment_file(name)
    values = {**read_parameters(path), **changes}
    experiment = validate_parameters(values, where=path.name)
    if start > "01":
        record = read_record(runs_dir() / experiment.name)
        kept = {key: value for key, value in record.items() if owner(key) < start}
        given = values.keys() & kept.keys() - changes.keys()
        if stays := sorted(key for key in given if values[key] != kept[key]):
            logger.info(f"As the run was made, and not as in {path.name}: {', '.join(stays)}.")
        experiment = validate_parameters({**values, **kept, **changes}, where=path.name)
    return experiment


def require_inputs(experiment: Experiment, start: str, stop: str) -> None:
    """Refuse, before anything runs, weights or a library that are absent, or would be overwritten.

    Raises:
        UserError: one of the notebooks `start` to `stop` would need them.
    """
    if start <= owner("weights") <= stop:
        file = weights_file(experiment)
        if file is not None and resolve(runs_dir() / experiment.name) in resolve(file).parents:
            raise UserError(
                f"weights: {file} is the run {experiment.name}'s own, which would be overwritten: "
                "choose another --name."
            )
        require_extractor(experiment)


def run_experiment(
    experiment: Experiment,
    start: str = "01",
    stop: str = "07",
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Execute the notebooks `start` to `stop` into ``runs/<name>/``, with log lines for each.

    Args:
        experiment: every parameter; its `name` is the run's folder.
        start: first notebook, two digits. Later than 01, it goes on with an existing run.
        stop: last notebook, two digits.
        overwrite: replace a run of the same name.
        progress: a bar that counts a notebook's cells.

    Returns:
        The run's folder.

    Raises:
        UserError: the name is used, another process works in the run, there is nothing to go on
            with, the data set's folder is absent, a parameter differs from what the run was made
            with, a weights file is absent, or no kernel starts. Nothing has been touched then.
        NotebookFailed: a notebook stopped; its executed part lies in the run's folder.
    """
    names = select_notebooks(start, stop)
    require_inputs(experiment, start, stop)
    root = data_root(experiment)
    if start == "01" and experiment.source != "phantom" and not root.is_dir():
        raise UserError(f"data_dir: {root} is no folder: give the folder of the data set.")
    folder = runs_dir() / experiment.name
    _refuse(experiment, folder, names[0], overwrite)
    with working_in(folder):
        _refuse(experiment, folder, names[0], overwrite)  # unless another process came first
        require_kernel()
        if start == "01":
            discard(folder)
        clear_leftovers(folder)
        begin(folder, experiment, names[0])
        began = time.perf_counter()
        for position, name in enumerate(names, start=1):
            notebook_began = time.perf_counter()
            logger.info(f"[{position}/{len(names)}] {name}")
            _execute(name, experiment, folder, progress)
            logger.info(f"      {time.perf_counter() - notebook_began:.0f} s")
    logger.info(f"The run {experiment.name} took {time.perf_counter() - began:.0f} s: {folder}")
    return folder


def discard(folder: Path) -> None:
    """Remove a run's folder; what a kill leaves of it has a name that no run has."""
    if folder.exists():
        discarded = folder.with_name(f".{folder.name}.discarded")
        shutil.rmtree(discarded, ignore_errors=True)
        folder.rename(discarded)
        shutil.rmtree(discarded)


def _refuse(experiment: Experiment, folder: Path, first: str, overwrite: bool) -> None:
    """Refuse to go on with what does not fit, or to begin where something is."""
    if first != NOTEBOOKS[0]:
        require(folder, before=first)
        refuse_changes(experiment.model_dump(), read_record(folder), experiment.name, first[:2])
        return
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / "state.json").is_file() and not (folder / "experiment.yaml").is_file():
        raise UserError(f"{folder} exists and is no run: choose another --name.")
    if not overwrite:
        done = completed(folder)
        open_notebooks = [name for name in NOTEBOOKS if name not in done]
        go_on = f"go on with --from {open_notebooks[0][:2]}, " if done and open_notebooks else ""
        raise UserError(
            f"The run {folder.name} exists: {go_on}choose another --name, or replace it with "
            "--overwrite."
        )


def _execute(name: str, experiment: Experiment, folder: Path, progress: bool) -> None:
    """Execute one notebook next to its final place, then rename: the file is whole or absent."""
    source = REPOSITORY / "notebooks" / f"{name}.ipynb"
    partial, final = folder / f".{name}.partial.ipynb", folder / f"{name}.ipynb"
    own = {key: value for key, value in experiment.model_dump().items() if owner(key) == name[:2]}
    bar = {"desc": f"      {name}", "leave": False, "file": sys.stdout} if progress else False
    message = ""
    try:
        execute(source, partial, {"name": experiment.name, **own}, bar)
        drop_machine_paths(partial)
    except PapermillExecutionError as error:
        message = error.evalue if error.ename in _SENTENCES else f"{error.ename}: {error.evalue}"
    except DeadKernelError:
        message = "the notebook's process was killed, as happens when memory runs out"
    except RuntimeError as error:
        message = f"its kernel did not start ({error})"
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if partial.exists():
        partial.replace(final)
    if message:
        raise NotebookFailed(_failure(name, experiment, final, message))


_SENTENCES = {"UserError", "ImageFault"}


def _failure(name: str, experiment: Experiment, notebook: Path, message: str) -> str:
    go_on = f"--from {name[:2]}" if name > NOTEBOOKS[0] else "--overwrite"
    return (
        f"{name} stopped: {message.rstrip('.')}. The notebook up to there: {notebook}. "
        "After that is put right, go on with the same command and "
        f"--name {experiment.name} {go_on}."
    )
