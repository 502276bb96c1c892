"""The cut: prefix and tail are the whole network, and where they are parted."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from small import ATTENTION, frozen_experiment, network, noise, stored, vivid

from mura_utils import frozen
from mura_utils.experiments import load_experiment
from mura_utils.network import build

CUTS = {
    "exp1": ("dense_1", [(1024,)]),
    "exp2": ("conv5_block16_2_conv", [(1, 1, 992), (1, 1, 128)]),
    "exp3": ("conv5_block15_1_conv", [(1, 1, 960), (1, 1, 960)]),
    "exp4": ("conv5_block14_2_conv", [(1, 1, 928), (1, 1, 128)]),
    "exp6": ("conv5_block14_2_conv", [(1, 1, 928), (1, 1, 128)]),
}


def assert_the_parts_equal_the_whole(model, size):
    images = noise(6, 1, 1, size).pixels[..., np.newaxis].astype("float32")
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
    cut = assert_the_parts_equal_the_whole(vivid(frozen_experiment(image_size=64, **changes)), 64)
    assert (cut.first_trained, cut.shapes) == (first, shapes)


def test_exp4_is_cut_at_the_maps_that_the_design_counts_with():
    cut = frozen.split_network(build.build_model(load_experiment("exp4", weights="none"), 14))
    assert cut.first_trained == "conv5_block14_2_conv"
    assert cut.shapes == [(7, 7, 928), (7, 7, 128)]
    assert cut.width == 51_744
    assert 0.99 < cut.frozen_share < 1


@pytest.mark.parametrize("pooling", [["lse"], ["lse", "attention"]])
def test_a_soft_maximum_may_lie_at_the_cut(pooling):
    changes = {"backbone": "mobilenet", "alpha": 0.25, "unfreeze": 0, "image_size": 64}
    changes |= {"head": "pooled", "pooling": pooling, "feature_strides": [32], "dropout": [0.1]}
    model = build.build_model(load_experiment("demo", weights="none", **changes), 4)
    layers = frozen.pooled_layers(model, "mobilenet")
    images = noise(3, 1, 1, 64).pixels[..., np.newaxis].astype("float32")
    _, features = frozen.with_pooled(model, layers)(images)
    assert features.shape[0] == len(images) and np.isfinite(features).all()


def test_a_network_without_frozen_weights_is_not_cut():
    settings = frozen_experiment(unfreeze="all", cache_features="off")
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
    settings = frozen_experiment()
    model = network(settings)
    chosen = stored(settings, noise(), model)
    before = model.get_layer("logits").kernel.numpy()
    labels = np.eye(2)[np.arange(20) % 2]
    tail = chosen.cut.tail
    tail.compile("sgd", "categorical_crossentropy")
    tail.fit(frozen.make_dataset(chosen.train, np.arange(20), labels, 10), shuffle=False, verbose=0)
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
