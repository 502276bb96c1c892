"""Stored activations as batches, and predictions from them."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import keras
import numpy as np
import pytest
from small import frozen_experiment, noise, stored, vivid

from mura_utils import frozen, generators
from mura_utils.augmentation import Augmentation
from mura_utils.frozen import use


@pytest.fixture
def numbered(tmp_path):
    """A set of 13 images and 4 views whose every activation is 10 * image + view."""
    folder = tmp_path / "numbered"
    folder.mkdir()
    rows, width = 13, 4
    for view in range(4):
        values = 10 * np.arange(rows)[:, None] + view + np.zeros(width)
        np.save(folder / f"view-{view}.npy", values.astype("float16"))
    still = Augmentation(0, 0, 0, 0, 0, horizontal_flip=False)
    return frozen.FeatureSet(folder, np.arange(rows), [(2, 2, 1)], still, 4, 0, {})


def passes(dataset, count):
    """(images, views, views of each batch) of each pass over a numbered set."""
    result = []
    for _ in range(count):
        batches = [activations[0].numpy()[:, 0, 0, 0].astype(int) for activations, _ in dataset]
        values = np.concatenate(batches)
        result.append((values // 10, values % 10, [set(batch % 10) for batch in batches]))
    return result


def test_as_many_iterations_as_views_show_each_view_of_each_image_once(numbered):
    dataset = frozen.make_dataset(numbered, np.arange(13), np.eye(13), 5, shuffle=True, seed=3)
    assert dataset.cardinality() == 3
    iterations = passes(dataset, 8)
    for images, _, of_batches in iterations:
        assert sorted(images) == list(range(13))
        assert all(len(views) > 1 for views in of_batches), "a batch mixes views"
    for four in (iterations[:4], iterations[4:]):
        pairs = {pair for images, views, _ in four for pair in zip(images, views, strict=True)}
        assert pairs == {(image, view) for image in range(13) for view in range(4)}
    seeds = [
        passes(frozen.make_dataset(numbered, np.arange(13), np.eye(13), 13, seed=seed), 1)[0][1]
        for seed in (0, 0, 1)
    ]
    assert seeds[0].tolist() == seeds[1].tolist() != seeds[2].tolist()


def test_order_and_labels_are_those_of_the_pixels_data_set(numbered):
    positions = np.array([12, 3, 7, 0, 9, 4, 11])
    pixels = np.broadcast_to(np.arange(13, dtype=np.uint8)[:, None, None], (13, 4, 4))
    options = {"batch_size": 3, "shuffle": True, "seed": 5}
    ours = frozen.make_dataset(numbered, positions, np.eye(13), **options)
    theirs = generators.make_dataset(pixels, positions, np.eye(13), **options)
    orders = []
    for _ in range(3):
        images = np.concatenate([a[0].numpy()[:, 0, 0, 0] // 10 for a, _ in ours])
        labels = np.concatenate([label.numpy().argmax(axis=1) for _, label in ours])
        expected = np.concatenate([batch.numpy()[:, 0, 0, 0] for batch, _ in theirs])
        labels_of_theirs = np.concatenate([label.numpy().argmax(axis=1) for _, label in theirs])
        # Each loop is a pass of its own: images are of passes 0, 2, 4 and labels of 1, 3, 5.
        assert images.tolist() == expected.tolist()
        assert labels.tolist() == labels_of_theirs.tolist()
        orders.append(images.tolist())
    assert orders[0] != orders[1]
    in_order = frozen.make_dataset(numbered, positions, np.eye(13), 3)
    read = [(a[0].numpy()[:, 0, 0, 0] // 10, y.numpy().argmax(axis=1)) for a, y in in_order]
    for column in zip(*read, strict=True):
        assert np.concatenate(column).tolist() == positions.tolist()


def test_a_data_set_can_begin_at_any_iteration(numbered):
    def dataset(first):
        return frozen.make_dataset(
            numbered, np.arange(13), np.eye(13), 5, shuffle=True, seed=1, first_iteration=first
        )

    whole = passes(dataset(0), 7)
    for first in (1, 6):
        ((images, views, _),) = passes(dataset(first), 1)
        assert images.tolist() == whole[first][0].tolist()
        assert views.tolist() == whole[first][1].tolist()


def test_reading_marks_a_set_as_used(numbered):
    for path in numbered.folder.iterdir():
        os.utime(path, (0, 0))
    numbered.load()
    assert all(time.time() - path.stat().st_mtime < 600 for path in numbered.folder.iterdir())


def test_predictions_say_whether_they_come_from_stored_activations():
    settings, images = frozen_experiment(), noise()
    model = vivid(settings)
    held_out = images.pixels[images.positions("validation", "test")]
    expected = model.predict(held_out[..., None], verbose=0)
    assert np.ptp(expected[:, 0]) > 0.01

    probabilities, sentence = frozen.predict(model, images, settings)
    assert sentence == "12 images through the whole network."
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)

    chosen = stored(settings, images, model)
    probabilities, sentence = frozen.predict(model, images, settings)
    assert sentence.startswith("12 images from their stored activations (tensorflow, float32).")
    np.testing.assert_allclose(probabilities, expected, atol=2e-3)
    (view,) = chosen.held_out.load()
    activations = view.astype("float32").reshape(12, *chosen.cut.shapes[0])
    np.testing.assert_allclose(
        probabilities, chosen.cut.tail.predict(activations, verbose=0), atol=1e-6
    )
    whole = "12 images through the whole network."
    assert frozen.predict(model, images, frozen_experiment(cache_features="off"))[1] == whole
    others = replace(images, rows=images.rows.assign(sha256=images.rows["sha256"] + "0"))
    assert frozen.predict(model, others, settings)[1] == whole


def test_the_largest_difference_is_that_of_any_probability():
    settings, images = frozen_experiment(), noise()
    model = vivid(settings)
    chosen = stored(settings, images, model)
    held_out = chosen.held_out

    def difference(count):
        return frozen.largest_difference(held_out, chosen.cut, model, images, count)

    assert 0 < difference(12) < 2e-3
    view = np.load(held_out.path(0), mmap_mode="r+")
    view[7] = 0
    view.flush()
    zero = chosen.cut.tail.predict(np.zeros((1, *held_out.shapes[0])), verbose=0)
    row = held_out.rows[7]
    whole = model.predict(images.pixels[row][None, ..., None], verbose=0)
    assert difference(12) == pytest.approx(np.abs(zero - whole).max(), abs=1e-5)
    assert difference(7) < 2e-3, "only the first images are compared"


def test_predictions_do_not_make_the_difference_smaller_than_it_is(monkeypatch):
    settings, images = frozen_experiment(), noise()
    model = vivid(settings)
    stored(settings, images, model)
    monkeypatch.setattr(use, "largest_difference", lambda *_: 0.1466)
    sentence = frozen.predict(model, images, settings)[1]
    assert "12 of them" in sentence
    assert 0.146 < float(sentence.rstrip(".").split()[-1]) < 0.21


# --- the backbone's features before training ------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{}, {"unfreeze": 0}, {"unfreeze": 0, "head": "pooled", "pooling": ["max"], "dropout": [0.1]}],
    ids=["cut inside", "cut behind", "cut behind two maps"],
)
def test_stored_activations_lead_to_the_features_of_the_whole_backbone(changes):
    settings, images = frozen_experiment(augment=False, **changes), noise()
    model = vivid(settings)
    chosen = stored(settings, images, model)
    ours = frozen.backbone_features(chosen, model, images, 8)
    off = replace(chosen, on=False)
    whole = frozen.backbone_features(off, model, images, 8)
    assert len(ours) == len(images) and np.ptp(whole, axis=0).max() > 0
    if not changes or changes["unfreeze"]:
        np.testing.assert_allclose(ours, whole, rtol=0.02, atol=0.02 * whole.max())
    else:
        assert ours.shape[1] == chosen.held_out.shapes[0][-1]
    assert not np.allclose(ours[0], ours[1], rtol=0.05)


def test_features_are_an_average_over_positions_in_the_images_order():
    settings, images = frozen_experiment(cache_features="off"), noise()
    model = vivid(settings)
    chosen = frozen.plan(model, images, settings)
    found = frozen.backbone_features(chosen, model, images, 8)
    last = keras.Model(model.inputs, model.get_layer("features").output)
    expected = last.predict(images.pixels[..., np.newaxis], verbose=0).mean(axis=(1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
