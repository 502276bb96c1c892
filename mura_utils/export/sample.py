"""Some of a run's images, as its network takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from mura_utils.data.images import read_image
from mura_utils.data.squares import resize
from mura_utils.errors import UserError
from mura_utils.experiments import data_root
from mura_utils.runs.ensemble import read_ensemble
from mura_utils.runs.record import images_of, is_ensemble, read_experiment


def rows_of(folder: Path, split: str) -> tuple[Path, pd.DataFrame]:
    """The data set's folder, and the manifest's rows of a split.

    Args:
        folder: of a trained run, or of an ensemble: its members share images and split.
        split: train, validation or test.
    """
    own = read_ensemble(folder).members[0].folder if is_ensemble(folder) else folder
    rows = images_of(own).query("split == @split")
    return data_root(read_experiment(own)), rows.reset_index(drop=True)


def draw_images(folder: Path, split: str, count: int, size: int, how: str) -> np.ndarray:
    """Images of a split, drawn at random, the same in each call.

    Args:
        folder: see `rows_of`.
        split: see `rows_of`.
        count: how many, at most.
        size: side of the squares, in pixels.
        how: they become squares, see `data.squares.resize`.

    Returns:
        (N, size, size, 1) float32 in 0-255.

    Raises:
        UserError: the split is empty; an image is missing or damaged.
    """
    root, rows = rows_of(folder, split)
    if rows.empty:
        raise UserError(f"{folder / 'splits.csv'} names no {split} images: run 03 again.")
    drawn = rows.sample(min(count, len(rows)), random_state=0)
    squares = [resize(read_image(root / path), size, how) for path in drawn["path"]]
    return np.stack(squares)[..., None].astype(np.float32)
