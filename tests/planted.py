"""Predictions whose truth is planted, and what scikit-learn computes of a binary answer."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import softmax
from sklearn import metrics as sk

from mura_utils.labels import join, probability_columns, split

SPLITS = ("validation", "test")

CLASSES = [join(a, part) for a in ("Abnormal", "Normal") for part in ("HAND", "WRIST")]


def planted(images, temperature=1.0, name="test", classes=CLASSES, seed=0):
    """Rows of predictions.csv, an image a patient, whose labels are drawn from probabilities p.

    What they hold is softmax(temperature * log p): overconfident by that temperature.
    """
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, size=(images, len(classes)))
    drawn = (softmax(logits, axis=1).cumsum(axis=1) < rng.random((images, 1))).sum(axis=1)
    shown = softmax(temperature * logits, axis=1)
    label = pd.Series(np.take(classes, drawn))
    frame = pd.DataFrame({"path": [f"{name}/{n}.png" for n in range(images)]})
    frame = frame.assign(patient=frame["path"], study=frame["path"], label=label, split=name)
    frame["body_part"] = [split(text)[1] for text in label]
    frame["abnormality"] = [split(text)[0] for text in label]
    frame["predicted"] = np.take(classes, shown.argmax(axis=1))
    return pd.concat([frame, pd.DataFrame(shown, columns=probability_columns(classes))], axis=1)


def both_splits(temperature=1.0, images=2000):
    """Validation and test."""
    return [planted(images, temperature, name, seed=n) for n, name in enumerate(SPLITS)]


def binary_by_sklearn(abnormality: pd.Series, p: pd.Series, threshold: float = 0.5) -> dict:
    """The binary metrics; NaN where rows of a kind are missing that a metric needs."""
    true, p = (abnormality == "Abnormal").to_numpy(), np.asarray(p, float)
    predicted = p > threshold
    both = true.any() and not true.all()
    undefined = {"zero_division": np.nan}
    fpr, tpr, _ = sk.roc_curve(true, p, drop_intermediate=False) if both else (np.nan,) * 3
    return {
        "accuracy": sk.accuracy_score(true, predicted),
        "kappa": sk.cohen_kappa_score(true, predicted) if len({*true, *predicted}) > 1 else np.nan,
        "balanced_accuracy": sk.balanced_accuracy_score(true, predicted) if both else np.nan,
        "sensitivity": sk.recall_score(true, predicted, **undefined),
        "specificity": sk.recall_score(~true, ~predicted, **undefined),
        "ppv": sk.precision_score(true, predicted, **undefined),
        "npv": sk.precision_score(~true, ~predicted, **undefined),
        "f1": sk.f1_score(true, predicted, **undefined),
        "mcc": sk.matthews_corrcoef(true, predicted) if both else np.nan,
        "auroc": sk.roc_auc_score(true, p) if both else np.nan,
        "partial_auroc": sk.roc_auc_score(true, p, max_fpr=0.1) if both else np.nan,
        "auprc": sk.average_precision_score(true, p) if true.any() else np.nan,
        "sensitivity_at_90_specificity": tpr[fpr <= 0.1 + 1e-12].max() if both else np.nan,
    }
