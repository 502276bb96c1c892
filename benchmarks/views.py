"""Whether eight stored views train as well as fresh augmentation in every epoch.

`experiments/fracatlas.yaml` on FracAtlas, for each seed once with stored views and once with
augmentation on the fly: validation accuracy of the best epoch. The split is the same for all; the
test images are not even decoded. All seeds share the stored views, as in any series of runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from _common import machine, options, run, say, say_head, say_row, train, workspace

from mura_utils.data.dataset import Images, load_images
from mura_utils.data.manifest import admit, scan
from mura_utils.data.sources import open_source
from mura_utils.data.splits import split
from mura_utils.experiments import Experiment, load_experiment

_SIDES = {"stored views": "on", "on the fly": "off"}


def best_accuracy(images: Images, experiment: Experiment, folder: Path) -> float:
    """Train one run; the validation accuracy of its best epoch, by validation loss."""
    _, fitted = train(images, experiment, folder)
    best = fitted.history.set_index("epoch").loc[fitted.kept_epoch]
    say(
        f"seed {experiment.seed}, cache_features {experiment.cache_features}: "
        f"{best['val_accuracy']:.4f} in epoch {fitted.kept_epoch} of {len(fitted.history)}, "
        f"{fitted.seconds:.0f} s"
    )
    return float(best["val_accuracy"])


def measure(arguments: argparse.Namespace) -> None:
    """Train all runs and compare the means of the two sides with the spread between seeds."""
    seeds, changes = arguments.seeds, {}
    if arguments.quick:
        seeds, changes = seeds[:1], {"epochs": 2}
    experiment = load_experiment(
        "fracatlas",
        weights=str(arguments.weights.resolve()),
        views=8,
        **changes,
    )
    manifest = admit(scan(open_source(arguments.data), progress=False))
    splits = split(manifest, experiment.protocol, experiment.fractions, experiment.split_seed)
    manifest = manifest.merge(splits, on="path")
    manifest = manifest[manifest["split"] != "test"].reset_index(drop=True)
    say(", ".join(f"{n:,} {name}" for name, n in manifest["split"].value_counts().items()))

    accuracies: dict[str, list[float]] = {name: [] for name in _SIDES}
    with workspace() as folder:
        images = load_images(arguments.data, manifest, experiment.image_size, progress=False)
        for seed in seeds:
            for name, choice in _SIDES.items():
                one = experiment.model_copy(update={"seed": seed, "cache_features": choice})
                accuracies[name].append(best_accuracy(images, one, folder))

    table = pd.DataFrame(accuracies, index=seeds)
    say_head("validation accuracy, best epoch", *(f"seed {seed}" for seed in seeds), "mean", "SD")
    for name, values in table.items():
        say_row(name, *(f"{v:.3f}" for v in values), f"{values.mean():.3f}", f"{values.std():.3f}")
    difference = table["stored views"].mean() - table["on the fly"].mean()
    say(f"\nStored views less on the fly: {difference:+.3f}.")
    if len(seeds) > 1:
        spread = float(np.sqrt(table.var().mean()))
        verdict = "below" if abs(difference) < spread else "not below"
        say(f"That is {verdict} the spread between seeds, a pooled SD of {spread:.3f}.")
    say(f"\n{machine('tensorflow', 'keras', 'numpy')}")


def main() -> None:
    """Read the command line."""
    parser = options(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder FracAtlas")
    parser.add_argument(
        "--weights", type=Path, required=True, help="MobileNet 0.25, ImageNet, without top, *.h5"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    run(parser, measure)


if __name__ == "__main__":
    main()
