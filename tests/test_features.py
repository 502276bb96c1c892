"""Activations of the frozen part: the cut, what is stored under which key, and how it is read."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from mura_utils import frozen, generators
from mura_utils.errors import UserError
from mura_utils.experiments import load_experiment, validate_parameters
from mura_utils.frozen import extraction, store, use
from mura_utils.generators import Augmentation, augment
from mura_utils.network import build

HERE = Path(__file__).parent
CLASSES = ["Abnormal-HAND", "Normal-HAND"]
ATTENTION = {"head": "attention", "dropout": [0.1] * 5}
HALF = 2.0**-11  # float16's relative rounding error


def experiment(**changes):
    small = {
        "backbone": "mobilenet", "alpha": 0.25, "weights": "none",
        "image_size": 32, "unfreeze": 5, "head": "dense", "dense_units": [8], "dropout": [0.0],
        "batch_size": 16, "epochs": 5, "views": 3, "cache_features": "on",
    }  # fmt: skip
    return validate_parameters({**small, **changes}, "test")


def network(settings):
    return build.build_model(settings, CLASSES)


def vivid(settings):
    """A network whose activations and probabilities differ between images.

    Keras's own random weights let them vanish within a few layers; He's keep their size.
    """
    model = network(settings)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            shape = layer.kernel.shape
            layer.kernel.assign(rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape))
        elif isinstance(layer, keras.layers.DepthwiseConv2D):
            layer.kernel.assign(rng.normal(0, 1, layer.kernel.shape))
    return model


def radiographs(train=20, validation=7, test=5, size=32):
    """Noise under light of several strengths; test images come first in the manifest."""
    count = train + validation + test
    rng = np.random.default_rng(0)
    light = rng.uniform(0.2, 1, (count, 1, 1))
    pixels = (rng.integers(0, 256, (count, size, size)) * light).astype(np.uint8)
    manifest = pd.DataFrame(
        {
            "path": [f"{row}.png" for row in range(count)],
            "sha256": [f"{row:064x}" for row in range(count)],
            "label": np.take(CLASSES, np.arange(count) % 2),
            "split": np.repeat(["test", "train", "validation"], [test, train, validation]),
        }
    )
    return pixels, manifest


def stored(settings, data, model=None):
    """A plan whose activations are all on disk."""
    pixels, manifest = data
    chosen = frozen.plan(model or vivid(settings), manifest, settings)
    frozen.extract(chosen, pixels, settings, progress=False)
    return chosen


# --- the cut ------------------------------------------------------------------------------------

CUTS = {
    "exp1": ("dense_1", [(1024,)]),
    "exp2": ("conv5_block16_2_conv", [(1, 1, 992), (1, 1, 128)]),
    "exp3": ("conv5_block15_1_conv", [(1, 1, 960), (1, 1, 960)]),
    "exp4": ("conv5_block14_2_conv", [(1, 1, 928), (1, 1, 128)]),
    "exp6": ("conv5_block14_2_conv", [(1, 1, 928), (1, 1, 128)]),
}


def assert_the_parts_equal_the_whole(model, size):
    images = radiographs(6, 1, 1, size)[0][..., np.newaxis].astype("float32")
    cut = frozen.split_network(model)
    activations = keras.tree.flatten(cut.prefix([images]))
    assert [tuple(tensor.shape[1:]) for tensor in activations] == cut.shapes
    assert cut.width == sum(np.prod(shape) for shape in cut.shapes)
    rounded = [np.asarray(tensor).astype("float16").astype("float32") for tensor in activations]
    whole = np.asarray(model(images))
    assert np.ptp(whole[:, 0]) > 0.005, "probabilities differ between images"
    np.testing.assert_allclose(cut.tail(rounded), whole, atol=2e-3)
    np.testing.assert_allclose(cut.tail([*map(np.asarray, activations)]), whole, atol=1e-6)
    return cut


@pytest.mark.parametrize("name", CUTS)
def test_prefix_and_tail_are_the_reports_whole_network(name):
    model = vivid(load_experiment(name, weights="none", image_size=32))
    cut = assert_the_parts_equal_the_whole(model, 32)
    assert (cut.first_trained, cut.shapes) == CUTS[name]
    assert {weight.path for weight in cut.tail.trainable_weights} == {
        weight.path for weight in model.trainable_weights
    }
    assert not cut.prefix.trainable_weights
    assert cut.frozen_share > 0.9  # above 0.99 at 224 px


@pytest.mark.parametrize(
    ("changes", "first", "shapes"),
    [
        ({"unfreeze": 0}, "dense_1", [(256,)]),
        ({"unfreeze": 0, "dense_units": []}, "logits", [(256,)]),
        ({"unfreeze": 0, **ATTENTION}, "excite_reduce", [(2, 2, 256)]),
        ({"unfreeze": 0, **ATTENTION, "squeeze_excite": False}, "attention_0", [(2, 2, 256)]),
        ({"unfreeze": 3}, "conv_pw_11", [(4, 4, 128)]),
    ],
)
def test_prefix_and_tail_are_the_whole_network_with_mobilenet(changes, first, shapes):
    cut = assert_the_parts_equal_the_whole(vivid(experiment(image_size=64, **changes)), 64)
    assert (cut.first_trained, cut.shapes) == (first, shapes)


def test_exp4_is_cut_at_the_maps_that_the_design_counts_with():
    cut = frozen.split_network(build.build_model(load_experiment("exp4", weights="none"), 14))
    assert cut.first_trained == "conv5_block14_2_conv"
    assert cut.shapes == [(7, 7, 928), (7, 7, 128)]
    assert cut.width == 51_744
    assert 0.99 < cut.frozen_share < 1


def test_a_network_without_frozen_weights_is_not_cut():
    settings = experiment(unfreeze="all", cache_features="off")
    assert frozen.split_network(network(settings)) is None


def test_layers_that_draw_random_numbers_stay_in_the_tail():
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Conv2D(2, 3, trainable=False, name="conv")(inputs)
    x = keras.layers.Dropout(0.5, name="drop")(x)
    x = keras.layers.Conv2D(2, 1, trainable=False, name="frozen_behind")(x)
    x = keras.layers.Dense(2, name="dense")(keras.layers.Flatten()(x))
    cut = frozen.split_network(keras.Model(inputs, x))
    assert cut.prefix.layers[-1].name == "conv"
    assert cut.first_trained == "dense"


def test_training_the_tail_trains_the_network_that_is_saved(tmp_path):
    settings, (pixels, manifest) = experiment(), radiographs()
    model = network(settings)
    chosen = stored(settings, (pixels, manifest), model)
    before = model.get_layer("logits").kernel.numpy()
    labels = np.eye(2)[np.arange(20) % 2]
    tail = chosen.cut.tail
    tail.compile("sgd", "categorical_crossentropy")
    tail.fit(frozen.make_dataset(chosen.train, np.arange(20), labels, 10), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = build.load_model(tmp_path / "model.keras")
    assert np.abs(loaded.get_layer("logits").kernel.numpy() - before).max() > 0
    for name in ("logits", "conv_pw_13"):
        saved, trained = loaded.get_layer(name).kernel, tail.get_layer(name).kernel
        np.testing.assert_array_equal(saved, trained)


def test_multiply_adds_are_positions_times_kernel():
    inputs = keras.Input((16, 12, 4))
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", name="conv")(inputs)  # (8, 6, 8)
    x = keras.layers.DepthwiseConv2D(5, padding="same", name="depthwise")(x)  # (8, 6, 8)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Conv2D(8, 1, groups=2, name="grouped")(x)
    x = keras.layers.Dense(3, name="dense")(keras.layers.GlobalAveragePooling2D()(x))
    assert frozen.multiply_adds(keras.Model(inputs, x)) == {
        "conv": 8 * 6 * 8 * 9 * 4,
        "depthwise": 8 * 6 * 8 * 25,
        "grouped": 8 * 6 * 8 * 4,
        "dense": 8 * 3,
    }


# --- keys ---------------------------------------------------------------------------------------


@pytest.fixture
def weights_file(tmp_path):
    path = tmp_path / "backbone.weights.h5"
    keras.utils.set_random_seed(1)
    keras.applications.MobileNet(
        alpha=0.25, include_top=False, weights=None, input_shape=(32, 32, 3)
    ).save_weights(path)
    return str(path)


def folders_of(settings, manifest, model=None):
    cut = frozen.split_network(model or network(settings))
    return [feature_set.folder.name for feature_set in frozen.feature_sets(cut, manifest, settings)]


def test_experiments_with_one_frozen_part_share_its_activations(weights_file):
    _, manifest = radiographs()
    first, *others = (
        folders_of(experiment(weights=weights_file, **changes), manifest)
        for changes in (
            {"l1": 1e-5, "dense_units": [16, 8]},  # as exp4
            {"squeeze_excite": False, "l2": 1e-3, **ATTENTION},  # as exp5
            ATTENTION,  # as exp6
            {
                "learning_rate": 0.5, "seed": 7, "epochs": 2, "batch_size": 8, "views": 5,
                "name": "another", "label_smoothing": 0.1, "batch_norm_momentum": 0.5,
                "cache_features": "auto", "deterministic": False, "steps_per_execution": 4,
            },
        )
    )  # fmt: skip
    assert len(set(first)) == 2
    assert others == [first] * 3


def test_whatever_changes_the_activations_changes_their_folder(weights_file):
    _, manifest = radiographs()
    settings = experiment(weights=weights_file)
    model = network(settings)
    base = folders_of(settings, manifest, model)

    def changed(model, **changes):
        new = folders_of(settings.model_copy(update=changes), manifest, model)
        return [now != old for now, old in zip(new, base, strict=True)]

    for changes in (
        {"image_size": 64}, {"unfreeze": 4}, {"scaling": "unit"}, {"weights": "none"},
    ):  # fmt: skip
        assert changed(None, **changes) == [True, True], changes
    for changes in ({"extractor": "openvino"}, {"precision": "mixed"}):
        assert changed(model, **changes) == [True, True], changes
    for changes in (
        {"rotation_range": 11.0}, {"zoom_range": 0.2}, {"horizontal_flip": False},
        {"augment": False}, {"view_seed": 1},
    ):  # fmt: skip
        assert changed(model, **changes) == [True, False], changes
    for row, expected in ((0, [False, True]), (5, [True, False])):  # a test, a training image
        other = manifest.copy()
        other.loc[row, "sha256"] = "f" * 64
        new = folders_of(settings, other, model)
        assert [now != old for now, old in zip(new, base, strict=True)] == expected
    trained, frozen = (model.get_layer(name).kernel for name in ("logits", "conv_pw_3"))
    trained.assign(trained + 1)
    assert changed(model) == [False, False]
    frozen.assign(frozen + 1e-6)
    assert changed(model) == [True, True]


def test_images_that_move_between_validation_and_test_change_nothing():
    _, manifest = radiographs()
    settings = experiment()
    model = network(settings)
    base = folders_of(settings, manifest, model)
    moved = manifest.assign(split=manifest["split"].replace("validation", "test"))
    assert folders_of(settings, moved, model) == base
    moved.loc[0, "split"] = "train"
    assert folders_of(settings, moved, model) != base


def test_without_hashes_the_files_length_and_time_stand_for_their_content(tmp_path):
    settings = experiment(data_dir=str(tmp_path / "radiographs"))
    _, manifest = radiographs()
    manifest["sha256"] = np.nan
    (tmp_path / "radiographs").mkdir()
    for name in manifest["path"]:
        (tmp_path / "radiographs" / name).write_bytes(b"1")
    model = network(settings)
    base = folders_of(settings, manifest, model)
    assert folders_of(settings, manifest, model) == base
    (tmp_path / "radiographs" / "0.png").write_bytes(b"22")
    assert folders_of(settings, manifest, model) != base


def test_without_augmentation_the_view_seed_does_not_matter():
    _, manifest = radiographs()
    model = network(experiment())
    first, second = (
        folders_of(experiment(augment=False, view_seed=seed), manifest, model) for seed in (0, 1)
    )
    assert first == second


def test_a_model_that_was_saved_finds_what_it_was_trained_on(tmp_path):
    settings, data = experiment(), radiographs()
    model = network(settings)
    chosen = stored(settings, data, model)
    model.save(tmp_path / "model.keras")
    loaded = build.load_model(tmp_path / "model.keras")
    assert folders_of(settings, data[1], loaded) == [
        chosen.train.folder.name, chosen.held_out.folder.name
    ]  # fmt: skip
    assert "from their stored activations" in frozen.predict(loaded, *data, settings)[1]


# --- views --------------------------------------------------------------------------------------


def test_each_view_is_the_prefix_over_the_images_warped_by_its_matrices():
    settings = experiment(view_seed=4)
    pixels, manifest = radiographs()
    chosen = stored(settings, (pixels, manifest))
    views = chosen.train.load()
    augmentation = Augmentation.of(settings)
    is_training = (manifest["split"] == "train").to_numpy()
    assert [view.shape for view in views] == [(20, 2 * 2 * 128)] * 3
    assert views[0].dtype == np.float16
    for number, view in enumerate(views):
        drawn = augmentation.draw(20, 32, np.random.default_rng([4, number]))
        warped = augment(pixels[is_training][..., None], augmentation.matrices(drawn, 32))
        expected = np.asarray(chosen.cut.prefix([warped])).reshape(20, -1)
        assert expected.max() > 0.1
        np.testing.assert_allclose(view, expected, rtol=2 * HALF, atol=1e-4)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(views[one].astype("f4") - views[other]).max() > 0.1
    (plain,) = chosen.held_out.load()
    expected = np.asarray(chosen.cut.prefix([pixels[~is_training][..., None].astype("f4")]))
    np.testing.assert_allclose(plain, expected.reshape(12, -1), rtol=2 * HALF, atol=1e-4)


def test_several_activations_lie_side_by_side_and_come_back_in_their_shapes(tmp_path):
    inputs = keras.Input((32, 32, 1))
    coarse = keras.layers.Conv2D(3, 8, strides=8, trainable=False, name="coarse")(inputs)
    fine = keras.layers.Conv2D(2, 4, strides=4, trainable=False, name="fine")(inputs)
    pools = [keras.layers.Conv2D(2, 1, name=f"to_{n}")(x) for n, x in enumerate((coarse, fine))]
    pools = [keras.layers.GlobalAveragePooling2D()(x) for x in pools]
    model = keras.Model(inputs, keras.layers.Softmax()(keras.layers.Add()(pools)))
    pixels, manifest = radiographs()
    chosen = stored(experiment(augment=False), (pixels, manifest), model)
    assert sorted(chosen.cut.shapes) == [(4, 4, 3), (8, 8, 2)]
    dataset = frozen.make_dataset(chosen.train, np.arange(20), np.eye(20), 8)
    batches, labels = zip(*dataset, strict=True)
    rows = chosen.train.rows
    expected = chosen.cut.prefix([pixels[rows][..., None].astype("float32")])
    for index, tensor in enumerate(expected):
        read = np.concatenate([batch[index] for batch in batches])
        np.testing.assert_allclose(read, tensor, rtol=2 * HALF, atol=1e-3)
    np.testing.assert_array_equal(np.concatenate(labels), np.eye(20))


def test_no_more_views_are_stored_than_epochs_use():
    settings = experiment(epochs=2)
    chosen = stored(settings, radiographs())
    assert sorted(path.name for path in chosen.train.folder.glob("view-*")) == [
        "view-0.npy", "view-1.npy"
    ]  # fmt: skip
    assert [path.name for path in chosen.held_out.folder.glob("view-*")] == ["view-0.npy"]
    longer = experiment(epochs=3)
    more = frozen.plan(vivid(longer), radiographs()[1], longer)
    assert more.train.folder == chosen.train.folder
    assert not more.train.complete
    extracted = frozen.extract(more, radiographs()[0], longer, progress=False)
    assert (extracted.computed, extracted.stored) == (20, 40 + 12)


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


# --- interruptions ------------------------------------------------------------------------------

MANY = {"train": 5 * extraction._BATCH + 9, "validation": 20, "test": 20}


def extract_slowly(seconds):
    """In a process of its own: the extraction of `undisturbed`, with a pause before each batch."""
    extractor = frozen.extractor

    def slow_extractor(*args):
        run, computed_by = extractor(*args)

        def after_a_pause(images):
            time.sleep(seconds)
            return run(images)

        return after_a_pause, computed_by

    frozen.extractor = slow_extractor
    settings = experiment(views=2)
    pixels, manifest = radiographs(**MANY)
    chosen = frozen.plan(vivid(settings), manifest, settings)
    print(frozen.extract(chosen, pixels, settings, progress=False).computed, flush=True)


def extract_slowly_in_two_processes(seconds):
    """Forked before TensorFlow has computed anything, to import it once."""
    child = os.fork()
    extract_slowly(seconds)
    if child:
        assert os.waitpid(child, 0)[1] == 0


def python(code):
    return subprocess.Popen(
        [sys.executable, "-c", f"import test_features as t; {code}"],
        cwd=HERE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def contents(cache):
    return {
        str(path.relative_to(cache)): path.read_bytes()
        for path in sorted(cache.rglob("*"))
        if path.suffix in (".npy", ".partial", ".json")
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Bytes of the files that an extraction without interruption writes, by name."""
    cache = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MURA_CACHE_DIR", str(cache))
        chosen = stored(experiment(views=2), radiographs(**MANY))
    assert np.ptp(chosen.train.load()[1], axis=0).max() > 1, "activations differ between images"
    return contents(cache)


