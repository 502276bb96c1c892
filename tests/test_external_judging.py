"""A run on another data set: what is left out is counted, and the answers are the run's own."""

from __future__ import annotations

import os

import keras
import numpy as np
import pandas as pd
import pytest
from members import member
from mura_tree import png, tiny_rows, write_tree
from small import one_sentence

from mura_utils.data.images import read_image
from mura_utils.data.manifest import admit, scan
from mura_utils.data.sources import open_source
from mura_utils.data.squares import resize
from mura_utils.ensembles import make_ensemble
from mura_utils.errors import UserError
from mura_utils.evaluation import evaluate, predictions_frame
from mura_utils.external import evaluate_run, read_answers, subject
from mura_utils.paths import read_json, read_table, write_csv, write_json
from mura_utils.runs.record import write_completed
from mura_utils.runs.stages import NOTEBOOKS

ALL = [f"{kind}-{part}" for kind in ("Abnormal", "Normal") for part in ("HAND", "WRIST")]
HANDS = ["Abnormal-HAND", "Normal-HAND"]
KNEES = ["Abnormal-KNEE", "Normal-KNEE"]
SPLITS = ["train", "validation", "test", "test", "train", "test", "test", "test"]


def answers_of(model, root, rows, how="stretch", mirrored=False) -> np.ndarray:
    squares = np.stack([resize(read_image(root / path), 32, how) for path in rows["path"]])
    return model.predict(squares[:, :, :: -1 if mirrored else 1, None], verbose=0)


@pytest.fixture
def run(tree):
    """Make a run of a small random network, trained on some images of the tree and tested."""

    def make(name="mine", classes=ALL, seed=0, splits=SPLITS, **parameters):
        folder = member(name, image_size=32, batch_size=2, **parameters)
        keras.utils.set_random_seed(seed)
        layers = keras.layers
        model = keras.Sequential(
            [
                keras.Input((32, 32, 1)),
                layers.Rescaling(1 / 255),
                layers.Flatten(),
                layers.Dense(len(classes), activation="softmax"),
            ]
        )
        model.save(folder / "model.keras")
        training = read_json(folder / "training.json")
        write_json(folder / "training.json", {**training, "classes": classes})
        rows = admit(scan(open_source(tree), progress=False))
        write_csv(folder / "manifest.csv", rows)
        write_csv(folder / "splits.csv", rows[["path"]].assign(split=splits))
        held_out = rows.assign(split=splits)
        held_out = held_out[(held_out["split"] != "train") & rows["label"].isin(classes)]
        p = np.empty((0, len(classes)))
        if len(held_out):
            p = answers_of(model, tree, held_out, parameters.get("resize", "stretch"))
        write_csv(folder / "predictions.csv", predictions_frame(held_out, classes, p))
        return folder

    return make


@pytest.fixture
def said(caplog):
    caplog.set_level("INFO", "mura_utils")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("how", ["stretch", "pad"])
def test_images_it_has_not_seen_get_the_runs_own_numbers(run, tree, said, monkeypatch, how):
    folder = run(resize=how)
    own = read_table(folder / "predictions.csv")
    monkeypatch.setattr(subject, "_BATCHES_AT_ONCE", 1)  # three steps instead of one
    out = evaluate_run("mine", tree, progress=False)
    assert out == folder / "external" / tree.name
    found = read_table(out / "predictions.csv")
    assert (found["split"] == "external").all()
    pd.testing.assert_frame_equal(found.drop(columns="split"), own.drop(columns="split"), rtol=1e-5)
    metrics = read_json(out / "metrics.json")
    expected = evaluate(own, 0.5, 100)
    assert metrics["binary_study"] == expected["binary_study"]
    assert metrics["internal"]["image"] == evaluate(own[own["split"] == "test"], 0.5, 100)["image"]
    assert metrics["left_out"] == {"excluded": {}, "trained_on": 2, "without_a_class": {}}
    assert metrics["models"] == ["mine 0"] and metrics["bootstrap"]["resamples"] == 100
    assert "2 images, because mine was trained on files with the same content" in said()
    assert "1 of the others are validation images of mine" in said()
    heading = next(line for line in said().splitlines() if "internal" in line.split())
    assert heading.split() == ["internal", "external"]


