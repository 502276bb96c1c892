from __future__ import annotations

import logging
import shutil

import numpy as np
import pandas as pd
import pytest
from members import CLASSES, SPLITS, answers, change, images, member

from mura_utils import ensembles
from mura_utils.ensembles import make_ensemble
from mura_utils.errors import UserError
from mura_utils.evaluation import (
    calibration_record,
    choose_operating_point,
    clinical_use,
    conformal_record,
    constant_answer,
    evaluate,
    fit_temperature,
    judge_operating_point,
    metrics_record,
    predictions_frame,
    risk_coverage,
)
from mura_utils.paths import read_json, read_table, runs_dir, write_csv, write_json
from mura_utils.runs.record import write_completed
from mura_utils.runs.stages import NOTEBOOKS


def made(*runs, **options):
    return make_ensemble([*runs], **options)


def one_sentence(error):
    text = str(error.value)
    return "\n" not in text and text.endswith(".") and ". " not in text


def test_predictions_and_metrics_are_those_of_the_mean_in_the_form_of_06():
    for seed in range(3):
        member(f"a-seed{seed}", seed)
    folder = made("a-seed0", runs_dir() / "a-seed1", "a-seed2")
    assert folder == runs_dir() / "a-ensemble"
    mean = (sum(answers(seed).astype(float) for seed in range(3)) / 3).astype(np.float32)
    held_out = images().assign(split=SPLITS).query("split != 'train'")
    expected = predictions_frame(held_out, CLASSES, mean)
    write_csv(folder / "expected.csv", expected)
    assert (folder / "predictions.csv").read_text() == (folder / "expected.csv").read_text()
    alone = read_table(runs_dir() / "a-seed0" / "predictions.csv")
    assert (expected["predicted"] != alone["predicted"]).any()

    manifest = images().assign(split=SPLITS)
    metrics = evaluate(expected[expected["split"] == "test"], threshold=0.5, bootstrap=100)
    constant = constant_answer(manifest, CLASSES, 0.5)
    found = read_json(folder / "metrics.json")
    assert found == found | metrics_record("phantom", metrics, constant)
    validation, test = (expected[expected["split"] == name] for name in ("validation", "test"))
    point = choose_operating_point(validation, "specificity", 0.9, threshold=0.5)
    assert read_json(folder / "operating_point.json") == point
    assert found["operating_point"] == judge_operating_point(test, point, bootstrap=100)
    fitted = fit_temperature(validation)
    assert read_json(folder / "calibration.json") == fitted
    assert found["calibration"] == calibration_record(test, fitted, 100)
    assert found["conformal"] == conformal_record(validation, test, 100)
    assert found["risk_coverage"] == risk_coverage(test, 100)
    assert found["clinical"] == clinical_use(expected, bootstrap=100)
    assert found["relabel"] is None
    accuracy = (validation["label"] == validation["predicted"]).mean()
    assert read_json(folder / "ensemble.json")["val_accuracy"] == accuracy


def test_images_are_found_by_path_not_by_row():
    member("a", 0), member("b", 1)
    first = read_table(made("a", "b", name="first") / "predictions.csv")
    for name in ("manifest.csv", "splits.csv", "predictions.csv"):
        path = runs_dir() / "b" / name
        write_csv(path, read_table(path)[::-1])
    second = read_table(made("a", "b", name="second") / "predictions.csv")
    pd.testing.assert_frame_equal(first, second)


def test_members_may_lie_elsewhere_and_differ_in_the_network(tmp_path):
    member("a", 0), member("b", 1, image_size=64, backbone="densenet169", weights="none")
    (runs_dir() / "b").rename(tmp_path / "b")
    folder = made("a", tmp_path / "b")
    assert folder.name == "ensemble"
    runs = [one["run"] for one in read_json(folder / "ensemble.json")["members"]]
    assert runs == ["a", str(tmp_path / "b")]


