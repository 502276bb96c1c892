"""Which change buys what: a recipe, and the same without one of its parts at a time.

Each is run with several seeds, which are those of the split too, through notebooks 01 to 06. A run
that has ended, under its name in runs/, is not made again: start the same command after an
interruption. Each change is written to ``benchmarks/ablation.csv`` as soon as its seeds have ended.

    python benchmarks/ablation.py --seeds 3 -p data_dir=data/FracAtlas
    python benchmarks/ablation.py --seeds 2 -p data_dir=data/FracAtlas -p image_size=224 -p epochs=6

Without their ImageNet weights, all layers are trained: random ones that stay frozen learn nothing.
A second look needs stored close-ups and masks: without these, or without augmentation, it goes too.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pandas as pd
from _common import options, positive, run, say, say_head, say_row
from _removals import WHOLE, removals

from mura_utils.errors import UserError
from mura_utils.evaluation.ablation import ablation_table, metric_samples, summarize
from mura_utils.evaluation.operating_points import operating_point
from mura_utils.experiments import Experiment, load_experiment, parse_assignment
from mura_utils.labels import p_abnormal
from mura_utils.paths import REPOSITORY, read_table, runs_dir, write_csv
from mura_utils.runs.pipeline import run_experiment
from mura_utils.runs.record import completed, is_tested, read_experiment
from mura_utils.terminal import print_log_lines


def tested_run(experiment: Experiment) -> Path:
    """The folder of this experiment, run to notebook 06 where it has not been.

    Raises:
        UserError: a run of its name was made with other parameters, or a notebook stopped.
    """
    folder = runs_dir() / experiment.name
    known = (folder / "state.json").is_file() and read_experiment(folder) == experiment
    if known and is_tested(folder):
        return folder
    done = len(completed(folder)) if known else 0
    start = f"{done + 1:02d}"
    return run_experiment(experiment, start, "06", overwrite=known and not done, progress=False)


def samples_of(folder: Path, specificity: float, bootstrap: int) -> pd.DataFrame:
    """A run's metrics on its test images, at the threshold that its validation images give."""
    predictions = read_table(folder / "predictions.csv")
    validation = predictions[predictions["split"] == "validation"]
    p = p_abnormal(validation)
    threshold = operating_point(validation["abnormality"], p, "specificity", specificity)
    return metric_samples(predictions[predictions["split"] == "test"], threshold, bootstrap)


def measure(arguments: argparse.Namespace) -> None:
    """Run what is missing, write the table after each change, and print it at the end."""
    print_log_lines()
    values = dict(map(parse_assignment, arguments.parameters))
    if arguments.quick:
        values |= {"image_size": 64, "epochs": 2, "warmup_epochs": 0}
    changes = removals(load_experiment(arguments.experiment, **values))
    chosen = [WHOLE, *arguments.only] if arguments.only else list(changes)
    unknown = set(chosen) - changes.keys()
    if unknown:
        raise UserError(f"--only {', '.join(unknown)}: give one of {', '.join(changes)}.")
    samples: dict[str, dict[int, pd.DataFrame]] = {}
    for change in dict.fromkeys(chosen):
        word = re.sub(r"\W+", "-", change)
        samples[change] = {}
        for seed in range(arguments.seeds):
            own = {"name": f"{arguments.name}-{word}-seed{seed}", "seed": seed, "split_seed": seed}
            parameters = values | changes[change] | own
            folder = tested_run(load_experiment(arguments.experiment, **parameters))
            bootstrap = 100 if arguments.quick else 1000
            samples[change][seed] = samples_of(folder, arguments.specificity, bootstrap)
        write_csv(arguments.out, summarize(samples))
    table = ablation_table(summarize(samples))
    say(f"\nMean of {arguments.seeds} split(s) and seed(s), 95% over patients and seeds:")
    say_head("", *table.columns)
    for change, row in table.iterrows():
        say_row(str(change), *row)


def main() -> None:
    """Read the command line."""
    parser = options(__doc__)
    parser.add_argument("experiment", nargs="?", default="best_fracatlas", help="a file, or a name")
    parser.add_argument("--seeds", type=positive, default=3, help="how many, from 0 on")
    parser.add_argument("-p", dest="parameters", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--only", action="append", metavar="CHANGE", help="leave the others out")
    parser.add_argument("--name", default="ablation", help="what the runs' names begin with")
    parser.add_argument("--specificity", type=float, default=0.9, help="on validation")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "ablation.csv")
    run(parser, measure)


if __name__ == "__main__":
    main()
