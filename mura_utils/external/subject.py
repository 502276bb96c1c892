"""A trained run or ensemble under test: its networks, its threshold, the images it has seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from mura_utils.data.dataset import load_images
from mura_utils.paths import read_table
from mura_utils.predictor import load_network
from mura_utils.runs.ensemble import (
    Member,
    Networks,
    Rules,
    networks_of,
    read_ensemble,
    read_member,
)
from mura_utils.runs.record import images_of, is_ensemble, is_tested
from mura_utils.terminal import hide_bars

_BATCHES_AT_ONCE = 16  # between two steps of the progress bar


@dataclass(frozen=True)
class Subject:
    """A trained run, or an ensemble.

    Attributes:
        folder: where it is.
        networks: whose mean is its answer.
        members: the run itself, or those of the ensemble; they share images, labels and split.
    """

    folder: Path
    networks: Networks
    members: tuple[Member, ...]

    @classmethod
    def of(cls, folder: Path) -> Subject:
        """Read it from its folder.

        Raises:
            UserError: its record is damaged, or a member is not the one that it was made of.
        """
        members = read_ensemble(folder).members if is_ensemble(folder) else (read_member(folder),)
        return cls(folder, networks_of(folder), members)

    @cached_property
    def rules(self) -> Rules:
        """Its threshold, above which P(abnormal) is called abnormal."""
        return Rules.of(self.folder, self.networks)

    @cached_property
    def images(self) -> pd.DataFrame:
        """Its manifest, with the split of each image."""
        return images_of(self.members[0].folder)

    def test_predictions(self) -> pd.DataFrame | None:
        """What it has answered on its own test split; None where 06_evaluation is not complete."""
        if not is_tested(self.folder):
            return None
        predictions = read_table(self.folder / "predictions.csv")
        return predictions[predictions["split"] == "test"]

    def answer(self, root: Path, rows: pd.DataFrame, progress: bool = True) -> np.ndarray:
        """Probabilities of images, batch by batch, from the pixel cache.

        Args:
            root: folder that the rows' paths are relative to.
            rows: N rows with path and sha256.
            progress: show progress bars.

        Returns:
            (N, K) float32, in the order of `networks.classes`.

        Raises:
            UserError: a model cannot be loaded, or has other classes; a file changed meanwhile.
        """
        answers = [
            np.concatenate([*self._answers_of(number, root, rows, progress)])
            for number in range(len(self.networks.files))
        ]
        return np.mean(answers, axis=0, dtype=float).astype(np.float32)

    def _answers_of(
        self, number: int, root: Path, rows: pd.DataFrame, progress: bool
    ) -> Iterator[np.ndarray]:
        """The probabilities that one network gives, over mirror images as well if need be."""
        file, how = self.networks.files[number], self.networks.resize[number]
        names, twice = self.networks.tabular[number], self.networks.second_look[number]
        from mura_utils.network.second_look import answer

        model = load_network(self.networks, number)
        size = model.inputs[0].shape[1]
        images = load_images(root, rows, size, how, progress, names)
        batch_size = self.members[0].experiment.batch_size
        together = batch_size * _BATCHES_AT_ONCE
        starts = range(0, len(rows), together)
        for start in tqdm(starts, f"predicting, {file.parent.name}", disable=hide_bars(progress)):
            at = np.arange(start, min(start + together, len(rows)))
            sides = (False, True) if self.networks.flip else (False,)
            found = [answer(model, images, at, batch_size, side, twice) for side in sides]
            yield np.mean(found, axis=0, dtype=float)
