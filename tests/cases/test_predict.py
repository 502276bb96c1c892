"""Single radiographs: `mura predict` names the image, and overwrites nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import keras
import numpy as np
import pytest
from harness import noise
from PIL import Image

from mura_utils.experiments import validate_parameters
from mura_utils.network.build import build_model
from mura_utils.paths import runs_dir, write_json
from mura_utils.runs.record import write_completed
from mura_utils.runs.stages import NOTEBOOKS

CLASSES = ["Abnormal-HAND", "Normal-HAND"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """An untrained network's file."""
    path = tmp_path_factory.mktemp("model") / "model.keras"
    small = {"backbone": "mobilenet", "alpha": 0.25, "image_size": 32, "weights": "none"}
    keras.utils.set_random_seed(0)
    build_model(validate_parameters(small, "test"), CLASSES).save(path)
    return path


@pytest.fixture
def run(model) -> Path:
    """A run that counts as trained."""
    folder = runs_dir() / "mine"
    write_json(folder / "training.json", {"classes": CLASSES})
    (folder / "model.keras").hardlink_to(model)
    write_completed(folder, list(NOTEBOOKS[:5]))
    return folder


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder for images, with one good one."""
    folder = tmp_path / "input"
    folder.mkdir()
    Image.fromarray(noise()).save(folder / "ok.png")
    return folder


def test_overlays_have_names_of_their_own_and_replace_no_image(mura, run, pictures):
    for name in ("ok.PNG", "ok_2.png", "ok_overlay.png", "ok_2_overlay.png"):
        (pictures / name).write_bytes((pictures / "ok.png").read_bytes())
    images = sorted(pictures.iterdir())
    said = mura("predict", "--run", "mine", "--out", pictures, *images)
    results = json.loads(said.out)
    overlays = [result["overlay"].casefold() for result in results]
    assert len(set(overlays)) == len(images)
    assert not set(overlays) & {str(image).casefold() for image in images}
    for overlay in overlays:
        Path(overlay).unlink()


def test_a_foreign_file_is_never_replaced_and_an_earlier_overlay_is(mura, run, pictures, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "ok_overlay.png").write_bytes(b"somebody's thesis")
    for _ in range(2):
        (result,) = json.loads(
            mura("predict", "--run", "mine", "--out", out, pictures / "ok.png").out
        )
    assert (out / "ok_overlay.png").read_bytes() == b"somebody's thesis"
    assert sorted(path.name for path in out.iterdir()) == ["ok_2_overlay.png", "ok_overlay.png"]
    assert Path(result["overlay"]).name == "ok_2_overlay.png"


def blank(path: Path) -> None:
    Image.fromarray(np.full((60, 40), 9, np.uint8)).save(path)


@pytest.mark.parametrize(
    "spoil", [blank, os.mkfifo, Path.mkdir, lambda path: path.symlink_to(path)]
)
def test_what_shows_nothing_is_refused_before_anything_is_written(
    mura, run, pictures, tmp_path, spoil
):
    spoil(pictures / "bad.png")
    said = mura("predict", "--run", "mine", "--out", tmp_path / "out", *sorted(pictures.iterdir()))
    assert str(pictures / "bad.png") in said.sentence
    assert not (tmp_path / "out").exists()


def test_an_inverted_radiograph_is_remarked_on(mura, run, pictures, tmp_path):
    dark = np.pad(noise(shape=(40, 30)) // 2 + 80, 20)
    Image.fromarray(255 - dark).save(pictures / "inverted.png")
    said = mura("predict", "--run", "mine", "--out", tmp_path / "out", pictures / "inverted.png")
    (result,) = json.loads(said.out)
    assert "inverted" in json.dumps(result["remarks"]) and "inverted" in said.err


def test_out_that_is_a_file_and_a_run_that_is_none_are_one_sentence(mura, run, pictures, tmp_path):
    (tmp_path / "file").write_text("")
    image = pictures / "ok.png"
    said = mura("predict", "--run", "mine", "--out", tmp_path / "file", image)
    assert str(tmp_path / "file") in said.sentence
    assert "'other'" in mura("predict", "--run", "other", image).sentence
    write_completed(run, list(NOTEBOOKS[:4]))
    assert "mine is not trained" in mura("predict", "--run", "mine", image).sentence


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("training.json", "{}"),
        ("training.json", '{"classes": ["Abnormal-HAND"]}'),
        ("training.json", '{"classes": 3}'),
        ("state.json", "[]"),
        ("model.keras", "PK"),
    ],
)
def test_a_damaged_run_is_one_sentence_with_the_file(mura, run, pictures, tmp_path, name, content):
    (run / name).unlink()
    (run / name).write_text(content)
    said = mura("predict", "--run", "mine", "--out", tmp_path / "out", pictures / "ok.png")
    assert str(run / name) in said.sentence
    assert not (tmp_path / "out").exists()
