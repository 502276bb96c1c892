"""Age and sex as numbers that a network reads beside the radiograph; what is missing says so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mura_utils.data.sources import load_attributes
from mura_utils.data.sources.table_columns import OLDEST
from mura_utils.errors import UserError, shown

SEXES = ("F", "M", "O")

COLUMNS = {
    "age": ["age", "age is missing"],
    "sex": [*(f"sex is {sex}" for sex in SEXES), "sex is missing"],
}
"""The columns that stand for each attribute, in the order of a network's input ``tabular``.

Age is (years - 50) / 25, which needs no statistics of the training images, and 0 where it is
missing; the others are 0 or 1."""

HIDDEN = 0.2
"""Share of the training images whose age is hidden in an epoch, and of those whose sex is.

A network must learn what "missing" means even where the training images lack nothing."""


@dataclass(frozen=True, eq=False)
class Tabular:
    """The attributes of some images as numbers.

    Attributes:
        names: of the attributes, such as age and sex.
        numbers: (N, F) float32, the `COLUMNS` of each of `names`.
    """

    names: tuple[str, ...]
    numbers: np.ndarray

    @property
    def hidden(self) -> Tabular:
        """The same images where all of it is missing."""
        return Tabular(self.names, np.tile(missing_values(self.names), (len(self.numbers), 1)))

    def hiding(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The values of some images (n, F), of which some ages and sexes are hidden: `HIDDEN`."""
        values = self.numbers[rows]
        missing, first = missing_values(self.names), 0
        for name in self.names:
            block = slice(first, first := first + len(COLUMNS[name]))
            values[rng.random(len(rows)) < HIDDEN, block] = missing[block]
        return values


def encode(names: Sequence[str], attributes: pd.DataFrame) -> Tabular:
    """Attributes of images as numbers.

    Args:
        names: some of `COLUMNS`.
        attributes: N rows; columns age (years, NaN is missing) and sex (one of `SEXES`, anything
            else is missing); a column that is absent is missing throughout.

    Example:
        >>> people = pd.DataFrame({"age": [75, None], "sex": ["F", None]})
        >>> encode(["age", "sex"], people).numbers.tolist()
        [[1.0, 0.0, 1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]]
    """
    said = attributes.reindex(columns=list(COLUMNS))
    age = pd.to_numeric(said["age"], errors="coerce").to_numpy(float)
    unknown = ~((age >= 0) & (age <= OLDEST))
    sex = said["sex"].to_numpy(object)[:, None] == np.array(SEXES, object)
    columns = {
        "age": np.column_stack([np.where(unknown, 0, (age - 50) / 25), unknown]),
        "sex": np.column_stack([sex, ~sex.any(axis=1)]),
    }
    return Tabular(tuple(names), np.hstack([columns[name] for name in names]).astype(np.float32))


def missing_values(names: Iterable[str]) -> np.ndarray:
    """What stands for an image of which nothing is known: (F,) float32."""
    return encode([*names], pd.DataFrame(index=[0])).numbers[0]


def load_tabular(names: Sequence[str], source: str, root: Path, paths: Sequence[str]) -> Tabular:
    """What a data set says of its images, as numbers.

    Args:
        names: some of `COLUMNS`.
        source: a name in `sources.SOURCES`.
        root: the data set's folder.
        paths: of N images, relative to `root`.

    Raises:
        UserError: the data set never says one of `names`; its table cannot be read.
    """
    attributes = load_attributes(source, root, paths)
    for name in names:
        if name not in attributes or attributes[name].isna().all():
            raise UserError(
                f"tabular = {shown([*names])}, but the data set {source} in {root} says the {name} "
                f"of none of these images: leave {name} out, or give data that says it."
            )
    return encode(names, attributes)


def require_person(age: float | None, sex: str | None) -> pd.DataFrame:
    """What a user says of one patient: one row with the columns age and sex.

    Raises:
        UserError: the age is no number of years from 0 to `OLDEST`; the sex is none of `SEXES`.
    """
    if age is not None and not 0 <= age <= OLDEST:
        raise UserError(f"--age {age:g}: give years from 0 to {OLDEST}, or leave it out.")
    if sex is not None and sex.upper() not in SEXES:
        raise UserError(f"--sex {shown(sex)}: give {', '.join(SEXES)}, or leave it out.")
    return pd.DataFrame({"age": [age], "sex": [sex and sex.upper()]})
