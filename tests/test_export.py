"""Exports of a tiny run: what they answer, say of themselves, and refuse."""

from __future__ import annotations

import numpy as np
import pytest
from members import CLASSES, SPLITS, member
from PIL import Image
from small import experiment, tiny

from mura_utils.export import writing
from mura_utils.export.runtime import Runtime
from mura_utils.paths import data_dir, read_json, write_json

FLOAT = ["onnx", "litert", "openvino", "keras"]


@pytest.fixture(scope="module")
def network():
    """A network of 32 px with two classes."""
    return tiny(experiment())


@pytest.fixture
def run(network):
    """A trained run with its images, none of which is alike."""
    folder = member("bones", image_size=32, resize="pad")
    network.save(folder / "model.keras")
    write_json(folder / "operating_point.json", {"threshold": 0.25, "rule": "youden"})
    write_json(folder / "calibration.json", {"temperature": 1.5})
    rng = np.random.default_rng(0)
    for number in range(len(SPLITS)):
        path = data_dir() / "bones" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (48, 40), dtype=np.uint8)).save(path)
    return folder


def noise(count):
    return np.random.default_rng(1).integers(0, 256, (count, 32, 32, 1)).astype(np.float32)


@pytest.mark.parametrize("to", FLOAT)
def test_an_export_answers_as_the_run_and_says_how_to_use_it(run, network, to):
    pytest.importorskip("onnxruntime")
    made = writing.export_run("bones", to)
    assert made.path == run / "export" / f"bones{writing.SUFFIXES[to]}"
    assert made.checked == SPLITS.count("validation") and made.difference < 1e-5
    images = noise(5)
    found = Runtime(made.path).predict(images, batch_size=2)
    np.testing.assert_allclose(found, network.predict(images, verbose=0), atol=1e-5)
    about = read_json(made.path.with_suffix(".json"))
    assert about["classes"] == CLASSES and about["body_parts"] == ["HAND"]
    assert (about["threshold"], about["temperature"]) == (0.25, 1.5)
    assert (about["image_size"], about["resize"], about["run"]) == (32, "pad", "bones")
    assert "Not a medical device" in about["notice"]
