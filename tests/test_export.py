"""Exports of a tiny run: what they answer, say of themselves, and refuse."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
from members import CLASSES, SPLITS, member
from PIL import Image
from small import experiment, one_sentence, tiny

from mura_utils.errors import UserError
from mura_utils.export import runtime, writing
from mura_utils.export.description import NOTICE
from mura_utils.export.runtime import Runtime
from mura_utils.paths import data_dir, read_json, write_json
from mura_utils.runs.ensemble import Ensemble, read_member, write_ensemble
from mura_utils.runs.record import write_completed

FLOAT = ["onnx", "litert", "openvino", "keras"]
INT8 = ["onnx", "litert", "openvino"]
INT8_DIFFERENCE = 0.05  # of a probability: a tiny network, calibrated on four images


@pytest.fixture(scope="module")
def network():
    """A network of 32 px with two classes, whose answers differ between images."""
    model = tiny(experiment(dropout=[0.0]))
    logits = model.get_layer("logits")
    logits.set_weights([weights * 60 for weights in logits.get_weights()])
    return model


@pytest.fixture
def run(network):
    """A trained run with its images, each of another brightness."""
    folder = member("bones", image_size=32, resize="pad")
    network.save(folder / "model.keras")
    write_json(folder / "operating_point.json", {"threshold": 0.25, "rule": "youden"})
    write_json(folder / "calibration.json", {"temperature": 1.5})
    for number, pixels in enumerate(noise(len(SPLITS), side=48)):
        path = data_dir() / "bones" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[..., 0].astype(np.uint8)).save(path)
    return folder


def noise(count, side=32):
    rng = np.random.default_rng(0)
    light = rng.uniform(0.2, 1, (count, 1, 1, 1))
    return (rng.integers(0, 256, (count, side, side, 1)) * light).astype(np.float32)


def left(folder):
    """What an export has left: everything in its folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def embedded(path):
    """What the file itself holds of its description."""
    if path.suffix == ".onnx":
        import onnx

        (entry,) = onnx.load(path).metadata_props
        assert entry.key == "mura"
        return json.loads(entry.value)
    import openvino

    return json.loads(openvino.Core().read_model(path).get_rt_info("mura").astype(str))


@pytest.mark.parametrize(
    ("to", "int8"), [*((to, False) for to in FLOAT), *((to, True) for to in INT8)]
)
def test_an_export_answers_as_the_run_and_says_how_to_use_it(run, network, to, int8):
    pytest.importorskip({"litert": "ai_edge_litert", "keras": "keras"}.get(to, "onnxruntime"))
    pytest.importorskip(to if to == "openvino" else "keras")
    made = writing.export_run("bones", to, int8)
    name = "bones-int8" if int8 else "bones"
    assert made.path == run / "export" / f"{name}{writing.SUFFIXES[to]}"
    weights = [f"{name}.bin"] if to == "openvino" else []
    assert left(run / "export") == sorted([made.path.name, f"{name}.json", *weights])
    images = noise(5)
    expected = network.predict(images, verbose=0)
    assert np.ptp(expected[:, 0]) > 0.1
    found = Runtime(made.path).predict(images, batch_size=2)
    allowed = INT8_DIFFERENCE if int8 else 1e-5
    np.testing.assert_allclose(found, expected, atol=allowed)
    assert made.checked == SPLITS.count("validation") and made.difference < allowed
    assert (made.difference > 1e-5) == int8
    about = read_json(made.path.with_suffix(".json"))
    assert about["classes"] == CLASSES and about["body_parts"] == ["HAND"]
    assert (about["threshold"], about["temperature"]) == (0.25, 1.5)
    assert (about["image_size"], about["resize"], about["run"]) == (32, "pad", "bones")
    assert (about["format"], about["int8"], about["notice"]) == (to, int8, NOTICE)
    if to in ("onnx", "openvino"):
        assert embedded(made.path) == about


def test_thresholds_of_a_run_that_was_started_again_are_not_told(run):
    write_completed(run, ["01_data_understanding", "02_data_preprocessing", "03_data_preparation",
                          "04_data_transformation", "05_modeling"])  # fmt: skip
    made = writing.export_run("bones", "keras")
    about = read_json(made.path.with_suffix(".json"))
    assert (about["threshold"], about["threshold_from"]) == (0.5, "experiment.yaml")
    assert about["temperature"] is None


def refuse(*arguments, **options):
    with pytest.raises(UserError) as error:
        writing.export_run(*arguments, **options)
    assert one_sentence(error)
    return str(error.value)


def test_what_cannot_be_exported_is_one_sentence(run, tmp_path):
    assert "litert, onnx, openvino, keras" in refuse("bones", "coreml")
    assert "no trained run 'nothing'" in refuse("nothing", "onnx")
    assert "no int8" in refuse("bones", "keras", int8=True)
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert "--out" in refuse("bones", "keras", out=blocked / "deeper")
    write_completed(run, ["01_data_understanding"])
    assert "is not trained" in refuse("bones", "onnx")


def test_an_ensemble_of_answers_is_refused_and_a_soup_is_not(run, network):
    other = member("others", image_size=32, resize="pad")
    network.save(other / "model.keras")
    members = tuple(read_member(folder) for folder in (run, other))
    write_ensemble(run.parent / "both", Ensemble(members, soup=False, flip=False, val_accuracy=0.5))
    write_json(run.parent / "both" / "state.json", {})
    assert "(bones, others)" in refuse("both", "keras")
    soup = run.parent / "soup"
    write_ensemble(soup, Ensemble(members, soup=True, flip=False, val_accuracy=0.5))
    write_json(soup / "state.json", {})
    network.save(soup / "model.keras")
    assert writing.export_run("soup", "keras").difference == 0


def test_a_missing_library_is_named_with_the_extra(run, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(runtime, "find_spec", lambda name: None if name == "onnx" else find(name))
    assert "onnx: pip install -e .[export]" in refuse("bones", "onnx")


@pytest.mark.parametrize("wrong", [0.01, np.nan])
def test_an_export_that_answers_otherwise_leaves_nothing(run, monkeypatch, wrong):
    out = run / "export"
    writing.export_run("bones", "keras")
    before = {name: (out / name).read_bytes() for name in left(out)}
    answer = Runtime.predict
    monkeypatch.setattr(Runtime, "predict", lambda self, images: answer(self, images) + wrong)
    assert "validation images" in refuse("bones", "keras")
    assert {name: (out / name).read_bytes() for name in left(out)} == before


def test_images_that_are_gone_are_one_sentence(run):
    (data_dir() / "bones" / "5.png").unlink()
    assert "5.png" in refuse("bones", "keras")


def test_a_file_that_no_runtime_reads_is_one_sentence(tmp_path):
    pytest.importorskip("onnxruntime")
    for name, words in (("a.txt", "no exported network"), ("a.onnx", "is missing")):
        with pytest.raises(UserError, match=words) as error:
            Runtime(tmp_path / name)
        assert one_sentence(error)
    (tmp_path / "a.onnx").write_bytes(b"half")
    with pytest.raises(UserError, match="is damaged"):
        Runtime(tmp_path / "a.onnx")
