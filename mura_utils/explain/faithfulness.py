"""Does hiding what a heat-map shows change the answer? Deletion and insertion.

Pixels are taken in the order of their heat. **Deletion** paints them black, one share after the
other: if the map shows what the answer rests on, the probability falls early and the area under its
curve is small. **Insertion** starts from a blurred radiograph and brings the sharp pixels back: a
good map has a large area. Both need no mask, and both show networks images that no radiograph looks
like: compare methods with each other and with `BASELINES`, and do not read the areas alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras
import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.special import expit

from mura_utils.explain.methods.common import chunks, logit_function
from mura_utils.explain.targets import Target

BLUR = 0.05
"""Standard deviation of the blur, of the image's side."""

Answer = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Images (n, S, S, 1) and the positions (n,) of the images they come from -> answers (n,)."""


def answer_of(model: keras.Model, target: Target, values: np.ndarray | None = None) -> Answer:
    """The logistic function of a target's score, in [0, 1].

    For `contrast_target` this is the probability of abnormal against normal of the same body part.

    Args:
        model: ends in ``logits`` and a softmax.
        target: of the images whose copies are judged.
        values: (N, F), what the network reads beside each of these images.
    """
    logits_of = logit_function(model)

    def answer(images: np.ndarray, positions: np.ndarray) -> np.ndarray:
        inputs = [images] if values is None else [images, values[positions]]
        logits = [logits_of(*(each[rows] for each in inputs)) for rows in chunks(images)]
        return expit((np.concatenate(logits) * target.weights[positions]).sum(axis=-1))

    return answer


def blurred(images: np.ndarray) -> np.ndarray:
    """Images (N, S, S, 1) without their details, with which insertion starts."""
    width = BLUR * images.shape[1]
    return ndimage.gaussian_filter(images, (0, width, width, 0), mode="nearest")


def replaced(before: np.ndarray, after: np.ndarray, heatmap: np.ndarray, steps: int) -> np.ndarray:
    """One image on its way into another, the hottest pixels first.

    Args:
        before: (S, S, 1).
        after: (S, S, 1).
        heatmap: (S, S); of equal pixels the upper left one goes first.
        steps: from 0 to all pixels.

    Returns:
        (steps + 1, S, S, 1); image t has the hottest t / steps of its pixels from `after`.

    Example:
        >>> heat = np.array([[0.1, 0.9], [0.5, 0.0]])
        >>> replaced(np.ones((2, 2, 1)), np.zeros((2, 2, 1)), heat, steps=4)[2, ..., 0]
        array([[1., 0.],
               [0., 1.]])
    """
    order = np.argsort(-heatmap.ravel(), kind="stable")
    place = np.empty(order.size, int)
    place[order] = np.arange(order.size)
    counts = np.rint(np.linspace(0, order.size, steps + 1)).astype(int)
    taken = (place < counts[:, None]).reshape(-1, *heatmap.shape, 1)
    return np.where(taken, after, before)


def answer_curve(
    answer: Answer,
    before: np.ndarray,
    after: np.ndarray,
    heatmaps: np.ndarray,
    steps: int = 20,
    ends: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """The answers on the way from one image to the other, for each of N images.

    Args:
        answer: see `answer_of`.
        before: (N, S, S, 1); for deletion the radiographs, for insertion `blurred`.
        after: (N, S, S, 1); for deletion black, for insertion the radiographs.
        heatmaps: (N, S, S).
        steps: how many times pixels are replaced.
        ends: the answers to `before` and `after` where they are known, as they are the same for all
            maps.

    Returns:
        (N, steps + 1).
    """
    positions = np.arange(len(before))
    first, last = ends or (answer(before, positions), answer(after, positions))
    between = []
    for rows in chunks(before, copies=steps - 1):
        some = zip(before[rows], after[rows], heatmaps[rows], strict=True)
        ways = np.concatenate([replaced(*images, steps)[1:-1] for images in some])
        between.append(answer(ways, np.repeat(positions[rows], steps - 1)))
    curves = np.concatenate(between).reshape(len(before), steps - 1)
    return np.column_stack([first, curves, last])


def area(curve: np.ndarray) -> np.ndarray:
    """Area under curves (N, steps + 1) over the share of pixels, by trapezoids: (N,) in [0, 1].

    Example:
        >>> area(np.array([[1.0, 0.5, 0.0]]))
        array([0.5])
    """
    return np.trapezoid(curve, dx=1 / (curve.shape[1] - 1), axis=1)


def hide_and_show(
    answer: Answer,
    images: np.ndarray,
    heatmaps: Mapping[tuple[str, str], np.ndarray],
    steps: int = 20,
) -> dict[str, dict[tuple[str, str], np.ndarray]]:
    """Deletion and insertion curves of every heat-map.

    Args:
        answer: see `answer_of`; all maps are asked the same question.
        images: (N, S, S, 1) float32 in 0..255.
        heatmaps: (method, target) -> (N, S, S).
        steps: how many times pixels are replaced.

    Returns:
        deletion (to black) and insertion (from `blurred`) -> (method, target) -> (N, steps + 1).

    Source: Petsiuk et al. 2018, "RISE", section 4.3; there the answer is the class's probability.
    """
    positions = np.arange(len(images))
    black, blur = np.zeros_like(images), blurred(images)
    nothing, vague, whole = (answer(each, positions) for each in (black, blur, images))
    deletion = {
        key: answer_curve(answer, images, black, maps, steps, (whole, nothing))
        for key, maps in heatmaps.items()
    }
    insertion = {
        key: answer_curve(answer, blur, images, maps, steps, (vague, whole))
        for key, maps in heatmaps.items()
    }
    return {"deletion": deletion, "insertion": insertion}


def score_faithfulness(
    curves: Mapping[str, Mapping[tuple[str, str], np.ndarray]],
) -> pd.DataFrame:
    """The areas under the curves of `hide_and_show`.

    Returns:
        One row an image, method and target: image (0..N-1), method, target, deletion (less is
        better), insertion (more is better).
    """
    tables = []
    for method, target in curves["deletion"]:
        areas = {way: area(of[method, target]) for way, of in curves.items()}
        table = pd.DataFrame(areas).rename_axis("image").reset_index()
        tables.append(table.assign(method=method, target=target))
    columns = ["image", "method", "target", *curves]
    return pd.concat(tables, ignore_index=True)[columns]
