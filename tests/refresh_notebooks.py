"""Execute the notebooks on the phantom demo and store their outputs: ``make notebooks``.

The demo is run in a temporary folder, so that no run of the user's is touched and no path of this
machine lands in an output.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nbformat

from mura_utils.experiments import load_experiment
from mura_utils.notebook import NOTEBOOKS
from mura_utils.paths import REPOSITORY
from mura_utils.pipeline import run_experiment


def refresh() -> None:
    """Replace the outputs of all committed notebooks."""
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("DATA", "RUNS", "CACHE"):
            os.environ[f"MURA_{kind}_DIR"] = str(Path(folder) / kind.lower())
        run = run_experiment(load_experiment("demo"))
        for name in NOTEBOOKS:
            store(run / f"{name}.ipynb", REPOSITORY / "notebooks" / f"{name}.ipynb")


def store(executed: Path, committed: Path) -> None:
    """Copy outputs and counts, and leave sources and metadata as they are committed."""
    book = nbformat.read(committed, as_version=4)
    results = {cell.id: cell for cell in nbformat.read(executed, as_version=4).cells}
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    for count, cell in enumerate(code, start=1):  # papermill's own cell is not counted
        cell.outputs = results[cell.id].outputs
        cell.execution_count = count
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
    nbformat.write(book, committed)


if __name__ == "__main__":
    refresh()
