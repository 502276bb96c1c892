"""A stand-in for the notebooks, for sweeps over what is otherwise the real `mura run`."""

from __future__ import annotations

import os
import time
from pathlib import Path

import yaml

from mura_utils.runs.jobs import run_here
from mura_utils.runs.sweep import plan, run_sweep

CHILD = '''
"""`mura run` whose notebooks take no time: they note that they ran, and do as they are told."""
import os, signal, sys, time
from pathlib import Path
from unittest.mock import MagicMock

for slow in ("papermill", "papermill.exceptions", "nbclient", "nbclient.exceptions"):
    sys.modules[slow] = MagicMock()  # importing them takes seconds, and nothing uses them
from mura_utils import cli
from mura_utils.errors import UserError
from mura_utils.notebook import Run
from mura_utils.runs import pipeline
from mura_utils.runs.stages import SHARED

here = Path(__file__).parent

def execute(name, experiment, folder, progress):
    threads = os.environ.get("TF_NUM_INTRAOP_THREADS", "all")
    with (here / "calls").open("a") as calls:
        calls.write(f"{experiment.name} {name[:2]} threads={threads} {os.getpid()}\\\\n")
    told = here / f"{experiment.name}-{name[:2]}"
    what = told.read_text() if told.exists() else ""
    if what == "fail":
        raise UserError(f"{name} stopped: the disk is full.")
    if what == "be killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "kill the worker":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
    if what == "hang":
        time.sleep(600)
    if what.startswith("meet "):
        (here / f"{experiment.name} is here").touch()
        while not (here / f"{what[5:]} is here").exists():
            time.sleep(0.05)
    (folder / f"{name}.ipynb").write_text(f"{experiment.name}, epochs {experiment.epochs}")
    for file in SHARED.get(name, ["training.json"]):
        (folder / file).write_text(experiment.name)
    Run(experiment, folder, name).complete()

pipeline._execute = execute
pipeline.require_kernel = lambda: None  # it would take a second
cli.main()
'''.replace("\\\\n", "\\n")


class World:
    """Experiment files, what the stand-in notebooks are told to do, and what they have done."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.child = folder / "child.py"
        self.child.write_text(CHILD)

    def experiment(self, name: str, file: str = "", **parameters) -> Path:
        path = self.folder / f"{file or name}.yaml"
        path.write_text(yaml.safe_dump({"name": name, **parameters}))
        return path

    def tell(self, run: str, notebook: str, what: str) -> None:
        (self.folder / f"{run}-{notebook}").write_text(what)

    def calls(self) -> list[str]:
        """What has run since the last call: run and notebook."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [" ".join(line.split()[:2]) for line in lines]


def run(files, seeds=None, start="01", stop="07", execute=run_here, **changes):
    outcomes = run_sweep(plan(files, changes, seeds, start, stop), execute)
    return {outcome.name: outcome for outcome in outcomes}


def states(outcomes):
    return {name: outcome.state for name, outcome in outcomes.items()}


def wait_for(world: World, call: str) -> int:
    """The process that has begun this notebook."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        path = world.folder / "calls"
        for line in path.read_text().splitlines() if path.exists() else []:
            if line.startswith(call):
                return int(line.split()[-1])
        time.sleep(0.1)
    raise AssertionError(f"{call} has not begun")


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
