"""Jobs on a Ray cluster, several at a time."""

from __future__ import annotations

import importlib
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from mura_utils.errors import UserError
from mura_utils.runs.jobs import Executor, Job, Outcome, execute_job, go_on, outcome_text
from mura_utils.runs.record import state_text

logger = logging.getLogger(__name__)

_LOSSES = 3
"""How often a job goes on elsewhere: one that takes its machine down would take all of them."""

_LOOK_SECONDS = 30
"""How long nothing may end before it is seen whether a machine is left."""


@contextmanager
def ray_cluster(address: str | None, cpus: int, gpus: int) -> Iterator[Executor]:
    """Connect to a Ray cluster, or start one of this machine, and yield what executes jobs on it.

    A log line says what runs will use. A job is one Ray task, which Ray never retries: where its
    process dies, as when memory runs out, the run has failed. Where its machine is lost, another
    goes on with the notebooks that are not complete. On a cluster of several machines the project,
    and the folders of data, runs and caches, must have the same path on each: a shared file system
    with locks.

    Args:
        address: of a running cluster; None starts Ray here.
        cpus: CPUs of each run, and threads that it computes with.
        gpus: GPUs of each run; TensorFlow sees no others.

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
            reason = " ".join(str(error).split())
            raise UserError(
                f"Ray cannot be reached at {address}: {reason}; its messages above say more."
            ) from None
    try:
        logger.info(_describe_use(ray, cpus, gpus))

        def execute(jobs: Sequence[Job]) -> list[Outcome]:
            return _run_on_ray(ray, jobs, cpus, gpus)

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
    at_a_time, each = _at_a_time(ray, cpus, gpus), _share(cpus, gpus)
    if not at_a_time:
        raise UserError(f"No machine of this Ray cluster has {each}: give smaller --cpus, --gpus.")
    unused = sum(machine.get("GPU", 0) for machine in _machines(ray)) if not gpus else 0
    return (
        f"Up to {at_a_time} run(s) at a time, each with {each}: {at_a_time} times the memory of "
        "one run, and one copy of the caches, which all share."
        + (f" {unused:g} GPU(s) stay unused: --gpus 1 gives each run one." if unused else "")
    )


def _share(cpus: int, gpus: int) -> str:
    return f"{cpus} CPU(s) and {gpus} GPU(s)"


def _machines(ray: Any) -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _at_a_time(ray: Any, cpus: int, gpus: int) -> int:
    fits = 0
    for machine in _machines(ray):
        fit = machine.get("CPU", 0) // cpus
        if gpus:
            fit = min(fit, machine.get("GPU", 0) // gpus)
        fits += int(fit)
    return fits


def _run_on_ray(ray: Any, jobs: Sequence[Job], cpus: int, gpus: int) -> list[Outcome]:
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
    threads = dict.fromkeys(names, str(cpus))
    jobs = [replace(job, environment={**job.environment, **threads}) for job in jobs]
    before = {job.name: state_text(job.folder) for job in jobs}

    def submit(work: Callable[..., Outcome], *arguments: Any) -> Any:
        return ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(work).remote(*arguments)

    pending = {submit(execute_job, job): job for job in jobs}
    outcomes: dict[str, Outcome] = {}
    losses: Counter[str] = Counter()
    try:
        while pending:
            ready = _wait_for_one(ray, list(pending), cpus, gpus)
            job = pending.pop(ready)
            outcome, lost = _result(ray, ready, job)
            losses[job.name] += lost
            if lost and losses[job.name] <= _LOSSES:
                logger.info(f"{job}: its machine was lost; goes on with what is not complete.")
                pending[submit(go_on, job, before[job.name])] = job
                continue
            outcomes[job.name] = outcome
            logger.info(f"[{len(outcomes)}/{len(jobs)}] {job}: {outcome_text(outcome)}")
    except BaseException:
        for task in pending:
            ray.cancel(task)
        ray.wait(list(pending), num_returns=len(pending), timeout=30)
        raise
    return [outcomes[job.name] for job in jobs]


def _wait_for_one(ray: Any, tasks: Sequence[Any], cpus: int, gpus: int) -> Any:
    """The first task that ends; says so where no machine is left that could run one."""
    told = False
    while True:
        ready, _ = ray.wait(tasks, timeout=_LOOK_SECONDS)
        if ready:
            return ready[0]
        if not told and not _at_a_time(ray, cpus, gpus):
            logger.info(
                f"No machine with {_share(cpus, gpus)} is left in the Ray cluster: {len(tasks)} "
                "job(s) wait until one joins it; Ctrl-C ends the sweep, which can be called again."
            )
            told = True


def _result(ray: Any, task: Any, job: Job) -> tuple[Outcome, bool]:
    """What a task returned, or why it did not, and whether its machine was lost."""
    try:
        return ray.get(task), False
    except ray.exceptions.RayError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        # A traceback says it at its end, Ray's own messages at their beginning.
        line = lines[-1 if isinstance(error, ray.exceptions.RayTaskError) else 0]
        reason = f"Its Ray worker ended: {line} Log: {job.log}"
        lost = isinstance(error, ray.exceptions.NodeDiedError)
        return Outcome(job.name, "failed", reason=reason), lost
