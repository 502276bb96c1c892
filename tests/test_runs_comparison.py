from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mura_utils.errors import UserError
from mura_utils.evaluation.metrics import evaluate
from mura_utils.evaluation.predictions import PREDICTION_COLUMNS, predictions_frame
from mura_utils.experiments import save_experiment, validate_parameters
from mura_utils.paths import runs_dir, write_csv, write_json
from mura_utils.report import FIG_28
from mura_utils.runs.comparison import (
    compare,
    compare_on_same_images,
    differing_parameters,
    find_runs,
    format_table,
    table,
)
from mura_utils.runs.record import write_completed
from mura_utils.runs.stages import NOTEBOOKS

VAL_ACCURACY = "report_mura_image_split_val_accuracy"


def train(name: str, accuracy: float = 0.5, test: float | None = None, **parameters) -> Path:
    """A run that has been trained, and tested where `test` is given; each metric is another."""
    folder = runs_dir() / name
    experiment = validate_parameters({"name": name, **parameters}, "test")
    save_experiment(experiment, folder / "experiment.yaml")
    best = {"loss": 0.1, "accuracy": 0.9, "val_loss": 1 - accuracy, "val_accuracy": accuracy}
    training = {"best": best, "epochs": 10 + experiment.seed, "seconds": 60.0}
    write_json(folder / "training.json", training)
    write_completed(folder, list(NOTEBOOKS[:5]))
    if test is not None:
        write_completed(folder, list(NOTEBOOKS[:6]))
        metrics = {
            "source": "fracatlas",
            "image": {"accuracy": {"value": test}, "kappa": {"value": test - 0.1}},
            "binary_image": {"auroc": {"value": test - 0.2}},
            "binary_study": {"kappa": {"value": test - 0.3}},
        }
        write_json(folder / "metrics.json", metrics)
    return folder


def test_seeds_are_one_row_with_mean_and_standard_deviation():
    runs = [
        train("exp6-seed0", 0.7, test=0.5, seed=0),
        train("exp6-seed1", 0.8, test=0.8, seed=1),
        train("exp6-seed2", 0.9, test=0.8, seed=2),
        train("exp1", 0.85, unfreeze=0),
    ]
    compared = compare(runs)
    assert list(compared.index) == ["exp1", "exp6"], "ranked by validation accuracy"
    row = compared.loc["exp6"]
    assert (row["runs"], row["tested"]) == (3, 3)
    assert row["names"] == "exp6-seed0, exp6-seed1, exp6-seed2"
    assert row["val_accuracy"] == pytest.approx(0.8)
    assert row["val_accuracy_sd"] == pytest.approx(0.1)
    assert row["val_loss"] == pytest.approx(0.2)
    assert row["test_accuracy"] == pytest.approx(0.7)
    assert row["test_accuracy_sd"] == pytest.approx(np.sqrt(0.03))  # (0.04 + 0.01 + 0.01) / 2
    assert row["test_kappa"] == pytest.approx(0.6)
    assert row["test_auroc_abnormal"] == pytest.approx(0.5)
    assert row["test_kappa_study"] == pytest.approx(0.4)
    assert (row["loss"], row["accuracy"], row["seconds"]) == pytest.approx((0.1, 0.9, 60))
    assert (row["epochs"], row["epochs_sd"]) == (11, 1)
    assert (row["source"], row["protocol"]) == ("fracatlas", "official-patient")


def test_one_seed_has_no_standard_deviation():
    row = compare([train("mine", 0.7, test=0.5)]).loc["mine"]
    assert row["val_accuracy"] == 0.7 and np.isnan(row["val_accuracy_sd"])
    assert row["test_accuracy"] == 0.5 and np.isnan(row["test_accuracy_sd"])


def test_what_was_not_tested_does_not_count_as_tested():
    runs = [train("a-seed0", test=0.5), train("a-seed1", seed=1), train("b", l2=0.5)]
    compared = compare(runs)
    assert (compared.loc["a", "runs"], compared.loc["a", "tested"]) == (2, 1)
    assert compared.loc["a", "test_accuracy"] == 0.5
    assert np.isnan(compared.loc["a", "test_accuracy_sd"])
    assert np.isnan(compared.loc["b", "test_accuracy"])


def test_the_reports_values_stand_in_their_own_column():
    compared = compare([train("exp6-seed1", seed=1), train("exp2", l2=0.1), train("mine", l2=0.2)])
    assert compared.loc["exp6", VAL_ACCURACY] == FIG_28.loc["exp6", "val_accuracy"] == 0.81
    assert compared.loc["exp2", "report_mura_image_split_val_loss"] == 0.69
    assert np.isnan(compared.loc["mine", VAL_ACCURACY])