def test_a_killed_extraction_goes_on_and_gives_the_same_bytes(folders, undisturbed):
    settings = experiment(views=2)
    pixels, manifest = radiographs(**MANY)
    chosen = frozen.plan(vivid(settings), manifest, settings)
    partial = chosen.train.partial(1)
    row = chosen.train.width * 2
    process = python("t.extract_slowly(0.4)")
    deadline = time.monotonic() + 120
    while not partial.exists() or partial.stat().st_size < 2 * extraction._BATCH * row:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()

    assert not chosen.train.complete
    assert chosen.train.path(0).is_file()
    halfway = frozen.plan(vivid(settings), manifest, settings)
    assert halfway.train.folder == chosen.train.folder, "one key in all processes"
    extracted = frozen.extract(halfway, pixels, settings, progress=False)
    total = 2 * MANY["train"] + 40
    assert extracted.stored >= MANY["train"] + 2 * extraction._BATCH
    assert extracted.stored % extraction._BATCH == MANY["train"] % extraction._BATCH
    assert extracted.computed == total - extracted.stored > 0
    assert contents(folders / "cache") == undisturbed
    assert str(extracted.stored) in extracted.sentence.replace(",", "")


def test_a_view_torn_at_any_place_is_completed_to_the_same_bytes(folders, undisturbed):
    settings = experiment(views=2)
    data = radiographs(**MANY)
    chosen = stored(settings, data)
    whole = chosen.train.path(1).read_bytes()
    header = len(whole) - MANY["train"] * chosen.train.width * 2
    batch = extraction._BATCH * chosen.train.width * 2
    for size, kept in (
        (0, 0),
        (5, 0),
        (header, 0),
        (header + batch - 1, 0),
        (header + batch, 1),
        (header + 3 * batch + 7, 3),
        (len(whole), 5),
    ):
        chosen.train.path(1).unlink()
        chosen.train.partial(1).write_bytes(whole[:size])
        extracted = frozen.extract(chosen, data[0], settings, progress=False)
        assert extracted.computed == MANY["train"] - kept * extraction._BATCH, size
        assert contents(folders / "cache") == undisturbed, size


