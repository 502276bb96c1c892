"""What every notebook does first and last: open its run, check what came before, say it is done.

A run is the folder ``runs/<name>/``. Notebooks hand nothing to each other but the files in it.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from IPython import get_ipython

from mura_utils.data.dataset import Images, load_images
from mura_utils.errors import UserError
from mura_utils.experiments import (
    Experiment,
    data_root,
    is_network,
    validate_parameters,
    weights_file,
)
from mura_utils.paths import read_json, read_table, runs_dir
from mura_utils.runs.record import (
    NOTEBOOKS,
    begin,
    completed,
    images_of,
    lock,
    read_record,
    refuse_changes,
    refuse_seen,
    release,
    require,
    versions,
    write_completed,
)
from mura_utils.terminal import print_log_lines


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

    def images(self, size: int | None = None) -> Images:
        """The admitted images with their split, decoded and resized once.

        Args:
            size: side of the square images, in pixels; None is the parameter image_size.

        Raises:
            UserError: as `record.images_of` and `pixels.load_pixels`.
        """
        rows = images_of(self.folder)
        side = size or self.experiment.image_size
        resize, tabular = self.experiment.resize, self.experiment.tabular
        return load_images(self.data_root, rows, side, resize, tabular=tabular)

    def read_json(self, name: str) -> Any:
        """Read a JSON artefact."""
        return read_json(self.path(name))

    def complete(self) -> str:
        """Record that this notebook has written all its files; later ones are out of date.

        Returns:
            One sentence for the reader.

        Raises:
            UserError: an earlier notebook was started again meanwhile.
        """
        require(self.folder, before=self.notebook)
        position = NOTEBOOKS.index(self.notebook) + 1
        write_completed(self.folder, list(NOTEBOOKS[:position]))
        release(self.folder)
        later = NOTEBOOKS[position:]
        following = f" Next: {later[0]}." if later else ""
        return f"{self.notebook} is complete in the run {self.experiment.name}.{following}"


def open_run(notebook: str, cells: Sequence[str]) -> Run:
    """Open the run that the notebook's parameters name.

    A parameter that the notebook does not set comes from the run's ``experiment.yaml``, else it
    takes its default. That file then holds every value as run. The run is locked until
    `Run.complete`, or until the kernel ends.

    Args:
        notebook: one of `NOTEBOOKS`.
        cells: the cells run so far, which IPython calls ``In``. Parameters are read from the last
            one that begins with ``# Parameters`` and those after it that do, as papermill's.

    Raises:
        UserError: an unknown or ill-typed parameter; an earlier notebook has not run; a parameter
            of an earlier notebook differs from what that notebook ran with; weights that have
            learned from images which this run holds back; another process works in the run.
    """
    _show_user_errors_as_a_sentence()
    print_log_lines()
    given = parameters_in(cells, notebook)
    checked = validate_parameters(given, notebook)
    given = {name: getattr(checked, name) for name in given}
    folder = runs_dir() / checked.name
    lock(folder)
    try:
        experiment = _begin(notebook, given, folder)
    except BaseException:
        release(folder)
        raise
    return Run(experiment, folder, notebook)


def _begin(notebook: str, given: Mapping[str, Any], folder: Path) -> Experiment:
    record = read_record(folder)
    number = notebook[:2]
    if number > "01":
        require(folder, before=notebook)
        refuse_changes(given, record, folder.name, number)
    experiment = validate_parameters({**record, **given}, notebook)
    if number == "05" and is_network(experiment.weights):
        refuse_seen(folder, weights_file(experiment))
    if later := [name for name in completed(folder) if name >= notebook]:
        print(f"The run {folder.name} had completed {later[-1]}: run {notebook} to there again.")
    begin(folder, experiment, notebook)
    return experiment


def parameters_in(cells: Sequence[str], where: str) -> dict[str, Any]:
    """Names and literal values that parameter cells assign; later cells prevail.

    Raises:
        UserError: a value is not a literal.

    Example:
        >>> parameters_in(["# Parameters: of the run\\nseed = 0", "# Parameters\\nseed = 7"], "05")
        {'seed': 7}
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


def describe_environment(device: str | None = None) -> str:
    """One line for the top of a notebook: versions, and the device where one is used."""
    listed = ", ".join(f"{name} {number}" for name, number in versions().items())
    return listed + (f"; device: {device}" if device else "")


def _show_user_errors_as_a_sentence() -> None:
    shell = get_ipython()
    if shell is None:
        return

    def show_sentence(self, kind, error, trace, tb_offset=None):
        sentence = [f"{kind.__name__}: {error}"]
        self._showtraceback(kind, error, sentence)
        return sentence

    shell.set_custom_exc((UserError,), show_sentence)
