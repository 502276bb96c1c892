"""`mura sweep --ray`: several runs at a time, on this machine or a cluster."""

from __future__ import annotations

import json
import logging
import os
import sys
from functools import partial
from types import SimpleNamespace

import pytest
from sweeps import is_alive, run, states

from mura_utils.errors import UserError
from mura_utils.locks import claim
from mura_utils.runs import jobs, ray, sweep
from mura_utils.runs.jobs import go_on
from mura_utils.runs.ray import ray_cluster


def test_ray_runs_two_at_a_time_and_survives_what_fails(world, caplog):
    pytest.importorskip("ray")
    if os.cpu_count() < 2:
        pytest.skip("two runs at a time need two CPUs")
    file = world.experiment("a")
    world.tell("a-seed0", "05", "meet a-seed1")
    world.tell("a-seed1", "05", "meet a-seed0")
    world.tell("a-seed2", "05", "fail")
    world.tell("a-seed3", "05", "kill the worker")
    caplog.set_level(logging.INFO, "mura_utils")
    with ray_cluster(None, 1, 0) as execute:
        outcomes = run([file], seeds=4, stop="05", execute=execute)
    assert len([line for line in caplog.messages if ": failed: " in line]) == 2
    assert states(outcomes) == {
        "a-seed0": "done", "a-seed1": "done", "a-seed2": "failed", "a-seed3": "failed"
    }  # fmt: skip
    assert "05_modeling stopped: the disk is full." in outcomes["a-seed2"].reason
    assert "Its Ray worker ended:" in outcomes["a-seed3"].reason
    assert "at a time, each with 1 CPU(s) and 0 GPU(s)" in caplog.messages[0]
    calls = (world.folder / "calls").read_text().splitlines()
    assert all(" threads=1 " in line for line in calls)
    assert [line[:10] for line in calls[:4]] == [f"a-seed0 0{number}" for number in range(1, 5)]
    assert len(calls) == 4 + 4
    (orphan,) = [int(line.split()[-1]) for line in calls if line.startswith("a-seed3")]
    assert not is_alive(orphan)


@pytest.mark.parametrize(
    ("cpus", "gpus", "at_a_time"), [(1, 0, 24), (8, 1, 2), (9, 1, 1), (16, 0, 1)]
)
def test_how_many_runs_fit_on_a_cluster(cpus, gpus, at_a_time):
    large, small = {"CPU": 16.0, "GPU": 2.0}, {"CPU": 8.0}
    machines = [
        {"Alive": True, "Resources": large},
        {"Alive": True, "Resources": small},
        {"Alive": False, "Resources": large},
    ]
    cluster = SimpleNamespace(nodes=lambda: machines)
    line = ray._describe_use(cluster, cpus, gpus)
    assert line.startswith(f"Up to {at_a_time} run(s) at a time")
    assert ("2 GPU(s) stay unused" in line) == (gpus == 0)
    with pytest.raises(UserError, match=r"No machine of this Ray cluster has 1 CPU\(s\) and 3 GPU"):
        ray._describe_use(cluster, 1, 3)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("127.0.0.1:9", "start it there with 'ray start --head'"),
        ("gpubox", "write it as host:port"),
    ],
)
def test_a_cluster_that_is_not_there_is_refused_at_once(address, sentence):
    pytest.importorskip("ray")
    with pytest.raises(UserError, match=sentence), ray_cluster(address, 1, 0):
        pass


def test_ray_that_is_not_installed_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(UserError, match=r"needs Ray: pip install -e \.\[cluster\]"),
        ray_cluster(None, 1, 0),
    ):
        pass


