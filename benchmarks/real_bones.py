"""What runs on real radiographs find, and where they look: from runs that have ended, in seconds.

For each run and for the mean: AUROC of abnormal, kappa over all classes, and the sensitivity at the
threshold that **validation** images give for a specificity; then, from notebook 07's scores, how
often the hottest pixel of each map lies in the finding, over all and over the found and missed.

    mura run experiments/best_fracatlas.yaml -p split_seed=1 -p seed=1 --name best_fracatlas-1
    python benchmarks/real_bones.py best_fracatlas-0 best_fracatlas-1 best_fracatlas-2
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from _common import options, run, say, say_head, say_row

from mura_utils.errors import UserError
from mura_utils.evaluation import evaluate, evaluate_abnormality, operating_point
from mura_utils.labels import p_abnormal
from mura_utils.paths import read_table
from mura_utils.runs.record import find_run, is_tested


def judge(folder: Path, specificity: float, bootstrap: int) -> dict[str, dict]:
    """A run's metrics on its test images: value, low and high of each."""
    predictions = read_table(folder / "predictions.csv")
    test = predictions[predictions["split"] == "test"]
    validation = predictions[predictions["split"] == "validation"]
    p = p_abnormal(validation)
    threshold = operating_point(validation["abnormality"], p, "specificity", specificity)
    binary = evaluate_abnormality(
        test["abnormality"], p_abnormal(test), test["patient"], threshold, bootstrap
    )
    image = evaluate(test, threshold=0.5, bootstrap=bootstrap)["image"]
    return {
        "AUROC of abnormal": binary["auroc"],
        "kappa": image["kappa"],
        "accuracy": image["accuracy"],
        f"sensitivity at {specificity:.0%} on validation": binary["sensitivity"],
        "specificity there": binary["specificity"],
    }


def maps(folder: Path) -> pd.DataFrame:
    """Hits and energy of each map of notebook 07, with the chance level."""
    scores = pd.read_csv(folder / "explanations.csv").dropna(subset=["pointing_game"])
    right = scores["label"] == scores["predicted"]
    hit = scores["pointing_game"]
    scores = scores.assign(found=hit.where(right), missed=hit.where(~right))
    columns = ["pointing_game", "found", "missed", "energy_in_mask", "chance"]
    return scores.groupby(["method", "target"], sort=False)[columns].mean()


def measure(arguments: argparse.Namespace) -> None:
    """Print both tables."""
    folders = [find_run(name) for name in arguments.runs]
    for folder in folders:
        if not is_tested(folder):
            raise UserError(f"The run {folder.name} has not completed 06_evaluation.")
    bootstrap = 100 if arguments.quick else 1000
    judged = {f.name: judge(f, arguments.specificity, bootstrap) for f in folders}
    say_head("test images", *judged, "mean")
    for metric in next(iter(judged.values())):
        found = [metrics[metric] for metrics in judged.values()]
        cells = [f"{m['value']:.3f} [{m['low']:.3f}, {m['high']:.3f}]" for m in found]
        say_row(metric, *cells, f"{np.mean([m['value'] for m in found]):.3f}")
    explained = [maps(folder) for folder in folders if (folder / "explanations.csv").exists()]
    if explained:
        mean = pd.concat(explained).groupby(level=[0, 1], sort=False).mean()
        say(f"\nMaps, mean of {len(explained)} runs:\n")
        say_head("map", "target", "hits", "found", "missed", "energy in mask", "chance")
        for (method, target), row in mean.iterrows():
            say_row(method, target, *(f"{value:.3f}" for value in row))


def main() -> None:
    """Read the command line."""
    parser = options(__doc__)
    parser.add_argument("runs", nargs="+", help="names in runs/, or folders")
    parser.add_argument("--specificity", type=float, default=0.9)
    run(parser, measure)


if __name__ == "__main__":
    main()
