"""The grammar of labels: ``Abnormal-ELBOW`` is an abnormality and a body part.

A table of predictions has one column of probabilities a class, ``p:Abnormal-ELBOW``.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

ABNORMAL, NORMAL = "Abnormal", "Normal"
_BETWEEN = "-"
_PROBABILITY = "p:"


def join(abnormality: str, body_part: str) -> str:
    """The label of the two.

    >>> join(ABNORMAL, "ELBOW")
    'Abnormal-ELBOW'
    """
    return f"{abnormality}{_BETWEEN}{body_part}"


def split(label: str) -> tuple[str, str]:
    """Abnormality and body part of a label; without a hyphen it is all abnormality.

    >>> split("Normal-WRIST")
    ('Normal', 'WRIST')
    """
    abnormality, _, part = label.partition(_BETWEEN)
    return abnormality, part


def body_part(label: str) -> str:
    """The body part of a label.

    >>> body_part("Normal-WRIST")
    'WRIST'
    """
    return split(label)[1]


def is_abnormal(label: str) -> bool:
    """Whether a label is that of an abnormal class.

    >>> is_abnormal("Abnormal-HAND"), is_abnormal("Normal-HAND")
    (True, False)
    """
    return split(label)[0] == ABNORMAL


def probability_columns(classes: Iterable[str]) -> list[str]:
    """The columns of a table of predictions that hold the probabilities of `classes`.

    >>> probability_columns(["Abnormal-HAND", "Normal-HAND"])
    ['p:Abnormal-HAND', 'p:Normal-HAND']
    """
    return [_PROBABILITY + label for label in classes]


def classes_of(predictions: pd.DataFrame) -> list[str]:
    """The classes whose probabilities a table of predictions holds, in the order of its columns.

    >>> classes_of(pd.DataFrame(columns=["path", "p:Abnormal-HAND", "p:Normal-HAND"]))
    ['Abnormal-HAND', 'Normal-HAND']
    """
    return [
        column.removeprefix(_PROBABILITY)
        for column in predictions.columns
        if column.startswith(_PROBABILITY)
    ]


def probabilities_of(predictions: pd.DataFrame) -> pd.DataFrame:
    """The probabilities of a table of predictions alone: float64, one column a class, so named.

    >>> probabilities_of(pd.DataFrame({"path": ["a.png"], "p:Normal-HAND": [1]}))
       Normal-HAND
    0          1.0
    """
    classes = classes_of(predictions)
    return predictions[probability_columns(classes)].astype(float).set_axis(classes, axis=1)


def p_abnormal(predictions: pd.DataFrame) -> pd.Series:
    """P(abnormal) of each image: the sum over the abnormal classes, whatever the body part.

    >>> row = {"p:Abnormal-HAND": 0.5, "p:Abnormal-WRIST": 0.25, "p:Normal-HAND": 0.25}
    >>> p_abnormal(pd.DataFrame([row])).tolist()
    [0.75]
    """
    probabilities = probabilities_of(predictions)
    abnormal = probabilities[[*filter(is_abnormal, probabilities)]]
    # Probabilities of float32 may add up to slightly more than 1.
    return abnormal.sum(axis=1).clip(upper=1).rename("p_abnormal")