def test_what_is_stored_already_is_not_computed_again(monkeypatch):
    settings, data = experiment(), radiographs()
    chosen = stored(settings, data)
    monkeypatch.setattr(extraction, "extractor", lambda *_: pytest.fail("computed again"))
    extracted = frozen.extract(chosen, data[0], settings, progress=False)
    assert (extracted.computed, extracted.stored) == (0, 3 * 20 + 12)


def test_a_plan_that_is_off_stores_nothing(folders):
    settings = experiment(cache_features="off")
    chosen = frozen.plan(network(settings), radiographs()[1], settings)
    extracted = frozen.extract(chosen, radiographs()[0], settings, progress=False)
    assert extracted.computed == extracted.stored == 0
    assert not list((folders / "cache").rglob("view*"))


def test_two_processes_share_the_work_of_one_set(folders, undisturbed):
    process = python("t.extract_slowly_in_two_processes(0.1)")
    printed = process.communicate(timeout=120)[0].split()
    assert process.returncode == 0
    assert len(printed) == 2
    assert sum(map(int, printed)) == 2 * MANY["train"] + 40
    assert contents(folders / "cache") == undisturbed


def test_a_disk_that_fills_up_leaves_no_view_that_looks_whole():
    settings, data = experiment(views=1), radiographs()
    chosen = frozen.plan(network(settings), data[1], settings)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (chosen.train.bytes_needed - 100, limits[1]))
    try:
        with pytest.raises(OSError):
            frozen.extract(chosen, data[0], settings, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not chosen.train.complete
    frozen.extract(chosen, data[0], settings, progress=False)
    assert chosen.train.load()[0].shape == (20, chosen.train.width)


# --- the plan -----------------------------------------------------------------------------------


def free(monkeypatch, count):
    usage = shutil.disk_usage("/")._replace(free=count)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)


