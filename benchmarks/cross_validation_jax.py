"""Cross-validate changes of best_fracatlas on a GPU that has JAX, where a training takes seconds.

The images of training and validation of one run are cut into folds by patient; the test split is
never read. For each change and seed, a network is trained on all folds but one and answers that
one, until every image has an answer. Needs a run that has its split (`mura run … --to 03`), JAX
beside the package's requirements, and no TensorFlow.

    mura run experiments/best_fracatlas.yaml -p data_dir=data/FracAtlas --to 03
    python benchmarks/cross_validation_jax.py best_fracatlas --seeds 4 \\
        "" image_size=448 "image_size=448 views=28" backbone=efficientnet_lite2
    python benchmarks/cross_validation_jax.py best_fracatlas --ablation --seeds 3

A change is one parameter of the experiment, or several with spaces between them; ``--ablation``
takes one part of the recipe away at a time, as ``ablation.py`` does, and writes
``benchmarks/ablation.csv``. Answers are kept in the run's folder ``cross_validation``, and what is
there is not computed again: several processes with other changes (``--only``) can share a GPU, and
a last one that names the whole recipe ("all together") and others writes their table.

It trains as `mura run` does, but computes the frozen part again at each step, and a last batch that
is not full is left out; precision, kernels and early stopping are not used.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _removals import WHOLE, removals
from _trainer_jax import Squares, Trainer
from sklearn.metrics import cohen_kappa_score, log_loss, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from mura_utils.errors import UserError
from mura_utils.evaluation.ablation import ablation_table, metric_samples, summarize
from mura_utils.evaluation.operating_points import operating_point
from mura_utils.evaluation.predictions import predictions_frame
from mura_utils.experiments import Experiment, load_experiment, parse_assignment
from mura_utils.labels import ABNORMAL, classes_of, p_abnormal, probabilities_of
from mura_utils.paths import REPOSITORY, read_table, write_csv
from mura_utils.runs.record import find_run, images_of, read_record, refuse_changes, require

_SPECIFICITY = 0.9  # which the threshold of the ablation table has, over all answers of a network
_NEEDED = {
    "schedule": "cosine",
    "keep_epoch": "last",
    "sampling": "natural",
    "class_weights": False,
    "focal_gamma": 0.0,
    "label_smoothing": 0.0,
    "tabular": [],
    "l1": 0.0,
    "l2": 0.0,
}  # what this script trains with, as best_fracatlas does
_OUTSIDE = {
    "augment": True,
    "cache_features": "auto",
    "epochs": 1,
    "mask_supervision": 0.0,
    "resize": "pad",
    "second_look": False,
    "seed": 0,
    "views": 1,
}  # what a compiled step does not depend on


def judge(answers: pd.DataFrame) -> str:
    """Metrics of answers to all images."""
    abnormal, p = answers["abnormality"] == ABNORMAL, p_abnormal(answers).clip(0, 1)
    metrics = {
        "AUROC": roc_auc_score(abnormal, p),
        "log loss": log_loss(abnormal, p),
        "kappa": cohen_kappa_score(answers["label"], answers["predicted"]),
        "hits": answers["hit"].mean(),
    }
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def changed(folder: Path, values: dict[str, Any]) -> Experiment:
    """The run's experiment with a change.

    Raises:
        UserError: it cannot be read, concerns the data, or is not what this script trains with.
    """
    experiment = load_experiment(folder / "experiment.yaml", **values)
    refuse_changes(experiment.model_dump(), read_record(folder), folder.name, "04")
    for name, needed in _NEEDED.items():
        value = getattr(experiment, name)
        if value != needed:
            raise UserError(f"{name} = {value!r}: this script trains with {needed!r} only.")
    return experiment


class CrossValidation:
    """Answers of networks that have not seen the image, of one run's images outside its test."""

    def __init__(self, folder: Path, folds: int) -> None:
        """Choose the folds."""
        rows = images_of(folder)
        self.folder = folder
        self.rows = rows[rows["split"] != "test"].reset_index(drop=True)
        split = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
        labels, patients = self.rows["label"], self.rows["patient"]
        self.parts = [part for _, part in split.split(self.rows, labels, patients)]
        self._squares: dict[tuple, Squares] = {}
        self._trainers: dict[str, Trainer] = {}

    def answers(self, experiment: Experiment, seed: int) -> pd.DataFrame:
        """As predictions.csv, with the column `hit`; computed where they are not there."""
        told = experiment.model_copy(update={"seed": seed, "name": ""}).model_dump_json()
        rows = self.rows[["path", "patient", "label"]].to_csv(index=False)
        of_what = f"{len(self.parts)} {told} {rows}"
        digest = hashlib.sha256(of_what.encode()).hexdigest()[:16]
        path = self.folder / "cross_validation" / f"{digest}.csv"
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            write_csv(path, self._compute(experiment, seed))
        return read_table(path)

    def _compute(self, experiment: Experiment, seed: int) -> pd.DataFrame:
        shape = (experiment.image_size, experiment.resize)
        if shape not in self._squares:
            self._squares = {shape: Squares.read(experiment, self.rows)}
        squares = self._squares[shape]
        classes = squares.images.classes
        graph = experiment.model_copy(update=_OUTSIDE)
        key = graph.model_dump_json()
        if key not in self._trainers:
            self._trainers[key] = Trainer(graph, classes)
        trainer = self._trainers[key]
        answers, hits = np.empty((len(self.rows), len(classes))), np.empty(len(self.rows))
        for part in self.parts:
            others = np.setdiff1d(np.arange(len(self.rows)), part)
            state = trainer.train(experiment, squares, others, seed)
            twice = experiment.second_look
            answers[part], hits[part] = trainer.answer(state, squares, part, twice)
        return predictions_frame(self.rows, classes, answers.clip(0, 1)).assign(hit=hits)


