"""The images of a run: rows of its tables and pixels, one object for all that works on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd


@dataclass(frozen=True, eq=False)
class Images:
    """The admitted images of a run, row for row.

    Attributes:
        root: the data set's folder, which the rows' paths are relative to.
        rows: N rows, the manifest joined with the column split, indexed from 0.
        pixels: (N, S, S) uint8, as returned by `pixels.load_pixels`.

    Raises:
        ValueError: `rows` and `pixels` differ in length.

    Example:
        >>> rows = pd.DataFrame({"label": ["Normal", "Abnormal"], "split": ["test", "train"]})
        >>> images = Images(Path("MURA-v1.1"), rows, np.zeros((2, 32, 32), np.uint8))
        >>> len(images), images.size, images.classes, images.positions("train").tolist()
        (2, 32, ['Abnormal', 'Normal'], [1])
    """

    root: Path
    rows: pd.DataFrame
    pixels: np.ndarray

    def __post_init__(self) -> None:
        """Refuse rows and pixels of different images."""
        if len(self.rows) != len(self.pixels):
            raise ValueError(f"{len(self.rows)} rows for {len(self.pixels)} images")

    def __len__(self) -> int:
        """N."""
        return len(self.rows)

    @property
    def size(self) -> int:
        """Side of the square images, in pixels."""
        return self.pixels.shape[1]

    @property
    def source(self) -> str:
        """The data source, by its name in `data.sources`."""
        return self.rows["source"].iloc[0]

    @property
    def classes(self) -> list[str]:
        """The K labels that the rows have, sorted: the order of a network's outputs."""
        return sorted(self.rows["label"].unique())

    @property
    def one_hot(self) -> np.ndarray:
        """(N, K) float32, 1 in the column of a row's class."""
        labels = self.rows["label"].to_numpy()
        return (labels[:, None] == np.array(self.classes)).astype(np.float32)

    def positions(self, *splits: str) -> np.ndarray:
        """Positions of the rows whose split is one of `splits`, in order."""
        return np.flatnonzero(self.rows["split"].isin(splits))