def test_a_lost_machine_costs_what_it_held_and_nothing_else(world, caplog):
    caplog.set_level(logging.INFO, "mura_utils")
    file = world.experiment("a")
    world.tell("a-seed1", "05", "be killed")
    cluster = Cluster(world, {"a-seed0": "before", "a-seed1": "meanwhile", "a-seed2": "after"})
    outcomes = run([file], seeds=3, stop="05", execute=cluster.execute)
    assert set(states(outcomes).values()) == {"done"}
    assert len([line for line in caplog.messages if "its machine was lost" in line]) == 3
    shared = [f"a-seed0 0{number}" for number in range(1, 5)]
    trained = ["a-seed0 05", "a-seed1 05", "a-seed2 05"]
    assert sorted(world.calls()) == sorted([*shared, *trained, "a-seed1 05"])

    cluster = Cluster(world, {"a-seed0": "before", "a-seed2": "after"})
    run([file], seeds=3, start="05", stop="05", execute=cluster.execute)
    assert sorted(world.calls()) == trained  # complete ones, which were to be executed again


def test_a_run_that_takes_every_machine_down_is_given_up(world):
    cluster = Cluster(world, {"a": "always"})
    outcome = run([world.experiment("a")], execute=cluster.execute)["a"]
    assert outcome.state == "failed" and "the node is dead" in outcome.reason
    assert cluster.started == 1 + ray._LOSSES
    assert world.calls() == []


def test_a_lost_machine_that_still_computes_is_waited_for(world, monkeypatch):
    run([world.experiment("a")], stop="02")
    job = sweep._job(sweep.plan([world.folder / "a.yaml"], {}, stop="02")[0], "02")
    folder = job.folder
    held = claim(folder.parent / ".locks" / f"{folder.name}.lock", "")
    monkeypatch.setattr(jobs.time, "sleep", lambda seconds: held.release())
    whole, other = folder / ".02_data_preprocessing.partial.ipynb", folder / ".03_x.partial.ipynb"
    whole.write_text('{"metadata": {"papermill": {"input_path": "/here"}}}')
    other.write_text('{"meta')
    assert go_on(job, before="it began").state == "done"
    assert not whole.exists() and not other.exists()  # up to there, it is kept
    saved = (folder / "02_data_preprocessing.ipynb").read_text()
    assert json.loads(saved) == {"metadata": {"papermill": {}}}
    assert not held.is_locked

    held.acquire()
    monkeypatch.setattr(jobs, "_LOCK_SECONDS", 0)
    outcome = go_on(job, before="it began")
    assert outcome.state == "failed"
    assert "Its machine was lost. Another process works in the run a" in outcome.reason


def test_a_cluster_without_machines_is_said_once(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "mura_utils")
    answers = iter([[], [], ["task"]])
    cluster = SimpleNamespace(nodes=list, wait=lambda tasks, timeout: (next(answers), tasks))
    assert ray._wait_for_one(cluster, ["task", "other"], 1, 2) == "task"
    (line,) = caplog.messages
    assert line.startswith(
        "No machine with 1 CPU(s) and 2 GPU(s) is left in the Ray cluster: 2 job"
    )


class Cluster:
    """Ray, with machines that are lost as told: before, meanwhile or after a run's last job."""

    def __init__(self, world, lost):
        self.exceptions = pytest.importorskip("ray").exceptions
        self.world, self.lost, self.started = world, dict(lost), 0

    def execute(self, jobs):
        return ray._run_on_ray(self, jobs, 1, 0)

    def remote(self, **options):
        assert options["max_retries"] == 0
        return lambda work: SimpleNamespace(remote=lambda *arguments: partial(work, *arguments))

    def wait(self, tasks, timeout):
        return tasks[:1], tasks[1:]

    def get(self, task):
        job = task.args[0]
        self.started += 1
        when = self.lost.get(job.name) if job.last != "04" else None
        if when not in ("before", "always"):
            outcome = task()
        if when is None:
            return outcome
        if when != "always":
            del self.lost[job.name]
        (self.world.folder / f"{job.name}-05").unlink(missing_ok=True)
        raise self.exceptions.NodeDiedError("the node is dead")