def one_sentence(error):
    text = str(error.value)
    return "\n" not in text and text.endswith(".") and ". " not in text


def test_auto_is_off_where_nothing_is_frozen():
    _, manifest = radiographs()
    model = network(experiment(unfreeze="all", cache_features="off"))
    for choice in ("auto", "off"):
        chosen = frozen.plan(model, manifest, experiment(unfreeze="all", cache_features=choice))
        assert not chosen.on
        assert chosen.cut is chosen.train is chosen.held_out is None
        assert chosen.sentence == f"`cache_features: {choice}`: off, because nothing is frozen."


def test_auto_is_off_where_little_is_frozen_and_on_is_obeyed():
    _, manifest = radiographs()
    settings = experiment(unfreeze=9)
    model = network(settings)
    share = frozen.split_network(model).frozen_share
    assert share < 0.5
    auto = frozen.plan(model, manifest, experiment(unfreeze=9, cache_features="auto"))
    assert not auto.on
    assert f"off, because only {share:.1%} of the multiply-adds lie before" in auto.sentence
    assert frozen.plan(model, manifest, settings).on


def test_auto_is_on_where_most_is_frozen_and_off_is_obeyed():
    _, manifest = radiographs()
    model = network(experiment())
    auto = frozen.plan(model, manifest, experiment(cache_features="auto"))
    assert auto.on
    assert "`cache_features: auto`: on, because 6" in auto.sentence
    assert "lie before `conv_pw_9`" in auto.sentence
    off = frozen.plan(model, manifest, experiment(cache_features="off"))
    assert not off.on
    assert "off, although 6" in off.sentence


