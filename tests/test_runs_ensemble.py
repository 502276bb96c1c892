from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
from members import CLASSES, member

from mura_utils import cli
from mura_utils import notebook as nb
from mura_utils.ensembles import make_ensemble
from mura_utils.errors import UserError
from mura_utils.experiments import load_experiment
from mura_utils.paths import read_json, runs_dir, write_json
from mura_utils.runs import record
from mura_utils.runs.comparison import compare, differing_parameters, find_runs, format_table, table
from mura_utils.runs.ensemble import (
    Ensemble,
    networks_of,
    read_ensemble,
    read_member,
    write_ensemble,
)
from mura_utils.runs.pipeline import run_experiment
from mura_utils.runs.stages import NOTEBOOKS


@pytest.fixture
def ensemble():
    """Of two runs that differ in seed and width."""
    member("a-seed0", 0), member("a-seed1", 1, backbone="densenet169", weights="none")
    return make_ensemble(["a-seed0", "a-seed1"], name="all")


@pytest.fixture
def soup():
    """The record of a soup with mirror images."""
    folder = runs_dir() / "mixed"
    members = tuple(read_member(member(f"a-seed{seed}", seed)) for seed in (0, 1))
    write_ensemble(folder, Ensemble(members, soup=True, flip=True, val_accuracy=0.75))
    record.write_completed(folder, [])
    return folder


def test_what_is_written_is_what_is_read(soup):
    members = tuple(read_member(f"a-seed{seed}") for seed in (0, 1))
    assert read_ensemble(soup) == Ensemble(members, soup=True, flip=True, val_accuracy=0.75)
    assert read_ensemble(soup).title == "soup of a-seed0, a-seed1, mirrored too"


def test_an_ensemble_counts_as_trained_and_tested(ensemble):
    assert record.is_trained(ensemble) and record.is_tested(ensemble)
    assert record.require_trained("all") == ensemble
    assert record.completed(ensemble) == []


def test_networks(ensemble, soup):
    networks = networks_of(ensemble)
    assert networks.files == [runs_dir() / f"a-seed{seed}" / "model.keras" for seed in (0, 1)]
    assert (networks.flip, networks.classes) == (False, CLASSES)
    networks = networks_of(soup)
    assert networks.files == [soup / "model.keras"] and networks.flip
    networks = networks_of(runs_dir() / "a-seed1")
    assert networks.files == [runs_dir() / "a-seed1" / "model.keras"]
    assert (networks.flip, networks.classes) == (False, CLASSES)


@pytest.mark.parametrize("soup", [False, True])
def test_an_ensemble_is_taught_by_masks_where_all_its_members_are(soup):
    for name, strength in (("a", 1.0), ("b", 4.0), ("c", 0.0)):
        member(name, head="pooled", dropout=[0.3], mask_supervision=strength)
    taught = {}
    for names in ("a", "c", "ab", "ac"):
        folder = runs_dir() / names
        if len(names) > 1:
            members = tuple(map(read_member, names))
            write_ensemble(folder, Ensemble(members, soup, flip=False, val_accuracy=0.75))
        taught[names] = networks_of(folder).taught
    assert taught == {"a": True, "c": False, "ab": True, "ac": False}


# --- mura compare -------------------------------------------------------------------------------


def test_a_row_of_its_own_in_the_comparison(ensemble):
    folders, left_out = find_runs(["all", "a-seed0", "a-seed1"])
    compared = compare(folders)
    assert not left_out and set(compared.index) == {"all", "a-seed0", "a-seed1"}
    row = compared.loc["all"]
    metrics = read_json(ensemble / "metrics.json")
    assert row["test_accuracy"] == metrics["image"]["accuracy"]["value"]
    assert row["test_auroc_abnormal"] == metrics["binary_image"]["auroc"]["value"]
    assert row["val_accuracy"] == read_ensemble(ensemble).val_accuracy
    assert (row["runs"], row["tested"], row["seconds"]) == (1, 1, 21)
    assert np.isnan(row[["val_loss", "accuracy", "loss", "epochs"]].astype(float)).all()
    assert (row["source"], row["protocol"]) == ("phantom", "official-patient")
    shown = format_table(compared)
    assert shown["ensemble"].to_dict() == {
        "all": "mean of a-seed0, a-seed1", "a-seed0": "", "a-seed1": ""
    }  # fmt: skip
    assert shown.loc["all", "validation loss"] == "–"
    assert "ensemble" not in format_table(compare(folders[1:]))


def test_parameters_that_members_differ_in_are_a_list(ensemble):
    differing = differing_parameters([ensemble, runs_dir() / "a-seed0"])
    assert differing["all"].to_dict() == {
        "backbone": ["densenet121", "densenet169"], "weights": ["phantom", "none"]
    }  # fmt: skip


