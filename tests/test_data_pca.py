"""PCA against incremental PCA: the figures that Fig 10 and 11 are made of."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mura_utils.data.pca import compare_pca, sample_per_class
from mura_utils.errors import UserError


def low_rank(images: int, seed: int, dimensions: int = 60, rank: int = 5) -> np.ndarray:
    """Images on a plane of `rank` dimensions about a mean that is not zero, with a little noise."""
    basis = np.linalg.qr(np.random.default_rng(99).standard_normal((dimensions, rank)))[0].T
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((images, rank)) * [9, 7, 5, 4, 3]
    noise = 0.1 * rng.standard_normal((images, dimensions))
    return (100 + points @ basis + noise).astype(np.float32)


@pytest.mark.parametrize("images", [40, 300])  # fewer and more images than dimensions
def test_both_find_the_rank_and_generalise(images):
    found = compare_pca(low_rank(images, 0), low_rank(50, 1), variance=0.99)
    json.dumps(found, allow_nan=False)
    assert found["pca"]["kept"] == min(images, 60)
    for name in ("pca", "ipca"):
        assert found[name]["components"] == 5
        assert found[name]["held_out"][4] > 0.98
        assert np.all(np.diff(found[name]["held_out"]) >= 0)
        assert found[name]["explained"][-1] == pytest.approx(found[name]["reached"])
    assert found["pca"]["reached"] == pytest.approx(1, abs=1e-4)


def test_held_out_curve_equals_reconstruction_and_first_components_equal_svd():
    train, held_out = low_rank(200, 0), low_rank(30, 1)
    found = compare_pca(train, held_out)
    mean = train.mean(axis=0, dtype=np.float64)
    _, singular, components = np.linalg.svd(train - mean, full_matrices=False)
    explained = np.cumsum(singular**2) / np.sum(singular**2)
    np.testing.assert_allclose(found["pca"]["explained"], explained, atol=1e-4)
    for kept in (1, 3, 5):
        rebuilt = mean + (held_out - mean) @ components[:kept].T @ components[:kept]
        share = 1 - np.sum((held_out - rebuilt) ** 2) / np.sum((held_out - mean) ** 2)
        assert found["pca"]["held_out"][kept - 1] == pytest.approx(share, abs=1e-4)


def test_incremental_pca_that_kept_too_few_says_so():
    found = compare_pca(low_rank(200, 0), low_rank(30, 1), variance=0.95, batch_size=3)
    assert found["pca"]["components"] == 5
    assert found["ipca"]["components"] is None
    assert found["ipca"]["kept"] == 3
    assert 0.7 < found["ipca"]["reached"] < 0.95


def test_a_remainder_smaller_than_a_batch_is_used():
    train = low_rank(203, 0)
    odd = compare_pca(train, low_rank(30, 1), batch_size=50)  # 203 = 4 x 50 + 3
    assert odd["ipca"]["components"] == odd["pca"]["components"]
    assert odd["ipca"]["batch_size"] == 50


def test_all_of_the_variance_can_be_asked_for():
    found = compare_pca(low_rank(30, 0), low_rank(30, 1), variance=1.0)
    assert found["pca"]["components"] in (29, 30)  # 30 centered images span 29 dimensions


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        (np.ones((5, 4)), {}, "without any difference"),
        (np.eye(4), {"variance": 0.0}, "variance to explain is 0.0"),
        (np.eye(4), {"batch_size": 5}, "a number from 2 to 4"),
        (np.eye(4), {"batch_size": 1}, "a number from 2 to 4"),
    ],
)
def test_bad_input_is_one_sentence(train, options, message):
    with pytest.raises(UserError, match=message):
        compare_pca(train, np.eye(4), **options)


def test_sample_per_class_takes_all_of_a_small_class():
    labels = ["b"] * 50 + ["a"] * 4 + ["b"] * 50
    rows = sample_per_class(labels, 10, seed=1)
    assert np.all(np.diff(rows) > 0)
    assert set(range(50, 54)) <= set(rows)
    assert len(rows) == 14
    np.testing.assert_array_equal(rows, sample_per_class(labels, 10, seed=1))
    assert not np.array_equal(rows, sample_per_class(labels, 10, seed=2))


@pytest.mark.parametrize("images", [2, 3])
def test_two_images_are_enough(images, recwarn):
    found = compare_pca(low_rank(images, 0), low_rank(3, 1))
    assert found["ipca"]["batch_size"] == 2
    assert found["pca"]["components"] == found["ipca"]["components"] == images - 1
    assert not [warning for warning in recwarn if warning.category is RuntimeWarning]
