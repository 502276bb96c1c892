"""How long each heat-map method takes with all its scores, and how well it finds the finding.

Abnormal test images of runs that have ended, drawn at random, of those with a mask; the target is
abnormal minus normal of the true body part. IoU needs a threshold, which half as many validation
images choose, 12 at most; their maps count in a method's time. The first call of a method counts
too: it traces. CPU seconds add up over cores, and other processes change them less than seconds.

    python benchmarks/explainers.py demo best_fracatlas-0
    python benchmarks/explainers.py demo --images 20 --methods occlusion rise lime shap
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from _common import machine, options, run, say, say_head, say_row

from mura_utils.data.dataset import load_images
from mura_utils.errors import UserError
from mura_utils.experiments import Experiment, data_root
from mura_utils.explain import METHODS, contrast_target, methods_of, score_heatmaps
from mura_utils.explain.scores import SCORES, choose_level
from mura_utils.explain.targets import Target
from mura_utils.labels import ABNORMAL, classes_of
from mura_utils.network.build import load_model
from mura_utils.paths import read_table
from mura_utils.runs.record import find_run, is_tested, read_experiment

_SLOW = ("occlusion", "rise", "lime", "shap")  # they ask the network hundreds of times an image

Cases = tuple[np.ndarray, Target, list[np.ndarray]]
"""Images (N, S, S, 1), the question, masks."""


def measure(arguments: argparse.Namespace) -> None:
    """Print a table for each run."""
    for name in arguments.runs:
        folder = find_run(name)
        if not is_tested(folder):
            raise UserError(f"The run {name} has not completed 06_evaluation.")
        experiment = read_experiment(folder)
        count = 2 if arguments.quick else arguments.images
        tested = draw(folder, experiment, "test", count)
        known = draw(folder, experiment, "validation", min(12, -(-count // 2)))
        model = load_model(folder / "model.keras")
        quick = [method for method in methods_of(model) if method not in _SLOW]
        size = f"{experiment.image_size} px, {len(tested[0])} test images with a mask"
        say(f"\n{name}: {experiment.backbone}, {size}, {len(known[0])} of validation")
        say_head("method", "s", "CPU s", *SCORES, "empty")
        totals = np.zeros(2)
        for method in arguments.methods or quick:
            began = np.array([time.perf_counter(), time.process_time()])
            scores = score(method, model, tested, known)
            took = np.array([time.perf_counter(), time.process_time()]) - began
            totals += took
            means = [f"{value:.3f}" for value in scores[SCORES].mean()]
            say_row(method, *(f"{value:.1f}" for value in took), *means, str(scores["empty"].sum()))
        say_row("all of them", *(f"{value:.0f}" for value in totals), *[""] * (len(SCORES) + 1))
        say(f"\nchance: {scores['chance'].mean():.4f}")
    say(f"\n{machine('tensorflow', 'keras', 'tf-keras-vis', 'lime', 'shap')}")


def draw(folder: Path, experiment: Experiment, split: str, count: int) -> Cases:
    """At most `count` abnormal images of a split, of those with a mask."""
    rows = read_table(folder / "manifest.csv").merge(read_table(folder / "splits.csv"), on="path")
    rows = rows[(rows["split"] == split) & (rows["abnormality"] == ABNORMAL)]
    rows = rows.sample(frac=1, random_state=0).reset_index(drop=True)
    images = load_images(
        data_root(experiment), rows, experiment.image_size, experiment.resize, progress=False
    )
    masks = {row: images.mask(path) for row, path in enumerate(rows["path"])}
    chosen = [row for row, mask in masks.items() if mask is not None and mask.any()][:count]
    classes = classes_of(read_table(folder / "predictions.csv"))
    target = contrast_target([classes.index(rows["label"][row]) for row in chosen], classes)
    batch = images.pixels[chosen][..., np.newaxis].astype(np.float32)
    return batch, target, [masks[row] for row in chosen]


def score(method: str, model: keras.Model, tested: Cases, known: Cases) -> pd.DataFrame:
    """All scores of one method, as `score_heatmaps` gives them."""
    make, key = METHODS[method], (method, "contrast")
    images, target, masks = known
    levels = {key: choose_level(make(model, images, target), masks)} if masks else None
    images, target, masks = tested
    return score_heatmaps({key: make(model, images, target)}, masks, levels)


def main() -> None:
    """Read the command line."""
    parser = options(__doc__)
    parser.add_argument("runs", nargs="+", help="names in runs/, or folders")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="instead of the fast ones")
    run(parser, measure)


if __name__ == "__main__":
    main()
