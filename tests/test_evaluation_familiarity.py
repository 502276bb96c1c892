"""Which images are unlike those of the training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.covariance import EmpiricalCovariance
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize
from small import one_sentence

from mura_utils.errors import UserError
from mura_utils.evaluation import familiarity
from mura_utils.evaluation.familiarity import (
    fit_familiarity,
    read_familiarity,
    write_familiarity,
)


def clouds(count=3, images=300, width=50):
    """Features that a few hidden causes explain, as a network's are; one set a split."""
    rng = np.random.default_rng(0)
    mixing, center = rng.normal(size=(6, width)), rng.uniform(2, 6, width)
    hidden = rng.normal(size=(count, images, 6))
    return center + hidden @ mixing + 0.1 * rng.normal(size=(count, images, width))


def test_the_score_is_scikit_learns_mahalanobis_distance_of_directions():
    train, validation, test = clouds()
    familiar = fit_familiarity(["conv"], train, validation)
    unit = normalize(train)
    pca = PCA(len(familiar.components), svd_solver="full").fit(unit)
    reference = EmpiricalCovariance()
    reference.location_, reference.covariance_ = pca.mean_, pca.get_covariance()
    reference.precision_ = pca.get_precision()
    squares = reference.mahalanobis(normalize(test))
    np.testing.assert_allclose(familiar.scores(test) ** 2 * 50, squares, rtol=1e-6)
    np.testing.assert_allclose(familiar.scores(7 * test), familiar.scores(test))


def test_the_limit_leaves_a_share_of_validation_above_and_as_much_of_test_and_all_of_others():
    train, validation, test = clouds()
    for share in (0.05, 0.2):
        familiar = fit_familiarity(["conv"], train, validation, false_flags=share)
        above = (familiar.scores(validation) > familiar.limit).mean()
        assert share - 2 / len(validation) < above <= share
        assert (familiar.scores(test) > familiar.limit).mean() == pytest.approx(share, abs=0.06)
        others = np.random.default_rng(1).uniform(0, 9, (100, 50))
        assert (familiar.scores(others) > familiar.limit).all()


@pytest.mark.parametrize(
    "train", [np.ones((40, 5)), np.eye(5)[:2], np.ones((9, 1)), np.zeros((9, 4))]
)
def test_few_images_and_constant_features_give_finite_scores(train):
    familiar = fit_familiarity(["conv"], train, train[:1])
    assert np.isfinite(familiar.scores(train)).all()
    assert np.isfinite(familiar.limit)
    assert not (familiar.scores(train[:1]) > familiar.limit).any()


def test_the_file_gives_the_same_verdicts_and_is_small(tmp_path):
    train, validation, test = clouds(images=1000, width=2048)
    familiar = fit_familiarity(["a", "b"], train, validation)
    path = tmp_path / "run" / "familiarity.npz"
    for _ in range(2):
        write_familiarity(path, familiar)
    again = read_familiarity(path)
    assert again.layers == ["a", "b"]
    assert again.limit == pytest.approx(familiar.limit)
    np.testing.assert_allclose(again.scores(test), familiar.scores(test), rtol=1e-3)
    assert path.stat().st_size < 2e6
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_damaged_file_and_one_of_another_version_are_one_sentence(tmp_path, monkeypatch):
    path = tmp_path / "familiarity.npz"
    familiar = fit_familiarity(["conv"], *clouds(2))
    write_familiarity(path, familiar)
    whole = path.read_bytes()
    for damaged in (b"", b"text", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"familiarity\.npz is damaged .*run 06") as error:
            read_familiarity(path)
        assert one_sentence(error)
    np.savez(path, schema=1, layers=np.array(["conv"]))
    with pytest.raises(UserError, match="is damaged"):
        read_familiarity(path)
    monkeypatch.setattr(familiarity, "_SCHEMA", 2)
    write_familiarity(path, replace(familiar, limit=1.0))
    monkeypatch.undo()
    with pytest.raises(UserError, match="has the schema 2, but this version reads 1"):
        read_familiarity(path)
