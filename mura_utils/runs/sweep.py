"""Run experiments as a set, as ``mura sweep`` does: every file with every seed, or a search.

Each run is a ``mura run`` in a process of its own, so that one that fails or is killed takes no
other with it. What runs is written to ``runs/.sweep/`` first: ``NAME.yaml`` holds every parameter,
so that a file edited meanwhile changes no run, and ``NAME.log`` takes the output, as the run's own
folder does not exist yet.

Runs that agree in every parameter of notebooks 01 to 04 need these once: one of them executes them
(phase A), the others start as a copy of its artefacts and go on with 05 (phase B).
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mura_utils.errors import UserError
from mura_utils.experiments import Experiment, experiment_file, owner, save_experiment
from mura_utils.paths import atomic_write, cache_dir, data_dir, runs_dir
from mura_utils.runs.jobs import Executor, Job, Outcome, span
from mura_utils.runs.pipeline import discard, require_inputs, resolve_experiment
from mura_utils.runs.record import (
    completed,
    first_change,
    made_with,
    read_record,
    refuse_changes,
    require,
    working_in,
    write_completed,
)
from mura_utils.runs.search import LAST, Search, read_search
from mura_utils.runs.stages import NOTEBOOKS, SHARED, select_notebooks

logger = logging.getLogger(__name__)

_LAST_SHARED = max(SHARED)[:2]

_MURA = ("-m", "mura_utils.cli")


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


def plan(
    files: Sequence[str | Path],
    changes: Mapping[str, Any],
    seeds: int | None = None,
    start: str = "01",
    stop: str = "",
) -> list[SweepRun]:
    """Every run of a sweep, checked before the first one starts; nothing is written.

    Args:
        files: experiments or searches, each a file or a name in ``experiments/``.
        changes: parameters that replace those of every file.
        seeds: each experiment runs with the seeds 0 to `seeds` - 1, as ``<name>-seed<k>``. None:
            once, with the name and the seed of its file.
        start: 01 stands for "what is missing". A later notebook is executed again, with those
            after it, where it is complete as well.
        stop: last notebook, two digits; empty: 07, or 05 of a search.

    Raises:
        UserError: as `resolve_experiment` and `read_search`; two runs of one name; a folder in use
            that is no run; a run that was made with other parameters, or lacks a notebook before
            `start`; a search with seeds, a later notebook, or a change of what it varies.
    """
    select_notebooks(start, stop or NOTEBOOKS[-1][:2])
    if seeds is not None and "seed" in changes:
        raise UserError("-p seed and --seeds exclude each other: --seeds n takes 0 to n-1.")
    runs: dict[str, SweepRun] = {}
    made_by: dict[str, Path] = {}
    for file in files:
        path = experiment_file(file)
        search = read_search(path)
        if search is None:
            base, last, sets = path, stop or NOTEBOOKS[-1][:2], _names(path, changes, seeds)
        else:
            base, last = search.experiment, stop or LAST
            sets = _trials(search, path, changes, seeds, last)
        for own in sets:
            experiment = resolve_experiment(base, {**changes, **own}, start)
            if experiment.name in runs:
                raise UserError(
                    f"{made_by[experiment.name]} and {path} both make the run {experiment.name}: "
                    "give each file a name of its own."
                )
            made_by[experiment.name] = path
            run = runs[experiment.name] = _locate(experiment, path, start, last)
            require_inputs(experiment, run.start, last)
    return list(runs.values())


def _names(path: Path, changes: Mapping[str, Any], seeds: int | None) -> list[dict[str, Any]]:
    """The name and seed of each run of a file, or one empty change."""
    if seeds is None:
        return [{}]
    name = resolve_experiment(path, changes).name
    return [{"name": f"{name}-seed{seed}", "seed": seed} for seed in range(seeds)]


def _trials(
    search: Search, path: Path, changes: Mapping[str, Any], seeds: int | None, stop: str
) -> list[dict[str, Any]]:
    """The name and the parameters of each trial of a search."""
    if seeds is not None:
        raise UserError(f"{path}: a search takes no --seeds: make seed one of its parameters.")
    if stop > LAST:
        raise UserError(
            f"{path}: a search is judged on validation and ends with {LAST}: leave out --to {stop}."
        )
    for parameter in ("name", *next(iter(search.trials.values()))):
        if parameter in changes:
            raise UserError(f"-p {parameter}: {path} gives it to each trial.")
    return [{**trial, "name": name} for name, trial in search.trials.items()]


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
            f"made with {made_with(record)[parameter]!r}: choose another name in that file, or "
            f"remove {folder}."
        )
    return SweepRun(experiment, missing, stop)


def run_sweep(runs: Sequence[SweepRun], execute: Executor) -> list[Outcome]:
    """Run what is missing of a sweep, with log lines; a run that fails stops no other.

    Args:
        runs: of `plan`.
        execute: `run_here`, or what `ray_cluster` yields.

    Returns:
        One outcome a run, in the order of `runs`.
    """
    shared = min(_LAST_SHARED, *(run.stop for run in runs))
    sources = _sources(runs)
    leaders = {source.name: source for source in sources.values() if source.start <= shared}
    first = _execute_all(leaders.values(), shared, execute)

    started: dict[str, SweepRun | Outcome] = {}
    taken: dict[str, list[str]] = {}
    for run in runs:
        source = sources.get(run.name)
        if source is None:
            started[run.name] = _go_on(run, first.get(run.name), shared)
        else:
            started[run.name] = _take(run, source, first.get(source.name), shared)
            if isinstance(started[run.name], SweepRun):
                taken.setdefault(source.name, []).append(run.name)
    for source_name, names in taken.items():
        logger.info(f"{', '.join(names)}: {span('01', shared)} taken from {source_name}")

    rest = [run for run in started.values() if isinstance(run, SweepRun) and not run.complete]
    second = _execute_all(rest, None, execute)
    return [
        _ended(run, started[run.name], first.get(run.name), second.get(run.name)) for run in runs
    ]


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
        reason = f"It shares {span('01', shared)} with {source.name}, which failed there."
        return Outcome(run.name, "failed", reason=reason)
    try:
        _copy_shared(source, run, shared)
    except (UserError, OSError) as error:
        return Outcome(run.name, "failed", reason=str(error))
    return replace(run, start=_next(shared))


def _ended(
    run: SweepRun, started: SweepRun | Outcome, first: Outcome | None, second: Outcome | None
) -> Outcome:
    if run.complete:
        return Outcome(run.name, "already complete")
    if isinstance(started, Outcome):
        return started
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
            raise UserError(
                f"{run.name} was started by another process: wait until that has ended."
            )
        temporary.mkdir()
        notebooks = [name for name in SHARED if name[:2] <= last]
        if completed(source.folder)[: len(notebooks)] != notebooks:
            raise UserError(f"{source.name} was started again by another process.")
        for notebook in notebooks:
            for name in (f"{notebook}.ipynb", *SHARED[notebook]):
                shutil.copy2(source.folder / name, temporary)
        save_experiment(run.experiment, temporary / "experiment.yaml")
        write_completed(temporary, notebooks)
        discard(run.folder)


def _execute_all(
    runs: Iterable[SweepRun], stop: str | None, execute: Executor
) -> dict[str, Outcome]:
    jobs = [_job(run, stop or run.stop) for run in runs]
    return {outcome.name: outcome for outcome in execute(jobs)} if jobs else {}


def _job(run: SweepRun, last: str) -> Job:
    """Write the parameters of a run, and say how to execute its notebooks up to `last`."""
    folder = runs_dir() / ".sweep"
    file = folder / f"{run.name}.yaml"
    save_experiment(run.experiment, file)
    return Job(
        name=run.name,
        first=run.start,
        last=last,
        folder=run.folder,
        arguments=(*_MURA, "run", str(file), "--to", last),
        log=folder / f"{run.name}.log",
        environment={
            "MURA_DATA_DIR": str(data_dir()),
            "MURA_RUNS_DIR": str(runs_dir()),
            "MURA_CACHE_DIR": str(cache_dir()),
            "PYTHONUNBUFFERED": "1",  # the log can be followed
        },
    )


def _next(number: str) -> str:
    return f"{int(number) + 1:02d}"
