"""A sweep on a cluster of three machines, of which one is lost in the middle.

The machines are simulated: three Ray nodes of one CPU each on this one, under a head that computes
nothing. Six experiments with three seeds train a small network on phantoms. Once a third of the
trainings is complete, the last machine is killed while it computes a run.

It ends with an error unless all runs are complete, only what that machine held was started twice,
and no file is half-written.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import yaml
from _common import machine, options, run, say

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
_LEARNING_RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
_PATIENCE = {
    "RAY_worker_niceness": "0",
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_health_check_failure_threshold": "60",
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
            held: list[str] = []
            killer = threading.Thread(
                target=_kill_when,
                args=(cluster, nodes[-1], runs, len(runs) // 3, held),
                daemon=True,
            )
            with ray_cluster(cluster.address, 1, 0) as execute:
                killer.start()
                outcomes = run_sweep(runs, execute)
                killer.join()
        finally:
            cluster.shutdown()
        say(f"\n{summarize(outcomes)}\n")
        _check(runs, held)
    seconds = time.perf_counter() - began
    say(f"{len(runs)} runs on three machines, one of them lost: {seconds:.0f} s, all checks hold.")
    say(machine("ray", "tensorflow"))


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
        values = {"name": file.stem, "learning_rate": rate, **_SMALL}
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return files


def _kill_when(
    cluster: Any, node: Any, runs: Sequence[SweepRun], trained: int, held: list[str]
) -> None:
    """Kill a node that computes, as soon as so many runs are trained; note what it held."""
    log = logging.getLogger("mura_utils.benchmark")
    while sum(is_trained(each.folder) for each in runs) < trained:
        time.sleep(0.2)
    while not held:
        time.sleep(0.2)
        held += [name for name in _computed_below(node) if _is_halfway(runs_dir() / name)]
    log.info(f"The third machine is killed; it computes {', '.join(held)}.")
    cluster.remove_node(node, allow_graceful=False)


def _is_halfway(folder: Path) -> bool:
    return (folder / ".05_modeling.partial.ipynb").exists() and not is_trained(folder)


def _computed_below(node: Any) -> list[str]:
    """The runs whose `mura run` is a process of this node."""
    lines = []
    for info in chain.from_iterable(node.all_processes.values()):
        with suppress(psutil.Error):
            for process in psutil.Process(info.process.pid).children(recursive=True):
                with suppress(psutil.Error):
                    lines.append(" ".join(process.cmdline()))
    return sorted({name for line in lines for name in re.findall(r"/([^/ ]+)\.yaml --to", line)})


def _check(runs: Sequence[SweepRun], held: Sequence[str]) -> None:
    """Print what was started how often, and what is left over.

    Raises:
        UserError: a run is lost, something else than `held` was started twice, or a file is not
            whole.
    """
    untrained = [each.name for each in runs if not is_trained(each.folder)]
    twice = sorted(each.name for each in runs if _started(each.name, "05") > 1)
    shared = [each.name for each in runs if _started(each.name, "01")]
    leftovers = [
        path
        for folder in (runs_dir(), cache_dir())
        for pattern in (".*.tmp*", "*.partial", ".*.partial.ipynb", ".*.discarded")
        for path in folder.rglob(pattern)
    ]
    say(f"trained: {len(runs) - len(untrained)} of {len(runs)}")
    say(f"executed 01–04: {', '.join(shared)}")
    say(f"held by the lost machine: {', '.join(held)}")
    say(f"started twice: {', '.join(twice)}")
    say(f"half-written files: {len(leftovers)}")
    if untrained or twice != list(held) or len(shared) != 1 or leftovers:
        raise UserError(f"Not as claimed: {untrained}, {twice}, {shared}, {leftovers}")


def _started(name: str, notebook: str) -> int:
    """How often a job of this run began with this notebook."""
    log = (runs_dir() / ".sweep" / f"{name}.log").read_text(encoding="utf-8")
    return len(re.findall(rf"^\$ .* --from {notebook}\b", log, re.MULTILINE))


if __name__ == "__main__":
    main()
