"""What every notebook does first and last: open its run, check what came before, say it is done.

A run is the folder ``runs/<name>/``. Notebooks hand nothing to each other but the files in it.
"""

from __future__ import annotations

import ast
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from IPython import get_ipython
from IPython.display import Markdown, display

from mura_utils.errors import UserError
from mura_utils.experiments import (
    Experiment,
    owner,
    read_parameters,
    save_experiment,
    validate_parameters,
)
from mura_utils.paths import data_dir, read_json, runs_dir, write_json

NOTEBOOKS = (
    "01_data_understanding",
    "02_data_preprocessing",
    "03_data_preparation",
    "04_data_transformation",
    "05_modeling",
    "06_evaluation",
    "07_explainability",
)

_TEXT_COLUMNS = (
    *("path", "source", "official_split", "patient", "study", "body_part", "abnormality"),
    *("label", "mode", "sha256", "fault", "detail"),
)


@dataclass(frozen=True)
class Run:
    """One run as a notebook sees it.

    Attributes:
        experiment: all its parameters.
        folder: ``runs/<name>/``.
        notebook: the notebook at work, e.g. ``"05_modeling"``.
    """

    experiment: Experiment
    folder: Path
    notebook: str

    def path(self, name: str) -> Path:
        """Where this run keeps the artefact `name`."""
        return self.folder / name

    @property
    def data_root(self) -> Path:
        """The data set's folder."""
        return data_root(self.experiment)

    def read_table(self, name: str) -> pd.DataFrame:
        """Read a CSV artefact, see `read_table`."""
        return read_table(self.path(name))

    def read_json(self, name: str) -> Any:
        """Read a JSON artefact."""
        return read_json(self.path(name))

    def complete(self) -> str:
        """Record that this notebook has written all that it owes; later ones are out of date.

        Returns:
            One sentence for the reader.
        """
        _write_completed(
            self.folder, [*_completed_before(self.folder, self.notebook), self.notebook]
        )
        later = NOTEBOOKS[NOTEBOOKS.index(self.notebook) + 1 :]
        following = f" Next: {later[0]}." if later else ""
        return f"{self.notebook} is complete in the run {self.experiment.name}.{following}"


def open_run(notebook: str, cells: Sequence[str]) -> Run:
    """Open the run that the notebook's parameters name.

    A parameter that the notebook does not set comes from the run's ``experiment.yaml``, else it
    takes its default. That file then holds every value as run.

    Args:
        notebook: one of `NOTEBOOKS`.
        cells: the cells run so far, which IPython calls ``In``. Parameters are read from the last
            one that begins with ``# Parameters`` and those after it that do, as papermill's.

    Raises:
        UserError: an unknown or ill-typed parameter; an earlier notebook has not run; a parameter
            of an earlier notebook differs from what that notebook ran with.
    """
    _show_user_errors_as_a_sentence()
    given = parameters_in(cells, notebook)
    folder = runs_dir() / validate_parameters(given, notebook).name
    record = read_record(folder)
    number = notebook[:2]
    if number > "01":
        require(folder, before=notebook)
        refuse_changes(given, record, folder.name, number)
    experiment = validate_parameters({**record, **given}, notebook)
    folder.mkdir(parents=True, exist_ok=True)
    _write_completed(folder, _completed_before(folder, notebook))
    save_experiment(experiment, folder / "experiment.yaml")
    return Run(experiment, folder, notebook)


def parameters_in(cells: Sequence[str], where: str) -> dict[str, Any]:
    """Names and literal values that parameter cells assign; later cells prevail.

    Raises:
        UserError: a value is not a literal.
    """
    starts = [cell for cell in cells if cell.startswith("# Parameters")]
    own = [index for index, cell in enumerate(starts) if cell.startswith("# Parameters:")]
    parameters = {}
    for cell in starts[own[-1] if own else 0 :]:
        for statement in ast.parse(cell).body:
            source = ast.unparse(statement)
            try:
                (target,) = statement.targets
                parameters[target.id] = ast.literal_eval(statement.value)
            except (AttributeError, ValueError):
                raise UserError(
                    f"{where}: {source!r}: a parameter cell holds only 'name = literal' lines."
                ) from None
    return parameters


def read_record(folder: Path) -> dict[str, Any]:
    """The parameters that a run was made with; empty for a new run."""
    path = folder / "experiment.yaml"
    return read_parameters(path) if path.is_file() else {}


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
            f"{parameter} = {given[parameter]!r}, but the run {name} was made with "
            f"{record[parameter]!r} in notebook {owner(parameter)}: start again from there, or "
            "choose another name."
        )


def first_change(given: Mapping[str, Any], record: Mapping[str, Any], number: str) -> str | None:
    """The first parameter of a notebook before `number` that differs from a run's record."""
    for parameter, value in given.items():
        if owner(parameter) < number and record.get(parameter, value) != value:
            return parameter
    return None


def data_root(experiment: Experiment) -> Path:
    """The folder of an experiment's data set: absolute, or relative to the data folder."""
    return data_dir() / Path(experiment.data_dir).expanduser()


def completed(folder: Path) -> list[str]:
    """Notebooks whose artefacts in `folder` are complete and up to date, in order."""
    path = folder / "state.json"
    return read_json(path)["completed"] if path.is_file() else []


def require(folder: Path, before: str) -> None:
    """Refuse to go on where an earlier notebook has not run.

    Raises:
        UserError: names the notebook to run first.
    """
    done = completed(folder)
    for name in NOTEBOOKS[: NOTEBOOKS.index(before)]:
        if name not in done:
            raise UserError(
                f"{before} needs what {name} writes, and the run {folder.name!r} has not "
                f"completed that: run {name} first, with name = {folder.name!r}."
            )


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV of this project: identifiers stay text, and empty text stays empty text."""
    frame = pd.read_csv(path, dtype=dict.fromkeys(_TEXT_COLUMNS, str))
    text = [name for name in _TEXT_COLUMNS if name in frame]
    frame[text] = frame[text].fillna("")
    return frame


def say(text: str) -> None:
    """Display a Markdown sentence whose numbers were computed."""
    display(Markdown(text))


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide results."""
    libraries = ("tensorflow", "keras", "numpy", "pandas", "scikit-learn", "tf-keras-vis")
    return {"python": platform.python_version()} | {name: version(name) for name in libraries}


def describe_environment(device: str | None = None) -> str:
    """One line for the top of a notebook: versions, and the device where one is used."""
    listed = ", ".join(f"{name} {number}" for name, number in versions().items())
    return listed + (f"; device: {device}" if device else "")


def _completed_before(folder: Path, notebook: str) -> list[str]:
    return [name for name in completed(folder) if name < notebook]


def _write_completed(folder: Path, names: list[str]) -> None:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    write_json(folder / "state.json", {"completed": names, "changed": now})


def _show_user_errors_as_a_sentence() -> None:
    shell = get_ipython()
    if shell is None:
        return

    def show_sentence(self, kind, error, trace, tb_offset=None):
        sentence = [f"{kind.__name__}: {error}"]
        self._showtraceback(kind, error, sentence)
        return sentence

    shell.set_custom_exc((UserError,), show_sentence)
