"""Run experiments as a set, as ``mura sweep`` does: every file with every seed.

Each run is a ``mura run`` in a process of its own, so that one that fails or is killed takes no
other with it. What runs is written to ``runs/.sweep/`` first: ``NAME.yaml`` holds every parameter,
so that a file edited meanwhile changes no run, and ``NAME.log`` takes the output, as the run's own
folder does not exist yet.

Runs that agree in every parameter of notebooks 01 to 04 need these once: one of them executes them
(phase A), the others start as a copy of its artefacts and go on with 05 (phase B).
"""

from __future__ import annotations

import importlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mura_utils.errors import UserError
from mura_utils.experiments import Experiment, experiment_file, owner, save_experiment
from mura_utils.paths import atomic_write, cache_dir, data_dir, runs_dir
from mura_utils.pipeline import discard, require_weights, resolve_experiment, select_notebooks
from mura_utils.record import (
    completed,
    first_change,
    read_record,
    refuse_changes,
    require,
    working_in,
    write_completed,
)

SHARED = {
    "01_data_understanding": ("inventory.csv", "quality.json"),
    "02_data_preprocessing": ("manifest.csv",),
    "03_data_preparation": ("splits.csv", "leakage.json"),
    "04_data_transformation": ("pca.json",),
}
"""The notebooks that know nothing of the model, and what they write into a run beside themselves.

Only this is ever copied from one run to another.
"""

_LAST_SHARED = max(SHARED)[:2]

_MURA = ("-m", "mura_utils.cli")

Report = Callable[[str], None]


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
        experiment: every parameter; its `name` is the run's folder.
        start: the first notebook to execute, two digits; later than `stop` when all are complete.
        stop: the last one.
    """

    experiment: Experiment
    start: str
    stop: str

    @property
    def name(self) -> str:
        """The run's name."""
        return self.experiment.name

    @property
    def folder(self) -> Path:
        """Where it lies, or will."""
        return runs_dir() / self.name

    @property
    def complete(self) -> bool:
        """Whether nothing is left to execute."""
        return self.start > self.stop


@dataclass(frozen=True)
class Job:
    """One call of ``mura run``, with all that a process on another machine needs to make it.

    Attributes:
        name: of the run.
        first: first notebook, two digits.
        last: last notebook.
        folder: the run's.
        arguments: of the Python interpreter.
        log: the file that takes the output.
        environment: variables beside those of the process that executes the job.
    """

    name: str
    first: str
    last: str
    folder: Path
    arguments: tuple[str, ...]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """The run and its notebooks."""
        return f"{self.name} {_span(self.first, self.last)}"


@dataclass(frozen=True)
class Outcome:
    """How a run of a sweep, or one job of it, ended.

    Attributes:
        name: of the run.
        state: ``"done"``, ``"already complete"`` or ``"failed"``.
        seconds: wall-clock time of its processes.
        reason: why it failed, in a sentence; else empty.
    """

    name: str
    state: str
    seconds: float = 0.0
    reason: str = ""


Executor = Callable[[Sequence[Job], Report], list[Outcome]]


# --- what to run --------------------------------------------------------------------------------


def plan(
    files: Sequence[str | Path],
    changes: Mapping[str, Any],
    seeds: int | None = None,
    start: str = "01",
    stop: str = "07",
) -> list[SweepRun]:
    """Every run of a sweep, checked before the first one starts; nothing is written.

    Args:
        files: experiments, each a file or a name in ``experiments/``.
        changes: parameters that replace those of every file.
        seeds: each experiment runs with the seeds 0 to `seeds` - 1, as ``<name>-seed<k>``. None:
            once, with the name and the seed of its file.
        start: 01 stands for "what is missing". A later notebook is executed again, with those
            after it, where it is complete as well.
        stop: last notebook, two digits.

    Raises:
        UserError: as `resolve_experiment`; two runs of one name; a folder in use that is no run; a
            run that was made with other parameters, or lacks a notebook before `start`.
    """
    select_notebooks(start, stop)
    if seeds is not None and "seed" in changes:
        raise UserError("-p seed and --seeds exclude each other: --seeds n takes 0 to n-1.")
    runs: dict[str, SweepRun] = {}
    made_by: dict[str, Path] = {}
    for file in files:
        path = experiment_file(file)
        for name in _names(path, changes, seeds):
            experiment = resolve_experiment(path, {**changes, **name}, start)
            if experiment.name in runs:
                raise UserError(
                    f"{made_by[experiment.name]} and {path} both make the run {experiment.name}: "
                    "give each file a name of its own."
                )
            made_by[experiment.name] = path
            run = runs[experiment.name] = _locate(experiment, path, start, stop)
            require_weights(experiment, run.start, stop)
    return list(runs.values())


