"""The images of a run as one object: what belongs to a row stands in its row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mura_utils.data.dataset import Images

ROWS = pd.DataFrame(
    {
        "source": "phantom",
        "label": ["Normal-HAND", "Abnormal-WRIST", "Normal-HAND", "Abnormal-HAND"],
        "split": ["test", "train", "validation", "train"],
    }
)


def images(rows=ROWS, count=4):
    return Images(Path("phantom"), rows, np.zeros((count, 24, 24), np.uint8))


def test_classes_are_sorted_and_each_row_has_a_one_in_its_own():
    assert images().classes == ["Abnormal-HAND", "Abnormal-WRIST", "Normal-HAND"]
    assert images().one_hot.dtype == np.float32
    assert images().one_hot.tolist() == [[0, 0, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0]]


def test_positions_are_those_of_any_of_the_splits_in_order():
    assert images().positions("train").tolist() == [1, 3]
    assert images().positions("test", "validation").tolist() == [0, 2]
    shuffled = ROWS.sample(frac=1, random_state=1)  # an index is no position
    expected = np.flatnonzero(shuffled["split"] == "train").tolist()
    assert images(shuffled).positions("train").tolist() == expected != [1, 3]


def test_length_size_and_source_are_those_of_the_images():
    assert (len(images()), images().size, images().source) == (4, 24, "phantom")


def test_rows_and_pixels_of_different_images_are_refused():
    with pytest.raises(ValueError, match="4 rows for 3 images"):
        images(count=3)
