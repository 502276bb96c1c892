"""ConvNeXt: the same network as Keras's, without a network inside it."""

from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import pytest
from test_network_cut import assert_the_parts_equal_the_whole

from mura_utils import explain
from mura_utils.backbones import BACKBONES
from mura_utils.experiments import validate_parameters
from mura_utils.network.backbone import (
    FEATURES,
    build_backbone,
    convolution_names,
    feature_layers,
    save_weights,
)
from mura_utils.network.build import build_model, freeze, load_model
from mura_utils.network.cpu_kernels import use_cpu_kernels
from mura_utils.network.flat import flatten

FACTS = BACKBONES["convnext_tiny"]
POOLED = {"head": "pooled", "dropout": [0.1], "pooling": ["average", "attention"]}
IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 1)).astype("float32")


def settings(**changes):
    small = {"backbone": "convnext_tiny", "image_size": 64, "weights": "none", "unfreeze": 1}
    return validate_parameters({**small, **POOLED, **changes}, "test")


@pytest.fixture(scope="module")
def original():
    """Keras's, with its own scaling; weights at which every block changes the output."""
    keras.utils.set_random_seed(0)
    network = keras.applications.ConvNeXtTiny(
        include_top=False, weights=None, input_shape=(64, 64, 3)
    )
    rng = np.random.default_rng(0)
    for layer in network.layers:
        if layer.name.endswith("layer_scale"):
            layer.set_weights([rng.uniform(0.2, 0.6, layer.gamma.shape)])
    return network


@pytest.fixture(scope="module")
def file(original, tmp_path_factory):
    path = tmp_path_factory.mktemp("convnext") / "own.weights.h5"
    original.save_weights(path)
    return path


@pytest.fixture(scope="module")
def model(file):
    return build_model(settings(weights=str(file)), 4)


def test_a_file_of_keras_gives_its_outputs_in_a_flat_graph(original, model):
    features = keras.Model(model.input, model.get_layer(FEATURES).output)
    assert not [layer.name for layer in model.layers if isinstance(layer, keras.Model)]
    expected = original(np.repeat(IMAGES, 3, axis=-1)).numpy()
    assert expected.shape == (2, 2, 2, 768) and np.ptp(expected[0] - expected[1]) > 0.1
    np.testing.assert_allclose(features(IMAGES), expected, atol=1e-5)
    up_to_the_head = [layer for layer, _ in feature_layers(model)]
    assert sum(layer.count_params() for layer in up_to_the_head) == original.count_params()


def test_its_strides_and_its_convolutions_are_those_of_its_record(model):
    strides = {layer.name: stride for layer, stride in feature_layers(model)}
    fine = model.get_layer(FACTS.fine).output
    assert strides[FACTS.fine] == 16 and fine.shape == (None, 4, 4, 384)
    later = list(strides)[list(strides).index(FACTS.fine) + 1 :]
    assert {strides[name] for name in later} == {32}
    names = convolution_names(model)
    assert len(names) == FACTS.convolutions
    assert [name for name in names if model.get_layer(name).trainable] == names[-1:]
    assert not model.get_layer(FACTS.fine).trainable


def test_prefix_and_tail_are_the_whole_network(model):
    cut = assert_the_parts_equal_the_whole(model, 64)
    assert cut.first_trained == "convnext_tiny_downsampling_conv_2"
    assert cut.shapes == [(4, 4, 384)] and cut.frozen_share > 0.7


def test_quicker_kernels_leave_it_the_same(model):
    quick = keras.models.clone_model(model)
    quick.set_weights(model.get_weights())
    use_cpu_kernels(quick)
    np.testing.assert_allclose(quick(IMAGES), model(IMAGES), atol=1e-5)


def test_a_saved_network_is_read_by_another_process(model, tmp_path):
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", IMAGES)
    code = (
        "import sys, keras, numpy as np; folder = sys.argv[1]; "
        "model = keras.saving.load_model(folder + '/model.keras', compile=False, safe_mode=True); "
        "np.save(folder + '/out.npy', model(np.load(folder + '/images.npy')))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), model(IMAGES), atol=1e-6)
    assert [layer.name for layer in load_model(tmp_path / "model.keras").layers] == [
        layer.name for layer in model.layers
    ]


def test_heat_maps_are_made_of_it(model):
    assert explain.fine_layer(model) == "convnext_tiny_stage_1_block_2_gelu"
    target = explain.class_target([1, 2], ["Abnormal-A", "Normal-A", "Abnormal-B", "Normal-B"])
    for method in (explain.grad_cam, explain.layer_cam, explain.saliency):
        maps = method(model, IMAGES, target)
        assert maps.shape == (2, 64, 64) and maps.min() == 0 and maps.max() <= 1


def test_weights_of_ours_go_from_one_build_to_the_next(model, tmp_path):
    """Keras numbers the weight of a layer scale anew each time."""
    first = build_backbone(settings(), 64)[1]
    save_weights(first.weights, tmp_path / "own.npz")
    second = build_backbone(settings(weights=str(tmp_path / "own.npz")), 64)[1]
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]
    for ours, theirs in zip(second.get_weights(), first.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs.astype(np.float16).astype(np.float32))


def test_freezing_batch_normalization_changes_nothing_where_there_is_none(model):
    before = [weight.path for weight in model.trainable_weights]
    features = keras.Model(model.input, model.get_layer(FEATURES).output)
    freeze(features, 1, batch_norm=True)
    assert [weight.path for weight in model.trainable_weights] == before


def test_a_flat_network_is_itself():
    inputs = keras.Input((4,))
    network = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    assert flatten(network) is network