def _names(path: Path, changes: Mapping[str, Any], seeds: int | None) -> list[dict[str, Any]]:
    """The name and seed of each run of a file, or one empty change."""
    if seeds is None:
        return [{}]
    name = resolve_experiment(path, changes).name
    return [{"name": f"{name}-seed{seed}", "seed": seed} for seed in range(seeds)]


def _locate(experiment: Experiment, path: Path, start: str, stop: str) -> SweepRun:
    """Say which notebook a run goes on with, or refuse what lies in its folder."""
    folder, values = runs_dir() / experiment.name, experiment.model_dump()
    record = read_record(folder)
    if start > "01":
        require(folder, before=select_notebooks(start, stop)[0])
        refuse_changes(values, record, experiment.name, start)
        return SweepRun(experiment, start, stop)
    if not record and folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} exists and is no run: choose another name in {path.name}.")
    missing = f"{len(completed(folder)) + 1:02d}"
    parameter = first_change(values, record, missing)
    if parameter is not None:
        raise UserError(
            f"{path.name}: {parameter} = {values[parameter]!r}, but the run {experiment.name} was "
            f"made with {record[parameter]!r}: choose another name in that file, or remove "
            f"{folder}."
        )
    return SweepRun(experiment, missing, stop)


# --- the two phases -----------------------------------------------------------------------------


def run_sweep(runs: Sequence[SweepRun], execute: Executor, report: Report = print) -> list[Outcome]:
    """Run what is missing of a sweep; a run that fails stops no other.

    Args:
        runs: of `plan`.
        execute: `run_here`, or what `ray_cluster` yields.
        report: takes a line of text for each event.

    Returns:
        One outcome a run, in the order of `runs`.
    """
    shared = min(_LAST_SHARED, *(run.stop for run in runs))
    sources = _sources(runs)
    leaders = {source.name: source for source in sources.values() if source.start <= shared}
    first = _execute_all(leaders.values(), shared, execute, report)

    begun: dict[str, SweepRun | Outcome] = {}
    taken: dict[str, list[str]] = {}
    for run in runs:
        source = sources.get(run.name)
        if source is None:
            begun[run.name] = _go_on(run, first.get(run.name), shared)
        else:
            begun[run.name] = _take(run, source, first.get(source.name), shared)
            if isinstance(begun[run.name], SweepRun):
                taken.setdefault(source.name, []).append(run.name)
    for source_name, names in taken.items():
        report(f"{', '.join(names)}: {_span('01', shared)} taken from {source_name}")

    rest = [run for run in begun.values() if isinstance(run, SweepRun) and not run.complete]
    second = _execute_all(rest, None, execute, report)
    return [_ended(run, begun[run.name], first.get(run.name), second.get(run.name)) for run in runs]


def _go_on(run: SweepRun, first: Outcome | None, shared: str) -> SweepRun | Outcome:
    """What is left of a run that takes nothing from another, after phase A."""
    if first is None:
        return run
    return replace(run, start=_next(shared)) if first.state == "done" else first


def _take(
    run: SweepRun, source: SweepRun, first: Outcome | None, shared: str
) -> SweepRun | Outcome:
    """Begin a run with the notebooks of another, unless that failed in them.

    With the same parameters they would fail again, after the same time.
    """
    if first is not None and first.state == "failed":
        reason = f"It shares {_span('01', shared)} with {source.name}, which failed there."
        return Outcome(run.name, "failed", reason=reason)
    try:
        _copy_shared(source, run, shared)
    except (UserError, OSError) as error:
        return Outcome(run.name, "failed", reason=str(error))
    return replace(run, start=_next(shared))


def _ended(
    run: SweepRun, begun: SweepRun | Outcome, first: Outcome | None, second: Outcome | None
) -> Outcome:
    if run.complete:
        return Outcome(run.name, "already complete")
    if isinstance(begun, Outcome):
        return begun
    last = second or Outcome(run.name, "done")
    return replace(last, seconds=last.seconds + (first.seconds if first else 0))


def _sources(runs: Sequence[SweepRun]) -> dict[str, SweepRun]:
    """For each run that takes notebooks 01 to 04 from another: that other.

    Only a run without a completed notebook takes them; it loses nothing. It takes them from the
    member of its group that has got furthest.
    """
    groups: dict[str, list[SweepRun]] = {}
    for run in runs:
        values = run.experiment.model_dump(exclude={"name"})
        early = {key: value for key, value in values.items() if owner(key) <= _LAST_SHARED}
        groups.setdefault(json.dumps(early, sort_keys=True), []).append(run)
    sources = {}
    for group in groups.values():
        source = max(group, key=lambda run: run.start)
        takers = [run for run in group if run.start == "01" and run is not source]
        sources.update((run.name, source) for run in takers)
    return sources


