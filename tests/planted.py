"""Predictions whose truth is planted: how well calibrated and how related they are is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import softmax

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
