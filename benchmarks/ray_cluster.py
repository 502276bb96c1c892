"""A sweep on a cluster of three machines, of which one is lost in the middle.

The machines are simulated: three Ray nodes of one CPU each on this one, under a head that computes
nothing. Six experiments with three seeds train a small network on phantoms. One of the six trains
all layers, for longer. Once a third of the trainings is complete, the machine that computes one of
those is killed, with all its processes, after an epoch was saved and before the model was.

It ends with an error unless all runs are complete, only what that machine held was started twice
and went on after its last saved epoch, and no file is half-written.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import yaml
from _common import machine, options, run, say, say_head, say_row

from mura_utils.checkpoints import read_checkpoint
from mura_utils.errors import UserError
from mura_utils.paths import cache_dir, runs_dir
from mura_utils.runs.jobs import summarize
from mura_utils.runs.ray import ray_cluster
from mura_utils.runs.record import is_trained
from mura_utils.runs.sweep import SweepRun, plan, run_sweep

_SMALL = {
    "phantom_patients": 80,
    "image_size": 32,
    "pca_images_per_class": [4],
    "backbone": "mobilenet",
    "alpha": 0.25,
    "weights": "none",
    "epochs": 1,
    "views": 1,
}
_LONG = {"unfreeze": "all", "epochs": 30, "early_stopping_patience": 30}
"""Its epochs are saved every ten seconds, so that there is something to go on from."""

_LEARNING_RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
_PATIENCE = {
    "RAY_worker_niceness": "0",
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_health_check_failure_threshold": "15",
}
"""Four nodes on one busy machine answer late: Ray is not to take that for a loss."""

_STORE = {"object_store_memory": 10**8, "include_dashboard": False}


def main() -> None:
    """Read the command line, and measure."""
    run(options(__doc__), measure)


def measure(arguments: argparse.Namespace) -> None:
    """Run the sweep, lose a machine, and check what is there afterwards."""
    os.environ.update(_PATIENCE)
    try:
        from ray.cluster_utils import Cluster
    except ModuleNotFoundError:
        raise UserError("This benchmark needs Ray: pip install -e .[cluster]") from None
    began = time.perf_counter()
    _print_log_lines(began)
    with TemporaryDirectory(prefix="mura-benchmark-") as name:
        for kind in ("data", "runs", "cache"):
            os.environ[f"MURA_{kind.upper()}_DIR"] = str(Path(name) / kind)
        files = _write_experiments(Path(name), _LEARNING_RATES[: 2 if arguments.quick else None])
        runs = plan(files, {}, seeds=3, stop="05")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **_STORE})
        try:
            nodes = [cluster.add_node(num_cpus=1, **_STORE) for _ in range(3)]
            loss = _Loss(cluster, nodes, runs)
            with ray_cluster(cluster.address, 1, 0) as execute:
                loss.start()
                outcomes = run_sweep(runs, execute)
                loss.ended.set()
                loss.join()
        finally:
            cluster.shutdown()
        say(f"\n{summarize(outcomes)}")
        _report(runs, loss.epochs, time.perf_counter() - began)
    say(f"\n{machine('ray', 'tensorflow')}")


def _print_log_lines(began: float) -> None:
    class SinceStart(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return f"{time.perf_counter() - began:6.0f} s  {record.getMessage()}"

    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(SinceStart())
    logging.getLogger("mura_utils").addHandler(handler)
    logging.getLogger("mura_utils").setLevel(logging.INFO)


def _write_experiments(folder: Path, rates: Sequence[float]) -> list[Path]:
    files = [folder / f"e{number}.yaml" for number in range(1, len(rates) + 1)]
    for file, rate in zip(files, rates, strict=True):
        long = _LONG if rate == rates[len(rates) // 2] else {}
        values = {"name": file.stem, "learning_rate": rate, **_SMALL, **long}
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return files


class _Loss(threading.Thread):
    """Kills a machine in the middle of a training, once a third of all runs is trained.

    Attributes:
        ended: to be set when there is nothing left to kill.
        epochs: for each run that the machine held, the last epoch that it had saved.
    """

    def __init__(self, cluster: Any, nodes: Sequence[Any], runs: Sequence[SweepRun]) -> None:
        super().__init__(daemon=True)
        self._cluster, self._nodes, self._runs = cluster, nodes, runs
        self._long = {each.name for each in runs if each.experiment.epochs == _LONG["epochs"]}
        self.ended = threading.Event()
        self.epochs: dict[str, int] = {}

    def run(self) -> None:
        """Look five times a second."""
        while not self.ended.wait(0.2):
            if 3 * sum(is_trained(each.folder) for each in self._runs) < len(self._runs):
                continue
            for node in self._nodes:
                names = _computed_by(_processes(node))
                if self._long & {name for name in names if _is_halfway(runs_dir() / name)}:
                    return self._kill(node, names)

    def _kill(self, node: Any, names: Sequence[str]) -> None:
        processes = _processes(node)
        self._cluster.remove_node(node, allow_graceful=False)
        for process in processes:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(processes)
        self.epochs = {name: _saved_epoch(runs_dir() / name) for name in names}
        held = ", ".join(f"{name} after epoch {epoch}" for name, epoch in self.epochs.items())
        logging.getLogger("mura_utils.benchmark").info(f"A machine was killed; it held {held}.")


def _processes(node: Any) -> list[psutil.Process]:
    """What a node has started, and what that has started."""
    found = []
    for info in chain.from_iterable(node.all_processes.values()):
        with suppress(psutil.Error):
            found += psutil.Process(info.process.pid).children(recursive=True)
    return found


def _computed_by(processes: Sequence[psutil.Process]) -> list[str]:
    """The runs whose `mura run` is one of these processes."""
    lines = []
    for process in processes:
        with suppress(psutil.Error):
            lines.append(" ".join(process.cmdline()))
    return sorted({name for line in lines for name in re.findall(r"/([^/ ]+)\.yaml --to", line)})


def _is_halfway(folder: Path) -> bool:
    """Whether a training has saved an epoch, and not its model."""
    return _checkpoint(folder).is_file() and not (folder / "model.keras").exists()


def _saved_epoch(folder: Path) -> int:
    """The last epoch that an interrupted training has saved; 0 if it was not halfway."""
    return len(read_checkpoint(_checkpoint(folder))[1]["rows"]) if _is_halfway(folder) else 0


def _checkpoint(folder: Path) -> Path:
    return folder / ".checkpoint" / "state.npz"


def _report(runs: Sequence[SweepRun], lost: Mapping[str, int], seconds: float) -> None:
    """Print what was computed how often, and what is left over.

    Args:
        runs: of the sweep, which has ended.
        lost: runs of the lost machine, and the last epoch that each had saved.
        seconds: that the sweep took.

    Raises:
        UserError: no machine was lost in a training, a run is lost, something else than `lost` was
            started twice, epochs were computed twice, or a file is not whole.
    """
    if not lost or not all(0 < epoch < _LONG["epochs"] for epoch in lost.values()):
        raise UserError("No machine was lost in the middle of a training: raise its epochs.")
    trained = [each.name for each in runs if is_trained(each.folder)]
    shared = [each.name for each in runs if _started(each.name, "01")]
    twice = [each.name for each in runs if _started(each.name, "05") > 1]
    resumed = {name: _resumed_after(runs_dir() / name) for name in lost}
    leftovers = [
        path
        for folder in (runs_dir(), cache_dir())
        for pattern in (".*.tmp*", "*.partial", ".*.partial.ipynb", ".*.discarded", ".checkpoint")
        for path in folder.rglob(pattern)
    ]
    say_head("three machines, one of them lost", "")
    say_row("runs that ended", f"{len(trained)} of {len(runs)}")
    say_row("runs that executed 01 to 04", str(len(shared)))
    say_row("trainings that the lost machine held", str(len(lost)))
    say_row("trainings that were started twice", str(len(twice)))
    epochs = ", ".join(map(str, lost.values()))
    say_row(f"last of {_LONG['epochs']} epochs saved before the loss", epochs)
    say_row("went on after epoch", ", ".join(map(str, resumed.values())))
    say_row("half-written files", str(len(leftovers)))
    say_row("seconds", f"{seconds:.0f}")
    whole = len(trained) == len(runs) and not leftovers
    if not whole or len(shared) != 1 or twice != list(lost) or resumed != lost:
        raise UserError(f"Not as claimed: {trained}, {shared}, {twice}, {resumed}, {leftovers}")


def _resumed_after(folder: Path) -> int | None:
    """The epoch that notebook 05 says it went on after."""
    text = (folder / "05_modeling.ipynb").read_text(encoding="utf-8")
    found = re.search(r"epochs before an interruption +(\d+)", text)
    return int(found[1]) if found else None


def _started(name: str, notebook: str) -> int:
    """How often a job of this run began with this notebook."""
    log = (runs_dir() / ".sweep" / f"{name}.log").read_text(encoding="utf-8")
    return len(re.findall(rf"^\$ .* --from {notebook}\b", log, re.MULTILINE))


if __name__ == "__main__":
    main()
