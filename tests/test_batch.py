"""`mura predict --out FILE.csv`: a folder into one table, which an interruption does not change."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import threading
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from small import CLASSES, experiment, one_sentence, tiny

from mura_utils.batch import folder as streaming
from mura_utils.batch import predict_folder, table
from mura_utils.batch.files import find_images
from mura_utils.batch.table import open_table
from mura_utils.errors import UserError
from mura_utils.evaluation.familiarity import fit_familiarity, write_familiarity
from mura_utils.experiments import save_experiment
from mura_utils.external import read_answers
from mura_utils.frozen import with_pooled
from mura_utils.locks import claim
from mura_utils.paths import read_json, read_table, runs_dir, write_json
from mura_utils.prediction import predict_images
from mura_utils.prediction_commands import predict
from mura_utils.predictor import BATCH_SIZE, Predictor
from mura_utils.runs.ensemble import Ensemble, read_member, write_ensemble
from mura_utils.runs.record import write_completed
from mura_utils.runs.stages import NOTEBOOKS

COUNT = 2 * BATCH_SIZE + 6


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tested run that finds about half of some noise abnormal, and some of it unfamiliar."""
    model = tiny(experiment())
    rng = np.random.default_rng(1)
    light = rng.uniform(0.1, 1, (60, 1, 1, 1))
    noise = rng.integers(0, 255, (60, 32, 32, 1)) * light
    probabilities, features = with_pooled(model, ["trained"]).predict(noise, verbose=0)
    settings = experiment(name="trained", threshold=float(np.median(probabilities[:, 0])))
    folder = tmp_path_factory.mktemp("trained")
    save_experiment(settings, folder / "experiment.yaml")
    model.save(folder / "model.keras")
    best = {"val_accuracy": 0.5}
    about = {"classes": CLASSES, "model_sha256": "1", "best": best, "seconds": 1.0}
    write_json(folder / "training.json", about)
    write_json(folder / "calibration.json", {"temperature": 2.0, "split": "validation"})
    familiar = fit_familiarity(["trained"], features[:30], features[30:])
    limit = float(np.median(familiar.scores(features[30:])))
    write_familiarity(folder / "familiarity.npz", replace(familiar, limit=limit))
    write_completed(folder, list(NOTEBOOKS[:6]))
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Radiographs as downloads hold them, of many patients with one name each."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        folder = root / f"patient{number % 40:02d}" / f"study{number // 40}"
        folder.mkdir(parents=True)
        gray = (rng.integers(0, 255, (40, 50)) * rng.uniform(0.1, 1)).astype("uint8")
        Image.fromarray(gray).save(folder / "image1.png")
    first = root / "patient00/study0"
    data = (first / "image1.png").read_bytes()
    (first / "._image1.png").write_bytes(b"\0\5\26\7")
    (first / "half.png").write_bytes(data[: len(data) // 2])
    (first / "without_ending").write_bytes(data)
    (root / "gone.JPG").symlink_to("nowhere.jpg")
    (root / "loop").symlink_to(root)
    for name in ("a.csv", "b.csv", ".DS_Store", "notes", "empty.png"):
        (root / name).write_text("" if name == "empty.png" else "x")
    return root


@pytest.fixture
def run(trained):
    """The run in this test's runs/."""
    shutil.copytree(trained, runs_dir() / "trained")
    return "trained"


@pytest.fixture
def whole(run, pictures, tmp_path):
    """The table of all pictures."""
    out = tmp_path / "out" / "predictions.csv"
    predict_folder(run, pictures, out, progress=False)
    return out


def sentences(caplog):
    return "\n".join(record.getMessage() for record in caplog.records)


def assert_as_single_images(run, pictures, rows, tmp_path):
    """The first row, the last row and one between have the numbers of `predict_images`."""
    for _, row in rows.iloc[[0, len(rows) // 2, -1]].iterrows():
        (single,) = predict_images(run, [pictures / row["path"]], tmp_path / "overlays")
        told = ("label", "predicted"), ("body_part", "predicted_body_part"), ("called", "called")
        assert [single[key] for key, _ in told] == [row[column] for _, column in told]
        found = [single["p_abnormal"], *single["probabilities"].values()]
        columns = ["p_abnormal", *(f"p:{label}" for label in CLASSES)]
        np.testing.assert_allclose(row[columns].astype(float), found, atol=2e-6)
        if single["p_abnormal_calibrated"] is not None:
            calibrated = float(row["p_abnormal_calibrated"])
            assert calibrated == pytest.approx(single["p_abnormal_calibrated"], abs=2e-6)
            assert str(single["unfamiliar"]).lower() == str(row["unfamiliar"]).lower()
        remarks = {remark["kind"]: remark["detail"] for remark in single["remarks"]}
        assert remarks == json.loads(row["remarks"] or "{}")


def test_a_folder_is_a_table_with_the_numbers_of_single_images(run, pictures, whole, tmp_path):
    rows = pd.read_csv(whole, keep_default_na=False)
    assert rows["path"].tolist() == sorted(rows["path"])
    faults = rows[rows["fault"] != ""].set_index("path")["fault"].to_dict()
    assert faults == {
        "empty.png": "zero-byte", "gone.JPG": "missing", "patient00/study0/half.png": "truncated",
    }  # fmt: skip
    good = rows[rows["fault"] == ""]
    assert len(good) == COUNT + 1
    assert set(good["called"]) == {"abnormal", "normal"}
    assert set(good["unfamiliar"]) == {"true", "false"}
    assert (rows.loc[rows["fault"] != "", "predicted":"remarks"] == "").all(axis=None)
    odd = good[good["path"] == "patient00/study0/without_ending"]
    assert "suffix-mismatch" in json.loads(odd["remarks"].item())
    assert_as_single_images(run, pictures, good, tmp_path)
    assert not list(whole.parent.rglob("*.png"))


def test_what_was_found_and_what_is_no_image_is_counted(run, pictures, tmp_path, caplog):
    caplog.set_level("INFO")
    predict([pictures], run, tmp_path / "p.CSV")
    told = sentences(caplog)
    counted = ".csv 2, ._* 1, .DS_Store 1, without ending 1"
    assert f"{COUNT + 4} images; 5 other files" in told
    assert all(part in told for part in counted.split(", "))
    assert f"{pictures / 'loop'} was not read: a link to a folder that it lies in" in told
    assert f"{COUNT + 1} images are predicted" in told
    assert "3 files cannot be used" in told and "truncated 1" in told


def test_going_on_gives_the_same_file_and_computes_only_the_rest(
    run, pictures, whole, monkeypatch, caplog
):
    caplog.set_level("INFO")
    complete = whole.read_bytes()
    lines = complete.splitlines(keepends=True)
    answer, answered = Predictor.answer, []
    monkeypatch.setattr(
        Predictor, "answer", lambda self, inputs: answered.append(1) or answer(self, inputs)
    )
    for kept, batches in ((BATCH_SIZE + 5, 2), (COUNT, 1)):
        whole.write_bytes(b"".join(lines[: 1 + kept]) + lines[1 + kept][:20])
        predict_folder(run, pictures, whole, progress=False)
        assert whole.read_bytes() == complete
        assert len(answered) == batches
        assert f"{kept // BATCH_SIZE * BATCH_SIZE} rows were in" in sentences(caplog)
        answered.clear()
    monkeypatch.setattr(Predictor, "__init__", lambda *_: pytest.fail("loaded"))
    predict_folder(run, pictures, whole, progress=False)
    assert whole.read_bytes() == complete


def test_what_would_be_another_table_is_refused(run, pictures, whole, trained, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(pictures / "patient00/study0/image1.png", other)
    shutil.copytree(trained, runs_dir() / "second")
    before = whole.read_bytes()
    for name, folder, sentence in (
        ("second", pictures, r"begun with run = 'trained', and now run is 'second'"),
        (run, other, r"begun with folder = "),
    ):
        with pytest.raises(UserError, match=sentence) as error:
            predict_folder(name, folder, whole, progress=False)
        assert one_sentence(error)
    model = runs_dir() / run / "model.keras"
    tiny(experiment(seed=1)).save(model)
    with pytest.raises(UserError, match="begun with models"):
        predict_folder(run, pictures, whole, progress=False)
    shutil.copy(trained / "model.keras", model)
    held = claim(whole.with_name(".predictions.csv.lock"), "held")
    with pytest.raises(UserError, match="Another process writes"):
        predict_folder(run, pictures, whole, progress=False)
    held.release()
    assert whole.read_bytes() == before


def test_a_file_of_somebody_else_is_left_alone(run, pictures, tmp_path):
    mine = tmp_path / "mine.csv"
    mine.write_text("mine")
    with pytest.raises(UserError, match="has not begun it: give another --out"):
        predict_folder(run, pictures, mine, progress=False)
    assert mine.read_text() == "mine" and not mine.with_name("mine.csv.json").exists()
    (tmp_path / "new.csv.json").write_text("[]")
    with pytest.raises(UserError, match="is not of a table"):
        predict_folder(run, pictures, tmp_path / "new.csv", progress=False)
    assert not (tmp_path / "new.csv").exists()
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        predict_folder(run, pictures, tmp_path / "folder.csv", progress=False)
    with pytest.raises(UserError, match="hold no PNG or JPEG"):
        predict_folder(run, tmp_path / "folder.csv", tmp_path / "p.csv", progress=False)


def test_an_ensemble_answers_as_for_single_images(run, pictures, tmp_path):
    second = runs_dir() / "second"
    shutil.copytree(runs_dir() / run, second)
    settings = experiment(name="second", seed=3, image_size=48, resize="pad")
    tiny(settings).save(second / "model.keras")
    save_experiment(settings, second / "experiment.yaml")
    (second / "familiarity.npz").unlink()
    both = runs_dir() / "both"
    both.mkdir()
    members = tuple(read_member(name) for name in (run, "second"))
    write_ensemble(both, Ensemble(members, soup=False, flip=True, val_accuracy=0.5))
    write_completed(both, [])
    few = tmp_path / "few"
    shutil.copytree(pictures / "patient00", few)
    predict_folder("both", few, tmp_path / "both.csv", progress=False)
    rows = pd.read_csv(tmp_path / "both.csv", keep_default_na=False)
    good = rows[rows["fault"] == ""]
    assert_as_single_images("both", few, good, tmp_path)
    alone = predict_images(run, [few / good["path"].iloc[0]], tmp_path / "alone")
    assert alone[0]["p_abnormal"] != pytest.approx(good["p_abnormal"].iloc[0], abs=1e-4)
    assert read_json(tmp_path / "both.csv.json")["mirrored"] is True


def test_evaluate_reads_the_table_with_labels(whole, tmp_path):
    rows = read_table(whole)
    rows["label"] = np.resize(CLASSES, len(rows))
    rows.to_csv(tmp_path / "labelled.csv", index=False)
    answers = read_answers(tmp_path / "labelled.csv")
    assert len(answers.predictions) == COUNT + 1
    assert answers.remarks[0].startswith("3 rows with a fault are left out (")
    rows[rows["fault"] != ""].to_csv(tmp_path / "faults.csv", index=False)
    with pytest.raises(UserError, match="column fault: no row is without one"):
        read_answers(tmp_path / "faults.csv")
    with pytest.raises(UserError, match="has no truth"):
        read_answers(whole)


def test_openvino_says_how_far_it_is_from_tensorflow(run, pictures, tmp_path, caplog):
    pytest.importorskip("openvino")
    caplog.set_level("INFO")
    few = pictures / "patient00"
    for backend in ("tensorflow", "openvino"):
        predict_folder(run, few, tmp_path / f"{backend}.csv", backend, progress=False)
    assert "OpenVINO f32: the largest difference of a probability to TensorFlow is" in sentences(
        caplog
    )
    ours, theirs = (read_table(tmp_path / f"{name}.csv") for name in ("tensorflow", "openvino"))
    assert ours["fault"].tolist() == theirs["fault"].tolist()
    columns = ["p_abnormal", "p:Abnormal-HAND"]
    np.testing.assert_allclose(ours[columns].dropna(), theirs[columns].dropna(), atol=1e-4)
    with pytest.raises(UserError, match="begun with backend = 'openvino'"):
        predict_folder(run, few, tmp_path / "openvino.csv", progress=False)


def test_openvino_that_is_not_installed_is_one_sentence(run, pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr("mura_utils.predictor.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs OpenVINO: pip install -e \.\[openvino\]") as error:
        predict_folder(run, pictures, tmp_path / "p.csv", "openvino", progress=False)
    assert one_sentence(error) and not (tmp_path / "p.csv").exists()
    with pytest.raises(UserError, match="tensorflow or openvino, not 'torch'"):
        predict_folder(run, pictures, tmp_path / "p.csv", "torch", progress=False)


# --- parts ----------------------------------------------------------------------------------------


def written(path, paths, about="x"):
    with open_table(path, {"made_by": "mura predict", "x": about}, ["path", "n"], paths, 3) as rows:
        begun = rows.done
        for start in range(begun, len(paths), 3):
            rows.append([[name, len(name)] for name in paths[start : start + 3]])
    return begun


def test_a_table_cut_off_at_any_byte_is_completed_to_the_same_bytes(tmp_path):
    out, paths = tmp_path / "t.csv", ['a, "b".png', *(f"é{n}.png" for n in range(7))]
    assert written(out, paths) == 0
    complete = out.read_bytes()
    for end in range(len(complete) + 1):
        out.write_bytes(complete[:end])
        lines = complete[:end].count(b"\n") - 1
        assert written(out, paths) == (
            len(paths) if lines == len(paths) else max(0, lines) // 3 * 3
        )
        assert out.read_bytes() == complete


def test_a_table_whose_folder_has_changed_is_refused(tmp_path):
    out, paths = tmp_path / "t.csv", [f"{n}.png" for n in range(7)]
    written(out, paths)
    with pytest.raises(UserError, match=r"row 2, is of '1\.png', but now there is '1b\.png'"):
        written(out, [paths[0], "1b.png", *paths[1:]])
    with pytest.raises(UserError, match=r"row 7, is of '6\.png', but now there are no more"):
        written(out, paths[:6])
    assert written(out, [*paths, "8.png"]) == 6
    out.write_text("other,columns\n")
    with pytest.raises(UserError, match="does not begin with the columns"):
        written(out, paths)


def test_a_full_disk_is_one_sentence_and_what_fits_is_kept(tmp_path, monkeypatch):
    out, paths = tmp_path / "t.csv", [f"{n}.png" for n in range(7)]
    write_all, calls = table.write_all, []

    def full(stream: io.RawIOBase, data: bytes) -> None:
        calls.append(1)
        if len(calls) == 3:
            write_all(stream, data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        write_all(stream, data)

    with monkeypatch.context() as patch:
        patch.setattr(table, "write_all", full)
        with pytest.raises(UserError, match=r"t\.csv cannot be written \(No space left") as error:
            written(out, paths)
        assert one_sentence(error)
    assert written(out, paths) == 3
    assert out.read_text().split() == ["path,n", *(f"{name},5" for name in paths)]


def test_reading_ahead_keeps_the_order_and_is_bounded():
    seen, lock = [], threading.Lock()

    def work(number):
        with lock:
            seen.append(number)
        return number

    results = streaming._ahead(work, range(100), workers=3, most=5)
    for number in range(100):
        assert next(results) == number
        assert len(seen) <= number + 7


def test_images_are_found_in_the_order_of_their_paths(tmp_path):
    names = ("b/image1.png", "a/image10.png", "a/image2.jpeg", "a.png", "a\nb.png", "c.png\n")
    for name in (*names, "c/9.41\u202fAM.png", "c/手\u3000左.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    found = find_images(tmp_path)
    readable = ["a.png", "a/image10.png", "a/image2.jpeg", "b/image1.png"]
    assert found.images == [*readable, "c/9.41\u202fAM.png", "c/手\u3000左.png"]
    assert found.left_out == [
        f"'{name}' was left out: its name is not UTF-8, or holds line breaks."
        for name in ("a\\nb.png", "c.png\\n")
    ]


def test_a_folder_none_of_whose_images_can_be_read_says_why(tmp_path):
    (tmp_path / "a\nb.png").touch()
    with pytest.raises(UserError, match=r"hold no PNG .*'a\\nb\.png' was left out: its name"):
        find_images(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only a process has a priority")
def test_reading_ahead_gives_way_to_the_networks():
    def priority(_) -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    assert set(streaming._ahead(priority, range(4), workers=2, most=2)) == {19}
    assert priority(None) < 19
