"""PCA against incremental PCA on pixels (report III.E, Fig 10 and 11)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.decomposition import PCA, IncrementalPCA

from mura_utils.errors import UserError


def sample_per_class(labels: Sequence[str], count: int, seed: int = 0) -> np.ndarray:
    """Choose `count` images of each class at random, or all of a class that has fewer.

    Returns:
        Positions in `labels`, ascending, int64.

    Example:
        >>> sample_per_class(["HAND", "WRIST", "HAND", "HAND"], count=1).size
        2
    """
    labels = np.asarray(labels)
    rng = np.random.default_rng(seed)
    chosen = [
        rng.permutation(np.flatnonzero(labels == label))[:count] for label in np.unique(labels)
    ]
    return np.sort(np.concatenate(chosen))


def compare_pca(
    train: np.ndarray,
    held_out: np.ndarray,
    variance: float = 0.95,
    batch_size: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit PCA and incremental PCA on the same images; measure components and runtime.

    PCA keeps all min(N, D) components. It uses the eigenvectors of the (D, D) covariance where
    N >= D, otherwise the singular vectors of the (N, D) data; both are exact. Memory is about two
    copies of `train` and four (D, D) matrices: 14,000 images of 64 x 64 pixels (D = 4,096) take
    about 1 GB, while at 224 x 224 one covariance takes 10 GB; choose the pixel size accordingly.

    Incremental PCA sees batches of at least `batch_size` images in random order and can keep no
    more components than a batch has images; it keeps min(batch_size, D). It may so end before
    `variance` is explained, which the result says instead of hiding.

    Args:
        train: (N, D) flattened gray images; any unit, for only ratios of variance are reported.
        held_out: (M, D) images that neither fit sees, in the same unit.
        variance: share of the training variance to explain, in (0, 1].
        batch_size: images a batch, 2 or more; None is min(256, N // 2), for at least two batches
            where N is 4 or more.
        seed: order in which incremental PCA sees the images.

    Returns:
        JSON-able: `images`, `held_out_images`, `dimensions`, `variance`, and under `pca` and `ipca`
        each: `components` (how many explain `variance`; None if those kept do not), `kept`,
        `reached` (share explained by all kept), `seconds` (of the fit), `explained` (cumulative
        share of the training variance for 1 … kept components) and `held_out` (the same on the
        held-out images, 1 - |x - x_k|^2 / |x - training mean|^2); `ipca` also has `batch_size`.

    Raises:
        UserError: fewer than two different training images, no held-out image that differs from
            their mean, a `variance` outside (0, 1] or a `batch_size` outside [2, N].

    Example:
        >>> noise = np.random.default_rng(0).normal(size=(50, 4)) * [9, 9, 1, 1]
        >>> compare_pca(noise[:40], noise[40:], variance=0.9)["pca"]["components"]
        2
    """
    train = np.asarray(train, dtype=np.float32)
    held_out = np.asarray(held_out, dtype=np.float32)
    images, dimensions = train.shape
    if images < 2 or not np.ptp(train, axis=0).any():
        raise UserError(f"PCA got {images} image(s) without any difference; give it more images.")
    if not 0 < variance <= 1:
        raise UserError(f"The variance to explain is {variance}; give a share above 0, at most 1.")
    batch_size = max(2, min(256, images // 2)) if batch_size is None else batch_size
    if not 2 <= batch_size <= images:  # scikit-learn divides by the first batch's images - 1
        raise UserError(
            f"The batch size of incremental PCA is {batch_size} for {images} images; "
            f"give a number from 2 to {images}."
        )

    # In float32 the covariance of data far from zero loses digits; centered data keeps them.
    mean = train.mean(axis=0, dtype=np.float64).astype(np.float32)
    train, held_out = train - mean, held_out - mean

    start = time.perf_counter()
    solver = "covariance_eigh" if images >= dimensions else "full"
    pca = PCA(svd_solver=solver).fit(train)
    pca_seconds = time.perf_counter() - start

    start = time.perf_counter()
    ipca = IncrementalPCA(n_components=min(batch_size, dimensions))
    order = np.random.default_rng(seed).permutation(images)
    for batch in np.array_split(order, images // batch_size):  # each has batch_size rows or more
        ipca.partial_fit(train[batch])
    ipca_seconds = time.perf_counter() - start

    return {
        "images": images,
        "held_out_images": len(held_out),
        "dimensions": dimensions,
        "variance": variance,
        "pca": _summary(pca, held_out, variance, pca_seconds),
        "ipca": _summary(ipca, held_out, variance, ipca_seconds) | {"batch_size": batch_size},
    }


def _summary(
    model: PCA | IncrementalPCA, held_out: np.ndarray, variance: float, seconds: float
) -> dict[str, Any]:
    explained = np.cumsum(model.explained_variance_ratio_, dtype=np.float64)
    # The components are orthonormal, so |x - x_k|^2 is |x - mean|^2 less the first k squared
    # projections: one projection gives the whole curve.
    total = np.square(held_out - model.mean_, dtype=np.float64).sum()
    if not total > 0:
        raise UserError(
            "No held-out image differs from the mean of the training images; give others."
        )
    projected = np.square(model.transform(held_out), dtype=np.float64).sum(axis=0)
    # float32 leaves the full sum a little below 1.
    enough = np.flatnonzero(explained >= variance - 1e-6)
    return {
        "components": int(enough[0]) + 1 if len(enough) else None,
        "kept": len(explained),
        "reached": float(explained[-1]),
        "seconds": seconds,
        "explained": explained.tolist(),
        "held_out": (np.cumsum(projected) / total).tolist(),
    }
