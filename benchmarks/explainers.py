"""How long each heat-map method takes, and how often its hottest pixel lies in the finding.

Abnormal test images of runs that have ended, drawn at random, of those with a mask; the target is
abnormal minus normal of the true body part. The first call of a method counts too: it traces. CPU
seconds add up over cores and hardly depend on what else the machine does.

    python benchmarks/explainers.py demo best_fracatlas-0 --images 48
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from _common import machine, options, run, say, say_head, say_row

from mura_utils.data.dataset import load_images
from mura_utils.errors import UserError
from mura_utils.experiments import data_root
from mura_utils.explain import METHODS, contrast_target, methods_of, score_heatmaps
from mura_utils.labels import ABNORMAL, classes_of
from mura_utils.network.build import load_model
from mura_utils.paths import read_table
from mura_utils.runs.record import find_run, is_tested, read_experiment


def measure(arguments: argparse.Namespace) -> None:
    """Print a table for each run."""
    for name in arguments.runs:
        folder = find_run(name)
        if not is_tested(folder):
            raise UserError(f"The run {name} has not completed 06_evaluation.")
        experiment = read_experiment(folder)
        rows = read_table(folder / "manifest.csv").merge(
            read_table(folder / "splits.csv"), on="path"
        )
        chosen = rows[(rows["split"] == "test") & (rows["abnormality"] == ABNORMAL)]
        count = 2 if arguments.quick else arguments.images
        chosen = chosen.sample(min(count, len(chosen)), random_state=0).reset_index(drop=True)
        images = load_images(
            data_root(experiment), chosen, experiment.image_size, experiment.resize, progress=False
        )
        classes = classes_of(read_table(folder / "predictions.csv"))
        target = contrast_target([classes.index(label) for label in chosen["label"]], classes)
        batch = images.pixels[..., np.newaxis].astype(np.float32)
        masks = [images.mask(path) for path in chosen["path"]]
        model = load_model(folder / "model.keras")
        say(f"\n{name}: {experiment.backbone}, {experiment.image_size} px, {len(batch)} images")
        say_head("method", "s", "CPU s", "hits", "energy in mask", "empty")
        for method in arguments.methods or methods_of(model):
            began = time.perf_counter(), time.process_time()
            maps = METHODS[method](model, batch, target)
            took = time.perf_counter() - began[0], time.process_time() - began[1]
            scores = score_heatmaps({(method, "contrast"): maps}, masks)
            means = scores[["pointing_game", "energy_in_mask"]].mean()
            cells = [f"{value:.3f}" for value in means]
            say_row(method, *(f"{value:.1f}" for value in took), *cells, str(scores["empty"].sum()))
        say_row("chance", "", "", f"{scores['chance'].mean():.3f}", "", "")
    say(f"\n{machine('tensorflow', 'keras', 'tf-keras-vis', 'lime', 'shap')}")


def main() -> None:
    """Read the command line."""
    parser = options(__doc__)
    parser.add_argument("runs", nargs="+", help="names in runs/, or folders")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="only these")
    run(parser, measure)


if __name__ == "__main__":
    main()
