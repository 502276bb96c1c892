from __future__ import annotations

import json
import logging
import subprocess
import sys

import keras
import numpy as np
import pytest

from mura_utils.errors import UserError
from mura_utils.experiments import validate_parameters
from mura_utils.locks import claim
from mura_utils.network.build import build_model, load_model
from mura_utils.paths import read_json, write_json
from mura_utils.phantoms.anatomy import KINDS
from mura_utils.phantoms.dataset import VERSION, draw_case
from mura_utils.pretraining import training as pretraining
from mura_utils.pretraining.crops import CELL, draw_crops
from mura_utils.pretraining.training import Recipe, pretrain

SMALL = {"backbone": "mobilenet", "alpha": 0.25, "image_size": 64, "batch_size": 8, "images": 40}


def recipe(**changes):
    return Recipe(**{**SMALL, **changes})


# --- crops --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crops():
    return [draw_crops(0, number, 16, 96, 224) for number in range(6)]


def test_a_batch_has_its_shapes_and_ranges(crops):
    for batch in crops:
        assert batch.images.shape == (16, 96, 96, 1) and batch.images.dtype == np.uint8
        assert batch.places.shape == (16, 96 // CELL, 96 // CELL, 4)
        np.testing.assert_allclose(batch.body_parts.sum(1), 1)
        np.testing.assert_allclose(batch.findings.sum(1), 1, rtol=1e-6)
        for values in batch[1:]:
            assert values.min() >= 0 and values.max() <= 1 + 1e-6


def test_half_of_the_crops_are_normal_and_mark_no_place(crops):
    for batch in crops:
        normal = batch.findings[:, 0] == 1
        assert normal[::2].all() and not normal[1::2].all()
        assert batch.places[normal].sum() == 0


def test_the_place_of_a_finding_is_of_its_kind(crops):
    for batch in crops:
        kinds = batch.findings[:, 1:] > 0
        marked = batch.places.max((1, 2)) > 0
        np.testing.assert_array_equal(marked, kinds)


@pytest.mark.parametrize("kind", KINDS)
def test_without_its_finding_a_case_differs_mostly_there(kind):
    inside, outside = [], []
    for seed in range(6):
        (abnormal, mask), (normal, place) = (
            draw_case(np.random.default_rng(seed), "WRIST", kind, shown) for shown in (True, False)
        )
        assert abnormal.shape == normal.shape and mask.any() and place.any()
        difference = np.abs(abnormal.astype(float) - normal)
        inside.append(difference[mask].mean())
        outside.append(difference[~mask].mean())
    # Joint disease moves the bones beyond it, too.
    assert np.mean(inside) > 2 * np.mean(outside)


def test_batches_depend_on_their_number_and_seed_alone(crops):
    again = draw_crops(0, 3, 16, 96, 224)
    for expected, value in zip(crops[3], again, strict=True):
        np.testing.assert_array_equal(value, expected)
    assert not np.array_equal(crops[3].images, crops[4].images)
    assert not np.array_equal(crops[3].images, draw_crops(1, 3, 16, 96, 224).images)


def test_crops_are_drawn_without_a_deep_learning_library():
    code = "import sys, mura_utils.pretraining.crops; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"keras", "tensorflow", "jax", "torch"} & set(done.stdout.split())


# --- training -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder and what was said of a training that nothing disturbed."""
    folder, said = tmp_path_factory.mktemp("pretrained"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "_PERIOD", 2)
        patch.setattr(pretraining.logger, "info", said.append)  # caplog is a test's own
        path = pretrain(recipe(), folder)
    assert path == folder / "mobilenet_phantom.npz"
    return folder, said


def test_a_training_in_pieces_ends_with_the_same_bytes(trained, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(pretraining, "_PERIOD", 2)
    caplog.set_level(logging.INFO, "mura_utils")
    assert pretrain(recipe(), tmp_path, minutes=0.001) is None
    assert caplog.messages[-1].endswith(" of 40 crops: to be continued.")
    assert pretrain(recipe(), tmp_path)
    assert any("going on after" in line for line in caplog.messages)
    name = "mobilenet_phantom.npz"
    assert (tmp_path / name).read_bytes() == (trained[0] / name).read_bytes()
    whole, pieces = (read_json(f / "mobilenet_phantom.json") for f in (trained[0], tmp_path))
    assert [row["images"] for row in pieces["curve"]] == [16, 32]
    assert pieces["held_out"] == whole["held_out"]


def test_the_card_says_what_the_weights_are(trained):
    folder, said = trained
    card = read_json(folder / "mobilenet_phantom.json")
    assert card["recipe"]["images"] == 40 and card["recipe"]["seed"] == 0
    assert len(card["sha256"]) == 64 and len(card["curve"]) == 2
    assert {"size", "loss", "finding_accuracy"} <= set(card["curve"][0])
    assert "weights=" in said[-2] and "new phantoms" in said[-1]


def test_a_second_call_after_the_end_changes_nothing(trained):
    names = ("mobilenet_phantom.npz", "mobilenet_phantom.json")
    before = [(trained[0] / name).read_bytes() for name in names]
    pretrain(recipe(), trained[0])
    assert [(trained[0] / name).read_bytes() for name in names] == before


def test_crops_grow_and_the_rate_rises_and_falls():
    long = Recipe(images=32_000)
    sizes = [long.crop_size(step) for step in range(long.steps)]
    assert sizes == sorted(sizes) and set(sizes) == {96, 128, 224}
    rates = [long.rate(step) for step in range(long.steps)]
    assert rates[0] < rates[40] == max(rates) == 1e-3 and 0 < rates[-1] < 1e-5
    assert long.variety(0) == 0.2 and long.variety(3 * long.steps // 4) == 1.0


def test_the_weights_serve_an_experiment(trained, tmp_path):
    settings = validate_parameters(
        {
            "backbone": "mobilenet",
            "alpha": 0.25,
            "image_size": 64,
            "weights": str(trained[0] / "mobilenet_phantom.npz"),
            "unfreeze": 2,
        },
        "test",
    )
    model = build_model(settings, 14)
    with np.load(trained[0] / "mobilenet_phantom.npz") as stored:
        np.testing.assert_array_equal(model.get_layer("conv1").kernel, stored["conv1/kernel"])
        assert all(stored[name].dtype == np.float16 for name in stored.files)
    model.save(tmp_path / "model.keras")
    gray = np.full((1, 64, 64, 1), 100, np.float32)
    np.testing.assert_allclose(load_model(tmp_path / "model.keras")(gray), model(gray), rtol=1e-5)


def test_every_target_can_be_learned():
    network, _ = pretraining.build_network(recipe())
    batch = pretraining._as_targets(draw_crops(0, 0, 16, 64, 64, variety=0.2))
    values = [network.train_on_batch(*batch, return_dict=True) for _ in range(150)]
    losses = [name for name in values[0] if name.endswith("_loss")]
    assert len(losses) == 5
    for name in losses:
        assert values[-1][name] < 0.6 * values[0][name], name


# --- what a user can get wrong --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"batch_size": 6}, "batch_size is 6; give a multiple of 4"),
        ({"image_size": 100}, "image_size is 100; give a multiple of 32"),
        ({"images": 7}, "images is 7; give at least one batch, 8"),
        (
            {"alpha": 0.0},
            r"mura pretrain: alpha = 0\.0: input should be greater than or equal to 0.03125",
        ),
        ({"seed": 2**32}, "seed = 4294967296: .* less than or equal to 4294967295"),
        ({"image_size": 32 * 10**6}, "image_size = 32000000: .* less than or equal to 4096"),
        ({"batch_size": 10**12, "images": 10**13}, "batch_size = 10+: .* less than or equal"),
        ({"backbone": "resnet"}, "backbone is 'resnet'; give one of: .*densenet121"),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_one_sentence(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        recipe(**changes)


def test_a_checkpoint_of_another_recipe_is_kept_and_named(trained):
    folder, _ = trained
    before = (folder / "checkpoint.npz").read_bytes()
    with pytest.raises(UserError, match=r"made with seed = 0, not 1: choose another folder"):
        pretrain(recipe(seed=1), folder)
    with pytest.raises(UserError, match=r"made with images = 40, not 32"):
        pretrain(recipe(images=32), folder)
    of_old_phantoms = recipe()
    object.__setattr__(of_old_phantoms, "phantoms", 1)
    with pytest.raises(UserError, match=f"made with phantoms = {VERSION}, not 1"):
        pretrain(of_old_phantoms, folder)
    assert (folder / "checkpoint.npz").read_bytes() == before


@pytest.mark.parametrize("length", [10, 3000])
def test_a_damaged_checkpoint_is_one_sentence(trained, tmp_path, length):
    whole = (trained[0] / "checkpoint.npz").read_bytes()
    (tmp_path / "checkpoint.npz").write_bytes(whole[:length])
    with pytest.raises(UserError, match=r"checkpoint\.npz is damaged .* remove it"):
        pretrain(recipe(), tmp_path)
    assert (tmp_path / "checkpoint.npz").read_bytes() == whole[:length]


def test_a_folder_that_is_a_file_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(
        UserError, match=r"Cannot make the folder .*file \(File exists\): give another path"
    ):
        pretrain(recipe(), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def weights(trained, tmp_path, change):
    """A copy of the weights, with its card, changed."""
    content = (trained[0] / "mobilenet_phantom.npz").read_bytes()
    card = read_json(trained[0] / "mobilenet_phantom.json")
    path = tmp_path / "mobilenet_phantom.npz"
    path.write_bytes(content[:-500] if change == "truncated" else content)
    if change != "truncated":
        write_json(path.with_suffix(".json"), card | {"sha256": "0" * 64})
    return path


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("card", r"is not the file that mobilenet_phantom\.json describes"),
        ("truncated", r"mobilenet_phantom\.npz is damaged"),
    ],
)
def test_weights_that_are_not_whole_are_refused(trained, tmp_path, change, sentence):
    path = weights(trained, tmp_path, change)
    settings = validate_parameters(
        {"backbone": "mobilenet", "alpha": 0.25, "image_size": 64, "weights": str(path)}, "test"
    )
    with pytest.raises(UserError, match=sentence):
        build_model(settings, 14)


def test_weights_of_another_width_are_refused(trained):
    path = trained[0] / "mobilenet_phantom.npz"
    settings = validate_parameters(
        {"backbone": "mobilenet", "alpha": 0.5, "image_size": 64, "weights": str(path)}, "test"
    )
    with pytest.raises(UserError, match="does not fit mobilenet"):
        build_model(settings, 14)


def test_the_command_stops_goes_on_and_ends_with_a_file(tmp_path):
    options = [
        *("--backbone", "mobilenet", "--alpha", "0.25", "--image-size", "64"),
        *("--images", "24", "--batch-size", "8"),
    ]
    command = [sys.executable, "-m", "mura_utils.cli", "pretrain", str(tmp_path), *options]

    def run(*more):
        done = subprocess.run([*command, *more], capture_output=True, text=True, check=True)
        return done.stdout

    assert "to be continued" in run("--minutes", "0.001")
    assert (tmp_path / "checkpoint.npz").is_file()
    assert "going on after" in run()
    card = json.loads((tmp_path / "mobilenet_phantom.json").read_text())
    assert card["backend"].startswith(keras.backend.backend())


def test_a_pretraining_that_diverges_ends_with_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"The pre-training diverged: its loss is (nan|inf)"):
        pretrain(recipe(learning_rate=1e30), tmp_path / "diverged")
    assert not list((tmp_path / "diverged").glob("*_phantom.*"))


def test_two_pretrainings_do_not_share_a_folder(tmp_path):
    held = claim(tmp_path / ".lock", "")
    with pytest.raises(UserError, match=r"Another process pre-trains in .*: give another folder"):
        pretrain(recipe(), tmp_path)
    held.release()
