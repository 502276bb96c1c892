"""What the patient's age adds to the radiograph, where it tells the finding and where it does not.

The phantoms' age goes with the finding (`phantom_age_effect`). A network of notebook 05 is trained
on the stored activations of the weights `phantom` three times a seed: on the radiographs alone,
with the branch for age and sex, and with that branch where the ages and sexes have changed places
between the patients of each split. All three have the same images, frozen part and recipe; nothing
is chosen on the test images. "hidden" is the same network where the age and the sex of the test
images are missing.

    mura data phantom aged --age-effect 1
    python benchmarks/tabular.py --data data/aged
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from _common import machine, options, run, say, say_head, say_row, train, workspace

from mura_utils import frozen
from mura_utils.data.dataset import Images, load_images
from mura_utils.data.manifest import admit, scan
from mura_utils.data.sources import open_source
from mura_utils.data.splits import split
from mura_utils.data.tabular import Tabular
from mura_utils.evaluation.paired import compare_paired
from mura_utils.evaluation.predictions import predictions_frame
from mura_utils.experiments import Experiment, validate_parameters
from mura_utils.labels import classes_of, probabilities_of
from mura_utils.phantoms.dataset import draw_phantoms

ALONE, BRANCH, SHUFFLED, HIDDEN = "radiograph alone", "age and sex", "shuffled", "hidden"

_SHOWN = {
    "AUROC of abnormal, per study": "AUROC of abnormal",
    "kappa, all classes per image": "kappa of all classes",
}


def shuffle(images: Images, seed: int) -> Images:
    """Give the age and sex of each patient to another one of the same split."""
    rng, values = np.random.default_rng(seed), images.tabular.numbers.copy()
    for _, rows in images.rows.groupby("split"):
        firsts = rows.drop_duplicates("patient")
        givers = pd.Series(rng.permutation(firsts.index), firsts["patient"])
        values[rows.index] = images.tabular.numbers[givers[rows["patient"]]]
    return dataclasses.replace(images, tabular=Tabular(images.tabular.names, values))


def sides(images: Images, seed: int) -> dict[str, tuple[Images, list[str]]]:
    """What is trained: images, and the parameter tabular."""
    names = list(images.tabular.names)
    return {
        ALONE: (dataclasses.replace(images, tabular=None), []),
        BRANCH: (images, names),
        SHUFFLED: (shuffle(images, seed), names),
    }


def answers(images: Images, experiment: Experiment, folder: Path) -> dict[str, pd.DataFrame]:
    """Test predictions of one training; where it reads the patient, also with that hidden."""
    model, fitted = train(images, experiment, folder)
    given = {"": images}
    if images.tabular is not None:
        given[HIDDEN] = dataclasses.replace(images, tabular=images.tabular.hidden)
    held_out = images.rows.iloc[images.positions("validation", "test")].reset_index(drop=True)
    found = {}
    for name, each in given.items():
        probabilities, _ = frozen.predict(model, each, experiment)
        rows = predictions_frame(held_out, images.classes, probabilities)
        found[name] = rows[(held_out["split"] == "test").to_numpy()].reset_index(drop=True)
    say(f"{folder.name}: {len(fitted.history)} epochs, {fitted.seconds:.0f} s")
    return found


def compare(alone: pd.DataFrame, others: Mapping[str, pd.DataFrame], resamples: int) -> None:
    """Print what each of the others has more than the radiographs alone, paired over patients."""
    for name, other in others.items():
        table = compare_paired(alone, other, resamples=resamples).loc[list(_SHOWN)]
        cells = [
            f"{row['second']:.3f}"
            if other is alone
            else f"{row['second']:.3f}, {row['difference']:+.3f} "
            f"[{row['low']:+.3f}, {row['high']:+.3f}]"
            for _, row in table.iterrows()
        ]
        say_row(name, *cells)


def pooled(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """The mean probabilities of several seeds, with the label of the largest."""
    mean = np.mean([probabilities_of(table).to_numpy() for table in tables], axis=0)
    return predictions_frame(tables[0], classes_of(tables[0]), mean)


def measure(arguments: argparse.Namespace) -> None:
    """Draw, train all sides with all seeds, and print the table."""
    root, size = arguments.data, arguments.image_size
    epochs, seeds = arguments.epochs, arguments.seeds
    if arguments.quick:
        size, epochs, seeds = 32, 2, seeds[:1]
    common = {
        "image_size": size, "unfreeze": 0, "cache_features": "on", "augment": False,
        "head": "pooled", "pooling": ["average", "max"], "feature_strides": [32],
        "dropout": [0.3], "epochs": epochs, "learning_rate": 1e-3,
    }  # fmt: skip
    with workspace() as folder:
        if root is None:
            root = folder / "phantoms"
            patients = 80 if arguments.quick else 480
            draw_phantoms(root, patients, official_valid_fraction=1 / 3, age_effect=1)
        rows = admit(scan(open_source(root), progress=False))
        rows = rows.merge(split(rows, "patient", [0.5, 0.15, 0.35], 0), on="path")
        images = load_images(root, rows, size, progress=False, tabular=["age", "sex"])
        counts = rows.groupby("split")[["patient", "path"]].nunique().to_dict("index")
        say(str(counts))
        found: dict[str, list[pd.DataFrame]] = {}
        for seed in seeds:
            for side, (given, names) in sides(images, seed).items():
                experiment = validate_parameters(
                    {**common, "seed": seed, "tabular": names}, "benchmark"
                )
                home = folder / f"{side}, seed {seed}"
                home.mkdir()
                for kind, table in answers(given, experiment, home).items():
                    name = f"{side}, {kind}" if kind else side
                    found.setdefault(name, []).append(table)
    say_head(f"against {ALONE}", *_SHOWN.values())
    for number, seed in enumerate(seeds):
        named = {f"seed {seed}: {name}": tables[number] for name, tables in found.items()}
        compare(found[ALONE][number], named, arguments.resamples)
    if len(seeds) > 1:
        mean = {name: pooled(tables) for name, tables in found.items()}
        named = {f"mean of the seeds: {name}": table for name, table in mean.items()}
        compare(mean[ALONE], named, arguments.resamples)
    say(f"\n{machine('tensorflow', 'keras', 'numpy')}")


def main() -> None:
    """Read the command line."""
    parser = options(__doc__)
    parser.add_argument("--data", type=Path, help="a folder of phantoms; else they are drawn")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--resamples", type=int, default=2000)
    run(parser, measure)


if __name__ == "__main__":
    main()
