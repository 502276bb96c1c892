"""What answering only where the model is certain would give: risk against coverage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mura_utils.evaluation.intervals import RESAMPLES, Weights, draw_patients, resampled
from mura_utils.labels import probabilities_of

SHARES = (1.0, 0.9, 0.8, 0.5)
"""Shares of the images that are answered, the most certain first, in `risk_coverage`."""

_CURVE_POINTS = 200


def risk_coverage(
    predictions: pd.DataFrame, bootstrap: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """The key ``risk_coverage`` of metrics.json: error rate among the most certain images.

    Certain is an image whose predicted class has a high probability. Equally certain images share
    their errors evenly.

    Args:
        predictions: rows of predictions.csv to measure on.
        bootstrap: resamples of the patients.
        seed: of the resampling.

    Returns:
        - ``area`` under the curve (AURC, 0 is best): mean error rate over all coverages.
        - ``shares``: records of share (`SHARES`), least_probability (of the predicted class, of an
          image that is answered), and value (the error rate) with low and high.
        - ``curve``: ``share`` and ``error``, at most 200 points.

    Source: Geifman and El-Yaniv, Selective Classification for Deep Neural Networks, NeurIPS 2017.

    Example:
        >>> rows = pd.DataFrame({"patient": [*"12"], "label": "Normal-HAND"})
        >>> rows["predicted"] = ["Normal-HAND", "Abnormal-HAND"]
        >>> rows["p:Abnormal-HAND"], rows["p:Normal-HAND"] = [0.1, 0.6], [0.9, 0.4]
        >>> risk_coverage(rows, bootstrap=0)["curve"]
        {'share': [0.5, 1.0], 'error': [0.0, 0.5]}
    """
    certainty = probabilities_of(predictions).max(axis=1)
    wrong = (predictions["predicted"] != predictions["label"]).to_numpy(float)
    order = np.argsort(-certainty.to_numpy(), kind="stable")
    wrong = wrong[order]
    tied = np.unique(-certainty.to_numpy()[order], return_inverse=True)[1]
    patients, draws = draw_patients(predictions["patient"], bootstrap, seed)

    def measure(weights: Weights) -> dict[str, np.ndarray]:
        answered, errors = _errors_among_most_certain(wrong, tied, weights[:, order])
        total = answered[:, -1:]
        found = {"area": (weights[:, order] * errors).sum(axis=1) / total[:, 0]}
        for share in SHARES:
            last = (answered < share * total - 1e-9).sum(axis=1)
            found[f"{share:g}"] = errors[np.arange(len(errors)), last]
        return found

    last = {share: int(np.ceil(share * len(wrong) - 1e-9)) - 1 for share in SHARES}
    rank = np.argsort(order)
    rows = {f"{share:g}": [rank <= last[share]] for share in SHARES}
    found = resampled(measure, draws, patients.get_indexer(predictions["patient"]), rows)
    (answered,), (errors,) = _errors_among_most_certain(wrong, tied, np.ones((1, len(wrong))))
    kept = np.linspace(0, len(wrong) - 1, min(len(wrong), _CURVE_POINTS)).round().astype(int)
    return {
        "area": found["area"],
        "shares": [
            {"share": share, "least_probability": float(certainty.iloc[order[last[share]]])}
            | found[f"{share:g}"]
            for share in SHARES
        ],
        "curve": {
            "share": (answered[kept] / len(wrong)).round(5).tolist(),
            "error": errors[kept].round(5).tolist(),
        },
    }


def _errors_among_most_certain(
    wrong: np.ndarray, tied: np.ndarray, weights: Weights
) -> tuple[np.ndarray, np.ndarray]:
    """Images answered so far, and the error rate among them, each (B, N), from the most certain.

    Equally certain images, which have the same number in `tied` (N,), share their errors.
    """
    answered = weights.cumsum(axis=1)
    starts = np.flatnonzero(np.diff(tied, prepend=-1))
    drawn, missed = (np.add.reduceat(each, starts, axis=1) for each in (weights, weights * wrong))
    rates = (missed / np.maximum(drawn, 1))[:, tied]
    return answered, (weights * rates).cumsum(axis=1) / np.maximum(answered, 1)