def mean_answers(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Of several networks; `hit` is the share of them that hit."""
    probabilities = np.mean([probabilities_of(table) for table in tables], axis=0)
    hits = np.mean([table["hit"] for table in tables], axis=0)
    first = tables[0]
    return predictions_frame(first, classes_of(first), probabilities).assign(hit=hits)


def samples_of(answers: pd.DataFrame) -> pd.DataFrame:
    """Metrics and resamples, at the threshold that has `_SPECIFICITY` over all answers."""
    p = p_abnormal(answers)
    threshold = operating_point(answers["abnormality"], p, "specificity", _SPECIFICITY)
    return metric_samples(answers, threshold, 1000).drop(columns="specificity")


def measure(arguments: argparse.Namespace) -> None:
    """Print a row for each change and seed as it comes, and one for the mean of its networks."""
    if arguments.seeds < 1 or arguments.folds < 2:
        raise UserError("Give --seeds 1 or more, and --folds 2 or more.")
    if arguments.only and not arguments.ablation:
        raise UserError("--only chooses among the changes of --ablation: give that as well.")
    folder = find_run(arguments.run)
    require(folder, "04_data_transformation")
    values = dict(map(parse_assignment, arguments.parameters))
    if arguments.ablation:
        changes = removals(changed(folder, values))
    else:
        changes = {text: _parsed(text) for text in arguments.changes}
    only = arguments.only or list(changes)
    chosen = [change for change in changes if change in only]
    unknown = set(only) - changes.keys()
    if unknown:
        raise UserError(f"--only {', '.join(unknown)}: give one of {', '.join(changes)}.")
    experiments = {change: changed(folder, values | changes[change]) for change in chosen}
    validation, tables = CrossValidation(folder, arguments.folds), {}
    for change, experiment in experiments.items():
        tables[change] = []
        for seed in range(arguments.seeds):
            began = time.perf_counter()
            tables[change].append(validation.answers(experiment, seed))
            took = time.perf_counter() - began
            _say(change, f"seed {seed}: {judge(tables[change][-1])}; {took:.0f} s")
        if arguments.seeds > 1:
            _say(change, f"mean network: {judge(mean_answers(tables[change]))}")
    if arguments.ablation and len(tables) > 1 and WHOLE in tables:
        samples = {
            change: dict(enumerate(map(samples_of, each))) for change, each in tables.items()
        }
        together = samples_of(mean_answers(next(iter(tables.values()))))
        samples[f"mean of {arguments.seeds} networks"] = dict.fromkeys(
            range(arguments.seeds), together
        )
        frame = summarize(samples)
        write_csv(arguments.out, frame)
        print(ablation_table(frame).to_string())


def _say(change: str, text: str) -> None:
    print(change or "recipe", text, flush=True)


def _parsed(change: str) -> dict[str, Any]:
    return dict(parse_assignment(each) for each in change.split())


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="a run that has completed 03: its name in runs/, or its folder")
    parser.add_argument("changes", nargs="*", default=[""], help='such as image_size=384; "": none')
    parser.add_argument("--ablation", action="store_true", help="instead of changes")
    parser.add_argument(
        "--only", action="append", metavar="CHANGE", help="of the ablation; leave the others out"
    )
    parser.add_argument("-p", dest="parameters", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "ablation.csv")
    try:
        measure(parser.parse_args())
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
