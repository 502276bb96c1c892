"""The network that also gives a map, against the network itself with features taken away."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from small import experiment, with_head

from mura_utils.evaluation.familiarity import fit_familiarity
from mura_utils.explain import attention_maps
from mura_utils.export.explaining import MOST_BLOCKS, explaining_network
from mura_utils.network.backbone import FEATURES
from mura_utils.network.heads import LATERAL_FINE, LOGITS

SIZE = 96
POOLED = {"head": "pooled", "dropout": [0.0], "feature_strides": [16, 32]}
HEADS = {
    "dense": {"head": "dense", "dense_units": []},
    "attention": {"head": "attention", "dropout": [0.0] * 5},
    "pooled": {**POOLED, "pooling": ["average", "max", "lse", "attention"]},
}


def network(size=SIZE, **settings):
    return with_head(experiment(image_size=size, **settings), classes=3)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(0, 255, (2, SIZE, SIZE, 1)).astype(np.float32)


def logits_without(model, images, row, column):
    """The logits where a cell of the last map is zero, and what lies there in the finer map."""
    names = [FEATURES] + [LATERAL_FINE] * (LATERAL_FINE in {one.name for one in model.layers})
    maps = [model.get_layer(name) for name in names]
    maps = [maps[0].output, *(layer.input for layer in maps[1:])]
    values = [np.array(keras.Model(model.input, map_)(images)) for map_ in maps]
    for value in values:
        cells = value.shape[1] // values[0].shape[1]
        rows, columns = (slice(n * cells, (n + 1) * cells) for n in (row, column))
        value[:, rows, columns] = 0
    return np.asarray(keras.Model(maps, model.get_layer(LOGITS).output)(values))


@pytest.mark.parametrize("head", HEADS)
def test_the_map_is_what_each_logit_loses_without_a_cell(head, images):
    model = network(**HEADS[head])
    probabilities, drops = explaining_network(model, taught=False, familiar=None)(images)
    assert np.allclose(probabilities, model(images), atol=1e-6)
    assert drops.shape == (2, 3, 3, 3)
    whole = np.asarray(keras.Model(model.input, model.get_layer(LOGITS).output)(images))
    for row, column in [(0, 0), (1, 2)]:
        expected = whole - logits_without(model, images, row, column)
        assert np.allclose(drops[:, row, column], expected, atol=1e-4)
        assert abs(expected).max() > 0.01, "the test could not fail"


def test_a_linear_head_gives_class_activation_maps(images):
    """Zhou et al. 2016: the classifier's weights at each position, here divided by the positions.

    The drops of all cells add up to the logits without their bias.
    """
    model = network(**HEADS["dense"])
    _, drops = explaining_network(model, taught=False, familiar=None)(images)
    features = np.asarray(keras.Model(model.input, model.get_layer(FEATURES).output)(images))
    kernel, _ = model.get_layer(LOGITS).get_weights()
    assert np.allclose(drops, features @ kernel / 9, atol=1e-5)


def test_a_large_map_is_blanked_in_blocks():
    side = MOST_BLOCKS + 1
    model = network(size=32 * side, **HEADS["dense"])
    image = np.full((1, 32 * side, 32 * side, 1), 90, np.float32)
    _, drops = explaining_network(model, taught=False, familiar=None)(image)
    assert drops.shape == (1, 6, 6, 3)
    assert np.allclose(drops[0, 0, 0], 4 * drops[0, 5, 5], atol=1e-4)  # 2 × 2 cells, and one


def test_taught_attention_is_the_map(images):
    model = network(**HEADS["pooled"])
    _, weights = explaining_network(model, taught=True, familiar=None)(images)
    assert weights.shape == (2, 6, 6, 1)
    assert np.allclose(np.sum(weights, axis=(1, 2)), 1, atol=1e-5)
    shown = keras.ops.image.resize(weights, (SIZE, SIZE))[..., 0]
    shown = shown / np.max(shown, axis=(1, 2), keepdims=True)
    assert np.allclose(shown, attention_maps(model, images)[:, 0], atol=1e-4)


def test_the_third_output_says_how_unfamiliar_an_image_is(images):
    model = network(**HEADS["pooled"])
    rng = np.random.default_rng(1)
    familiar = fit_familiarity(["fine"], *rng.uniform(0, 1, (2, 40, 8)))
    *_, scores = explaining_network(model, taught=False, familiar=familiar)(images)
    features = keras.Model(model.input, model.get_layer("fine").output)(images)
    expected = familiar.scores(np.mean(features, axis=(1, 2)))
    assert np.allclose(scores[:, 0], expected, rtol=1e-3)
    assert expected[0] != expected[1]
