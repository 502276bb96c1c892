"""Close-ups in training, and a second look at the hottest region."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from small import CLASSES, experiment, prepare, stored, train, vivid
from test_training_masks import SIZE, Masked, spots

from mura_utils import frozen
from mura_utils.data.close_ups import FINE, draw_close_ups, on_fine_square, zoom_in
from mura_utils.data.dataset import Masks
from mura_utils.data.squares import resize
from mura_utils.errors import UserError
from mura_utils.experiments import save_experiment
from mura_utils.explain.second_look import second_look_maps
from mura_utils.export.description import one_network
from mura_utils.generators import STILL, augment, mask_targets
from mura_utils.network.build import load_model
from mura_utils.network.heads import FINDING
from mura_utils.network.second_look import (
    answer,
    fine_side,
    hottest_corners,
    look_closer,
    with_finding,
)
from mura_utils.paths import runs_dir, write_json
from mura_utils.plotting.heatmaps import overlay
from mura_utils.prediction import predict_images
from mura_utils.predictor import Predictor
from mura_utils.runs.ensemble import Ensemble, read_member, write_ensemble
from mura_utils.runs.record import write_completed
from mura_utils.runs.stages import NOTEBOOKS


class Bones(Masked):
    """The same images at any size, from memory."""

    def pixels_at(self, size):
        return np.stack([resize(each, size) for each in self.pixels])


def bones():
    images = spots(36)
    return Bones(images.root, images.rows.assign(body_part="HAND"), images.pixels)


def looking_twice(**changes):
    small = {
        "image_size": SIZE, "head": "pooled", "dropout": [0.1], "unfreeze": 5, "views": 4,
        "mask_supervision": 10.0, "epochs": 4, "cache_features": "on", "second_look": True,
        "learning_rate": 3e-3, "rotation_range": 0.0, "shear_range": 0.0, "zoom_range": 0.0,
        "width_shift_range": 0.0, "height_shift_range": 0.0, "horizontal_flip": False,
    }  # fmt: skip
    return experiment(**{**small, **changes})


# --- close-ups ----------------------------------------------------------------------------------


def maps_at(*corners, side=20):
    maps = np.zeros((len(corners), side, side), np.uint8)
    for map_, (y, x) in zip(maps, corners, strict=True):
        map_[y : y + 2, x : x + 2] = 1
    return maps


def test_a_close_up_shows_its_finding_or_where_another_image_of_the_body_part_has_one():
    masks = Masks(maps_at((4, 4), (14, 14)), np.array([0, 1, -1, -1, -2] * 40))
    parts = ["HAND", "LEG", "HAND", "LEG", "LEG"] * 40
    rows = pd.DataFrame({"body_part": parts})
    x, y, zoom = draw_close_ups(masks, rows, np.random.default_rng(0)).T.reshape(3, 40, 5)
    for place, center in ((0, 0.25), (1, 0.75), (2, 0.25), (3, 0.75)):
        for coordinate in (x, y):
            assert abs(coordinate[:, place].mean() - center) < 0.1, place
            inside = np.abs(coordinate[:, place] - center) < 0.5 / zoom[:, place]
            assert inside.mean() > 0.9, "the finding is in the picture"
        assert ((zoom[:, place] >= 1.4) & (zoom[:, place] <= 2.2)).all()
    assert (zoom[:, 4] == 1).all(), "where the finding is unknown, the whole image stays"
    half = 0.5 / zoom
    for coordinate in (x, y):
        assert (coordinate >= half - 1e-9).all()
        assert (coordinate <= 1 - half + 1e-9).all()


def test_close_ups_depend_on_their_seed_alone():
    masks = Masks(maps_at((4, 4)), np.array([0, -1]))
    rows = pd.DataFrame({"body_part": ["HAND", "HAND"]})
    first, second, other = (
        draw_close_ups(masks, rows, np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_without_any_mask_all_images_stay_whole():
    masks = Masks(np.zeros((0, 8, 8), np.uint8), np.array([-1, -2]))
    rows = pd.DataFrame({"body_part": ["HAND", "HAND"]})
    drawn = draw_close_ups(masks, rows, np.random.default_rng(0))
    assert drawn.tolist() == [[0.5, 0.5, 1.0]] * 2


@pytest.mark.parametrize(("x", "y", "zoom"), [(0.5, 0.5, 2.0), (0.25, 0.625, 2.0), (0.6, 0.4, 1.6)])
def test_a_close_up_is_the_crop_of_the_fine_square_and_its_mask_goes_along(x, y, zoom):
    rng = np.random.default_rng(0)
    smooth = resize(rng.integers(0, 256, (8, 8)).astype(np.uint8), FINE * SIZE)
    near = zoom_in(STILL, np.array([[x, y, zoom]]), SIZE)
    shown = augment(smooth[None, ..., None], on_fine_square(near), SIZE)[0, ..., 0].numpy()
    side = FINE * SIZE / zoom
    left, top = (FINE * SIZE * place - side / 2 for place in (x, y))
    columns = left + (np.arange(SIZE) + 0.5) / SIZE * side
    rows = top + (np.arange(SIZE) + 0.5) / SIZE * side
    expected = smooth[np.ix_(rows.astype(int), columns.astype(int))]
    assert np.abs(shown - expected).max() < 12, "half a pixel of a smooth image"

    mask = np.zeros((SIZE, SIZE), np.uint8)
    row, column = int(y * SIZE), int(x * SIZE)
    mask[row - 3 : row + 3, column - 3 : column + 3] = 1
    cells = mask_targets(mask[None], near, np.array([True]), 8)[0, ..., 0].numpy()
    found = np.argwhere(cells == 1).mean(axis=0)
    np.testing.assert_allclose(found, [3.5, 3.5], atol=0.6)


def test_every_other_stored_version_is_a_close_up():
    images, settings = bones(), looking_twice()
    chosen = stored(settings, images)
    assert sorted(chosen.train.close_ups) == [1, 3]
    assert chosen.held_out.close_ups == {}
    assert "4 version(s) of 24 training images (2 of them close-ups)" in chosen.sentence
    masks = images.masks(chosen.train.rows)
    covered = frozen.variant_targets(chosen.train, masks, 16).clip(0).mean(axis=(1, 2, 3, 4))
    assert min(covered[1], covered[3]) > 1.5 * max(covered[0], covered[2])


def test_stored_close_ups_are_told_apart_by_their_masks():
    plain, twice = (stored(looking_twice(second_look=flag), bones()) for flag in (False, True))
    assert plain.train.folder != twice.train.folder
    assert plain.held_out.folder == twice.held_out.folder
    moved = bones()
    moved.pixels[0] = np.roll(moved.pixels[0], 20, axis=1)  # the file is the same, its mask is not
    other = frozen.plan(vivid(looking_twice()), moved, looking_twice())
    assert other.train.folder != twice.train.folder


@pytest.mark.parametrize(
    "change",
    [
        {"mask_supervision": 0.0},
        {"cache_features": "auto"},
        {"augment": False},
        {"views": 1},
        {"epochs": 1},
    ],
)
def test_a_second_look_needs_what_it_learns_from(change):
    with pytest.raises(UserError, match="second_look = True learns from stored close-ups"):
        looking_twice(**change)


# --- the second look ----------------------------------------------------------------------------


def test_the_second_look_stays_inside_the_image():
    attention = np.zeros((3, 4, 4, 1))
    attention[0, 0, 0] = attention[1, 3, 3] = attention[2, 1, 2] = 1
    corners = hottest_corners(attention, SIZE)
    assert fine_side(SIZE) == 96
    assert corners.tolist() == [[0, 0], [32, 32], [4, 28]]
    fine = np.arange(3 * 96 * 96).reshape(3, 96, 96)
    closer = look_closer(fine, attention, SIZE)
    np.testing.assert_array_equal(closer[1], fine[1, 32:, 32:])
    np.testing.assert_array_equal(closer[2], fine[2, 4:68, 28:92])


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_answer_is_the_mean_of_two_looks(mirrored):
    images = bones()
    model = vivid(looking_twice())
    rows = np.arange(0, 12)
    step = -1 if mirrored else 1
    once = answer(model, images, rows, 4, mirrored)
    np.testing.assert_array_equal(
        once, model.predict(images.pixels[rows][:, :, ::step, None], 4, verbose=0)
    )
    twice = answer(model, images, rows, 4, mirrored, second_look=True)
    assert np.abs(twice - once).max() > 1e-4
    for row in (0, 5, 11):
        whole = images.pixels[[row]][:, :, ::step, None]
        probabilities, attention = with_finding(model).predict(whole, verbose=0)
        y, x = hottest_corners(attention, SIZE)[0]
        fine = images.pixels_at(96)[row][:, ::step]
        again = model.predict(fine[None, y : y + SIZE, x : x + SIZE, None], verbose=0)
        np.testing.assert_allclose(twice[row], (probabilities + again)[0] / 2, atol=1e-6)


def test_the_map_of_the_second_look_lies_where_it_looked():
    images, model = bones(), vivid(looking_twice())
    rows = np.arange(0, 12, 2)
    whole = images.pixels[rows][..., None].astype(np.float32)
    heat = second_look_maps(model, whole, images.pixels_at(96)[rows])
    assert heat.shape == (6, SIZE, SIZE)
    assert heat.max(axis=(1, 2)) == pytest.approx(1)
    _, attention = with_finding(model).predict(whole, verbose=0)
    for map_, (y, x) in zip(heat, hottest_corners(attention, SIZE), strict=True):
        outside = np.ones((96, 96), bool)
        outside[max(y - 2, 0) : y + SIZE + 2, max(x - 2, 0) : x + SIZE + 2] = False
        assert map_[resize(outside.astype(np.uint8) * 255, SIZE) == 255].max(initial=0) == 0


def test_a_network_learns_from_close_ups_and_answers_with_both_looks(tmp_path):
    images, settings = bones(), looking_twice(epochs=12)
    trained = train(tmp_path, settings, images, vivid(settings))
    assert trained.history["mask_loss"].iloc[-1] < trained.history["mask_loss"].iloc[0]
    model = load_model(trained.path)
    probabilities, how = frozen.predict(model, images, settings)
    assert "each twice" in how
    held_out = images.positions("validation", "test")
    expected = answer(model, images, held_out, 8, second_look=True)
    np.testing.assert_array_equal(probabilities, expected)
    assert model.get_layer(FINDING) and len(CLASSES) == probabilities.shape[1]


def test_training_on_close_ups_needs_a_mask_to_cut_around():
    images = bones()
    images.pixels[:] = 50
    with pytest.raises(UserError, match="No training image of mura has a mask"):
        prepare(
            looking_twice(), Bones(images.root, images.rows.assign(source="mura"), images.pixels)
        )


@pytest.mark.parametrize("flip", [False, True])
def test_mura_predict_looks_twice(tmp_path, flip):
    settings, images = looking_twice(name="closer"), bones()
    folder = runs_dir() / "closer"
    save_experiment(settings, folder / "experiment.yaml")
    model = vivid(settings)
    model.save(folder / "model.keras")
    about = {"classes": CLASSES, "model_sha256": "", "best": {"val_accuracy": 1.0}, "seconds": 1}
    write_json(folder / "training.json", about)
    write_completed(folder, list(NOTEBOOKS[:5]))
    name = "closer"
    if flip:
        name = "both"
        ensemble = Ensemble((read_member("closer"),), soup=False, flip=True, val_accuracy=1.0)
        write_ensemble(runs_dir() / name, ensemble)
        write_completed(runs_dir() / name, [])
    rows = np.arange(4)
    sides = (False, True) if flip else (False,)
    expected = np.mean(
        [answer(model, images, rows, 4, side, second_look=True) for side in sides], axis=0
    )
    predictor = Predictor(runs_dir() / name)
    inputs = [predictor.prepare(images.pixels[row]) for row in rows]
    np.testing.assert_allclose(predictor.answer(inputs).probabilities, expected, atol=1e-6)
    files = [tmp_path / f"{row}.png" for row in rows]
    for row, file in zip(rows, files, strict=True):
        Image.fromarray(images.pixels[row]).save(file)
    results = predict_images(name, files, tmp_path / "out")
    for result, probabilities in zip(results, expected, strict=True):
        assert result["probabilities"][CLASSES[0]] == pytest.approx(probabilities[0], abs=2e-6)
        assert result["heatmap"] == "attention taught by masks, second look"
    if not flip:
        whole = images.pixels[rows][..., None].astype(np.float32)
        heat = second_look_maps(model, whole, images.pixels_at(96)[rows])
        for result, gray, map_ in zip(results, images.pixels, heat, strict=False):
            drawn = np.asarray(Image.open(result["overlay"])).astype(int)
            assert np.abs(drawn - overlay(gray, map_)).max() <= 1


def test_no_export_reads_an_image_once_where_the_run_reads_it_twice():
    folder = runs_dir() / "closer"
    save_experiment(looking_twice(name="closer"), folder / "experiment.yaml")
    write_json(folder / "training.json", {"classes": CLASSES})
    with pytest.raises(UserError, match="reads each image twice"):
        one_network(folder)


@pytest.mark.parametrize(("side", "grid"), [(2000, 62), (1900, 59), (384, 24)])
def test_masks_have_as_many_cells_as_the_map(side, grid):
    mask = np.zeros((1, side, side), np.uint8)
    mask[0, side // 2, side // 2] = 1
    cells = mask_targets(mask, STILL, np.array([True]), grid)
    assert cells.shape == (1, grid, grid, 1) and cells.numpy().sum() == 1
