"""Thresholds that are chosen on validation, and what they give on test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from mura_utils.evaluation.binary import evaluate_abnormality
from mura_utils.evaluation.intervals import RESAMPLES
from mura_utils.evaluation.predictions import study_predictions
from mura_utils.labels import ABNORMAL, NORMAL

_ROUNDING = 1e-12  # of a sum of two shares

_NEEDED = {
    "threshold": (),
    "youden": (ABNORMAL, NORMAL),
    "sensitivity": (ABNORMAL,),
    "specificity": (NORMAL,),
}
"""The rules, and the kinds of rows that each of them chooses by."""

_NOTE = "Validation has no {} study to choose by: the parameter threshold is used."


def operating_point(
    abnormality: pd.Series, p: pd.Series, rule: str = "specificity", target: float = 0.9
) -> float:
    """The threshold that a rule chooses; abnormal is `p` above it.

    - ``specificity``: the lowest one at which at least the share `target` of the normal rows is
      called normal.
    - ``sensitivity``: the highest one at which at least the share `target` of the abnormal rows is
      called abnormal.
    - ``youden``: the lowest of those with the highest sensitivity + specificity (Youden, 1950);
      `target` plays no part.

    Choose it on validation, never on the rows that are to be judged by it.

    Args:
        abnormality: Normal or Abnormal, one an image or study.
        p: (N,) probability of abnormal.
        rule: as above.
        target: a share, above 0 and at most 1.

    Returns:
        A value of `p`, or the largest number below all of them; inf where there are no rows of a
        kind that the rule needs.

    Example:
        >>> truth = pd.Series(["Normal"] * 4 + ["Abnormal"])
        >>> p = pd.Series([0.1, 0.2, 0.3, 0.8, 0.6])
        >>> [operating_point(truth, p, rule, 0.75) for rule in ("specificity", "sensitivity")]
        [0.3, 0.3]
    """
    values = np.asarray(p, float)
    abnormal = np.sort(values[(abnormality == ABNORMAL).to_numpy()])
    normal = np.sort(values[(abnormality == NORMAL).to_numpy()])
    if any(not len({ABNORMAL: abnormal, NORMAL: normal}[kind]) for kind in _NEEDED[rule]):
        return np.inf
    thresholds = np.unique([np.nextafter(values.min(), -np.inf), *values])
    missed = np.searchsorted(abnormal, thresholds, side="right")
    sensitivity = (len(abnormal) - missed) / max(len(abnormal), 1)
    specificity = np.searchsorted(normal, thresholds, side="right") / max(len(normal), 1)
    if rule == "sensitivity":
        return float(thresholds[sensitivity >= target][-1])
    if rule == "specificity":
        return float(thresholds[specificity >= target][0])
    youden = sensitivity + specificity
    return float(thresholds[youden > youden.max() - _ROUNDING][0])


def choose_operating_point(
    validation: pd.DataFrame, rule: str, target: float, threshold: float
) -> dict[str, Any]:
    """The content of operating_point.json: a threshold for studies, chosen on validation.

    Args:
        validation: rows of predictions.csv.
        rule: ``threshold``, or a rule of `operating_point`.
        target: the share that the rules sensitivity and specificity promise.
        threshold: what the rule ``threshold`` gives, and any rule whose studies are missing.

    Returns:
        ``rule`` that was followed, ``target`` (None where the rule has none), ``threshold``,
        ``split``, ``level``, and ``note``: None, or a sentence that says why another rule was
        followed than the one asked for.

    Example:
        >>> views = pd.DataFrame({"path": ["a"], "study": "1", "patient": "1", "body_part": "HAND"})
        >>> views = views.assign(abnormality="Abnormal", **{"p:Abnormal-HAND": 0.75})
        >>> choose_operating_point(views, "specificity", 0.9, threshold=0.5)["note"]
        'Validation has no normal study to choose by: the parameter threshold is used.'
    """
    studies = study_predictions(validation)
    missing = [kind for kind in _NEEDED[rule] if not (studies["abnormality"] == kind).any()]
    followed = "threshold" if missing else rule
    if followed != "threshold":
        threshold = operating_point(studies["abnormality"], studies["p_abnormal"], rule, target)
    return {
        "rule": followed,
        "target": target if followed in ("sensitivity", "specificity") else None,
        "threshold": threshold,
        "split": "validation",
        "level": "binary_study",
        "note": _NOTE.format(missing[0].lower()) if missing else None,
    }


def judge_operating_point(
    test: pd.DataFrame, point: Mapping[str, Any], bootstrap: int = RESAMPLES
) -> dict[str, Any]:
    """The key ``operating_point`` of metrics.json: the point, and ``metrics`` at it per study.

    Args:
        test: rows of predictions.csv, of another split than the point's.
        point: as returned by `choose_operating_point`.
        bootstrap: resamples of the patients.

    Example:
        >>> views = pd.DataFrame({"path": ["a"], "study": "1", "patient": "1", "body_part": "HAND"})
        >>> views = views.assign(abnormality="Abnormal", **{"p:Abnormal-HAND": 0.75})
        >>> judged = judge_operating_point(views, {"threshold": 0.7}, bootstrap=10)
        >>> judged["threshold"], judged["metrics"]["sensitivity"]["value"]
        (0.7, 1.0)
    """
    studies = study_predictions(test)
    metrics = evaluate_abnormality(
        studies["abnormality"],
        studies["p_abnormal"],
        studies["patient"],
        point["threshold"],
        bootstrap,
    )
    return {**point, "metrics": metrics}
