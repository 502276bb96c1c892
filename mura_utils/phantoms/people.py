"""Age and sex of the people whose phantoms are drawn; no pixel depends on them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_CHILD, _ADULT = (4, 17), (18, 95)
_WITHOUT_AGE, _WITHOUT_SEX = 0.1, 0.05
_STREAM = 1  # apart from the random numbers of the patient's images


class Person(NamedTuple):
    """What is written about one patient.

    Attributes:
        patient: as the folder is called.
        age: years; None where it is missing.
        sex: F or M; None where it is missing.
    """

    patient: str
    age: int | None
    sex: str | None


def describe_person(number: int, child: bool, abnormal: bool, effect: float, seed: int) -> Person:
    """Draw the age and the sex of one patient.

    Args:
        number: of the patient.
        child: whether the bones are a child's, 4 to 17 years old; adults are 18 to 95.
        abnormal: whether any of the patient's studies has a finding.
        effect: how strongly the age tells the finding, 0 to 1. At 0 it says nothing. At 1 those
            with a finding are the older half, of children and of adults alike.
        seed: of the set.

    Example:
        >>> describe_person(1, child=False, abnormal=True, effect=0, seed=0)
        Person(patient='patient00001', age=84, sex='M')
    """
    rng = np.random.default_rng([seed, number, _STREAM])
    low, high = _CHILD if child else _ADULT
    share = (1 - effect / 2) * rng.random() + effect / 2 * abnormal
    age, sex = int(low + share * (high + 1 - low)), str(rng.choice(["F", "M"]))
    known_age, known_sex = rng.random(2) >= (_WITHOUT_AGE, _WITHOUT_SEX)
    return Person(f"patient{number:05d}", age if known_age else None, sex if known_sex else None)
