"""What metrics.json holds beside the metrics: of which data, and what a constant answer scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mura_utils.evaluation.baselines import majority_class
from mura_utils.evaluation.metrics import evaluate

_LEVELS = ("image", "body_part", "binary_image", "binary_study")


def constant_answer(
    manifest: pd.DataFrame, classes: Sequence[str], threshold: float
) -> dict[str, Any]:
    """What the commonest label of the training images scores on all test images.

    Args:
        manifest: rows of all splits (manifest.csv joined with splits.csv).
        classes: K labels.
        threshold: abnormal is P(abnormal) above it.

    Returns:
        ``label``, and ``accuracy`` by level: image, body_part, binary_image,
        binary_study.

    Raises:
        UserError: there are no test images.

    Example:
        >>> rows = pd.DataFrame({"path": [*"abc"], "patient": [*"123"], "study": [*"123"]})
        >>> rows = rows.assign(body_part="HAND", split=["train", "test", "test"])
        >>> rows["abnormality"] = ["Normal", "Normal", "Abnormal"]
        >>> rows["label"] = rows["abnormality"] + "-HAND"
        >>> answer = constant_answer(rows, ["Abnormal-HAND", "Normal-HAND"], 0.5)
        >>> answer["label"], answer["accuracy"]["image"]
        ('Normal-HAND', 0.5)
    """
    answers = majority_class(manifest, classes)
    test = answers[answers["split"] == "test"]
    floor = evaluate(test, threshold, bootstrap=0)
    return {
        "label": test["predicted"].iloc[0],
        "accuracy": {level: floor[level]["accuracy"]["value"] for level in _LEVELS},
    }


SCHEMA = 2
"""Version of metrics.json; it grows when a key changes its meaning or is gone (docs/metrics.md)."""


def metrics_record(
    source: str, metrics: Mapping[str, Any], constant: Mapping[str, Any], **sections: Any
) -> dict[str, Any]:
    """The content of metrics.json, whose keys docs/metrics.md describes.

    Args:
        source: of the images, as the manifest names it.
        metrics: as returned by `evaluate` for the test split.
        constant: as returned by `constant_answer`.
        sections: more of what notebook 06 found, each under its own key, such as ``calibration``.

    Example:
        >>> metrics_record("mura", {"threshold": 0.5}, {"label": "Normal-WRIST"})["split"]
        'test'
    """
    return {
        "schema": SCHEMA,
        "source": source,
        "split": "test",
        **metrics,
        "constant_answer": dict(constant),
        **sections,
    }
