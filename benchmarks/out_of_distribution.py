"""Whether runs notice images that are no bone radiograph: 200 of them, of eight kinds.

The limit is what notebook 06 sets: 5 % of the validation images are above it. The eighth kind are
bone radiographs of another world: phantoms for a run on radiographs; for a run on phantoms those of
the folder `--radiographs`. For comparison the maximum probability and the energy (Liu et al. 2020)
with limits of the same kind.

    python benchmarks/out_of_distribution.py demo best_fracatlas-0 --radiographs data/FracAtlas
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from _common import options, run, say, say_head, say_row
from scipy.special import logsumexp

from mura_utils import evaluation, frozen
from mura_utils.data.dataset import Images, load_images
from mura_utils.data.images import read_image
from mura_utils.data.sources import open_source
from mura_utils.data.squares import resize
from mura_utils.errors import UserError
from mura_utils.experiments import Experiment, data_root
from mura_utils.network.build import load_model
from mura_utils.network.heads import LOGITS
from mura_utils.paths import read_table
from mura_utils.phantoms.dataset import BODY_PARTS, draw_case
from mura_utils.phantoms.foreign import foreign_images
from mura_utils.runs.record import find_run, is_tested, read_experiment

_EACH = 25
_NAMES = ("distance of features", "energy", "maximum probability")


def other_bones(source: str, radiographs: Path | None) -> list[np.ndarray]:
    """Bone radiographs that a run on this source has not seen the like of.

    Raises:
        UserError: the run is on phantoms, and no radiographs are given.
    """
    if source != "phantom":
        parts = np.resize(BODY_PARTS, _EACH)
        return [
            draw_case(np.random.default_rng(n), part, "fracture", abnormal=n % 2 == 0)[0]
            for n, part in enumerate(parts)
        ]
    if radiographs is None:
        raise UserError("A run on phantoms needs --radiographs, the folder of a real data set.")
    listed = open_source(radiographs)
    drawn = listed.rows["path"].sample(_EACH, random_state=0)
    return [read_image(radiographs / path) for path in drawn]


def images_of(folder: Path, experiment: Experiment) -> Images:
    """A run's images."""
    rows = read_table(folder / "manifest.csv").merge(read_table(folder / "splits.csv"), on="path")
    return load_images(data_root(experiment), rows, experiment.image_size, experiment.resize)


def judge(folder: Path, radiographs: Path | None) -> pd.DataFrame:
    """Share of images above each score's limit: rows are kinds, test first; columns are scores."""
    experiment = read_experiment(folder)
    images = images_of(folder, experiment)
    model = load_model(folder / "model.keras")
    layers = frozen.pooled_layers(model, experiment.backbone)
    rows, features = frozen.pooled_features(model, images, experiment)
    split = images.rows["split"].to_numpy()[rows]
    familiar = evaluation.fit_familiarity(
        layers, features[split == "train"], features[split == "validation"]
    )
    say(f"{folder.name}: {', '.join(layers)}, {features.shape[1]} features, {len(rows):,} images")

    test = images.rows[images.rows["split"] == "test"]["path"].head(_EACH)
    found = foreign_images([read_image(images.root / path) for path in test], _EACH)
    found["other bones"] = other_bones(images.source, radiographs)
    kinds = np.repeat([*found], [len(kind) for kind in found.values()])
    squares = [
        resize(image, images.size, images.resize) for kind in found.values() for image in kind
    ]
    whole = frozen.with_pooled(model, layers)
    answers = keras.Model(whole.input, [model.get_layer(LOGITS).output, whole.outputs[-1]])
    logits, foreign = answers.predict(np.stack(squares)[..., None], batch_size=16, verbose=0)
    scores = {_NAMES[0]: np.concatenate([familiar.scores(each) for each in (features, foreign)])}
    held_out = rows[split != "train"]
    known = keras.Model(model.input, model.get_layer(LOGITS).output).predict(
        images.pixels[held_out][..., None], batch_size=16, verbose=0
    )
    blank = np.full((np.sum(split == "train"), logits.shape[1]), np.nan)
    logits = np.concatenate([blank, known, logits])
    scores[_NAMES[1]] = -logsumexp(logits, axis=1)
    scores[_NAMES[2]] = -np.exp(logits.max(axis=1) + scores[_NAMES[1]])
    groups = np.concatenate([split, kinds])
    table = {}
    for name, score in scores.items():
        limit = np.quantile(score[groups == "validation"], 0.95, method="higher")
        above = pd.Series(score > limit).groupby(groups, sort=False).mean()
        above["all foreign"] = np.mean(score[len(rows) :] > limit)
        table[name] = above.drop(["train", "validation"])
    return pd.DataFrame(table)


def measure(arguments: argparse.Namespace) -> None:
    """Print a table for each run."""
    folders = [find_run(name) for name in arguments.runs]
    for folder in folders:
        if not is_tested(folder):
            raise UserError(f"The run {folder.name} has not completed 06_evaluation.")
    for folder in folders:
        table = judge(folder, arguments.radiographs)
        say_head(f"share flagged, {folder.name}", *table)
        for kind, row in table.iterrows():
            say_row(kind, *(f"{value:.3f}" for value in row))
        say("")


def main() -> None:
    """Read the command line."""
    parser = options(__doc__)
    parser.add_argument("runs", nargs="+", help="names in runs/, or folders")
    parser.add_argument("--radiographs", type=Path, help="a real data set, for runs on phantoms")
    run(parser, measure)


if __name__ == "__main__":
    main()