def test_body_parts_correspond_by_name_and_the_rest_is_counted(run, tree, tmp_path, said):
    run(classes=HANDS, splits=["test"] * 8)
    out = evaluate_run("mine", tree, out=tmp_path / "out", progress=False)
    found = read_table(out / "predictions.csv")
    assert set(found["body_part"]) == {"HAND"} and len(found) == 4
    others = {"Abnormal-WRIST": 3, "Normal-WRIST": 1}
    assert read_json(out / "metrics.json")["left_out"]["without_a_class"] == others
    assert "no such class: Abnormal-WRIST 3, Normal-WRIST 1." in said()


def test_internal_numbers_are_of_the_same_body_parts(run, tree, tmp_path, said):
    own = read_table(run() / "predictions.csv")
    hands = tiny_rows().query("body_part == 'HAND'")
    other = write_tree(tmp_path / "hands", hands, content=lambda n: png(100 + n))
    out = evaluate_run("mine", other, progress=False)
    expected = own[(own["split"] == "test") & (own["body_part"] == "HAND")]
    assert read_json(out / "metrics.json")["internal"]["counts"]["images"] == len(expected) > 0
    assert "Internal: only HAND" in said()


def test_body_parts_that_the_run_has_merged_are_merged(run, tree, tmp_path, said):
    run(classes=["Abnormal-LIMB", "Normal-LIMB"], splits=["test"] * 8, merge={"LIMB": ["HAND"]})
    out = evaluate_run("mine", tree, out=tmp_path / "out", progress=False)
    found = read_table(out / "predictions.csv")
    assert set(found["body_part"]) == {"LIMB"} and len(found) == 4
    assert "As in mine, HAND count as LIMB." in said()


def test_without_a_common_body_part_only_the_binary_question_remains(run, tree, tmp_path, said):
    run(classes=KNEES)
    with pytest.raises(UserError, match=r"knows KNEE, and .* has HAND, WRIST: .*--binary") as error:
        evaluate_run("mine", tree, progress=False)
    assert one_sentence(error)
    out = evaluate_run("mine", tree, binary=True, out=tmp_path / "out", progress=False)
    kept = read_table(out / "predictions.csv")
    assert len(kept) == 6 and "p_abnormal" in kept and "predicted" not in kept
    again = read_answers(out / "predictions.csv")
    metrics = read_json(out / "metrics.json")
    assert again.binary
    expected = evaluate(again.predictions, 0.5, 100)
    assert metrics["binary_image"] == expected["binary_image"]
    assert "image" not in metrics and "confusion" not in metrics


def test_the_threshold_is_the_runs_operating_point(run, tree, said):
    folder = run()
    point = {"rule": "sensitivity", "target": 0.9, "threshold": 0.25, "split": "validation"}
    write_json(folder / "operating_point.json", point)
    out = evaluate_run(folder, tree, progress=False)
    metrics = read_json(out / "metrics.json")
    assert metrics["threshold"] == metrics["internal"]["threshold"] == 0.25
    assert "0.25, from the run: operating_point.json, sensitivity" in said()
    write_json(folder / "operating_point.json", {**point, "threshold": None})
    assert (
        read_json(evaluate_run(folder, tree, progress=False) / "metrics.json")["threshold"] == 0.5
    )


def test_a_run_is_no_folder_to_write_to(run, tree):
    folder = run()
    before = (folder / "state.json").read_text()
    with pytest.raises(UserError, match=r"is a run, whose own metrics\.json would be replaced"):
        evaluate_run(folder, tree, out=folder)
    assert (folder / "state.json").read_text() == before