def _copy_shared(source: SweepRun, run: SweepRun, last: str) -> None:
    """Begin `run` as a copy of what the notebooks up to `last` wrote in `source`."""
    with working_in(run.folder), working_in(source.folder), atomic_write(run.folder) as temporary:
        if completed(run.folder):
            raise UserError(f"{run.name} was begun by another process: wait until that has ended.")
        temporary.mkdir()
        notebooks = [name for name in SHARED if name[:2] <= last]
        if completed(source.folder)[: len(notebooks)] != notebooks:
            raise UserError(f"{source.name} was begun again by another process.")
        for notebook in notebooks:
            for name in (f"{notebook}.ipynb", *SHARED[notebook]):
                shutil.copy2(source.folder / name, temporary)
        save_experiment(run.experiment, temporary / "experiment.yaml")
        write_completed(temporary, notebooks)
        discard(run.folder)


def _execute_all(
    runs: Iterable[SweepRun], stop: str | None, execute: Executor, report: Report
) -> dict[str, Outcome]:
    jobs = [_job(run, stop or run.stop) for run in runs]
    return {outcome.name: outcome for outcome in execute(jobs, report)} if jobs else {}


def _job(run: SweepRun, last: str) -> Job:
    """Write the parameters of a run, and say how to execute its notebooks up to `last`."""
    beside = runs_dir() / ".sweep"
    file = beside / f"{run.name}.yaml"
    save_experiment(run.experiment, file)
    return Job(
        name=run.name,
        first=run.start,
        last=last,
        folder=run.folder,
        arguments=(*_MURA, "run", str(file), "--from", run.start, "--to", last),
        log=beside / f"{run.name}.log",
        environment={
            "MURA_DATA_DIR": str(data_dir()),
            "MURA_RUNS_DIR": str(runs_dir()),
            "MURA_CACHE_DIR": str(cache_dir()),
            "PYTHONUNBUFFERED": "1",  # the log can be followed
        },
    )


def _next(number: str) -> str:
    return f"{int(number) + 1:02d}"


def _span(first: str, last: str) -> str:
    return first if first == last else f"{first}–{last}"


# --- one process --------------------------------------------------------------------------------


def execute_job(job: Job) -> Outcome:
    """Execute one job in a process of its own; its failure is an outcome, not an exception."""
    command = [sys.executable, *job.arguments]
    if job.first == "01" and job.folder.exists() and not completed(job.folder):
        command.append("--overwrite")  # killed in 01: there is nothing to lose
    began = time.perf_counter()
    with job.log.open("ab") as log:
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
        start = log.tell()
        status = _wait(
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **job.environment},
            )
        )
    seconds = time.perf_counter() - began
    # Where the system reaps children by itself (SIGCHLD ignored), every status reads 0.
    if status == 0 and any(name.startswith(job.last) for name in completed(job.folder)):
        return Outcome(job.name, "done", seconds)
    with job.log.open("rb") as log:
        log.seek(start)
        lines = log.read().decode(errors="replace").splitlines()
    said = [line.removeprefix("mura: ") for line in lines if line.startswith("mura: ")]
    reason = said[-1] if said else f"{_describe(status)} before {job.last} was complete."
    return Outcome(job.name, "failed", seconds, f"{reason} Log: {job.log}")


def _wait(process: subprocess.Popen) -> int:
    try:
        while process.poll() is None:
            time.sleep(0.1)  # Ray cancels a task between two steps of Python, not in a wait
    except BaseException:
        _stop(process)
        raise
    return process.returncode


def _stop(process: subprocess.Popen) -> None:
    """End a process: Ctrl-C in a terminal has reached it too, so it may do so by itself."""
    for end, patience in ((None, 2), (process.terminate, 20), (process.kill, None)):
        if end is not None:
            end()
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return


def _describe(status: int) -> str:
    if status == -signal.SIGKILL:
        return "Its process was killed, as happens when memory runs out,"
    how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    return f"Its process ended {how}"


def run_here(jobs: Sequence[Job], report: Report) -> list[Outcome]:
    """Execute jobs one after another on this machine."""
    outcomes = []
    for position, job in enumerate(jobs, start=1):
        report(f"[{position}/{len(jobs)}] {job}")
        outcome = execute_job(job)
        report(f"      {_told(outcome)}")
        outcomes.append(outcome)
    return outcomes


