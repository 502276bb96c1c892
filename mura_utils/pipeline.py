"""Run the notebooks of an experiment one after the other, headless, with papermill."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from mura_utils.errors import UserError
from mura_utils.experiments import (
    Experiment,
    experiment_file,
    owner,
    read_parameters,
    save_experiment,
    validate_parameters,
    weights_file,
)
from mura_utils.notebook import NOTEBOOKS, completed, read_record, refuse_changes, require
from mura_utils.paths import REPOSITORY, runs_dir


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
        experiment = validate_parameters({**values, **kept, **changes}, where=path.name)
    return experiment


def require_weights(experiment: Experiment, start: str, stop: str) -> None:
    """Refuse, before anything runs, a weights file that is absent.

    Raises:
        UserError: one of the notebooks `start` to `stop` would read it.
    """
    if start <= owner("weights") <= stop:
        weights_file(experiment.weights)


def run_experiment(
    experiment: Experiment,
    start: str = "01",
    stop: str = "07",
    overwrite: bool = False,
    progress: bool = True,
    report: Callable[[str], None] = print,
) -> Path:
    """Execute the notebooks `start` to `stop` into ``runs/<name>/``.

    Args:
        experiment: every parameter; its `name` is the run's folder.
        start: first notebook, two digits. Later than 01, it goes on with an existing run.
        stop: last notebook, two digits.
        overwrite: replace a run of the same name.
        progress: a bar that counts a notebook's cells.
        report: takes a line of text for each notebook.

    Returns:
        The run's folder.

    Raises:
        UserError: the name is used, there is nothing to go on with, a parameter differs from what
            the run was made with, or a weights file is absent. Nothing has been touched then.
        NotebookFailed: a notebook stopped; its executed part lies in the run's folder.
    """
    names = select_notebooks(start, stop)
    require_weights(experiment, start, stop)
    folder = runs_dir() / experiment.name
    if start == "01":
        _make_room(folder, overwrite)
    else:
        require(folder, before=names[0])
        refuse_changes(experiment.model_dump(), read_record(folder), experiment.name, start)
        # What a kill left half-written.
        for leftover in (*folder.glob(".*.tmp.*"), *folder.glob(".*.partial.ipynb")):
            leftover.unlink()
    save_experiment(experiment, folder / "experiment.yaml")
    began = time.perf_counter()
    for position, name in enumerate(names, start=1):
        notebook_began = time.perf_counter()
        report(f"[{position}/{len(names)}] {name}")
        _execute(name, experiment, folder, progress)
        report(f"      {time.perf_counter() - notebook_began:.0f} s")
    report(f"The run {experiment.name} took {time.perf_counter() - began:.0f} s: {folder}")
    return folder


def select_notebooks(start: str, stop: str) -> list[str]:
    """Names of the notebooks from `start` to `stop`, two digits each.

    Raises:
        UserError: there is no such notebook, or none between them.
    """
    numbers = [name[:2] for name in NOTEBOOKS]
    for number in (start, stop):
        if number not in numbers:
            raise UserError(f"There is no notebook {number!r}; give one of {', '.join(numbers)}.")
    names = [name for name in NOTEBOOKS if start <= name[:2] <= stop]
    if not names:
        raise UserError(f"--from {start} comes after --to {stop}.")
    return names


def _make_room(folder: Path, overwrite: bool) -> None:
    """Refuse a folder in use, or remove the run in it when asked."""
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
    discarded = folder.with_name(f".{folder.name}.discarded")
    shutil.rmtree(discarded, ignore_errors=True)
    folder.rename(discarded)
    shutil.rmtree(discarded)


def _execute(name: str, experiment: Experiment, folder: Path, progress: bool) -> None:
    """Execute one notebook beside its final place, then rename: the file is whole or absent."""
    source = REPOSITORY / "notebooks" / f"{name}.ipynb"
    partial, final = folder / f".{name}.partial.ipynb", folder / f"{name}.ipynb"
    declared = papermill.inspect_notebook(source)
    values = experiment.model_dump()
    bar = {"desc": f"      {name}", "leave": False, "file": sys.stdout} if progress else False
    try:
        with _quiet_kernels(folder / "kernel.log"):
            papermill.execute_notebook(
                source,
                partial,
                parameters={parameter: values[parameter] for parameter in declared},
                cwd=folder,
                progress_bar=bar,
            )
    except PapermillExecutionError as error:
        partial.replace(final)
        message = error.evalue if error.ename in _SENTENCES else f"{error.ename}: {error.evalue}"
        raise NotebookFailed(_failure(name, experiment, final, message)) from None
    except DeadKernelError:
        partial.replace(final)
        message = "the notebook's process was killed, as happens when memory runs out"
        raise NotebookFailed(_failure(name, experiment, final, message)) from None
    _drop_machine_paths(partial)
    partial.replace(final)


@contextmanager
def _quiet_kernels(log: Path) -> Iterator[None]:
    """Send the kernels' terminal output to `log`, and draw no progress bars in executed notebooks.

    A kernel inherits standard error and the environment, and papermill passes it no other.
    """
    bars = os.environ.get("TQDM_DISABLE")
    terminal = os.dup(2)
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 2)
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        if bars is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = bars


_SENTENCES = {"UserError", "ImageFault"}


def _failure(name: str, experiment: Experiment, notebook: Path, message: str) -> str:
    go_on = f"--from {name[:2]}" if name > NOTEBOOKS[0] else "--overwrite"
    return (
        f"{name} stopped: {message.rstrip('.')}. The notebook up to there: {notebook}. "
        f"Once mended, go on with the same command and --name {experiment.name} {go_on}."
    )


def _drop_machine_paths(path: Path) -> None:
    """Drop the folders of this machine that papermill writes into the notebook's metadata."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for key in ("input_path", "output_path"):
        content["metadata"]["papermill"].pop(key, None)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