def test_what_is_done_and_found_is_said(caplog):
    caplog.set_level(logging.INFO, "mura_utils")
    member("a", 0), member("b", 1)
    make_ensemble(["a", "b"])
    lines = caplog.messages
    assert lines[0].startswith("ensemble, mean of a, b: validation accuracy 0.")
    assert lines[0].endswith("alone 0.600, 0.700.") and lines[1].startswith("8 test images")
    assert lines[-2] == "Temperature 1, not fitted: validation has 4 patients, fewer than 20."
    assert lines[-1] == f"The ensemble ensemble: {runs_dir() / 'ensemble'}"


@pytest.mark.parametrize(
    ("names", "flip", "soup", "name"),
    [
        (["a-seed0", "a-seed1"], False, False, "a-ensemble"),
        (["a-seed0", "a-seed1"], True, True, "a-soup-flip"),
        (["a", "b"], True, False, "ensemble-flip"),
        (["a-seed3"], True, False, "a-flip"),
    ],
)
def test_a_name_is_made_of_the_members(names, flip, soup, name):
    members = [ensembles.read_member(member(each)) for each in names]
    assert ensembles._name(members, flip, soup) == name


# --- what is refused ----------------------------------------------------------------------------


def not_tested(folder):
    write_completed(folder, list(NOTEBOOKS[:5]))


def not_trained(folder):
    write_completed(folder, list(NOTEBOOKS[:4]))


def other_classes(folder):
    write_json(
        folder / "training.json",
        read_json(folder / "training.json") | {"classes": [*CLASSES[::-1]]},
    )


def without_an_image(folder):
    for name in ("manifest.csv", "splits.csv"):
        write_csv(folder / name, read_table(folder / name)[:-1])


def trained_on_what_is_tested(folder):
    change(folder / "splits.csv", 19, "split", "train")


def other_label(folder):
    change(folder / "manifest.csv", 3, "label", "Abnormal-HAND")


def other_pixels(folder):
    change(folder / "manifest.csv", 3, "sha256", "0" * 64)


def other_threshold(folder):
    text = (folder / "experiment.yaml").read_text()
    (folder / "experiment.yaml").write_text(text.replace("threshold: 0.5", "threshold: 0.4"))


def other_rule(folder):
    text = (folder / "experiment.yaml").read_text()
    changed = text.replace("operating_point: specificity", "operating_point: youden")
    (folder / "experiment.yaml").write_text(changed)


def fewer_predictions(folder):
    path = folder / "predictions.csv"
    write_csv(path, read_table(path)[:-1])


def predictions_of_other_classes(folder):
    path = folder / "predictions.csv"
    write_csv(path, read_table(path).rename(columns={"p:Normal-HAND": "p:Normal-ELBOW"}))


def no_probability(folder):
    change(folder / "predictions.csv", 2, "p:Normal-HAND", "1.5")


def no_number(folder):
    change(folder / "predictions.csv", 2, "p:Normal-HAND", "many")


def no_table(folder):
    (folder / "predictions.csv").write_bytes(b"\xff\xfe,\n\n\n\x00")


def no_splits(folder):
    (folder / "splits.csv").unlink()


def an_image_twice(folder):
    path = folder / "splits.csv"
    splits = read_table(path)
    write_csv(path, pd.concat([splits, splits[-1:]]))


def an_image_too_few(folder):
    path = folder / "splits.csv"
    splits = read_table(path)
    write_csv(path, splits.drop(splits.index[splits["split"] == "train"][0]))


