"""Ensembles whose networks are loaded: mirror images, soups, and `mura predict`."""

from __future__ import annotations

import hashlib
import shutil

import keras
import numpy as np
import pytest
from members import CLASSES, SPLITS, answers, images, member
from PIL import Image
from small import ATTENTION, experiment, network, one_sentence, tiny

from mura_utils.data.images import read_image
from mura_utils.data.squares import resize
from mura_utils.ensembles import make_ensemble
from mura_utils.errors import UserError
from mura_utils.explain import layer_cam
from mura_utils.explain.targets import contrast_target
from mura_utils.labels import probabilities_of
from mura_utils.network import soup
from mura_utils.network.build import load_model
from mura_utils.network.soup import mean_network
from mura_utils.paths import data_dir, read_json, read_table, runs_dir, write_json
from mura_utils.plotting.heatmaps import overlay
from mura_utils.prediction import predict_images
from mura_utils.runs.ensemble import networks_of

SMALL = {
    "backbone": "mobilenet", "weights": "none", "image_size": 32, "head": "dense",
    "dropout": [0.4], "cache_features": "off",
}  # fmt: skip


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Files of four networks: three of one architecture, and one for images of 48 pixels."""
    folder = tmp_path_factory.mktemp("networks")
    for number, size in enumerate((32, 32, 32, 48)):
        dropout = [0.1 * number]  # concerns the training alone
        model = tiny(experiment(seed=number, dropout=dropout, image_size=size))
        frozen = np.random.default_rng(0).normal(0, 1, (3, 3, 1, 4))
        model.get_layer("frozen").set_weights([frozen, np.zeros(4)])
        model.save(folder / f"{number}.keras")
    return [folder / f"{number}.keras" for number in range(4)]


@pytest.fixture
def bones():
    """The files of `members.images`: noise that is lighter on one side."""
    folder = data_dir() / "bones"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for path in images()["path"]:
        light = np.linspace(rng.uniform(0, 1), rng.uniform(0, 1), 60)
        Image.fromarray((rng.integers(50, 250, (60, 60)) * light).astype("uint8")).save(
            folder / path
        )
    return folder


def run(name, file, seed=0, **parameters):
    """A member with a network."""
    folder = member(name, seed, **{**SMALL, **parameters})
    (folder / "model.keras").write_bytes(file.read_bytes())
    described = read_json(folder / "training.json")
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    write_json(folder / "training.json", described | {"model_sha256": sha256})
    return folder


def held_out(folder, size=32):
    """The images that are not trained on, (n, size, size, 1)."""
    paths = [path for path, split in zip(images()["path"], SPLITS, strict=True) if split != "train"]
    return np.stack([resize(read_image(folder / path), size) for path in paths])[..., None]


def told(folder):
    return probabilities_of(read_table(folder / "predictions.csv")).to_numpy()


def made(*names, **options):
    return make_ensemble(names, **options)


# --- mirror images ------------------------------------------------------------------------------


def test_mirror_images_have_the_weight_of_the_images(networks, bones):
    run("a", networks[0], 0), run("b", networks[3], 1, image_size=48)
    parts = [answers(0), answers(1)]
    for number, size in ((0, 32), (3, 48)):
        mirrored = held_out(bones, size)[:, :, ::-1]
        parts.append(load_model(networks[number]).predict(mirrored, verbose=0))
        straight = load_model(networks[number]).predict(held_out(bones, size), verbose=0)
        assert np.abs(straight - parts[-1]).max() > 1e-3, "the test could not fail"
    np.testing.assert_allclose(told(made("a", "b", flip=True)), np.mean(parts, 0), atol=1e-6)
    alone = made("b", flip=True)
    assert alone.name == "b-flip"
    np.testing.assert_allclose(told(alone), (parts[1] + parts[3]) / 2, atol=1e-6)


def test_images_that_are_gone_are_one_sentence_and_nothing_is_made(networks):
    run("a", networks[0])
    with pytest.raises(UserError, match=r"0\.png is missing") as error:
        made("a", flip=True)
    assert "\n" not in str(error.value)
    assert not (runs_dir() / "a-flip").exists()


# --- soups --------------------------------------------------------------------------------------


def test_a_soup_is_the_mean_of_all_weights(networks):
    models = [load_model(file) for file in networks[:3]]
    mean = mean_network(dict(zip("abc", networks[:3], strict=True)))
    for ours, *weights in zip(*(m.get_weights() for m in (mean, *models)), strict=True):
        np.testing.assert_array_equal(ours, np.mean(weights, 0, dtype=float).astype("float32"))
    kernels = [model.get_layer("logits").get_weights()[0] for model in (mean, *models)]
    assert all((kernels[0] != kernel).any() for kernel in kernels[1:])
    shared = [model.get_layer("frozen").get_weights()[0] for model in (mean, *models)]
    assert all((shared[0] == kernel).all() for kernel in shared[1:]), "three equal ones stay"


@pytest.mark.parametrize(
    ("changes", "layer"),
    [
        ({"image_size": 48}, "radiograph"),
        ({"scaling": "unit"}, "scaling"),
        ({"alpha": 0.5}, "conv1"),
        ({"dense_units": [8]}, "dense_1"),
        ({"dense_units": [16, 16]}, "dropout"),
        (ATTENTION, "dropout"),  # where b squeezes
    ],
)
def test_networks_of_two_architectures_make_no_soup(monkeypatch, changes, layer):
    models = {"a": network(experiment()), "b": network(experiment(**changes))}
    monkeypatch.setattr(soup, "load_model", models.get)
    with pytest.raises(
        UserError, match=rf"^b has another network than a \(layer {layer}\)"
    ) as error:
        mean_network({"a": "a", "b": "b"})
    assert one_sentence(error)


def test_what_only_the_training_used_may_differ(monkeypatch):
    other = experiment(dropout=[0.1], l2=0.1, unfreeze=3, batch_norm_momentum=0.5, seed=1)
    models = {"a": network(experiment()), "b": network(other)}
    monkeypatch.setattr(soup, "load_model", models.get)
    mean_network({"a": "a", "b": "b"})


def test_a_soup_answers_with_its_own_network(networks, bones):
    for seed in range(3):
        run(f"a-seed{seed}", networks[seed], seed)
    # What 06 writes is not needed.
    (runs_dir() / "a-seed1" / "predictions.csv").unlink()
    names = [f"a-seed{seed}" for seed in range(3)]
    folder = made(*names, soup=True)
    saved = load_model(folder / "model.keras")
    expected = mean_network({str(file): file for file in networks[:3]})
    for ours, theirs in zip(saved.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    straight, mirrored = (
        saved.predict(held_out(bones)[:, :, ::step], verbose=0) for step in (1, -1)
    )
    np.testing.assert_allclose(told(folder), straight, atol=1e-6)
    both = made(*names, soup=True, flip=True)
    np.testing.assert_allclose(told(both), (straight + mirrored) / 2, atol=1e-6)


def test_a_soup_of_other_networks_is_refused_and_nothing_is_made(networks, bones):
    run("a", networks[0]), run("b", networks[3], 1, image_size=48)
    with pytest.raises(UserError, match="leave out --soup to average the answers"):
        made("a", "b", soup=True)
    assert not (runs_dir() / "soup").exists() and not list(runs_dir().glob(".*.tmp*"))


# --- mura predict -------------------------------------------------------------------------------


@pytest.mark.parametrize("flip", [False, True])
def test_an_image_is_answered_with_the_mean_and_its_overlay_shows_the_mean_map(
    networks, bones, tmp_path, flip
):
    run("a", networks[0], 0), run("b", networks[3], 1, image_size=48)
    made("a", "b", name="all", flip=flip)
    path = bones / "7.png"
    (result,) = predict_images("all", [path], tmp_path / "out")

    models = [(load_model(networks[0]), 32), (load_model(networks[3]), 48)]
    gray = read_image(path)
    views = [
        (model, resize(gray, size)[None, :, ::step, None].astype("float32"), step)
        for model, size in models
        for step in ((1, -1) if flip else (1,))
    ]
    mean = np.mean([model.predict(view, verbose=0)[0] for model, view, _ in views], axis=0)
    assert list(result["probabilities"].values()) == pytest.approx(mean.tolist(), abs=1e-5)
    assert result["label"] == CLASSES[mean.argmax()]
    assert result["p_abnormal"] == pytest.approx(mean[0], abs=1e-5)

    target = contrast_target([mean.argmax()], CLASSES)
    heats = [layer_cam(model, view, target)[0, :, ::step] for model, view, step in views]
    enlarged = [
        np.asarray(Image.fromarray(heat).resize((48, 48), Image.Resampling.BILINEAR))
        for heat in heats
    ]
    expected = overlay(resize(gray, 48), np.mean(enlarged, axis=0))
    shown = np.asarray(Image.open(result["overlay"]))
    assert np.abs(shown.astype(int) - expected).max() <= 1
    alone = overlay(resize(gray, 48), enlarged[-1])
    assert np.abs(shown.astype(int) - alone).max() > 10, "the test could not fail"


def test_a_soup_of_two_kinds_of_squares_is_refused_and_one_kind_stays(networks, bones):
    run("a-seed0", networks[0], 0, resize="pad"), run("a-seed1", networks[0], 1)
    with pytest.raises(UserError, match="resize = stretch in a-seed1, but pad in a-seed0"):
        made("a-seed0", "a-seed1", soup=True)
    run("a-seed1", networks[0], 1, resize="pad")
    folder = made("a-seed0", "a-seed1", soup=True)
    shutil.rmtree(runs_dir() / "a-seed0")
    assert networks_of(folder).resize == ["pad"], "its members are needed no longer"


def test_a_soup_predicts_without_its_members(networks, bones, tmp_path):
    for seed in range(2):
        run(f"a-seed{seed}", networks[seed], seed)
    folder = made("a-seed0", "a-seed1", soup=True)
    for seed in range(2):
        (runs_dir() / f"a-seed{seed}").rename(tmp_path / f"{seed}")
    (result,) = predict_images("a-soup", [bones / "7.png"], tmp_path / "out")
    view = resize(read_image(bones / "7.png"), 32)[None, ..., None]
    expected = load_model(folder / "model.keras").predict(view, verbose=0)[0]
    assert list(result["probabilities"].values()) == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_model_of_other_classes_is_one_sentence(networks, bones, tmp_path):
    run("a", networks[0], 0), run("b", networks[1], 1)
    made("a", "b", name="all")
    one = keras.Sequential([keras.Input((32, 32, 1)), keras.layers.GlobalAveragePooling2D()])
    one.save(runs_dir() / "b" / "model.keras")
    with pytest.raises(
        UserError, match=r"ensemble\.json names 2 classes, but .*b/model\.keras has"
    ):
        predict_images("all", [bones / "7.png"], tmp_path / "out")
