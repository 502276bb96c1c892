"""Whether an image is like those that a network was trained on.

A network names a class for anything, a page of text included. The features of its middle layers
tell more: those of training images lie together, and what is foreign lies away from them.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize

from mura_utils.errors import UserError
from mura_utils.paths import atomic_write

FAMILIARITY = "familiarity.npz"
"""The file of a run's folder that holds what `mura predict` needs; no feature of any one image."""

_SCHEMA = 1
_COMPONENTS = 32
_LEAST = 1e-12  # variance of a direction, where features are constant


@dataclass(frozen=True, eq=False)
class Familiarity:
    """Where the features of training images lie, and how far from there is unfamiliar.

    Attributes:
        layers: of the network, whose maps are averaged over positions: D channels in all.
        mean: (D,) of the training images' features, each scaled to length 1.
        components: (k, D), the directions in which they vary most.
        variances: (k,), how much in each.
        noise: variance in any other direction.
        limit: an image whose score is above it is unfamiliar.
    """

    layers: list[str]
    mean: np.ndarray
    components: np.ndarray
    variances: np.ndarray
    noise: float
    limit: float

    def scores(self, features: np.ndarray) -> np.ndarray:
        """How far images are from the training images.

        The Mahalanobis distance (Lee et al. 2018) of features of length 1 (Mueller and Hein 2025)
        from their mean, divided by the root of D: about 1 for a training image. The covariance is
        that of probabilistic principal components (Tipping and Bishop 1999), as scikit-learn's
        ``PCA.get_covariance``.

        Args:
            features: (N, D).

        Returns:
            (N,), not negative.
        """
        away = normalize(np.asarray(features, float)) - self.mean
        inside = away @ self.components.T
        outside = (away**2).sum(axis=1) - (inside**2).sum(axis=1)
        squares = (inside**2 / self.variances).sum(axis=1) + outside.clip(0) / self.noise
        return np.sqrt(squares / len(self.mean))


def fit_familiarity(
    layers: Sequence[str], train: np.ndarray, validation: np.ndarray, false_flags: float = 0.05
) -> Familiarity:
    """Learn where training images lie, and set the limit on validation images.

    Args:
        layers: whose features they are.
        train: (n, D) of training images.
        validation: (m, D) of validation images.
        false_flags: the largest share of the validation images that may be above the limit.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> train, validation, test = rng.normal(5, 1, size=(3, 400, 8))
        >>> familiar = fit_familiarity(["conv"], train, validation)
        >>> [round(float((familiar.scores(x) > familiar.limit).mean()), 2) for x in (test, -test)]
        [0.05, 1.0]
    """
    unit = normalize(np.asarray(train, float))
    components = min(_COMPONENTS, len(unit) - 1, unit.shape[1] - 1)
    with np.errstate(invalid="ignore"):  # shares of a variance of 0, which nobody reads
        pca = PCA(components, svd_solver="full").fit(unit)
    familiar = Familiarity(
        layers=list(layers),
        mean=pca.mean_,
        components=pca.components_,
        variances=pca.explained_variance_.clip(_LEAST),
        noise=max(float(pca.noise_variance_), _LEAST),
        limit=np.inf,
    )
    limit = np.quantile(familiar.scores(validation), 1 - false_flags, method="higher")
    return replace(familiar, limit=float(limit))


def write_familiarity(path: Path, familiar: Familiarity) -> None:
    """Write ``familiarity.npz``, in single precision."""
    arrays = {
        name: np.asarray(value, np.float32)
        for name, value in vars(familiar).items()
        if name != "layers"
    }
    with atomic_write(path) as temporary:
        np.savez_compressed(temporary, schema=_SCHEMA, layers=np.array(familiar.layers), **arrays)


def read_familiarity(path: Path) -> Familiarity:
    """Read ``familiarity.npz``.

    Raises:
        UserError: the file is damaged, or of another version.
    """
    again = "run 06_evaluation again"
    try:
        with np.load(path, allow_pickle=False) as content:
            schema = int(content["schema"])
            if schema == _SCHEMA:
                return Familiarity(
                    layers=content["layers"].tolist(),
                    mean=content["mean"],
                    components=content["components"],
                    variances=content["variances"],
                    noise=float(content["noise"]),
                    limit=float(content["limit"]),
                )
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}): {again}.") from error
    raise UserError(f"{path} has the schema {schema}, but this version reads {_SCHEMA}: {again}.")
