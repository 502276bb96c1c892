"""What is known of each study besides its label, to look for the groups in which a model errs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mura_utils.data.dataset import Images
from mura_utils.data.sources import load_attributes
from mura_utils.labels import ABNORMAL

ATTRIBUTES = {
    "body_part": "body part",
    "views": "images of the study",
    "megapixels": "size of the largest image, as stored, million pixels",
    "finding": "kind of the finding",
    "severity": "how visible the finding is",
    "lookalike": "what looks like a finding and is none",
    "finding_size": "largest share of an image that the finding covers",
    "hardware": "metal in the image",
    "cast": "plaster cast in the image",
    "projection": "frontal, lateral, oblique",
    "fractures": "fractures in the image",
    "diagnosis": "whether the readers were certain",
    "age": "age of the patient, years",
    "sex": "sex of the patient: F, M or O",
}
"""Columns of `study_attributes`, where a data set has them, and what they are."""

_BANDS = ["0-17 years", "18-39 years", "40-64 years", "from 65 years"]
_BAND_STARTS = [18, 40, 65]

_OF_FINDINGS = ("finding", "severity", "finding_size", "fractures")
_SEVERAL, _UNKNOWN = "several", "unknown"
_MOST_VALUES = 5  # of a number, before it is cut in three


def study_attributes(images: Images, positions: Sequence[int]) -> pd.DataFrame:
    """The attributes that the data set has, as text, one row a study.

    Images of a study that differ make the value "several"; of sizes and counts the largest is
    taken. Ages are cut into bands; another number with more than five values is cut into three
    groups of about as many studies.

    Args:
        images: of the run.
        positions: rows of the images whose studies are meant, such as those of test.

    Returns:
        Some of the columns `ATTRIBUTES`, in this order, indexed by study: "unknown" where the data
        set does not say, missing where there is no finding to describe. Where the data set's folder
        is gone, only what the manifest holds is known.

    Raises:
        UserError: a table or a mask of the data set cannot be read.
    """
    rows = images.rows.iloc[positions]
    by_image = pd.DataFrame(index=rows.index)
    if images.root.is_dir():
        said = load_attributes(images.source, images.root, rows["path"].tolist())
        by_image = said.set_axis(rows.index).assign(finding_size=_finding_sizes(images, rows))
    by_image["body_part"] = rows["body_part"]
    by_image["megapixels"] = (rows["width"] * rows["height"] / 1e6).where(rows["width"] > 0)
    studies = by_image.groupby(rows["study"])
    columns = {"views": _in_groups(studies.size())}
    for name, values in by_image.items():
        if name == "age":
            columns[name] = _in_bands(studies[name].max())
        elif pd.api.types.is_numeric_dtype(values):
            columns[name] = _in_groups(studies[name].max())
        else:
            once = studies[name].nunique() < 2
            columns[name] = studies[name].first().where(once, _SEVERAL)
    known = [name for name in ATTRIBUTES if name in columns and columns[name].notna().any()]
    return pd.DataFrame(
        {
            name: columns[name] if name in _OF_FINDINGS else columns[name].fillna(_UNKNOWN)
            for name in known
        }
    )


def _finding_sizes(images: Images, rows: pd.DataFrame) -> pd.Series:
    """The share of its image that each abnormal image's mask covers; missing without one."""
    sizes = pd.Series(np.nan, rows.index)
    for row in rows[rows["abnormality"] == ABNORMAL].itertuples():
        mask = images.mask(row.path)
        if mask is not None and mask.any():
            sizes[row.Index] = mask.mean()
    return sizes


def _in_bands(ages: pd.Series) -> pd.Series:
    """Ages as text: children, and three bands of adults.

    Example:
        >>> _in_bands(pd.Series([17.9, 18.0, 90.0, float("nan")])).tolist()
        ['0-17 years', '18-39 years', 'from 65 years', nan]
    """
    known = ages.dropna()
    return pd.Series(np.take(_BANDS, np.digitize(known, _BAND_STARTS)), known.index).reindex(
        ages.index
    )


def _in_groups(numbers: pd.Series) -> pd.Series:
    """Numbers as text: each of its own where there are few values, else thirds.

    Example:
        >>> _in_groups(pd.Series([1.0, 2.0, float("nan")])).tolist()
        ['1', '2', nan]
        >>> sorted(_in_groups(pd.Series(range(9))).unique())
        ['1: up to 2.67', '2: up to 5.33', '3: above 5.33']
    """
    known = numbers.dropna()
    if known.nunique() <= _MOST_VALUES:
        return known.map("{:.3g}".format).reindex(numbers.index)
    low, high = (f"{bound:.3g}" for bound in known.quantile([1 / 3, 2 / 3]))
    names = [f"1: up to {low}", f"2: up to {high}", f"3: above {high}"]
    thirds = np.digitize(known, known.quantile([1 / 3, 2 / 3]), right=True)
    return pd.Series(np.take(names, thirds), known.index).reindex(numbers.index)