def without_a_column(folder):
    path = folder / "manifest.csv"
    write_csv(path, read_table(path).drop(columns="study"))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (not_tested, r"^The run b has not completed 06_evaluation"),
        (not_trained, r"^The run b is not trained"),
        (shutil.rmtree, r"^There is no trained run 'b'"),
        (other_classes, r"^b has the classes Normal-HAND, Abnormal-HAND, but a Abnormal-HAND, "),
        (without_an_image, r"^a has the image 19\.png, but b does not: members need the same"),
        (trained_on_what_is_tested, r"^split of 19\.png is 'train' in b, but 'test' in a: "),
        (other_label, r"^label of 3\.png is 'Abnormal-HAND' in b, but 'Normal-HAND' in a: "),
        (other_pixels, r"^sha256 of 3\.png is '0000.* in b, but '' in a: "),
        (other_threshold, r"^threshold = 0\.4 in b, but 0\.5 in a: run 06_evaluation of one"),
        (
            other_rule,
            r"^operating_point = 'youden' in b, but 'specificity' in a: run 06_evaluation",
        ),
        (fewer_predictions, r"b/predictions\.csv is damaged \(it has other images than splits"),
        (predictions_of_other_classes, r"b/predictions\.csv is damaged .*p:Normal-HAND"),
        (no_probability, r"b/predictions\.csv is damaged \(it has probabilities outside 0\.\.1\)"),
        (no_number, r"b/predictions\.csv is damaged \(could not convert"),
        (no_table, r"b/predictions\.csv is damaged .*: run 06_evaluation again\.$"),
        (no_splits, r"b/splits\.csv is damaged .*: run 03_data_preparation again\.$"),
        (an_image_twice, r"b/splits\.csv is damaged "),
        (
            an_image_too_few,
            r"b/splits\.csv is damaged \(it names other images than",
        ),
        (without_a_column, r"b/manifest\.csv is damaged .*study.*: run 02_data_preprocessing"),
    ],
)
def test_a_member_that_does_not_fit_is_one_sentence_and_nothing_is_made(spoil, sentence):
    member("a", 0)
    spoil(member("b", 1))
    with pytest.raises(UserError, match=sentence) as error:
        made("a", "b", name="all")
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in runs_dir().glob("[!.]*")) in (["a"], ["a", "b"])
    assert not list(runs_dir().glob(".*.tmp*"))


def test_too_few_members_and_a_member_given_twice_are_one_sentence():
    member("a")
    for options in ({}, {"soup": True}, {"soup": True, "flip": True}):
        with pytest.raises(UserError, match="needs two runs or more") as error:
            made("a", **options)
        assert one_sentence(error)
    with pytest.raises(UserError, match="The run a is given twice") as error:
        made("a", str(runs_dir() / "a"))
    assert one_sentence(error)
    with pytest.raises(UserError, match="needs two runs or more"):
        made()


def test_a_name_in_use_and_a_name_that_is_none_are_one_sentence():
    member("a", 0), member("b", 1)
    folder = made("a", "b", name="all")
    with pytest.raises(UserError, match="The ensemble all exists: choose another --name") as error:
        made("a", "b", name="all")
    assert one_sentence(error)
    first = read_json(folder / "ensemble.json")
    member("c", 2)
    assert made("a", "c", name="all", overwrite=True) == folder
    assert read_json(folder / "ensemble.json") != first
    (runs_dir() / "mine").mkdir()
    (runs_dir() / "mine" / "thesis.txt").write_text("mine")
    (runs_dir() / "file").write_text("mine")
    for name in ("a", "mine", "file"):
        with pytest.raises(UserError, match=f"{name} exists and is no ensemble") as error:
            made("a", "b", name=name, overwrite=True)
        assert one_sentence(error)
    with pytest.raises(UserError, match=r"name = '\.\./x'"):
        made("a", "b", name="../x")


def test_an_ensemble_is_no_member():
    for seed, name in enumerate("abc"):
        member(name, seed)
    made("a", "b", name="all")
    with pytest.raises(UserError, match="all is an ensemble itself: give its members instead, a b"):
        made("all", "c")


# --- interruptions ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["evaluate", "write_json", "write_ensemble", "write_completed"])
def test_an_interrupted_call_leaves_what_was_there(monkeypatch, name):
    for seed, run in enumerate("abc"):
        member(run, seed)
    folder = made("a", "b", name="all")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def crash(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(ensembles, name, crash)
    for run, options in (("all", {"overwrite": True}), ("new", {})):
        with pytest.raises(KeyboardInterrupt):
            made("a", "c", name=run, **options)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert sorted(path.name for path in runs_dir().iterdir()) == [".locks", "a", "all", "b", "c"]


def test_a_member_whose_training_ends_meanwhile_is_noticed(monkeypatch):
    member("a", 0), member("b", 1)

    def trained_again(folder, ensemble):
        member("b", 2)

    monkeypatch.setattr(ensembles, "write_ensemble", trained_again)
    with pytest.raises(UserError, match="member b was trained again"):
        made("a", "b", name="all")
    assert not (runs_dir() / "all").exists()
