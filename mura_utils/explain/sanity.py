"""Does a heat-map follow the network? Its layers are randomized, from the top down.

A map that stays as it is while the network loses what it has learned shows the image, not the
network (Adebayo et al. 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd

from mura_utils.explain.similarity import rank_correlation, structural_similarity
from mura_utils.explain.summary import mean_intervals

MapsOf = Callable[[keras.Model, np.ndarray], Mapping[tuple[str, str], np.ndarray]]
"""A network and images (N, S, S, 1) -> (method, target) -> maps (N, S, S) in [0, 1]."""


class Stage(NamedTuple):
    """Which layers of a network are random: the upper ones."""

    layer: str  # the lowest random layer
    share: float  # of the layers with weights that are random


def cascade(model: keras.Model, stages: int = 4, seed: int = 0) -> Iterator[Stage]:
    """Make more and more layers of a network random: the classifier, then shares of the rest.

    The values of each weight tensor change places at random. Unlike freshly drawn weights they keep
    their sizes, so that signals neither vanish nor grow in a deep network without training.

    Args:
        model: changed in place, as tracing the gradients of a copy takes seconds: call this within
            `weights_kept`.
        stages: at least 2; the last one has no trained layer left.
        seed: of the shuffling.

    Yields:
        What is random now.

    Source: Adebayo et al. 2018, "Sanity Checks for Saliency Maps", section 3; there the weights are
        drawn anew.
    """
    rng = np.random.default_rng(seed)
    layers = [layer for layer in reversed(model.layers) if layer.weights]
    ends = np.unique(np.rint(np.linspace(0, len(layers), stages)).astype(int).clip(1))
    done = 0
    for end in ends:
        for layer in layers[done:end]:
            layer.set_weights([_shuffled(weights, rng) for weights in layer.get_weights()])
        done = end
        yield Stage(layers[end - 1].name, end / len(layers))


@contextmanager
def weights_kept(model: keras.Model) -> Iterator[None]:
    """Give a network its weights back at the end, whatever happens before."""
    before = model.get_weights()
    try:
        yield
    finally:
        model.set_weights(before)


@contextmanager
def randomized(model: keras.Model, seed: int = 0) -> Iterator[None]:
    """Within this context, a network has nothing that it has learned: the last stage of `cascade`.

    Example:
        >>> network = keras.Sequential([keras.Input([2]), keras.layers.Dense(50)])
        >>> before = network.get_weights()[0]
        >>> with randomized(network):
        ...     bool((network.get_weights()[0] == before).all())
        False
        >>> bool((network.get_weights()[0] == before).all())
        True
    """
    with weights_kept(model):
        for _ in cascade(model, stages=2, seed=seed):
            pass
        yield


def randomize(
    model: keras.Model,
    images: np.ndarray,
    trained: Mapping[tuple[str, str], np.ndarray],
    maps_of: MapsOf,
    stages: int = 4,
    seed: int = 0,
) -> pd.DataFrame:
    """How alike the maps of the trained and of each randomized network are.

    Args:
        model: trained; its weights change and come back.
        images: (N, S, S, 1) float32 in 0..255, each of another patient.
        trained: the trained network's maps of them, which are compared.
        maps_of: makes the maps of a randomized network, those of `trained` at least.
        stages: of the `cascade`.
        seed: of the `cascade`.

    Returns:
        One row an image, method, target and stage: image (0..N-1), method, target, layer, share (of
        the layers that are random), rank_correlation, ssim; NaN where a map is constant. In rows of
        layer "unrelated" (share NaN) both maps are the trained network's, of two images.
    """
    tables = [
        _compare(key, maps, np.roll(maps, 1, axis=0), "unrelated", np.nan)
        for key, maps in trained.items()
    ]
    with weights_kept(model):
        for layer, share in cascade(model, stages, seed):
            maps = maps_of(model, images)
            tables += [_compare(key, trained[key], maps[key], layer, share) for key in trained]
    return pd.concat(tables, ignore_index=True)


def judge(compared: pd.DataFrame, patients: pd.Series, bootstrap: int = 1000) -> pd.DataFrame:
    """Whether each map follows the network.

    It passes if the rank correlation with the maps of the network without any trained layer is
    surely (upper end of its interval) closer to that of unrelated maps than to 1, a copy. Few
    images make a wide interval, and no map passes for want of images.

    Args:
        compared: as returned by `randomize`.
        patients: (N,) of the images, by their number.
        bootstrap: resamples of the patients.

    Returns:
        Rows (method, target): images, value, low, high (of the rank correlation), ssim, unrelated
        (mean rank correlation of unrelated maps), limit, passes (None: too few images to tell).
    """
    key = ["method", "target"]
    random = compared[compared["share"] == 1]
    values = random.pivot(index="image", columns=key, values="rank_correlation")
    table = mean_intervals(values, values.index.to_series().map(patients), bootstrap)
    table["ssim"] = random.groupby(key)["ssim"].mean()
    unrelated = compared[compared["layer"] == "unrelated"].groupby(key)["rank_correlation"].mean()
    table["unrelated"] = unrelated
    table["limit"] = (1 + table["unrelated"]) / 2
    passes = (table["high"] < table["limit"]).astype(object)
    return table.assign(passes=passes.where(table["high"].notna(), None)).reindex(
        pd.MultiIndex.from_frame(compared[key].drop_duplicates())
    )


def last_stage(compared: pd.DataFrame) -> pd.DataFrame:
    """What a table of explanations keeps of `randomize`: the network without a trained layer.

    Returns:
        One row an image, method and target: image, method, target, randomized (rank correlation),
        randomized_ssim, unrelated (rank correlation with another image's map).
    """
    key = ["image", "method", "target"]
    random = compared[compared["share"] == 1]
    names = {"rank_correlation": "randomized", "ssim": "randomized_ssim"}
    random = random[[*key, *names]].rename(columns=names)
    apart = compared.loc[compared["layer"] == "unrelated", [*key, "rank_correlation"]]
    return random.merge(apart.rename(columns={"rank_correlation": "unrelated"}), on=key)


def _compare(
    key: tuple[str, str], ours: np.ndarray, theirs: np.ndarray, layer: str, share: float
) -> pd.DataFrame:
    table = pd.DataFrame({"image": range(len(ours)), "method": key[0], "target": key[1]})
    alike, ssim = rank_correlation(ours, theirs), structural_similarity(ours, theirs)
    return table.assign(
        layer=layer,
        share=share,
        rank_correlation=alike,
        ssim=np.where(np.isnan(alike), np.nan, ssim),
    )


def _shuffled(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(weights.ravel()).reshape(weights.shape)