def test_the_disk_decides_by_what_is_still_to_be_written(monkeypatch):
    data = radiographs(train=2 * extraction._BATCH)
    auto, on = experiment(cache_features="auto"), experiment()
    model = network(on)
    chosen = frozen.plan(model, data[1], on)
    needed = chosen.train.bytes_needed + chosen.held_out.bytes_needed
    monkeypatch.setattr(store, "_size", lambda count: f"{count} B")

    free(monkeypatch, needed)
    roomy = frozen.plan(model, data[1], on)
    assert roomy.on
    assert f": {needed} B, of which {needed} B are still to be made" in roomy.sentence
    narrow = frozen.plan(model, data[1], auto)
    assert not narrow.on
    assert "off, because of the disk: 3 version(s) of 128 training images" in narrow.sentence
    assert f"and {needed} B are free" in narrow.sentence
    free(monkeypatch, needed - 1)
    with pytest.raises(UserError, match=f"need {needed} B more and .* has {needed - 1} B") as error:
        frozen.plan(model, data[1], on)
    assert one_sentence(error)

    free(monkeypatch, int(needed / 0.9) + 1)
    assert frozen.plan(model, data[1], auto).on
    frozen.extract(chosen, data[0], on, progress=False)
    view = chosen.train.path(2)
    view.rename(chosen.train.partial(2))
    row = chosen.train.width * 2
    os.truncate(
        chosen.train.partial(2), view.parent.joinpath("view-0.npy").stat().st_size - 30 * row
    )
    free(monkeypatch, 40 * row)
    almost = frozen.plan(model, data[1], auto)
    assert almost.on
    headers = 128 * (3 + 1)
    missing = int(almost.sentence.split("of which ")[1].split()[0])
    assert 0 <= 30 * row - missing <= headers
    free(monkeypatch, 20 * row)
    assert not frozen.plan(model, data[1], auto).on


