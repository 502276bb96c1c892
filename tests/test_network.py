from __future__ import annotations

import json
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

from mura_utils import frozen, plotting, report
from mura_utils.backbones import BACKBONES, Backbone
from mura_utils.errors import UserError
from mura_utils.experiments import Experiment, load_experiment, validate_parameters
from mura_utils.layers import attention_heads, pooled_attention_heads, squeeze_excite
from mura_utils.network import build
from mura_utils.network.backbone import (
    FEATURES,
    build_backbone,
    convolution_names,
    save_weights,
)

SMALL = {"backbone": "mobilenet", "alpha": 0.25, "image_size": 64, "weights": "none"}


def small(**changes):
    return validate_parameters({**SMALL, **changes}, "test")


def test_exp1_has_the_reports_parameter_counts():
    model = build.build_model(load_experiment("exp1", weights="none"), 14)
    assert build.parameter_counts(model) == tuple(report.FIG_15.values())


def test_exp6_has_the_reports_parameter_counts_with_every_layer_trainable():
    model = build.build_model(load_experiment("exp6", weights="none", unfreeze="all"), 14)
    assert build.parameter_counts(model) == tuple(report.FIG_16.values())


def test_heads_on_one_backbone_are_the_networks_that_build_model_makes():
    radiograph, backbone = build_backbone(small(), 64)
    for changes in ({"unfreeze": "all"}, {"unfreeze": 1, "squeeze_excite": False}, {"unfreeze": 0}):
        ours = build.add_head(small(**changes), radiograph, backbone, 3)
        whole = build.build_model(small(**changes), 3)
        assert build.parameter_counts(ours) == build.parameter_counts(whole)
        assert [layer.name for layer in ours.layers] == [layer.name for layer in whole.layers]


def test_a_summary_of_the_head_has_all_parameters_and_what_each_layer_reads():
    model = build.build_model(small(fast_dropout=False), 3)
    summary = build.head_summary(model)
    assert summary["parameters"].sum() == model.count_params()
    assert summary.loc["features"].tolist()[:3] == ["backbone", "", "2 × 2 × 256"]
    heads = ["Conv2D", "sigmoid", "2 × 2 × 1", 257, "squeeze_excite"]
    assert summary.loc["attention_0"].tolist() == heads
    assert summary.loc[["logits", "predictions"], "activation"].tolist() == ["", "softmax"]
    assert summary.loc["multiply_1", "reads"] == "squeeze_excite, attention_0"
    assert summary.index[-1] == "predictions"


def test_a_summary_names_the_backbone_for_its_finer_map_too():
    changes = {"head": "pooled", "dropout": [0.1], "pooling": ["max", "lse", "attention"]}
    summary = build.head_summary(build.build_model(small(**changes), 3))
    assert (summary.loc[["lateral_32", "lateral_16", "pool_max"], "reads"] == "features").all()
    assert set(", ".join(summary["reads"][1:]).split(", ")) <= set(summary.index)
    fig = plotting.architecture(summary)
    assert "lateral_16" in plotting.alt_text(fig)


def test_the_last_five_convolutions_of_densenet121_are_the_reports():
    model = build.build_model(load_experiment("exp6", weights="none"), 14)
    convolutions = convolution_names(model)
    assert len(convolutions) == 120
    trainable = [name for name in convolutions if model.get_layer(name).trainable]
    assert trainable == convolutions[-5:]
    assert (trainable[0], trainable[-1]) == ("conv5_block14_2_conv", "conv5_block16_2_conv")
    assert not model.get_layer("conv5_block14_1_bn").trainable
    assert model.get_layer("conv5_block15_0_bn").trainable


