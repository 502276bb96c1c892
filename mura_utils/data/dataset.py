"""The images of a run: rows of its tables and pixels, one object for all that works on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from mura_utils.data.pixels import load_pixels
from mura_utils.data.sources import load_mask
from mura_utils.data.squares import resize_mask
from mura_utils.data.tabular import Tabular, load_tabular
from mura_utils.errors import UserError
from mura_utils.labels import ABNORMAL


@dataclass(frozen=True, eq=False)
class Masks:
    """Where findings are, for every image: a map, nothing, or unknown.

    Attributes:
        maps: (M, S, S) uint8, 1 where a finding is.
        places: (N,) the map of each image; `EMPTY` where there is no finding, `UNKNOWN` where that
            is unknown.
    """

    EMPTY: ClassVar[int] = -1
    UNKNOWN: ClassVar[int] = -2

    maps: np.ndarray
    places: np.ndarray

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The masks of some images: (n, S, S) uint8, and (n,) bool, false where it is unknown."""
        places = self.places[rows]
        taken = np.zeros((len(rows), *self.maps.shape[1:]), np.uint8)
        taken[places >= 0] = self.maps[places[places >= 0]]
        return taken, places != self.UNKNOWN

    def describe(self, rows: np.ndarray) -> str:
        """Count what there is for some images."""
        places = self.places[rows]
        mapped, empty, unknown = (
            int(n.sum()) for n in (places >= 0, places == self.EMPTY, places == self.UNKNOWN)
        )
        return f"{mapped:,} masks, {empty:,} images without a finding, {unknown:,} unknown"


@dataclass(frozen=True, eq=False)
class Images:
    """The admitted images of a run, row for row.

    Attributes:
        root: the data set's folder, which the rows' paths are relative to.
        rows: N rows, the manifest joined with the column split, indexed from 0.
        pixels: (N, S, S) uint8, as returned by `pixels.load_pixels`.
        resize: how they became squares, see `squares.resize`.
        tabular: their age and sex, row for row, where a network reads them.

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
    resize: str = "stretch"
    tabular: Tabular | None = None

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

    def inputs(self, rows: np.ndarray, pixels: np.ndarray | None = None) -> Any:
        """What a network of this run reads of some images.

        Args:
            rows: (n,) positions.
            pixels: (n, S, S) to read instead of theirs, such as mirror images.

        Returns:
            Gray values (n, S, S, 1); with `tabular` a list of them and its values (n, F).
        """
        gray = (self.pixels[rows] if pixels is None else pixels)[..., np.newaxis]
        return gray if self.tabular is None else [gray, self.tabular.numbers[rows]]

    def pixels_at(self, size: int) -> np.ndarray:
        """All images at another size: (N, size, size) uint8, decoded once.

        Raises:
            UserError, ImageFault: as `pixels.load_pixels`.
        """
        return load_pixels(self.root, self.rows, size, resize=self.resize)

    def mask(self, path: str) -> np.ndarray | None:
        """Where an image's finding is: (S, S) bool, in the square of `pixels`; None without one.

        Raises:
            UserError: the mask cannot be read.
        """
        mask = load_mask(self.source, self.root, path)
        return None if mask is None else resize_mask(mask, self.size, self.resize)

    def require_masks(self, positions: np.ndarray) -> None:
        """Refuse images that have no mask to learn from; reads until it finds one.

        Raises:
            UserError: none of the images has a mask, or one cannot be read.
        """
        rows = self.rows.iloc[positions]
        found = map(self.mask, rows.loc[rows["abnormality"] == ABNORMAL, "path"])
        if not any(mask is not None and mask.any() for mask in found):
            raise UserError(
                f"No training image of {self.source} has a mask to learn from: give "
                "mask_supervision = 0 and second_look = false, or data with masks."
            )

    def masks(self, positions: np.ndarray) -> Masks:
        """The masks of some images; the others' are unknown.

        Empty where an image is normal; unknown where it is abnormal and has no mask.

        Raises:
            UserError: a mask cannot be read.
        """
        maps = []
        places = np.full(len(self), Masks.UNKNOWN)
        for position in positions:
            row = self.rows.iloc[position]
            if row["abnormality"] != ABNORMAL:
                places[position] = Masks.EMPTY
                continue
            mask = self.mask(row["path"])
            if mask is not None and mask.any():
                places[position] = len(maps)
                maps.append(mask.astype(np.uint8))
        empty = np.zeros((0, self.size, self.size), np.uint8)
        return Masks(np.stack(maps) if maps else empty, places)


def load_images(
    root: Path,
    rows: pd.DataFrame,
    size: int,
    resize: str = "stretch",
    progress: bool = True,
    tabular: Sequence[str] = (),
) -> Images:
    """The images of a manifest with their split, decoded and resized once.

    Args:
        root: the data set's folder.
        rows: as of `Images`, with path and sha256.
        size: side of the square images, in pixels.
        resize: how they become squares, see `squares.resize`.
        progress: show a progress bar while decoding.
        tabular: what is read of their patients besides, see `tabular.COLUMNS`.

    Raises:
        UserError, ImageFault: as `pixels.load_pixels`.
        UserError: as `tabular.load_tabular`.
    """
    pixels = load_pixels(root, rows, size, progress=progress, resize=resize)
    images = Images(root, rows, pixels, resize)
    if not tabular or rows.empty:
        return images
    said = load_tabular(tabular, images.source, root, rows["path"].tolist())
    return replace(images, tabular=said)