def test_the_size_that_is_named_is_the_size_that_is_written():
    chosen = stored(experiment(), radiographs())
    for feature_set in (chosen.train, chosen.held_out):
        files = list(feature_set.folder.glob("view-*.npy"))
        written = sum(path.stat().st_size for path in files)
        assert feature_set.bytes_stored == written
        assert feature_set.bytes_needed == written - 128 * len(files)  # NumPy's headers


# --- what computes ------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1e6, np.nan])
def test_an_activation_beyond_float16_is_one_sentence(factor):
    settings, (pixels, manifest) = experiment(unfreeze=0), radiographs()
    model = vivid(settings)
    model.get_layer("conv_pw_13_relu").max_value = None  # MobileNet's activations end at 6
    gamma = model.get_layer("conv_pw_13_bn").gamma
    gamma.assign(gamma * factor)
    chosen = frozen.plan(model, manifest, settings)
    with pytest.raises(UserError, match=r"larger than float16 can hold \(65504\)") as error:
        frozen.extract(chosen, pixels, settings, progress=False)
    assert one_sentence(error)
    assert not list(chosen.train.folder.glob("*.npy"))


def test_openvino_that_is_not_installed_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    settings, data = experiment(extractor="openvino"), radiographs()
    chosen = frozen.plan(network(settings), data[1], settings)
    with pytest.raises(UserError, match=r"needs OpenVINO: pip install") as error:
        frozen.extract(chosen, data[0], settings, progress=False)
    assert "extractor = tensorflow" in str(error.value)


