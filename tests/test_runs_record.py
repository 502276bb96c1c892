"""What a run's folder says of itself, and who may work in it."""

from __future__ import annotations

import subprocess
import sys

import pandas as pd
import pytest

from mura_utils import notebook as nb
from mura_utils.errors import UserError
from mura_utils.experiments import validate_parameters
from mura_utils.paths import runs_dir, write_json
from mura_utils.runs import record
from mura_utils.runs.stages import NOTEBOOKS

MINE = ['# Parameters: x\nname = "mine"']
HOLD = (
    "import sys\nfrom mura_utils.paths import runs_dir\nfrom mura_utils.runs.record import lock\n"
    "lock(runs_dir() / 'mine')\nprint('held', flush=True)\nsys.stdin.read()\n"
)


@pytest.fixture
def other_process():
    """A process that works in the run `mine` until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_run_that_another_process_works_in_is_refused_until_that_ends(other_process):
    with pytest.raises(UserError, match="Another process works in the run mine: a command, or a"):
        nb.open_run(NOTEBOOKS[0], MINE)
    assert not (runs_dir() / "mine").exists()
    nb.open_run(NOTEBOOKS[0], ['# Parameters: x\nname = "yours"']).complete()
    other_process.kill()
    other_process.wait()
    nb.open_run(NOTEBOOKS[0], MINE).complete()


def test_a_notebook_holds_its_run_until_it_is_complete():
    run = nb.open_run(NOTEBOOKS[0], MINE)
    script = HOLD.replace("sys.stdin.read()", "")
    refused = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "Another process works in the run mine" in refused.stderr
    run.complete()
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 0


def test_a_notebook_that_is_refused_holds_nothing():
    with pytest.raises(UserError, match="run 01_data_understanding first"):
        nb.open_run(NOTEBOOKS[1], MINE)
    assert (runs_dir() / "mine").resolve() not in record._held


def test_a_kernel_of_the_process_that_holds_the_run_may_work_in_it(other_process, monkeypatch):
    monkeypatch.setenv(record.HELD, str((runs_dir() / "mine").resolve()))
    nb.open_run(NOTEBOOKS[0], MINE)


def test_new_parameters_never_stand_beside_a_notebook_that_ran_with_the_old(monkeypatch):
    folder = runs_dir() / "mine"
    record.begin(folder, validate_parameters({"name": "mine"}, "test"), NOTEBOOKS[0])
    record.write_completed(folder, list(NOTEBOOKS))

    def crash(*_):
        raise InterruptedError

    monkeypatch.setattr(record, "save_experiment", crash)
    new = validate_parameters({"name": "mine", "epochs": 3}, "test")
    with pytest.raises(InterruptedError):
        record.begin(folder, new, NOTEBOOKS[4])
    assert record.read_record(folder)["epochs"] != 3
    assert record.completed(folder) == list(NOTEBOOKS[:4])


def test_a_notebook_whose_earlier_ones_were_started_again_is_not_complete():
    for name in NOTEBOOKS[:2]:
        nb.open_run(name, MINE).complete()
    run = nb.open_run(NOTEBOOKS[2], MINE)
    record.write_completed(run.folder, list(NOTEBOOKS[:1]))
    with pytest.raises(UserError, match="run 02_data_preprocessing first"):
        run.complete()


@pytest.mark.parametrize(
    "content",
    [[], {}, {"completed": 3}, {"completed": [1]}, {"completed": ["05_modeling"]}],
)
def test_a_state_that_this_series_does_not_write_is_one_sentence(content):
    write_json(runs_dir() / "mine" / "state.json", content)
    with pytest.raises(UserError, match=r"state\.json does not list the completed notebooks"):
        record.require_trained("mine")


def test_a_model_counts_only_while_its_notebook_is_complete():
    folder = runs_dir() / "mine"
    (folder / "model.keras").mkdir(parents=True)
    with pytest.raises(UserError, match="no trained run 'mine'"):
        record.require_trained("mine")
    record.write_completed(folder, list(NOTEBOOKS[:4]))
    with pytest.raises(UserError, match="mine is not trained: its 05_modeling has not been"):
        record.require_trained("mine")
    record.write_completed(folder, list(NOTEBOOKS[:5]))
    assert record.require_trained("mine") == record.require_trained(folder) == folder
    assert record.is_trained(folder) and not record.is_tested(folder)


def test_a_manifest_and_splits_of_other_images_are_refused(tmp_path):
    paths = ["a.png", "b.png"]
    pd.DataFrame({"path": paths, "label": "x"}).to_csv(tmp_path / "manifest.csv", index=False)
    splits = pd.DataFrame({"path": paths[::-1], "split": ["test", "train"]})
    splits.to_csv(tmp_path / "splits.csv", index=False)
    assert record.images_of(tmp_path)["split"].tolist() == ["train", "test"]
    for wrong in (splits[:1], pd.concat([splits, splits[:1]])):
        wrong.to_csv(tmp_path / "splits.csv", index=False)
        with pytest.raises(UserError, match="do not name the same images, each once: run 02_data"):
            record.images_of(tmp_path)
