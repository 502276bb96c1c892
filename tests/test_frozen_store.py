"""Activations on disk: under which key, and whether there is room for them."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import keras
import numpy as np
import pytest
from small import ATTENTION, CLASSES, frozen_experiment, network, noise, one_sentence, stored

from mura_utils import frozen, training
from mura_utils.errors import UserError
from mura_utils.frozen import extraction, store
from mura_utils.network import build

# --- keys -----------------------------------------------------------------------------------------


@pytest.fixture
def weights_file(tmp_path):
    path = tmp_path / "backbone.weights.h5"
    keras.utils.set_random_seed(1)
    keras.applications.MobileNet(
        alpha=0.25, include_top=False, weights=None, input_shape=(32, 32, 3)
    ).save_weights(path)
    return str(path)


def folders_of(settings, images, model=None):
    cut = frozen.split_network(model or network(settings))
    return [feature_set.folder.name for feature_set in frozen.feature_sets(cut, images, settings)]


def test_experiments_with_one_frozen_part_share_its_activations(weights_file):
    images = noise()
    first, *others = (
        folders_of(frozen_experiment(weights=weights_file, **changes), images)
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


def test_vectors_are_stored_as_float16_because_8_bits_would_take_more(weights_file):
    images = noise()
    plans = {
        stored_as: frozen.plan(network(settings), images, settings)
        for stored_as in ("float16", "uint8")
        for settings in [frozen_experiment(weights=weights_file, stored_as=stored_as, unfreeze=0)]
    }
    first, second = plans.values()
    assert all(len(shape) == 1 for shape in second.cut.shapes)
    assert first.train.folder == second.train.folder
    assert "as float16" in second.sentence and "as float16" not in first.sentence


def test_whatever_changes_the_activations_changes_their_folder(weights_file):
    images = noise()
    settings = frozen_experiment(weights=weights_file)
    model = network(settings)
    base = folders_of(settings, images, model)

    def changed(model, **changes):
        new = folders_of(settings.model_copy(update=changes), images, model)
        return [now != old for now, old in zip(new, base, strict=True)]

    for changes in (
        {"image_size": 64}, {"unfreeze": 4}, {"scaling": "unit"}, {"weights": "none"},
    ):  # fmt: skip
        assert changed(None, **changes) == [True, True], changes
    padded = folders_of(settings, replace(images, resize="pad"), model)
    assert not set(padded) & set(base), "another square is another activation"
    for changes in ({"extractor": "openvino"}, {"precision": "mixed"}):
        assert changed(model, **changes) == [True, True], changes
    for changes in (
        {"rotation_range": 11.0}, {"zoom_range": 0.2}, {"horizontal_flip": False},
        {"augment": False}, {"view_seed": 1},
    ):  # fmt: skip
        assert changed(model, **changes) == [True, False], changes
    for row, expected in ((0, [False, True]), (5, [True, False])):  # a test, a training image
        other = replace(images, rows=images.rows.copy())
        other.rows.loc[row, "sha256"] = "f" * 64
        new = folders_of(settings, other, model)
        assert [now != old for now, old in zip(new, base, strict=True)] == expected
    trained, frozen = (model.get_layer(name).kernel for name in ("logits", "conv_pw_3"))
    trained.assign(trained + 1)
    assert changed(model) == [False, False]
    frozen.assign(frozen + 1e-6)
    assert changed(model) == [True, True]


@pytest.mark.parametrize("extractor", ["tensorflow", "openvino"])
def test_a_cache_that_machines_share_knows_in_what_mixed_was_computed(extractor, monkeypatch):
    images, settings = noise(), frozen_experiment(extractor=extractor, precision="mixed")
    folders = set()
    for bfloat16 in (True, False):
        policy = "mixed_bfloat16" if bfloat16 else "float32"
        monkeypatch.setattr(store, "multiplies_bfloat16", lambda has=bfloat16: has)
        monkeypatch.setattr(store, "dtype_policy", lambda _, used=policy: used)
        model = build.build_model(settings, len(CLASSES), dtype_policy=policy)
        folders |= set(folders_of(settings, images, model))
    assert len(folders) == 4


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_a_saved_network_finds_what_was_computed_in_less_than_float32(policy, monkeypatch):
    images, settings = noise(), frozen_experiment(precision="mixed")
    monkeypatch.setattr(store, "dtype_policy", lambda _: policy)
    trained = build.build_model(settings, len(CLASSES), dtype_policy=policy)
    saved = build.in_float32(trained)
    assert saved.layers[-2].compute_dtype == "float32" != trained.layers[-2].compute_dtype
    assert folders_of(settings, images, saved) == folders_of(settings, images, trained)


def test_a_training_does_not_go_on_with_what_another_extractor_computed(monkeypatch):
    images, settings = noise(), frozen_experiment(extractor="auto", views=1)
    model = network(settings)

    def fingerprint(chosen):
        monkeypatch.setattr(store, "library_and_precision", lambda _: (chosen, "float32"))
        return training.make_task(
            model, images, settings, stored(settings, images, model)
        ).fingerprint

    before, again, after = map(fingerprint, ("tensorflow", "tensorflow", "openvino"))
    assert before == again != after


def test_images_that_move_between_validation_and_test_change_nothing():
    images = noise()
    settings = frozen_experiment()
    model = network(settings)
    base = folders_of(settings, images, model)
    split = images.rows["split"].replace("validation", "test")
    moved = replace(images, rows=images.rows.assign(split=split))
    assert folders_of(settings, moved, model) == base
    moved.rows.loc[0, "split"] = "train"
    assert folders_of(settings, moved, model) != base


def test_without_hashes_the_files_length_and_time_stand_for_their_content(tmp_path):
    settings = frozen_experiment()
    images = replace(noise(), root=tmp_path)
    images.rows["sha256"] = np.nan
    for name in images.rows["path"]:
        (tmp_path / name).write_bytes(b"1")
    model = network(settings)
    base = folders_of(settings, images, model)
    assert folders_of(settings, images, model) == base
    (tmp_path / "0.png").write_bytes(b"22")
    assert folders_of(settings, images, model) != base


def test_without_augmentation_the_view_seed_does_not_matter():
    images = noise()
    model = network(frozen_experiment())
    first, second = (
        folders_of(frozen_experiment(augment=False, view_seed=seed), images, model)
        for seed in (0, 1)
    )
    assert first == second


def test_a_model_that_was_saved_finds_what_it_was_trained_on(tmp_path):
    settings, images = frozen_experiment(), noise()
    model = network(settings)
    chosen = stored(settings, images, model)
    model.save(tmp_path / "model.keras")
    loaded = build.load_model(tmp_path / "model.keras")
    assert folders_of(settings, images, loaded) == [
        chosen.train.folder.name, chosen.held_out.folder.name
    ]  # fmt: skip
    assert "from their stored activations" in frozen.predict(loaded, images, settings)[1]


# --- the plan -------------------------------------------------------------------------------------


def free(monkeypatch, count):
    usage = shutil.disk_usage("/")._replace(free=count)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)


def test_auto_is_off_where_nothing_is_frozen():
    images = noise()
    model = network(frozen_experiment(unfreeze="all", cache_features="off"))
    for choice in ("auto", "off"):
        chosen = frozen.plan(
            model, images, frozen_experiment(unfreeze="all", cache_features=choice)
        )
        assert not chosen.on
        assert chosen.cut is chosen.train is chosen.held_out is None
        assert chosen.sentence == f"`cache_features: {choice}`: off, because nothing is frozen."


def test_auto_is_off_where_little_is_frozen_and_on_is_obeyed():
    images = noise()
    settings = frozen_experiment(unfreeze=9)
    model = network(settings)
    share = frozen.split_network(model).frozen_share
    assert share < 0.5
    auto = frozen.plan(model, images, frozen_experiment(unfreeze=9, cache_features="auto"))
    assert not auto.on
    assert f"off, because only {share:.1%} of the multiply-adds lie before" in auto.sentence
    assert frozen.plan(model, images, settings).on


def test_auto_is_on_where_most_is_frozen_and_off_is_obeyed():
    images = noise()
    model = network(frozen_experiment())
    auto = frozen.plan(model, images, frozen_experiment(cache_features="auto"))
    assert auto.on
    assert "`cache_features: auto`: on, because 6" in auto.sentence
    assert "lie before `conv_pw_9`" in auto.sentence
    off = frozen.plan(model, images, frozen_experiment(cache_features="off"))
    assert not off.on
    assert "off, although 6" in off.sentence


def test_the_disk_decides_by_what_is_still_to_be_written(monkeypatch):
    images = noise(train=2 * extraction._BATCH)
    auto, on = frozen_experiment(cache_features="auto"), frozen_experiment()
    model = network(on)
    chosen = frozen.plan(model, images, on)
    needed = chosen.train.bytes_needed + chosen.held_out.bytes_needed
    monkeypatch.setattr(store, "_size", lambda count: f"{count} B")

    free(monkeypatch, needed)
    roomy = frozen.plan(model, images, on)
    assert roomy.on
    assert f": {needed} B, of which {needed} B are still to be made" in roomy.sentence
    narrow = frozen.plan(model, images, auto)
    assert not narrow.on
    assert "off, because of the disk: 3 version(s) of 128 training images" in narrow.sentence
    assert f"and {needed} B are free" in narrow.sentence
    free(monkeypatch, needed - 1)
    with pytest.raises(UserError, match=f"need {needed} B more and .* has {needed - 1} B") as error:
        frozen.plan(model, images, on)
    assert one_sentence(error)

    free(monkeypatch, int(needed / 0.9) + 1)
    assert frozen.plan(model, images, auto).on
    frozen.extract(chosen, images, on, progress=False)
    view = chosen.train.path(2)
    view.rename(chosen.train.partial(2))
    row = chosen.train.width * 2
    os.truncate(
        chosen.train.partial(2), view.parent.joinpath("view-0.npy").stat().st_size - 30 * row
    )
    free(monkeypatch, 40 * row)
    almost = frozen.plan(model, images, auto)
    assert almost.on
    headers = 128 * (3 + 1)
    missing = int(almost.sentence.split("of which ")[1].split()[0])
    assert 0 <= 30 * row - missing <= headers
    free(monkeypatch, 20 * row)
    assert not frozen.plan(model, images, auto).on


def test_the_size_that_is_named_is_the_size_that_is_written():
    chosen = stored(frozen_experiment(), noise())
    for feature_set in (chosen.train, chosen.held_out):
        files = list(feature_set.folder.glob("view-*.npy"))
        written = sum(path.stat().st_size for path in files)
        assert feature_set.bytes_stored == written
        assert feature_set.bytes_needed == written - 128 * len(files)  # NumPy's headers


def test_a_number_between_the_layers_counts_for_the_digest():
    def prefix(summand: float) -> keras.Model:
        inputs = keras.Input((4,))
        stays = keras.layers.Dense(3, kernel_initializer="ones", trainable=False)(inputs)
        return frozen.split_network(
            keras.Model(inputs, keras.layers.Dense(2)(stays + summand))
        ).prefix

    assert store._fingerprint(prefix(3.0)) == store._fingerprint(prefix(3.0))
    assert store._fingerprint(prefix(3.0)) != store._fingerprint(prefix(4.0))


def test_activations_of_a_network_with_operations_are_stored_up_to_its_first_trained_layer():
    chosen = stored(frozen_experiment(backbone="mobilenetv3small", alpha=1, unfreeze=5), noise())
    assert chosen.cut.first_trained == "expanded_conv_10_expand"
    assert chosen.train.complete


def test_what_a_prefix_gives_counts_for_the_digest():
    inputs = keras.Input((8, 8, 1))
    fine = keras.layers.Rescaling(1 / 255, name="fine")(inputs)
    coarse = keras.layers.MaxPooling2D(name="coarse")(fine)
    one, both = keras.Model(inputs, coarse), keras.Model(inputs, [fine, coarse])
    assert [layer.name for layer in one.layers] == [layer.name for layer in both.layers]
    assert store._fingerprint(one) != store._fingerprint(both)