def test_runs_with_other_parameters_are_never_merged():
    compared = compare(
        [
            train("a-seed0", 0.4),
            train("a-seed1", 0.5, seed=1),
            train("a-seed2", 0.9, seed=2, l2=0.5),
        ]
    )
    assert list(compared.index) == ["a-seed2", "a-seed0, a-seed1"]
    assert compared["runs"].tolist() == [1, 2]


def test_a_seed_counts_once():
    compared = compare([train("exp6"), train("exp6-seed0"), train("exp6-seed1", seed=1)])
    assert compared["names"].tolist() == ["exp6-seed0, exp6-seed1", "exp6"]
    assert compared[VAL_ACCURACY].tolist() == [0.81, 0.81]


def test_runs_of_one_name_in_two_folders_stay_apart(monkeypatch, tmp_path):
    first = train("a", 0.4)
    monkeypatch.setenv("MURA_RUNS_DIR", str(tmp_path / "elsewhere"))
    second = train("a", 0.6)
    assert list(compare([first, second]).index) == [str(second), str(first)]


def test_a_run_without_a_newer_parameter_ran_with_its_default():
    old = train("a-seed0")
    lines = (old / "experiment.yaml").read_text().splitlines(keepends=True)
    (old / "experiment.yaml").write_text("".join(line for line in lines if "bootstrap" not in line))
    assert compare([old, train("a-seed1", seed=1)]).loc["a", "runs"] == 2


def test_differing_parameters():
    runs = [
        train("a-seed0"),
        train("a-seed1", seed=1),
        train("b", l2=0.5, dropout=[0.5] * 5),
        train("c", l2=0.5, unfreeze=3),
    ]
    differing = differing_parameters(runs)
    assert set(differing.columns) == {"a", "b", "c"}
    assert set(differing.index) == {"l2", "dropout", "unfreeze"}
    assert differing.loc["unfreeze"].to_dict() == {"a": 5, "b": 5, "c": 3}
    assert differing.loc["dropout", "b"] == [0.5] * 5
    assert differing_parameters(runs[:2]).empty


def test_folders_that_are_no_trained_run_are_named(tmp_path):
    trained = train("mine")
    (runs_dir() / "begun").mkdir()
    folders, left_out = find_runs(["mine", trained, "begun", tmp_path / "nothing"])
    assert folders == [trained]
    assert left_out == {"begun": "not trained", str(tmp_path / "nothing"): "there is no such run"}
    folders, left_out = find_runs(["mine", "9" * 5000])
    assert folders == [trained] and "names no run (File name too long)" in left_out["9" * 5000]
    with pytest.raises(UserError, match=r"\(begun: not trained; other: there is no such run\)"):
        find_runs(["begun", "other"])
    tested = train("tested", test=0.5)
    (tested / "metrics.json").unlink()
    _, left_out = find_runs(["mine", "tested"])
    assert left_out["tested"].endswith("metrics.json is missing: run what writes it again.")
    with pytest.raises(UserError, match="no trained run"):
        compare([])


def test_the_table_for_display_keeps_the_test_set_closed():
    train("exp6-seed0", 0.70, test=0.5)
    train("exp6-seed1", 0.71, seed=1)
    train("mine", 0.2, l2=0.5)
    train("other", 0.1, l2=0.6)
    (runs_dir() / "other").rename(runs_dir() / ".other.discarded")
    shown = table(runs_dir())
    assert list(shown.index) == ["exp6", "mine"]
    assert shown.loc["exp6", "runs"] == "2"
    assert shown.loc["exp6", "validation accuracy"] == "0.705 ± 0.007"
    assert not [column for column in shown if "test" in column]
    shown = format_table(compare([path for path in runs_dir().glob("[!.]*")]))
    assert shown.loc["exp6", "runs"] == "2 (1 tested)"
    assert shown.loc["exp6", "test accuracy"] == "0.500"
    assert shown.loc["mine", "test accuracy"] == "–"
    assert shown.loc["mine", "validation accuracy"] == "0.200"
    heading = "the report's validation accuracy (MURA, image split)"
    assert shown[heading].tolist() == ["0.81", "–"]
    untested = format_table(compare([runs_dir() / "mine"]))
    assert not [column for column in untested if "test" in column or "report" in column]


