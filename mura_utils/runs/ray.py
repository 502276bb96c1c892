"""Jobs on a Ray cluster, several at a time."""

from __future__ import annotations

import importlib
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from mura_utils.errors import UserError
from mura_utils.runs.jobs import Executor, Job, Outcome, execute_job, outcome_text

logger = logging.getLogger(__name__)


@contextmanager
def ray_cluster(address: str | None, cpus: int, gpus: int) -> Iterator[Executor]:
    """Connect to a Ray cluster, or start one of this machine, and yield what executes jobs on it.

    A log line says what runs will use. A job is one Ray task, never retried. On a cluster of
    several machines the project, and the folders of data, runs and caches, must have the same path
    on each: a shared file system.

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


def _run_on_ray(ray: Any, jobs: Sequence[Job], cpus: int, gpus: int) -> list[Outcome]:
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
            logger.info(f"[{len(outcomes)}/{len(jobs)}] {job}: {outcome_text(outcomes[job.name])}")
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