def test_results_of_another_data_set_are_not_replaced(run, tree, tmp_path):
    run()
    out = evaluate_run("mine", tree, progress=False)
    evaluate_run("mine", tree, progress=False)
    before = (out / "metrics.json").read_bytes()
    other = write_tree(
        tmp_path / "elsewhere" / tree.name, tiny_rows(), content=lambda n: png(100 + n)
    )
    with pytest.raises(UserError, match="holds the results of") as error:
        evaluate_run("mine", other, progress=False)
    assert one_sentence(error)
    assert (out / "metrics.json").read_bytes() == before


def test_a_link_gives_the_results_its_name(run, tree, tmp_path):
    run()
    link = tmp_path / "hospital"
    link.symlink_to(tree)
    out = evaluate_run("mine", link, progress=False)
    assert out.name == "hospital" and read_json(out / "metrics.json")["folder"] == str(tree)


def test_a_run_that_nobody_can_write_to_is_tested_elsewhere(run, tree, tmp_path, monkeypatch):
    run()

    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("mura_utils.external.judging.working_in", refuse)
    assert (
        evaluate_run("mine", tree, out=tmp_path / "out", progress=False) / "metrics.json"
    ).exists()
    with pytest.raises(PermissionError):
        evaluate_run("mine", tree, progress=False)


def test_an_untested_run_has_no_internal_numbers(run, tree, said):
    folder = run()
    write_json(folder / "operating_point.json", {"rule": "old", "threshold": 0.25})
    write_completed(folder, list(NOTEBOOKS[:5]))
    metrics = read_json(evaluate_run(folder, tree, progress=False) / "metrics.json")
    assert metrics["internal"] is None and metrics["threshold"] == 0.5
    assert "No internal numbers: mine has not completed 06_evaluation." in said()


def test_an_ensemble_answers_with_its_mean_over_mirror_images(run, tree):
    members = [run(name, seed=seed) for seed, name in enumerate(("one", "two"))]
    folder = make_ensemble([*members], "both")
    write_json(folder / "ensemble.json", {**read_json(folder / "ensemble.json"), "flip": True})
    found = read_table(evaluate_run("both", tree, progress=False) / "predictions.csv")
    models = [keras.saving.load_model(one / "model.keras") for one in members]
    each = [
        answers_of(model, tree, found, mirrored=mirrored)
        for model in models
        for mirrored in (False, True)
    ]
    np.testing.assert_allclose(found.filter(like="p:"), np.mean(each, axis=0), rtol=1e-4)


def test_nothing_is_evaluated_on_what_was_trained_on(run, tree):
    run(splits=["train"] * 8)
    with pytest.raises(UserError, match="was trained on all 8 images") as error:
        evaluate_run("mine", tree, progress=False)
    assert one_sentence(error)


def test_damaged_files_are_excluded_and_named(run, tree, said):
    run(splits=["test"] * 8)
    os.truncate(next(tree.rglob("valid/XR_HAND/**/image1.png")), 200)
    out = evaluate_run("mine", tree, progress=False)
    assert read_json(out / "metrics.json")["left_out"]["excluded"] == {"truncated": 1}
    assert "excluded: valid/XR_HAND" in said() and "7 of 8 listed images are usable" in said()


def test_an_interruption_leaves_what_was_there(run, tree, monkeypatch):
    run()
    out = evaluate_run("mine", tree, progress=False)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(subject.Subject, "answer", interrupt)
    with pytest.raises(KeyboardInterrupt):
        evaluate_run("mine", tree, progress=False)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_metrics_never_lie_beside_other_predictions(run, tree, monkeypatch):
    run()
    out = evaluate_run("mine", tree, progress=False)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mura_utils.external.judging.write_csv", full)
    with pytest.raises(OSError, match="No space"):
        evaluate_run("mine", tree, progress=False)
    assert [path.name for path in out.iterdir()] == ["predictions.csv"]
