"""`mura sweep --ray`: several runs at a time, on this machine or a cluster."""

from __future__ import annotations

import logging
import os
import sys
from types import SimpleNamespace

import pytest
from sweeps import is_alive, run, states

from mura_utils.errors import UserError
from mura_utils.runs import ray
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
