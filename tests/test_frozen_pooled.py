"""Averaged maps: which, and that stored activations give those of the whole network."""

from __future__ import annotations

import numpy as np
import pytest
from small import frozen_experiment, network, noise, stored, vivid

from mura_utils import frozen


def test_the_layers_are_those_of_16_pixels_where_they_are_trained_else_where_the_frozen_part_ends():
    def layers(unfreeze):
        settings = frozen_experiment(unfreeze=unfreeze, cache_features="auto")
        return frozen.pooled_layers(network(settings), settings.backbone)

    assert layers("all") == layers(5) == ["conv_pw_11_relu"]
    assert layers(1) == ["conv_dw_13_relu"]


@pytest.mark.parametrize("unfreeze", [1, 5])
def test_features_are_means_over_positions_stored_or_not(unfreeze):
    settings, images = frozen_experiment(unfreeze=unfreeze, augment=False), noise()
    model = vivid(settings)
    layers = frozen.pooled_layers(model, settings.backbone)
    probabilities, expected = frozen.with_pooled(model, layers).predict(
        images.pixels[..., None], verbose=0
    )
    (name,) = layers
    maps = frozen.with_pooled(model, [name]).get_layer(name)
    assert expected.shape == (len(images), maps.output.shape[-1])
    assert np.ptp(expected, axis=0).max() > 0.01, "the test could not fail"
    np.testing.assert_allclose(
        probabilities, model.predict(images.pixels[..., None], verbose=0), atol=1e-6
    )

    rows, features = frozen.pooled_features(model, images, settings)
    splits = images.rows["split"].to_numpy()
    assert splits[rows].tolist() == ["train"] * 20 + ["validation"] * 7 + ["test"] * 5
    np.testing.assert_allclose(features, expected[rows], atol=1e-5)
    stored(settings, images, model)
    again, from_stored = frozen.pooled_features(model, images, settings)
    assert again.tolist() == rows.tolist()
    np.testing.assert_allclose(from_stored, expected[rows], rtol=2e-3, atol=2e-3)
    assert np.abs(from_stored - features).max() > 0, "they do not come from what is stored"


def test_no_more_of_a_split_is_taken_than_asked_for():
    settings, images = frozen_experiment(cache_features="off"), noise()
    rows, features = frozen.pooled_features(vivid(settings), images, settings, most=6)
    splits = images.rows["split"].to_numpy()[rows].tolist()
    assert splits == ["train"] * 6 + ["validation"] * 6 + ["test"] * 5
    assert len(set(rows)) == len(features) == 17
