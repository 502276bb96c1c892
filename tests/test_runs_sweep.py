"""`mura sweep` with a stand-in for the notebooks: the rest of `mura run` is the real one."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys

import nbformat
import pytest
import yaml
from sweeps import is_alive, run, states, wait_for

from mura_utils.errors import UserError
from mura_utils.experiments import Experiment
from mura_utils.paths import REPOSITORY, read_json, runs_dir
from mura_utils.runs import sweep
from mura_utils.runs.jobs import run_here, summarize
from mura_utils.runs.record import completed
from mura_utils.runs.stages import NOTEBOOKS
from mura_utils.runs.sweep import plan, run_sweep

# --- what to run ----------------------------------------------------------------------------------


def test_names_and_seeds(world):
    first, second = world.experiment("a", seed=7), world.experiment("b", file="other")
    named = {run.name: run.experiment.seed for run in plan([first, second], {}, seeds=2)}
    assert named == {"a-seed0": 0, "a-seed1": 1, "b-seed0": 0, "b-seed1": 1}
    named = {run.name: run.experiment.seed for run in plan([first, second], {"epochs": 3})}
    assert named == {"a": 7, "b": 0}
    assert {run.experiment.epochs for run in plan([first, second], {"epochs": 3})} == {3}
    assert not runs_dir().exists()


def test_two_runs_of_one_name_are_refused(world):
    files = [world.experiment("a"), world.experiment("a", file="copy", epochs=3)]
    with pytest.raises(UserError, match=r"a\.yaml and .*copy\.yaml both make the run a-seed0"):
        plan(files, {}, seeds=1)
    with pytest.raises(UserError, match="both make the run a:"):
        plan([files[0], files[0]], {})


def test_a_seed_given_twice_is_refused(world):
    with pytest.raises(UserError, match="-p seed and --seeds exclude each other"):
        plan([world.experiment("a")], {"seed": 3}, seeds=2)


def test_a_change_that_suits_only_some_experiments_names_the_file(world):
    files = [world.experiment("a", head="dense", dropout=[0.5]), world.experiment("b")]
    with pytest.raises(UserError, match=r"^b\.yaml: the head attention takes 5 dropout"):
        plan(files, {"dropout": [0.1]}, seeds=2)


def test_notebooks_that_do_not_exist_are_refused(world):
    with pytest.raises(UserError, match="no notebook '08'"):
        plan([world.experiment("a")], {}, stop="08")


def test_a_folder_that_is_no_run_is_refused_and_kept(world):
    (runs_dir() / "a").mkdir(parents=True)
    (runs_dir() / "a" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"exists and is no run: choose another name in a\.yaml"):
        plan([world.experiment("a")], {})


# --- running --------------------------------------------------------------------------------------


def test_a_failure_is_reported_and_the_others_finish(world):
    files = [world.experiment(name, split_seed=seed) for seed, name in enumerate("abc")]
    world.tell("a", "02", "fail")
    world.tell("b", "06", "be killed")
    outcomes = run(files)
    assert states(outcomes) == {"a": "failed", "b": "failed", "c": "done"}
    assert "02_data_preprocessing stopped: the disk is full." in outcomes["a"].reason
    log = runs_dir() / ".sweep" / "a.log"
    assert outcomes["a"].reason.endswith(f"Log: {log}") and "child.py run" in log.read_text()
    assert "killed, as happens when memory runs out, before 07 was" in outcomes["b"].reason
    assert outcomes["c"].seconds > 0
    table = summarize(list(outcomes.values())).splitlines()
    assert [line.split()[:2] for line in table] == [["a", "failed"], ["b", "failed"], ["c", "done"]]
    world.calls()

    (world.folder / "a-02").unlink()
    (world.folder / "b-06").unlink()
    outcomes = run(files)
    assert states(outcomes) == {"a": "done", "b": "done", "c": "already complete"}
    expected = [f"a 0{number}" for number in range(2, 8)] + ["b 06", "b 07"]
    assert world.calls() == expected
    assert set(states(run(files)).values()) == {"already complete"}
    assert world.calls() == []


def test_the_reason_is_of_the_last_attempt(world):
    file = world.experiment("a")
    world.tell("a", "01", "fail")
    assert "disk is full" in run([file])["a"].reason
    world.tell("a", "01", "be killed")
    outcome = run([file])["a"]
    assert "was killed" in outcome.reason and "disk" not in outcome.reason


def test_a_failure_is_one_where_exit_statuses_are_lost(world):
    file = world.experiment("a")
    world.tell("a", "02", "fail")
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        outcome = run([file])["a"]
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert outcome.state == "failed" and "the disk is full" in outcome.reason


def test_a_run_killed_in_01_starts_over(world):
    file = world.experiment("a")
    world.tell("a", "01", "be killed")
    assert states(run([file], stop="02")) == {"a": "failed"}
    (runs_dir() / "a" / "half").touch()
    world.tell("a", "01", "")
    assert states(run([file], stop="02", epochs=3)) == {"a": "done"}, "other values are no loss"
    assert not (runs_dir() / "a" / "half").exists()


def test_what_another_process_completed_meanwhile_is_not_replaced(world):
    file = world.experiment("a")
    late = plan([file], {}, stop="01")
    run([file], stop="01")
    (runs_dir() / "a" / "result").touch()
    (outcome,) = run_sweep(late, run_here)
    assert outcome.state == "failed" and "The run a exists" in outcome.reason
    assert (runs_dir() / "a" / "result").exists()


def test_other_parameters_than_a_run_was_made_with_are_refused(world):
    file = world.experiment("a")
    run([file], stop="05")
    with pytest.raises(UserError) as caught:
        plan([file], {"epochs": 3})
    assert str(caught.value) == (
        f"a.yaml: epochs = 3, but the run a was made with {Experiment().epochs}: choose another "
        f"name in that file, or remove {runs_dir() / 'a'}."
    )
    assert plan([file], {"threshold": 0.3})[0].start == "06", "06 has not run yet"


def test_again_from_a_notebook(world):
    files, made = [world.experiment("a"), world.experiment("b")], Experiment().epochs
    with pytest.raises(UserError, match="run 01_data_understanding first"):
        plan(files, {}, start="06")
    run(files)
    world.calls()
    outcomes = run(files, start="06", stop="06", threshold=0.3)
    assert states(outcomes) == {"a": "done", "b": "done"}
    assert world.calls() == ["a 06", "b 06"]
    with pytest.raises(UserError, match=f"epochs = 3, but the run a was made with {made}"):
        plan(files, {"epochs": 3}, start="06")


def test_an_absent_weights_file_stops_only_what_would_read_it(world):
    file, weights = world.experiment("a"), world.folder / "a.npz"
    with pytest.raises(UserError, match=r"a\.npz is no file"):
        plan([file], {"weights": str(weights)}, seeds=2)
    assert len(plan([file], {"weights": str(weights)}, seeds=2, stop="04")) == 2
    weights.touch()
    run([file], stop="05", weights=str(weights))
    weights.unlink()
    assert plan([file], {"weights": str(weights)})[0].start == "06"


def test_an_experiment_file_edited_meanwhile_changes_no_run(world):
    file = world.experiment("a")
    planned = plan([file], {"weights": "null", "l2": 1e-5, "dropout": [0.1] * 5}, stop="01")
    world.experiment("a", epochs=999)
    run_sweep(planned, run_here)
    record = yaml.safe_load((runs_dir() / "a" / "experiment.yaml").read_text())
    assert record == planned[0].experiment.model_dump()


# --- what runs share ------------------------------------------------------------------------------


def test_notebooks_that_runs_share_are_executed_once(world, caplog):
    files = [world.experiment("a"), world.experiment("b", epochs=3)]
    files.append(world.experiment("c", image_size=64))
    caplog.set_level(logging.INFO, "mura_utils")
    outcomes = run(files, seeds=2)
    assert set(states(outcomes).values()) == {"done"}
    once = [f"{name} 0{number}" for name in ("a-seed0", "c-seed0") for number in range(1, 5)]
    each = [
        f"{name}-seed{seed} 0{number}"
        for name in "abc" for seed in (0, 1) for number in (5, 6, 7)
    ]  # fmt: skip
    assert world.calls() == once + each
    assert "a-seed1, b-seed0, b-seed1: 01–04 taken from a-seed0" in caplog.messages
    assert "[1/2] a-seed0 01–04" in caplog.messages
    taken = runs_dir() / "b-seed1"
    assert (taken / "04_data_transformation.ipynb").read_text().startswith("a-seed0")
    assert (taken / "05_modeling.ipynb").read_text() == "b-seed1, epochs 3"
    record = yaml.safe_load((taken / "experiment.yaml").read_text())
    assert (record["name"], record["seed"], record["epochs"]) == ("b-seed1", 1, 3)
    assert completed(taken) == list(NOTEBOOKS)
    assert {path.name for path in runs_dir().iterdir()} == {".locks", ".sweep", *outcomes}


def test_a_later_run_takes_nothing_of_the_model_it_is_copied_from(world):
    file = world.experiment("a")
    run([file], seeds=1)
    (runs_dir() / "a-seed0" / "metrics.json").touch()
    (runs_dir() / "a-seed0" / ".hidden").touch()
    world.calls()
    assert states(run([file], seeds=2, stop="04")) == {
        "a-seed0": "already complete",
        "a-seed1": "done",
    }
    assert world.calls() == []
    copy = runs_dir() / "a-seed1"
    notebooks = {f"{name}.ipynb" for name in NOTEBOOKS[:4]}
    data = {"inventory.csv", "quality.json", "manifest.csv", "splits.csv", "leakage.json"}
    own = {"experiment.yaml", "state.json"}
    assert {path.name for path in copy.iterdir()} == notebooks | data | own | {"pca.json"}
    assert read_json(copy / "state.json")["completed"] == list(NOTEBOOKS[:4])


def test_in_any_other_order_the_run_that_has_got_furthest_is_taken_from(world):
    files = [world.experiment("a"), world.experiment("b")]
    run(files[1:], stop="04")
    world.calls()
    assert states(run(files, stop="05")) == {"a": "done", "b": "done"}
    assert world.calls() == ["a 05", "b 05"]


def test_a_sweep_that_ends_before_04_shares_what_it_runs(world):
    file = world.experiment("a")
    run([file], seeds=1)
    world.calls()
    assert states(run([file], seeds=2, stop="02"))["a-seed1"] == "done"
    assert world.calls() == []
    assert completed(runs_dir() / "a-seed1") == list(NOTEBOOKS[:2])
    assert not (runs_dir() / "a-seed1" / "splits.csv").exists()


def test_runs_that_would_share_what_failed_are_not_tried(world):
    files = [world.experiment("a"), world.experiment("b", image_size=64)]
    world.tell("a-seed0", "03", "fail")
    outcomes = run(files, seeds=2, stop="05")
    assert states(outcomes) == {
        "a-seed0": "failed", "a-seed1": "failed", "b-seed0": "done", "b-seed1": "done"
    }  # fmt: skip
    assert outcomes["a-seed1"].reason == "It shares 01–04 with a-seed0, which failed there."
    assert not (runs_dir() / "a-seed1").exists()
    world.calls()
    world.tell("a-seed0", "03", "")
    assert set(states(run(files[:1], seeds=2, stop="05")).values()) == {"done"}
    assert world.calls() == ["a-seed0 03", "a-seed0 04", "a-seed0 05", "a-seed1 05"]


@pytest.mark.parametrize("name", NOTEBOOKS[:4])
def test_what_is_copied_is_what_the_notebook_writes(name):
    book = nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", as_version=4)
    lines = book.cells[0].source.splitlines()
    (row,) = [line for line in lines if line.startswith("| **Writes** |")]
    assert set(sweep.SHARED[name]) == set(row.split("`")[1::2])


# --- the real command -----------------------------------------------------------------------------


def test_a_sweep_of_real_notebooks(world, tmp_path, monkeypatch):
    """Copied artefacts are enough for the next notebook, executed with papermill."""
    file = world.experiment("a")
    run([file], seeds=1, stop="03")  # by the stand-in, for fewer kernels
    books = tmp_path / "repository" / "notebooks"
    books.mkdir(parents=True)
    for name in NOTEBOOKS[:5]:
        own = "seed = 0\n" if name.startswith("05") else ""
        cells = [
            nbformat.v4.new_code_cell(source)
            for source in (
                f'# Parameters: test\nname = "demo"\n{own}',
                f"from mura_utils.notebook import open_run\nrun = open_run({name!r}, In)",
                f"for file in {sweep.SHARED.get(name, ())}:\n    run.path(file).touch()\n"
                "run.complete();",
            )
        ]
        cells[0].metadata["tags"] = ["parameters"]
        book = nbformat.v4.new_notebook(cells=cells)
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
        book.metadata["language_info"] = {"name": "python"}
        nbformat.write(book, books / f"{name}.ipynb")
    child = tmp_path / "mura.py"
    child.write_text(
        "from pathlib import Path\n"
        "from mura_utils import cli\nfrom mura_utils.runs import pipeline\n"
        f"pipeline.REPOSITORY = Path({str(books.parent)!r})\ncli.main()\n"
    )
    monkeypatch.setattr(sweep, "_MURA", (str(child),))
    outcomes = run([file], seeds=2, stop="05")
    assert states(outcomes) == {"a-seed0": "done", "a-seed1": "done"}
    book = nbformat.read(runs_dir() / "a-seed1" / "05_modeling.ipynb", as_version=4)
    assert "seed = 1" in book.cells[1].source
    assert completed(runs_dir() / "a-seed1") == list(NOTEBOOKS[:5])


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_stops_its_run_and_keeps_what_is_complete(world, end):
    file = world.experiment("a")
    world.tell("a", "03", "hang")
    script = world.folder / "sweep.py"
    script.write_text(
        "from mura_utils import cli\nfrom mura_utils.runs import sweep\n"
        f"sweep._MURA = ({str(world.child)!r},)\nif __name__ == '__main__': cli.main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, script, "sweep", file],
        stderr=subprocess.PIPE,
        text=True,
        # Tests that a shell runs in the background inherit that SIGINT is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    child = wait_for(world, "a 03")
    process.send_signal(end)
    assert process.wait(30) == 130
    assert process.stderr.read() == "mura: interrupted; what was completed is kept.\n"
    assert not is_alive(child)
    assert completed(runs_dir() / "a") == list(NOTEBOOKS[:2])