def test_frozen_batch_normalization_keeps_its_statistics_in_training():
    model = build.build_model(small(unfreeze=1), 3)
    frozen, trained = model.get_layer("conv1_bn"), model.get_layer("conv_pw_13_bn")
    before = [layer.moving_mean.numpy() for layer in (frozen, trained)]
    model(np.random.default_rng(0).uniform(0, 255, (8, 64, 64, 1)).astype("float32"), training=True)
    assert np.array_equal(before[0], frozen.moving_mean)
    assert not np.array_equal(before[1], trained.moving_mean)


def test_the_saved_model_takes_gray_values_and_needs_nothing_of_ours(tmp_path):
    model = build.build_model(small(), ["a", "b", "c"])
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 1)).astype("float32")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False, safe_mode=True)
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(loaded.predict(images, verbose=0), expected, atol=1e-6)
    np.testing.assert_allclose(expected.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("backbone", ["densenet121", "mobilenet"])
def test_scaling_inside_equals_the_backbones_own_preprocessing(backbone):
    model = build.build_model(small(backbone=backbone, alpha=1, scaling="backbone"), 3)
    scaled = keras.Model(model.input, model.get_layer("scaling").output)
    gray = np.linspace(0, 255, 64 * 64).reshape(1, 64, 64, 1).astype("float32")
    module = (
        keras.applications.densenet if backbone == "densenet121" else keras.applications.mobilenet
    )
    expected = module.preprocess_input(np.repeat(gray, 3, axis=-1).copy())
    np.testing.assert_allclose(scaled.predict(gray, verbose=0), expected, atol=1e-5)


def test_exp5_is_exp6_without_squeeze_and_excite():
    with_gate = {layer.name for layer in build.build_model(small(), 3).layers}
    without = {layer.name for layer in build.build_model(small(squeeze_excite=False), 3).layers}
    assert with_gate - without == {
        "squeeze", "excite_reduce", "excite_expand", "excite", "squeeze_excite",
    }  # fmt: skip


def test_a_backbone_that_multiplies_takes_the_attention_head():
    keras.backend.clear_session()  # Keras counts from multiply_1, as the head does
    settings = small(backbone="mobilenetv3small", alpha=1, head="attention", fast_dropout=False)
    model = build.build_model(settings, 2)
    assert model.get_layer("multiply_1").input[1].shape[-1] == 1


def test_no_two_dropouts_drop_the_same_units():
    networks = [
        build.build_model(small(head="attention", dropout=[0.1] * 5, seed=seed), 14)
        for seed in (0, 1)
    ]
    seeds = [
        layer.seed for network in networks for layer in network.layers if "dropout" in layer.name
    ]
    assert len(seeds) == len(set(seeds)) == 10


def test_squeeze_excite_scales_channels_and_attention_scales_positions():
    inputs = keras.Input((4, 4, 32))
    gated = keras.Model(inputs, squeeze_excite(inputs))
    x = np.random.default_rng(0).uniform(1, 2, (2, 4, 4, 32)).astype("float32")
    gate = gated.predict(x, verbose=0) / x
    np.testing.assert_allclose(gate, gate[:, :1, :1] * np.ones_like(gate), rtol=1e-4)
    attended = keras.Model(inputs, attention_heads(inputs, count=2))
    weight = attended.predict(x, verbose=0) / np.concatenate([x, x], axis=-1)
    np.testing.assert_allclose(weight[..., :32], weight[..., :1] * np.ones(32), rtol=1e-4)
    assert weight.min() > 0 and weight.max() < 1


def test_fast_dropout_is_the_same_network_and_its_dropout_has_the_same_two_moments():
    inputs = keras.Input((7, 7, 16))
    slow = layers.GlobalAveragePooling2D()(layers.Dropout(0.4)(attention_heads(inputs)))
    slow = keras.Model(inputs, slow)
    fast = keras.Model(inputs, pooled_attention_heads(inputs, 0.4, seed=3))
    fast.set_weights(slow.get_weights())
    x = np.random.default_rng(0).exponential(size=(1, 7, 7, 16)).astype("float32")
    np.testing.assert_allclose(fast(x), slow(x), rtol=1e-5)
    many = np.repeat(x, 4000, axis=0)
    drawn = [np.asarray(network(many, training=True)) for network in (slow, fast)]
    spread = drawn[0].std(axis=0)
    np.testing.assert_allclose(drawn[1].mean(axis=0), slow(x)[0], atol=0.1 * spread.max())
    np.testing.assert_allclose(drawn[1].std(axis=0), spread, rtol=0.1)
    assert not np.array_equal(drawn[1][0], drawn[1][1])


def test_exp6_with_fast_dropout_takes_exp6s_weights_and_gives_its_answers():
    exact, fast = (build.build_model(small(fast_dropout=fast), 3) for fast in (False, True))
    fast.set_weights(exact.get_weights())
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 1)).astype("float32")
    np.testing.assert_allclose(
        fast.predict(images, verbose=0), exact.predict(images, verbose=0), atol=1e-6
    )
    tail = frozen.split_network(fast).tail
    assert "dropout_maps" in {layer.name for layer in tail.layers}


