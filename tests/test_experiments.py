from __future__ import annotations

import pytest
import yaml

from mura_utils.errors import UserError
from mura_utils.experiments import (
    EXPERIMENTS,
    Experiment,
    load_experiment,
    owner,
    parse_assignment,
    save_experiment,
    validate_parameters,
)


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_is_valid_and_named_after_its_file(path):
    assert load_experiment(path).name == path.stem


def test_the_demo_is_the_defaults():
    assert load_experiment("demo") == Experiment()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbnoe": "mobilenet"}, "unknown parameter 'backbnoe'; did you mean 'backbone'"),
        ({"epochs": "3"}, "epochs = '3': input should be a valid integer"),
        ({"epochs": 0}, "epochs = 0: .*greater than or equal to 1"),
        ({"fractions": [0.5, 0.5, 0.5]}, "fractions = .*three positive shares that sum to 1"),
        ({"name": "../demo"}, "name = '../demo': use letters"),
        ({"unfreeze": -1}, "unfreeze = -1: .*from 0 up, or all"),
        ({"head": "dense", "dropout": [0.5, 0.5]}, "the head dense takes 1 dropout rate"),
        ({"backbone": "mobilenet"}, "the weights phantom are densenet121's: with the backbone mob"),
    ],
)
def test_a_wrong_parameter_is_one_sentence_that_names_it(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        validate_parameters(changes, "mine.yaml")
    assert str(caught.value).startswith("mine.yaml: ")
    assert "\n" not in str(caught.value)


def test_an_unknown_experiment_lists_the_known():
    with pytest.raises(UserError, match=r"no experiment 'exp9'.*exp1.*exp6"):
        load_experiment("exp9")


def test_a_file_that_is_no_mapping_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("- epochs: 3\n")
    with pytest.raises(UserError, match="one 'parameter: value' a line"):
        load_experiment(path)
    path.write_text("epochs: [3\n")
    with pytest.raises(UserError, match="is not YAML"):
        load_experiment(path)


def test_saved_and_loaded_are_equal(tmp_path):
    experiment = load_experiment("exp6", unfreeze="all", fractions=[0.6, 0.1, 0.3])
    save_experiment(experiment, tmp_path / "experiment.yaml")
    assert load_experiment(tmp_path / "experiment.yaml") == experiment


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("epochs=3", ("epochs", 3)),
        ("learning_rate=1e-5", ("learning_rate", 1e-5)),
        ("fractions=[0.6, 0.1, 0.3]", ("fractions", [0.6, 0.1, 0.3])),
        ("name=007", ("name", "007")),
        ("weights=/a=b/w.h5", ("weights", "/a=b/w.h5")),
        ("augment=false", ("augment", False)),
        ("unfreeze=all", ("unfreeze", "all")),
    ],
)
def test_assignments_are_read_as_typed(typed, expected):
    assert parse_assignment(typed) == expected


def test_an_assignment_without_value_is_refused():
    with pytest.raises(UserError, match="write it as key=value"):
        parse_assignment("epochs")


def test_every_parameter_has_an_owner_and_a_description():
    for name, field in Experiment.model_fields.items():
        assert owner(name) in {"01", "02", "03", "04", "05", "06", "07"}
        assert field.description


def test_the_reports_experiments_hold_the_reports_hyper_parameters():
    for number in range(1, 7):
        values = yaml.safe_load((EXPERIMENTS / f"exp{number}.yaml").read_text())
        expected = {
            "batch_size": 64,
            "epochs": 150,
            "learning_rate": 1e-5,
            "early_stopping_patience": 10,
            "reduce_lr_factor": 0.2,
            "reduce_lr_patience": 5,
            "min_learning_rate": 1e-7,
        }
        assert {name: values[name] for name in expected} == expected
