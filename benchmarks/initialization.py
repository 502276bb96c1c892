"""What initial weights are worth: none, phantom, and ImageNet's, on phantoms and on FracAtlas.

The networks of exp4 and exp6, trained as experiments/exp6_tuned.yaml is, but for 20 epochs and with
two stored views, from each initialization, with 10 % and with all of the training patients;
validation and test stay the same. The ImageNet weights are MobileNet 0.25's, the only ones that the
project's machines could read: another network, so that this row says what ImageNet can give and not
what it would give DenseNet121.

Before that, the features alone: a logistic regression of normal against abnormal on the frozen
backbone's pooled features, four folds by patient.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from _common import (
    draw_manifest,
    machine,
    options,
    run,
    say,
    say_head,
    say_row,
    train,
    workspace,
)

from mura_utils import frozen
from mura_utils.data.dataset import Images, load_images
from mura_utils.data.manifest import admit, scan
from mura_utils.data.sources import open_source
from mura_utils.data.splits import split
from mura_utils.evaluation.metrics import evaluate
from mura_utils.evaluation.predictions import predictions_frame
from mura_utils.experiments import Experiment, load_experiment
from mura_utils.network.probing import linear_probe, untrained_features

_SHARES = (0.1, 1.0)
_HEADS = {
    "exp4": {"head": "dense", "dropout": [0.5], "l1": 0.0, "l2": 1e-4},
    "exp6": {},
}
_METRICS = {
    "accuracy": ("image", "accuracy"),
    "kappa": ("image", "kappa"),
    "body part": ("body_part", "accuracy"),
    "AUROC": ("binary_image", "auroc"),
}


def thin(images: Images, share: float) -> Images:
    """Keep a share of the training patients, chosen once, and all other images."""
    rows, training_rows = images.rows, images.rows["split"] == "train"
    patients = rows.loc[training_rows, "patient"].drop_duplicates()
    kept = patients.sample(frac=share, random_state=0)
    chosen = (~training_rows | rows["patient"].isin(kept)).to_numpy()
    return Images(images.root, rows[chosen].reset_index(drop=True), images.pixels[chosen])


def train_and_test(images: Images, experiment: Experiment, folder: Path) -> dict:
    """Metrics of the test images after a training."""
    model, _ = train(images, experiment, folder)
    probabilities, _ = frozen.predict(model, images, experiment)
    held_out = images.rows.iloc[images.positions("validation", "test")].reset_index(drop=True)
    predictions = predictions_frame(held_out, images.classes, probabilities)
    test = (held_out["split"] == "test").to_numpy()
    return evaluate(predictions[test].reset_index(drop=True))


def compare_trainings(
    images: Images,
    starts: dict[str, dict],
    common: dict,
    seeds: list[int],
    folder: Path,
) -> None:
    """Train everything and print the table: mean over seeds, mean interval, spread."""
    rows = []
    for name, start in starts.items():
        for share in _SHARES:
            part = thin(images, share)
            for head, changes in _HEADS.items():
                results = []
                for seed in seeds:
                    values = common | start | changes | {"seed": seed}
                    experiment = load_experiment("exp6_tuned", **values)
                    results.append(train_and_test(part, experiment, folder))
                cells = [f"{head}, {name}", f"{share:.0%}"]
                for level, metric in _METRICS.values():
                    found = pd.DataFrame(result[level][metric] for result in results)
                    value, low, high = found[["value", "low", "high"]].mean()
                    cells.append(
                        f"{value:.3f} [{low:.3f}, {high:.3f}] ± {found['value'].std():.3f}"
                    )
                say(" · ".join(cells))
                rows.append(cells)
    say_head("weights", "training patients", *_METRICS)
    for cells in rows:
        say_row(*cells)


def compare_features(images: Images, starts: dict[str, dict], common: dict) -> None:
    """Print the AUROC of a logistic regression on each start's frozen features."""
    say_head("frozen features, logistic regression, four folds", "AUROC of abnormal")
    for name, start in starts.items():
        experiment = load_experiment("exp6_tuned", **common | start)
        found = untrained_features(experiment, images, np.arange(len(images)))
        auroc = linear_probe(found, images.rows)
        say_row(name, "{value:.3f} [{low:.3f}, {high:.3f}]".format(**auroc))


def measure(arguments: argparse.Namespace) -> None:
    """Go through the data sets."""
    starts = {"none": {"weights": "none"}, "phantom": {"weights": "phantom"}}
    if arguments.imagenet:
        path = str(arguments.imagenet.resolve())
        starts["ImageNet (MobileNet 0.25)"] = {
            "weights": path, "backbone": "mobilenet", "alpha": 0.25,
        }  # fmt: skip
    seeds, common = arguments.seeds, {"views": 2, "epochs": 20, "cache_features": "on"}
    common |= {"extractor": arguments.extractor, "image_size": arguments.image_size}
    if arguments.quick:
        seeds, common = seeds[:1], common | {"views": 1, "epochs": 2, "image_size": 64}
    with workspace() as folder:
        root, manifest, _ = draw_manifest(folder, 200 if arguments.quick else arguments.images)
        sets = {"phantoms": (root, "phantom", manifest)}
        if arguments.fracatlas:
            manifest = admit(scan(open_source(arguments.fracatlas), progress=False))
            sets["FracAtlas"] = (arguments.fracatlas, "fracatlas", manifest)
        for title, (root, source, manifest) in sets.items():
            manifest = manifest.merge(split(manifest, "patient", [0.6, 0.1, 0.3], 0), on="path")
            images = load_images(root, manifest, common["image_size"], progress=False)
            say(f"\n{title}: {manifest['split'].value_counts().to_dict()}")
            compare_features(images, starts, common | {"source": source})
            compare_trainings(images, starts, common | {"source": source}, seeds, folder)
    say(f"\n{machine('tensorflow', 'keras', 'numpy', 'openvino')}")


def main() -> None:
    """Read the command line."""
    parser = options(__doc__)
    parser.add_argument("--fracatlas", type=Path, help="the folder FracAtlas")
    parser.add_argument("--imagenet", type=Path, help="MobileNet 0.25 without top, *.h5")
    parser.add_argument("--images", type=int, default=800, help="phantoms")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--extractor", default="tensorflow", choices=["tensorflow", "openvino"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    run(parser, measure)


if __name__ == "__main__":
    main()