def test_an_ensemble_is_never_a_seed_of_its_members_and_takes_no_value_of_the_report():
    names = [member(f"exp6-seed{seed}", seed).name for seed in (1, 2, 3)]
    for name, runs in (("exp6", names), ("again", names), ("two", names[1:])):
        make_ensemble(runs, name=name)
    compared = compare(find_runs([*names, "exp6", "again", "two"])[0])
    assert sorted(compared["names"]) == ["again", "exp6", ", ".join(names), "two"]
    by_name = compared.set_index("names")["report_mura_image_split_val_accuracy"]
    assert by_name[", ".join(names)] == 0.81
    assert by_name[["exp6", "again", "two"]].isna().all()


def test_notebook_05_shows_validation_alone(ensemble):
    shown = table(runs_dir())
    assert shown.loc["all", "ensemble"] == "mean of a-seed0, a-seed1"
    assert not [column for column in shown if "test" in column]


# --- members that change ------------------------------------------------------------------------


def trained_again():
    member("a-seed1", 1)
    path = runs_dir() / "a-seed1" / "training.json"
    write_json(path, read_json(path) | {"model_sha256": "another"})


def begun_again():
    record.write_completed(runs_dir() / "a-seed1", list(NOTEBOOKS[:4]))


def removed():
    shutil.rmtree(runs_dir() / "a-seed1")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            trained_again,
            r"^The ensemble all was made before its member a-seed1 was trained again: ",
        ),
        (begun_again, r"needs its member .*/a-seed1, which is no trained run any more: "),
        (removed, r"needs its member .*/a-seed1, which is no trained run any more: "),
    ],
)
def test_an_ensemble_whose_member_changed_counts_no_longer(ensemble, change, sentence):
    change()
    with pytest.raises(UserError, match=sentence):
        networks_of(ensemble)
    folders, left_out = find_runs(["a-seed0", "all"])
    assert folders == [runs_dir() / "a-seed0"]
    assert "--overwrite" in left_out["all"]


def test_a_soup_needs_its_members_no_longer(soup):
    trained_again()
    shutil.rmtree(runs_dir() / "a-seed0")
    assert networks_of(soup).files == [soup / "model.keras"]


# --- notebooks ----------------------------------------------------------------------------------


def test_no_notebook_works_in_an_ensemble(ensemble):
    before = {path.name: path.read_bytes() for path in ensemble.iterdir()}
    sentence = "The run all is an ensemble, in which no notebook works"
    for number in (0, 4, 6):
        with pytest.raises(UserError, match=sentence):
            nb.open_run(NOTEBOOKS[number], ["# Parameters: test\nname = 'all'"])
    experiment = load_experiment("demo", name="all")
    for start in ("05", "07"):
        with pytest.raises(UserError, match=sentence):
            run_experiment(experiment, start)
    with pytest.raises(UserError, match="The run all exists: choose another --name, or replace"):
        run_experiment(experiment)
    assert {path.name: path.read_bytes() for path in ensemble.iterdir()} == before


# --- damage, and the command --------------------------------------------------------------------


@pytest.fixture
def mura(monkeypatch, capfd):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["mura", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return int(caught.value.code or 0), *capfd.readouterr()

    return call


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        {"members": []},
        {"members": 3},
        {"members": [{"run": "a-seed0"}]},
        {"soup": "yes"},
        {"classes": None},
        {"val_accuracy": [1]},
    ],
)
def test_a_damaged_record_is_one_sentence(ensemble, mura, content):
    path = ensemble / "ensemble.json"
    text = content if isinstance(content, str) else json.dumps(read_json(path) | content)
    path.write_text(text)
    for arguments in (["compare", "all"], ["predict", "--run", "all", "a.png"]):
        status, out, err = mura(*arguments)
        assert status == 1 and str(path) in err
        assert "Traceback" not in out + err and err.count("\n") == 1


def test_a_parameter_that_this_version_lacks_is_one_sentence(ensemble, mura):
    path = ensemble / "ensemble.json"
    path.write_text(path.read_text().replace('"backbone"', '"backbones"', 1))
    status, _, err = mura("compare", "all")
    assert status == 1 and "unknown parameter 'backbones'" in err and str(path) in err


def test_the_command_makes_one_that_is_compared(mura):
    for seed in (0, 1):
        member(f"a-seed{seed}", seed)
    status, out, err = mura("ensemble", "a-seed0", str(runs_dir() / "a-seed1"))
    assert (status, err) == (0, "") and str(runs_dir() / "a-ensemble") in out
    status, out, _ = mura("compare", "a-seed0", "a-seed1", "a-ensemble")
    assert status == 0 and "mean of a-seed0, a-seed1" in out
    status, _, err = mura("ensemble", "a-seed0", "a-seed1")
    assert status == 1 and err.startswith("mura: The ensemble a-ensemble exists")
    assert mura("ensemble", "a-seed0", "a-seed1", "--overwrite")[0] == 0
    status, _, err = mura("ensemble", "a-seed0", "nothing")
    assert status == 1 and err.startswith("mura: There is no trained run 'nothing'")
