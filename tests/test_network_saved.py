"""Weights of an earlier run's network, whose classes or head may be others."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from small import CLASSES, images_of

from mura_utils import frozen
from mura_utils.errors import UserError
from mura_utils.experiments import validate_parameters, weights_digest
from mura_utils.network.build import build_model
from mura_utils.network.probing import untrained_features
from mura_utils.paths import write_json

SMALL = {
    "backbone": "mobilenet", "alpha": 0.25, "image_size": 32, "weights": "none", "unfreeze": 1,
    "head": "attention", "dropout": [0.1] * 5, "epochs": 1, "augment": False,
}  # fmt: skip


def small(**changes):
    return validate_parameters({**SMALL, **changes}, "test")


def save_earlier(path: Path, classes: int = 5, **changes) -> keras.Model:
    """A network whose weights no initialization gives; batch normalization's stay positive."""
    model = build_model(small(seed=7, **changes), classes)
    rng = np.random.default_rng(7)
    model.set_weights([rng.uniform(0.01, 0.1, weight.shape) for weight in model.weights])
    model.save(path)
    return model


def same(ours: keras.Model, theirs: keras.Model, layer: str) -> bool:
    pairs = zip(ours.get_layer(layer).weights, theirs.get_layer(layer).weights, strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def weighted(model: keras.Model) -> list[str]:
    return [layer.name for layer in model.layers if layer.weights]


@pytest.mark.parametrize("classes", [3, 5])
def test_all_but_the_classifier_comes_from_the_earlier_run(tmp_path, capsys, classes):
    path = tmp_path / "model.keras"
    earlier = save_earlier(path, classes=5)
    capsys.readouterr()
    model = build_model(small(weights=str(path), unfreeze=2, image_size=64), classes)
    new = [name for name in weighted(model) if not same_shapes(model, earlier, name)]
    assert new == ([] if classes == 5 else ["logits"])
    fresh = build_model(small(unfreeze=2, image_size=64), classes)
    for name in weighted(model):
        assert same(model, fresh if name == "logits" else earlier, name) or name == "logits"
    assert not same_values(model, earlier, "logits"), "the classifier is new, whatever its shape"
    assert capsys.readouterr().out.splitlines() == [
        f"Weights of {path}: {len(weighted(model)) - 1} layers take theirs, 1 start new (logits)."
    ]
    trainable = [layer.trainable for layer in model.layers]
    assert trainable == [layer.trainable for layer in fresh.layers], "frozen as asked, not as saved"


@pytest.mark.parametrize(("names", "kept"), [("abc", True), ("acb", False), ("abcd", False)])
def test_the_classifier_stays_where_the_earlier_run_has_the_same_classes(tmp_path, names, kept):
    path = tmp_path / "model.keras"
    earlier = save_earlier(path, classes=3)
    write_json(tmp_path / "training.json", {"classes": list("abc")})
    model = build_model(small(weights=str(path)), list(names))
    assert same_values(model, earlier, "logits") == kept


def test_a_damaged_record_of_the_earlier_run_is_a_sentence(tmp_path):
    path = tmp_path / "model.keras"
    save_earlier(path, classes=3)
    write_json(tmp_path / "training.json", {"epochs": 3})
    with pytest.raises(UserError, match=r"training\.json does not hold what this version writes"):
        build_model(small(weights=str(path)), list("abc"))


def same_shapes(ours, theirs, name):
    shapes = [[weight.shape for weight in m.get_layer(name).weights] for m in (ours, theirs)]
    return shapes[0] == shapes[1]


def same_values(ours, theirs, name):
    return same_shapes(ours, theirs, name) and same(ours, theirs, name)


def test_of_another_head_comes_what_fits(tmp_path, capsys):
    path = tmp_path / "model.keras"
    earlier = save_earlier(path, head="attention", squeeze_excite=False)
    capsys.readouterr()
    model = build_model(small(weights=str(path)), 2)
    assert same(model, earlier, "attention_0") and same(model, earlier, "conv_pw_13")
    printed = capsys.readouterr().out
    assert "3 start new (excite_reduce, excite_expand, logits)." in printed


def test_the_probe_and_the_stored_activations_follow_the_earlier_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("MURA_CACHE_DIR", str(tmp_path / "cache"))
    pixels = np.random.default_rng(0).integers(0, 255, (8, 32, 32), np.uint8)
    images = images_of(pixels, ["train"] * 4 + ["validation"] * 2 + ["test"] * 2, [0, 1] * 4)
    path = tmp_path / "model.keras"
    settings = small(weights=str(path))
    rows = np.arange(8)
    seen = []
    for seed in (0, 1):
        earlier = build_model(small(seed=seed), 5)
        earlier.save(path)
        features = keras.layers.GlobalAveragePooling2D()(earlier.get_layer("features").output)
        expected = keras.Model(earlier.input, features).predict(pixels[..., None], verbose=0)
        np.testing.assert_allclose(untrained_features(settings, images, rows), expected, atol=1e-6)
        cut = frozen.split_network(build_model(settings, CLASSES))
        folders = [each.folder for each in frozen.feature_sets(cut, images, settings)]
        seen.append((weights_digest(settings), *folders))
    assert all(first != second for first, second in zip(*seen, strict=True))


def refusal(path: Path, **changes) -> str:
    with pytest.raises(UserError) as error:
        build_model(small(weights=str(path), **changes), 3)
    sentence = str(error.value)
    assert str(path) in sentence and "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    "backbone", [{"alpha": 0.5}, {"backbone": "mobilenetv3small", "alpha": 1.0}]
)
def test_another_backbone_is_refused(tmp_path, backbone):
    save_earlier(tmp_path / "model.keras")
    assert "has another backbone than" in refusal(tmp_path / "model.keras", **backbone)


def test_another_scaling_is_refused(tmp_path):
    save_earlier(tmp_path / "model.keras", scaling="unit")
    sentence = refusal(tmp_path / "model.keras", scaling="backbone")
    assert "another scaling of gray values: give the parameter scaling" in sentence
    build_model(small(weights=str(tmp_path / "model.keras"), scaling="unit"), 3)


def test_a_network_that_takes_other_images_is_refused(tmp_path):
    keras.applications.MobileNet(
        alpha=0.25, include_top=False, weights=None, input_shape=(32, 32, 3)
    ).save(tmp_path / "model.keras")
    assert "is no network of this series" in refusal(tmp_path / "model.keras")


def test_what_is_no_network_or_could_execute_something_is_refused(tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(b"PK\x03\x04 half")
    assert "which is no whole Keras file" in refusal(path)
    inputs = keras.Input((32, 32, 1))
    keras.Model(inputs, keras.layers.Lambda(lambda x: x + 1)(inputs)).save(path)
    assert "cannot be read by Keras" in refusal(path)