def test_a_weights_path_that_is_no_file_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.h5 is no file; give phantom, imagenet, none"):
        build.build_model(small(weights=str(tmp_path / "nowhere.h5")), 3)


def test_weights_of_another_network_are_refused(tmp_path):
    other = keras.applications.MobileNet(
        alpha=0.5, include_top=False, weights=None, input_shape=(64, 64, 3)
    )
    other.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(UserError, match="does not fit mobilenet"):
        build.build_model(small(weights=str(tmp_path / "other.weights.h5")), 3)


def test_no_network_is_one_sentence_that_says_how_to_bring_a_file(monkeypatch):
    def fail(*args, **kwargs):
        raise Exception("URL fetch failure on the-address: None -- no network")

    monkeypatch.setattr(keras.applications, "MobileNet", fail)
    with pytest.raises(UserError, match=r"could not be downloaded .*the-address.*weights=<path>"):
        build.build_model(small(weights="imagenet"), 3)


def test_real_imagenet_weights_load(real_weights):
    model = build.build_model(small(weights=str(real_weights), image_size=224), 8)
    other = build.build_model(small(image_size=224), 8)
    first = [m.get_layer("conv1").kernel.numpy() for m in (model, other)]
    assert np.abs(first[0] - first[1]).max() > 0.1
    assert model.get_layer(FEATURES).output.shape == (None, 7, 7, 256)


def test_mixed_precision_computes_in_float16_and_only_there():
    model = build.build_model(small(), 3, dtype_policy="mixed_float16")
    dtypes = {layer.name: layer.compute_dtype for layer in model.layers}
    assert {dtypes[name] for name in ("conv1", "conv_pw_13", "attention_0", "logits")} == {
        "float16"
    }
    assert dtypes["predictions"] == "float32"
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"
    with pytest.raises(UserError):
        build.build_model(small(weights="nowhere.h5"), 3, dtype_policy="mixed_float16")
    assert keras.config.dtype_policy().name == "float32"
    assert {layer.compute_dtype for layer in build.build_model(small(), 3).layers} == {"float32"}