def test_openvino_gives_the_activations_of_tensorflow():
    pytest.importorskip("openvino")
    data = radiographs(train=70)
    model = vivid(experiment())
    sets, predictions, words = [], [], []
    for extractor in ("tensorflow", "openvino"):
        settings = experiment(extractor=extractor)
        chosen = frozen.plan(model, data[1], settings)
        words.append(frozen.extract(chosen, data[0], settings, progress=False).computed_by)
        sets.append([*chosen.train.load(), *chosen.held_out.load()])
        predictions.append(frozen.predict(model, *data, settings)[0])
    assert words == ["TensorFlow float32", "OpenVINO f32"]
    for ours, theirs in zip(*sets, strict=True):
        np.testing.assert_allclose(theirs, ours.astype("f4"), rtol=4 * HALF, atol=1e-3)
    assert np.ptp(predictions[0][:, 0]) > 0.01
    np.testing.assert_allclose(*predictions, atol=1e-3)
    whole = model.predict(data[0][data[1]["split"] != "train"][..., None], verbose=0)
    np.testing.assert_allclose(predictions[1], whole, atol=1e-3)


def test_openvino_computes_in_bfloat16_where_the_processor_can():
    openvino = pytest.importorskip("openvino")
    has_it = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    data = radiographs()
    settings = experiment(extractor="openvino", precision="mixed", views=1)
    model = vivid(settings)
    chosen = frozen.plan(model, data[1], settings)
    extracted = frozen.extract(chosen, data[0], settings, progress=False)
    assert extracted.computed_by == ("OpenVINO bf16" if has_it else "OpenVINO f32")
    plain = stored(experiment(), data, model)
    ours, theirs = (s.held_out.load()[0].astype("f4") for s in (plain, chosen))
    error = np.abs(theirs - ours).mean() / ours.mean()
    assert 1e-3 < error < 0.3 if has_it else error < 1e-3