def _told(outcome: Outcome) -> str:
    return f"{outcome.seconds:.0f} s" if outcome.state == "done" else f"failed: {outcome.reason}"


def summarise(outcomes: Sequence[Outcome]) -> str:
    """One line a run: its name, state, seconds, and why it failed."""
    width = max(len(outcome.name) for outcome in outcomes)
    lines = (
        f"{outcome.name:<{width}}  {outcome.state:<16}  {outcome.seconds:>6.0f} s  {outcome.reason}"
        for outcome in outcomes
    )
    return "\n".join(line.rstrip() for line in lines)


# --- Ray ----------------------------------------------------------------------------------------


@contextmanager
def ray_cluster(address: str | None, cpus: int, gpus: int, report: Report) -> Iterator[Executor]:
    """Connect to a Ray cluster, or start one of this machine, and yield what executes jobs on it.

    A job is one Ray task, never retried. On a cluster of several machines the project, and the
    folders of data, runs and caches, must have the same path on each: a shared file system.

    Args:
        address: of a running cluster; None starts Ray here.
        cpus: CPUs of each run, and threads that it computes with.
        gpus: GPUs of each run; TensorFlow sees no others.
        report: takes a line on what the sweep will use.

    Raises:
        UserError: Ray is not installed or cannot be reached, or no machine is large enough.
    """
    ray = _import_ray()
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        # Hardly anything passes through Ray's store; by default it would claim 30% of the memory.
        ray.init("local", include_dashboard=False, object_store_memory=10**8, **quiet)
    else:
        _require_listener(address)
        try:
            ray.init(address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            told = " ".join(str(error).split())
            raise UserError(
                f"Ray cannot be reached at {address}: {told}; its messages above say more."
            ) from None
    try:
        report(_describe_use(ray, cpus, gpus))

        def execute(jobs: Sequence[Job], report: Report) -> list[Outcome]:
            return _run_on_ray(ray, jobs, cpus, gpus, report)

        yield execute
    finally:
        ray.shutdown()


def _import_ray() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError:
        raise UserError("mura sweep --ray needs Ray: pip install -e .[cluster]") from None


def _require_listener(address: str) -> None:
    """Refuse an address where nothing listens; Ray itself would wait there without an end."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--address {address}: write it as host:port, ray://host:port or auto.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise UserError(
            f"Ray cannot be reached at {address} ({error}): start it there with 'ray start --head'."
        ) from None


def _describe_use(ray: Any, cpus: int, gpus: int) -> str:
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    at_a_time = 0
    for machine in machines:
        fit = machine.get("CPU", 0) // cpus
        if gpus:
            fit = min(fit, machine.get("GPU", 0) // gpus)
        at_a_time += int(fit)
    each = f"{cpus} CPU(s) and {gpus} GPU(s)"
    if not at_a_time:
        raise UserError(f"No machine of this Ray cluster has {each}: give smaller --cpus, --gpus.")
    unused = sum(machine.get("GPU", 0) for machine in machines) if not gpus else 0
    return (
        f"Up to {at_a_time} run(s) at a time, each with {each}: {at_a_time} times the memory of "
        "one run, and one copy of the caches, which all share."
        + (f" {unused:g} GPU(s) stay unused: --gpus 1 gives each run one." if unused else "")
    )


def _run_on_ray(
    ray: Any, jobs: Sequence[Job], cpus: int, gpus: int, report: Report
) -> list[Outcome]:
    threads = dict.fromkeys(
        ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"), str(cpus)
    )
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(execute_job)
    pending = {
        task.remote(replace(job, environment={**job.environment, **threads})): job for job in jobs
    }
    outcomes = {}
    try:
        while pending:
            (ready,), _ = ray.wait(list(pending))
            job = pending.pop(ready)
            outcomes[job.name] = _result(ray, ready, job)
            report(f"[{len(outcomes)}/{len(jobs)}] {job}: {_told(outcomes[job.name])}")
    except BaseException:
        for task in pending:
            ray.cancel(task)
        ray.wait(list(pending), num_returns=len(pending), timeout=30)
        raise
    return [outcomes[job.name] for job in jobs]


def _result(ray: Any, task: Any, job: Job) -> Outcome:
    """What a task returned; a worker that died is a failed run."""
    try:
        return ray.get(task)
    except ray.exceptions.RayError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        # A traceback says it at its end, Ray's own messages at their beginning.
        line = lines[-1 if isinstance(error, ray.exceptions.RayTaskError) else 0]
        return Outcome(job.name, "failed", reason=f"Its Ray worker ended: {line} Log: {job.log}")