@pytest.mark.parametrize("head", ["attention", "dense"])
def test_a_mixed_network_in_float32_is_the_float32_network_with_its_weights(head, tmp_path):
    settings = small(unfreeze=2, head=head, dropout=[0.1] * (5 if head == "attention" else 1))
    assert settings.fast_dropout, "whose operations have no precision of their own"
    mixed = build.build_model(settings, 3, dtype_policy="mixed_float16")
    rng = np.random.default_rng(0)
    mixed.set_weights([rng.uniform(0.01, 0.2, weight.shape) for weight in mixed.weights])
    plain = build.build_model(settings, 3)
    plain.set_weights(mixed.get_weights())
    twin = build.in_float32(mixed)
    assert {layer.compute_dtype for layer in twin.layers} == {"float32"}
    assert mixed.get_layer("logits").compute_dtype == "float16", "the network itself stays"
    for ours, theirs in zip(twin.layers, plain.layers, strict=True):
        assert ours.name == theirs.name
        assert ours.trainable == theirs.trainable or not ours.weights
        assert getattr(ours, "momentum", None) == getattr(theirs, "momentum", None)
    for ours, theirs in zip(twin.weights, mixed.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(twin.losses) == len(plain.losses) > 0
    images = rng.uniform(0, 255, (2, 64, 64, 1)).astype("float32")
    twin.save(tmp_path / "model.keras")
    loaded = build.load_model(tmp_path / "model.keras")
    expected = plain(images)
    for model in (twin, loaded):
        np.testing.assert_allclose(model(images), expected, atol=1e-6)


def test_a_float32_network_in_float32_is_itself():
    model = build.build_model(small(), 3)
    assert build.in_float32(model) is model


def rewrite(path, change, version="99.1.0"):
    """A saved model as a Keras of another version might have written it."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files["metadata.json"] = json.dumps({"keras_version": version}).encode()
    config = json.loads(files["config.json"])
    change(config["config"]["layers"][1]["config"])
    files["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.update(quantum_units=3),
        lambda config: config.update(dtype="float7"),
        lambda config: config.clear(),
    ],
)
def test_a_model_of_another_keras_is_a_sentence_with_both_versions(tmp_path, change):
    path = tmp_path / "model.keras"
    inputs = keras.Input((4,))
    keras.Model(inputs, keras.layers.Dense(2)(inputs)).save(path)
    rewrite(path, change)
    with pytest.raises(UserError) as caught:
        build.load_model(path)
    sentence = str(caught.value)
    assert f"{path}, saved by Keras 99.1.0, cannot be read by Keras {keras.__version__}" in sentence
    assert "\n" not in sentence and "05_modeling" in sentence


def test_what_is_no_whole_model_is_a_sentence(tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(b"PK\x03\x04 half")
    with pytest.raises(UserError, match=r"model\.keras, which is no whole Keras file, cannot"):
        build.load_model(path)
    with pytest.raises(UserError, match=r"nowhere\.keras is missing"):
        build.load_model(tmp_path / "nowhere.keras")


def test_a_card_without_its_digest_is_a_sentence(tmp_path):
    experiment = small(scaling="backbone")
    backbone = build_backbone(experiment, 64)[1]
    save_weights(backbone.weights, tmp_path / "own.npz")
    for card in ({}, [], "card"):
        (tmp_path / "own.json").write_text(json.dumps(card))
        with pytest.raises(UserError, match=r"own\.json does not hold what this version writes"):
            build.build_model(small(weights=str(tmp_path / "own.npz")), 4)


def test_a_backbone_is_one_record(monkeypatch):
    toy = Backbone(
        "MobileNetV2", 35, scale=1 / 127.5, offset=-1.0, fine="block_13_expand_relu", alphas=(0.35,)
    )
    monkeypatch.setitem(BACKBONES, "toy", toy)
    experiment = small(unfreeze=2, scaling="backbone").model_copy(
        update={"backbone": "toy", "alpha": 0.35}
    )
    model = build.build_model(experiment, 3)
    assert model.get_layer(FEATURES).output.shape == (None, 2, 2, 1280)
    names = convolution_names(model)
    assert len(names) == toy.convolutions
    assert [name for name in names if model.get_layer(name).trainable] == names[-2:]
    assert model.get_layer("scaling").scale == toy.scale


def test_the_schema_takes_its_backbones_from_the_records():
    schema = Experiment.model_json_schema()["properties"]["backbone"]
    assert schema["enum"] == list(BACKBONES)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half", b"no archive"])
def test_weights_that_are_damaged_are_a_sentence(tmp_path, content):
    path = tmp_path / "own.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"own\.npz is damaged \(.*\): fetch it again"):
        build.build_model(small(weights=str(path)), 4)
