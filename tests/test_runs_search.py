"""`mura sweep` of a search, with the stand-in for the notebooks."""

from __future__ import annotations

import re

import pytest
import yaml
from sweeps import run, states

from mura_utils import cli
from mura_utils.errors import UserError
from mura_utils.experiments import EXPERIMENTS, load_experiment
from mura_utils.paths import runs_dir, write_json
from mura_utils.runs.search import describe_trials, read_search
from mura_utils.runs.sweep import plan

SPACE = {"epochs": [3, 5, 7], "learning_rate": [0.1, 0.2], "dropout": [[0.1] * 5, [0.2] * 5]}


@pytest.fixture
def search(world):
    """Write a search over the experiment "base", whose l1 is not the default."""
    base = world.experiment("base", l1=0.25)

    def write(**changes):
        content = {"name": "s", "experiment": str(base), "trials": 3, "seed": 0, "search": SPACE}
        content |= changes
        path = world.folder / "my_search.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
        return path

    return write


# --- what to run ----------------------------------------------------------------------------------


def test_trials_are_drawn_without_repetition_and_alike_again(search):
    trials = read_search(search(trials=12)).trials
    assert list(trials) == [f"s-t{number:02d}" for number in range(12)]
    assert len({str(trial) for trial in trials.values()}) == 12, "the whole grid"
    drawn = [read_search(search(seed=seed)).trials for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_trials_are_runs_that_end_with_05_and_agree_in_the_rest(search):
    path = search()
    runs = plan([path], {"l2": 0.5})
    assert [run.name for run in runs] == ["s-t00", "s-t01", "s-t02"]
    for planned, trial in zip(runs, read_search(path).trials.values(), strict=True):
        experiment = planned.experiment
        assert (planned.start, planned.stop) == ("01", "05")
        assert (experiment.l1, experiment.l2) == (0.25, 0.5)
        assert {name: getattr(experiment, name) for name in SPACE} == trial
    assert not runs_dir().exists()


def test_the_shipped_search_can_run():
    path = EXPERIMENTS / "search_fracatlas.yaml"
    found = read_search(path)
    assert (found.name, len(found.trials)) == (path.stem, 12)
    assert found.experiment.stem == "best_fracatlas"
    for trial in found.trials.values():
        load_experiment(found.experiment, **trial)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": {"epoch": [3]}}, "unknown parameter 'epoch'; did you mean 'epochs'"),
        ({"search": {"epochs": [3, 0]}}, "epochs = 0: .*greater than or equal to 1"),
        ({"search": {"epochs": [3, 3], "l2": [0, 0.1]}}, "epochs has the choice 3 twice"),
        ({"search": {"epochs": 3}}, "epochs: give a list of choices"),
        ({"search": {"epochs": []}}, "epochs: give a list of choices"),
        ({"search": {}}, "search: give parameters with lists of choices"),
        ({"search": 3}, "search: give parameters with lists of choices"),
        ({"search": {"dropout": [[0.1], [0.2]]}}, "the head attention takes 5 dropout"),
        ({"search": {"split_seed": [0, 1, 2]}}, "split_seed belongs to notebook 03"),
        ({"search": {"threshold": [0.2, 0.3, 0.5]}}, "threshold belongs to notebook 06"),
        ({"search": {"name": ["a", "b", "c"]}}, "name belongs to notebook 01"),
        ({"trials": 13}, "trials = 13, but the choices make 12 combinations"),
        ({"trials": 0}, "trials = 0: give a number from 1"),
        ({"trials": True}, "trials = True: give a number from 1"),
        ({"seed": -1}, "seed = -1: give a number from 0"),
        ({"seed": None}, "there is no key 'seed'"),
        ({"trial": 3}, "unknown key 'trial'"),
        ({"name": 3}, "name = 3: give a name"),
        ({"name": "../s"}, "name = '../s-t00': use letters"),
        ({"experiment": "exp9"}, "There is no experiment 'exp9'"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_runs(search, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        plan([search(**changes)], {})
    assert "\n" not in str(caught.value) and not runs_dir().exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stop": "06"}, "is judged on validation and ends with 05: leave out --to 06"),
        ({"seeds": 2}, "a search takes no --seeds"),
        ({"changes": {"epochs": 3}}, "-p epochs: .* gives it to each trial"),
        ({"changes": {"name": "mine"}}, "-p name: .* gives it to each trial"),
    ],
)
def test_what_a_search_cannot_be_given_is_refused(search, arguments, message):
    with pytest.raises(UserError, match=message):
        plan([search()], **{"changes": {}, **arguments})


def test_a_search_is_no_experiment_and_an_experiment_no_search(search, world):
    with pytest.raises(UserError, match="this is a search, which 'mura sweep' runs"):
        load_experiment(search())
    assert read_search(world.experiment("a")) is None


# --- running --------------------------------------------------------------------------------------


def test_a_second_call_runs_what_is_missing_and_the_best_is_printed(search, world, capsys):
    path = search()
    world.tell("s-t01", "05", "fail")
    outcomes = run([path], stop="", l2=0.5)
    assert states(outcomes) == {"s-t00": "done", "s-t01": "failed", "s-t02": "done"}
    calls = world.calls()
    assert [call for call in calls if call.startswith("s-t00")] == [
        f"s-t00 0{number}" for number in range(1, 6)
    ]
    assert [call for call in calls if call.startswith("s-t02")] == ["s-t02 05"]
    assert not any(call.endswith("06") for call in calls)

    (world.folder / "s-t01-05").unlink()
    assert run([path], stop="", l2=0.5)["s-t01"].state == "done"
    assert world.calls() == ["s-t01 05"]

    for name, accuracy, loss in (("s-t00", 0.5, 0.2), ("s-t01", 0.4, 0), ("s-t02", 0.5, 0.1)):
        best = {"val_accuracy": accuracy, "val_loss": loss}
        write_json(runs_dir() / name / "training.json", {"best": best, "seconds": 9.7})
    with pytest.raises(SystemExit) as ended:
        cli.app(["sweep", str(path), "-p", "l2=0.5"])
    text = capsys.readouterr().out
    assert ended.value.code == 0 and "s-t00  already complete" in text
    assert "3 of 3 trials are trained; the test split was not looked at:" in text
    table = text.split("not looked at:")[1]
    assert re.findall(r"^s-t\d+", table, re.MULTILINE) == ["s-t02", "s-t00", "s-t01"]
    best = yaml.safe_load(text.split("for experiments/:\n\n")[1])
    assert best == {"name": "s_best", "l1": 0.25, "l2": 0.5, **read_search(path).trials["s-t02"]}


def test_what_is_not_trained_has_no_row(search):
    assert describe_trials(read_search(search())) == "0 of 3 trials are trained."