# --- using --------------------------------------------------------------------------------------


def test_predictions_say_whether_they_come_from_stored_activations():
    data = radiographs()
    pixels, manifest = data
    settings = experiment()
    model = vivid(settings)
    held_out = (manifest["split"] != "train").to_numpy()
    expected = model.predict(pixels[held_out][..., None], verbose=0)
    assert np.ptp(expected[:, 0]) > 0.01

    probabilities, sentence = frozen.predict(model, *data, settings)
    assert sentence == "12 images through the whole network."
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)

    chosen = stored(settings, data, model)
    probabilities, sentence = frozen.predict(model, *data, settings)
    assert sentence.startswith("12 images from their stored activations (tensorflow, float32).")
    np.testing.assert_allclose(probabilities, expected, atol=2e-3)
    (view,) = chosen.held_out.load()
    activations = view.astype("float32").reshape(12, *chosen.cut.shapes[0])
    np.testing.assert_allclose(
        probabilities, chosen.cut.tail.predict(activations, verbose=0), atol=1e-6
    )
    whole = "12 images through the whole network."
    assert frozen.predict(model, *data, experiment(cache_features="off"))[1] == whole
    others = manifest.assign(sha256=manifest["sha256"] + "0")
    assert frozen.predict(model, pixels, others, settings)[1] == whole


def test_the_largest_difference_is_that_of_any_probability():
    settings, data = experiment(), radiographs()
    model = vivid(settings)
    chosen = stored(settings, data, model)
    held_out = chosen.held_out

    def difference(images):
        return frozen.largest_difference(held_out, chosen.cut, model, data[0], images)

    assert 0 < difference(12) < 2e-3
    view = np.load(held_out.path(0), mmap_mode="r+")
    view[7] = 0
    view.flush()
    zero = chosen.cut.tail.predict(np.zeros((1, *held_out.shapes[0])), verbose=0)
    row = held_out.rows[7]
    whole = model.predict(data[0][row][None, ..., None], verbose=0)
    assert difference(12) == pytest.approx(np.abs(zero - whole).max(), abs=1e-5)
    assert difference(7) < 2e-3, "only the first images are compared"


def test_predictions_do_not_make_the_difference_smaller_than_it_is(monkeypatch):
    settings, data = experiment(), radiographs()
    model = vivid(settings)
    stored(settings, data, model)
    monkeypatch.setattr(use, "largest_difference", lambda *_: 0.1466)
    sentence = frozen.predict(model, *data, settings)[1]
    assert "12 of them" in sentence
    assert 0.146 < float(sentence.rstrip(".").split()[-1]) < 0.21
