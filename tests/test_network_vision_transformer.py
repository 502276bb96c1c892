from __future__ import annotations

import keras
import numpy as np
import pytest

from mura_utils import frozen
from mura_utils.errors import UserError
from mura_utils.experiments import validate_parameters
from mura_utils.explain import METHODS, explain, methods_of
from mura_utils.explain.methods.rollout import attention_rollout
from mura_utils.explain.targets import class_target
from mura_utils.network import build
from mura_utils.network import vision_transformer as vit
from mura_utils.network.backbone import convolution_names

CLASSES = ["Normal-ELBOW", "Abnormal-ELBOW"]


def parameters(**changes):
    small = {"backbone": "vit_tiny", "image_size": 64, "weights": "none", "unfreeze": 2}
    return validate_parameters(small | changes, "test")


@pytest.fixture(scope="module")
def model():
    return build.build_model(parameters(), CLASSES)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(0, 255, (3, 64, 64, 1)).astype("float32")


@pytest.fixture(scope="module")
def hub():
    return pytest.importorskip("keras_hub").models.ViTBackbone


def test_the_last_blocks_are_trained_and_the_rest_is_cut_off_as_one_map(model, images):
    names = convolution_names(model)
    assert names[0] == "patch_embedding" and len(names) == 13
    trained = [layer.name for layer in model.layers if layer.trainable_weights]
    assert trained[0] == "block11_attention_norm"
    cut = frozen.split_network(model)
    assert cut.shapes == [(17, 192)] and 0.8 < cut.frozen_share < 0.85
    whole = model.predict(images, verbose=0)
    parts = cut.tail.predict(cut.prefix.predict(images, verbose=0), verbose=0)
    np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_it_takes_the_weights_that_kerashub_saved_and_gives_its_tokens(hub, images, tmp_path):
    theirs = hub((64, 64, 3), 16, 12, 3, 192, 768)
    rng = np.random.default_rng(0)
    theirs.set_weights([rng.normal(0, 0.1, weight.shape) for weight in theirs.weights])
    theirs.save_weights(tmp_path / "model.weights.h5")
    path = str(tmp_path / "model.weights.h5")
    ours = build.build_model(parameters(weights=path), CLASSES)
    tokens = keras.Model(ours.input, ours.get_layer("norm").output)
    scaled = np.repeat(images, 3, axis=-1) / 127.5 - 1
    expected = theirs.predict(scaled, verbose=0)
    np.testing.assert_allclose(tokens.predict(images, verbose=0), expected, atol=1e-3)

    larger = build.build_model(parameters(weights=path, image_size=96), CLASSES)
    small, large = (m.get_layer("position").get_weights()[0] for m in (ours, larger))
    assert large.shape == (37, 192)
    np.testing.assert_array_equal(small[0], large[0])
    np.testing.assert_allclose(small[1:].mean(axis=0), large[1:].mean(axis=0), atol=0.03)


def test_a_file_of_another_network_and_missing_weights_are_one_sentence(hub, tmp_path):
    hub((32, 32, 3), 16, 1, 2, 32, 64).save_weights(tmp_path / "other.weights.h5")
    for name in ("other.weights.h5", "damaged.h5"):
        (tmp_path / "damaged.h5").write_bytes(b"no")
        with pytest.raises(UserError, match=f"{name} does not fit vit_192"):
            build.build_model(parameters(weights=str(tmp_path / name)), CLASSES)
    with pytest.raises(UserError, match="no ImageNet weights of this vision transformer"):
        build.build_model(parameters(weights="imagenet"), CLASSES)


def test_rollout_finds_the_patch_that_every_token_reads(model, images):
    rollout = attention_rollout(model, images)
    assert rollout.shape == (3, 64, 64) and rollout.max() <= 1
    assert "attention_rollout" in methods_of(model)
    (scores, *_) = keras.Model(model.input, vit.attention_scores(model)).predict(images, verbose=0)
    np.testing.assert_allclose(scores.sum(axis=-1), 1, atol=1e-5)
    target = class_target([0, 1, 0], CLASSES)
    maps = explain(model, images, {"class": target}, "token_map")
    np.testing.assert_array_equal(maps["attention_rollout", "no target"], rollout)
    assert METHODS["grad_cam"](model, images, target).shape == (3, 64, 64)


def test_a_network_without_blocks_has_no_rollout(images):
    network = build.build_model(parameters(backbone="mobilenet", alpha=0.25, unfreeze=0), CLASSES)
    assert "attention_rollout" not in methods_of(network)
    with pytest.raises(UserError, match="is no vision transformer"):
        attention_rollout(network, images)


def test_a_saved_transformer_loads_without_this_package_and_keeps_its_attention(
    model, images, tmp_path
):
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False, safe_mode=True)
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(loaded.predict(images, verbose=0), expected, atol=1e-6)
    assert len(vit.attention_scores(loaded)) == 12
