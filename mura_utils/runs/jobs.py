"""One run of a sweep in a process of its own."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from mura_utils.errors import UserError
from mura_utils.runs.record import clear_leftovers, completed, state_text, working_in

logger = logging.getLogger(__name__)

_LOCK_SECONDS = 180
"""How long the lock of a lost machine may outlive it: NFS 4 keeps one for 90 s."""


@dataclass(frozen=True)
class Job:
    """One call of ``mura run``, with all that a process on another machine needs to make it.

    Attributes:
        name: of the run.
        first: first notebook, two digits.
        last: last notebook.
        folder: the run's.
        arguments: of the Python interpreter, without ``--from``.
        log: the file that takes the output.
        environment: variables besides those of the process that executes the job.
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
        return f"{self.name} {span(self.first, self.last)}"


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


Executor = Callable[[Sequence[Job]], list[Outcome]]


def span(first: str, last: str) -> str:
    """Notebooks in words: ``"01"``, or ``"01–04"``."""
    return first if first == last else f"{first}–{last}"


def execute_job(job: Job) -> Outcome:
    """Execute one job in a process of its own; its failure is an outcome, not an exception."""
    command = [sys.executable, *job.arguments, "--from", job.first]
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


def go_on(job: Job, before: str) -> Outcome:
    """Execute what is left of a job whose machine was lost.

    What works in the run is waited for: a machine that is only cut off ends its jobs a little
    later, and the lock of one that is off is held by the file server for a while.

    Args:
        job: as it was given to that machine.
        before: `record.state_text` of the run before that.
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            with working_in(job.folder):
                clear_leftovers(job.folder)
                break
        except UserError as error:
            if time.monotonic() > deadline:
                return Outcome(job.name, "failed", reason=f"Its machine was lost. {error}")
        time.sleep(1)
    if state_text(job.folder) != before:
        job = replace(job, first=f"{len(completed(job.folder)) + 1:02d}")
    return Outcome(job.name, "done") if job.first > job.last else execute_job(job)


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


def run_here(jobs: Sequence[Job]) -> list[Outcome]:
    """Execute jobs one after another on this machine."""
    outcomes = []
    for position, job in enumerate(jobs, start=1):
        logger.info(f"[{position}/{len(jobs)}] {job}")
        outcome = execute_job(job)
        logger.info(f"      {outcome_text(outcome)}")
        outcomes.append(outcome)
    return outcomes


def outcome_text(outcome: Outcome) -> str:
    """How a job ended, in a few words."""
    return f"{outcome.seconds:.0f} s" if outcome.state == "done" else f"failed: {outcome.reason}"


def summarize(outcomes: Sequence[Outcome]) -> str:
    """One line a run: its name, state, seconds, and why it failed."""
    width = max(len(outcome.name) for outcome in outcomes)
    lines = (
        f"{outcome.name:<{width}}  {outcome.state:<16}  {outcome.seconds:>6.0f} s  {outcome.reason}"
        for outcome in outcomes
    )
    return "\n".join(line.rstrip() for line in lines)