def test_the_metrics_are_where_the_evaluation_puts_them():
    folder = train("mine")
    classes = ["Abnormal-HAND", "Normal-HAND"]
    rows = pd.DataFrame({column: [f"{n}" for n in range(4)] for column in PREDICTION_COLUMNS})
    rows["label"] = [classes[0], classes[0], classes[1], classes[1]]
    rows["abnormality"] = rows["label"].str.partition("-")[0]
    rows["body_part"] = "HAND"
    p = np.array([0.9, 0.2, 0.3, 0.1])
    metrics = evaluate(
        predictions_frame(rows, classes, np.stack([p, 1 - p], axis=1)), bootstrap=100
    )
    write_json(folder / "metrics.json", {"source": "phantom", **metrics})
    write_completed(folder, list(NOTEBOOKS[:6]))
    row = compare([folder]).iloc[0]
    assert row["test_accuracy"] == 0.75
    assert row["test_kappa"] == row["test_kappa_study"] == pytest.approx(0.5)
    assert row["test_auroc_abnormal"] == 0.75


# --- two runs on the same images ------------------------------------------------------------------


@pytest.fixture
def pair():
    """Two tested runs on ten images, one of which answers "normal" to the last abnormal one."""
    rows = pd.DataFrame({name: [*map(str, range(12))] for name in ("path", "patient", "study")})
    rows["abnormality"] = ["Abnormal", "Normal"] * 6
    rows = rows.assign(body_part="HAND", label=rows["abnormality"] + "-HAND")
    rows["split"] = ["validation"] * 2 + ["test"] * 10
    p = np.where(rows["abnormality"] == "Abnormal", 0.9, 0.1)
    folders = []
    for name in ("a", "b"):
        folder = train(name, test=0.5)
        metrics = {"threshold": 0.5, "binary_image": {"auroc": {"value": 0.5}}, "source": "mura"}
        metrics |= {"image": {"accuracy": {"value": 1}, "kappa": {"value": 1}}}
        write_json(folder / "metrics.json", {**metrics, "binary_study": {"kappa": {"value": 1}}})
        answers = np.stack([p, 1 - p], axis=1)
        predictions = predictions_frame(rows, ["Abnormal-HAND", "Normal-HAND"], answers)
        write_csv(folder / "predictions.csv", predictions)
        folders.append(folder)
        p = np.where(rows["path"] == "10", 0.4, p)
    return folders


def test_two_runs_are_compared_on_the_test_images_they_share(pair):
    compared, line = compare_on_same_images(*pair)
    assert line == (
        "a (threshold 0.5) and b (0.5) on the same 10 test images, 10 studies, 10 patients:"
    )
    assert list(compared.columns) == ["a", "b", "difference", "low", "high", "p"]
    assert compared.loc["accuracy, all classes per image", "difference"] == pytest.approx(-0.1)
    assert compared.loc["sensitivity, per study", "b"] == pytest.approx(0.8)


def test_the_operating_point_comes_before_the_given_threshold(pair):
    write_json(pair[1] / "operating_point.json", {"threshold": 0.3})
    compared, line = compare_on_same_images(*pair)
    assert "b (0.3)" in line and compared.loc["sensitivity, per study", "b"] == 1
    write_json(pair[1] / "operating_point.json", {"rule": "youden"})
    with pytest.raises(UserError, match=r"operating_point\.json does not hold"):
        compare_on_same_images(*pair)


def test_what_cannot_be_compared_in_pairs_is_one_sentence(pair):
    with pytest.raises(UserError, match="The run c is not tested"):
        compare_on_same_images(pair[0], train("c"))
    path = pair[1] / "predictions.csv"
    table = pd.read_csv(path, dtype=str)
    write_csv(path, pd.concat([table, table.tail(1)]))
    with pytest.raises(UserError, match="it names an image twice"):
        compare_on_same_images(*pair)
    write_csv(path, table.drop(columns="patient"))
    with pytest.raises(UserError, match="lacks patient"):
        compare_on_same_images(*pair)
    write_csv(path, table.head(-1))
    with pytest.raises(UserError, match="tested on different images"):
        compare_on_same_images(*pair)


def test_the_command_compares_two_runs_in_pairs(pair, capsys):
    from mura_utils import cli

    def mura(*arguments):
        with pytest.raises(SystemExit):
            cli.app([*arguments])
        return capsys.readouterr().out

    assert "on the same" not in mura("compare", "a", "b")
    assert "a (threshold 0.5) and b (0.5) on the same" in mura("compare", "a", "b", "--paired")
    with pytest.raises(UserError, match="--paired compares two trained runs; 1 are given"):
        cli.compare(["a"], None, True)
