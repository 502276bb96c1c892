"""What stored activations may cost in accuracy: by TensorFlow or OpenVINO, in fewer bits or more.

The part of a network after its frozen part is trained on activations that TensorFlow computes in
float32 and that are stored as float16. Then the validation images are answered from activations
that were made otherwise, by the same trained part, and by one that was trained on such activations,
with ``precision: mixed`` in bfloat16 where the processor has it.
The split has a third of the patients for validation, and its test images are not judged.

    pip install -e .[openvino,export]
    python benchmarks/activations.py --data data/FracAtlas
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras
import numpy as np
from _common import EXTRACTORS, machine, options, run, say, say_head, say_row, workspace

from mura_utils import frozen, training
from mura_utils.data.dataset import Images, load_images
from mura_utils.data.manifest import admit, scan
from mura_utils.data.sources import open_source
from mura_utils.data.splits import split
from mura_utils.devices import dtype_policy
from mura_utils.evaluation.binary import binary_measure
from mura_utils.evaluation.intervals import Measure, Weights, draw_patients, resampled
from mura_utils.evaluation.predictions import predictions_frame
from mura_utils.experiments import Experiment, load_experiment, parse_assignment
from mura_utils.labels import p_abnormal
from mura_utils.network.build import build_model, in_float32

SIDES = [*EXTRACTORS, {"extractor": "tensorflow", "stored_as": "uint8"}]
if len(EXTRACTORS) > 1:
    SIDES.append({"extractor": "openvino", "precision": "mixed", "stored_as": "uint8"})

_FRACTIONS = (0.6, 0.35, 0.05)


def train(
    images: Images, experiment: Experiment, file: Path
) -> tuple[keras.Model, frozen.Extraction, int]:
    """The network with its last part trained on stored activations; their extraction and bytes."""
    model = build_model(experiment, images.classes, dtype_policy(experiment))
    stored = frozen.plan(model, images, experiment)
    extracted = frozen.extract(stored, images, experiment, progress=False)
    task = training.make_task(model, images, experiment, stored)
    training.compile_task(task, experiment)
    training.fit(model, task, experiment, file, progress=False)
    return in_float32(model), extracted, stored.train.bytes_needed + stored.held_out.bytes_needed


def answers(model: keras.Model, images: Images, experiment: Experiment) -> np.ndarray:
    """(n, K) probabilities of the validation images, from their stored activations."""
    probabilities, sentence = frozen.predict(model, images, experiment)
    assert "stored activations" in sentence
    return probabilities[: len(images.positions("validation"))]


def measure(arguments: argparse.Namespace) -> None:
    """Store, train and answer in every way, and print the table."""
    values = {"weights": "phantom", "name": "activations", "views": 2, "epochs": 20}
    values |= dict(map(parse_assignment, arguments.parameters))
    values |= {"cache_features": "on", "data_dir": str(arguments.data)}
    seeds = arguments.seeds
    if arguments.quick:
        values |= {"image_size": 64, "epochs": 2}
        seeds = seeds[:1]
    common = load_experiment(arguments.experiment, **values)
    with workspace() as folder:
        rows = admit(scan(open_source(arguments.data), progress=False))
        rows = rows.merge(split(rows, "patient", _FRACTIONS, 0), on="path")
        pixels, resize = common.image_size, common.resize
        images = load_images(arguments.data, rows, pixels, resize=resize, progress=False)
        seen = rows.iloc[images.positions("validation")].reset_index(drop=True)
        same, own, facts = {}, {}, {}
        first: list[keras.Model] = []  # of each seed, trained on the first side's activations
        for side, changes in enumerate(SIDES):
            say(f"{changes}")
            same[side], own[side] = [], []
            for number, seed in enumerate(seeds):
                experiment = common.model_copy(update=changes | {"seed": seed})
                model, extracted, stored = train(images, experiment, folder / "model.keras")
                if not number:
                    facts[side] = (extracted, stored, experiment.stored_as)
                if not side:
                    first.append(model)
                own[side].append(answers(model, images, experiment))
                same[side].append(answers(first[number], images, experiment))

    def auroc(probabilities: np.ndarray) -> Measure:
        frame = predictions_frame(seen, images.classes, probabilities)
        return binary_measure(frame["abnormality"], p_abnormal(frame), threshold=0.5)

    measures = {
        (way, side): [auroc(each) for each in kinds[side]]
        for way, kinds in (("same", same), ("own", own))
        for side in facts
    }

    def compare(weights: Weights) -> dict[tuple[str, int], np.ndarray]:
        means = {
            key: np.mean([each(weights)["auroc"] for each in found], axis=0)
            for key, found in measures.items()
        }
        return means | {(f"{w} less", s): means[w, s] - means[w, 0] for w, s in means}

    patients, draws = draw_patients(seen["patient"], 100 if arguments.quick else 1000, seed=0)
    result = resampled(compare, draws, patients.get_indexer(seen["patient"]))
    say(f"{len(seen)} validation images, mean of {len(seeds)} seed(s)")
    say_head(
        "computed by, stored as", "images/s", "GB", "from float32", "largest difference of a "
        "probability", "AUROC, same head", "its change", "AUROC, own head", "its change",
    )  # fmt: skip
    for side, (extracted, stored, stored_as) in facts.items():
        change = max(np.abs(a - b).max() for a, b in zip(same[side], same[0], strict=True))

        def text(name: str, sign: str = "", side: int = side) -> str:
            value, low, high = (result[name, side][k] for k in ("value", "low", "high"))
            return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"

        say_row(
            f"{extracted.computed_by}, {stored_as}",
            f"{extracted.computed / extracted.seconds:.0f}" if extracted.computed else "stored",
            f"{stored / 1e9:.2f}",
            f"{extracted.difference:.2g}",
            f"{change:.2g}",
            text("same"),
            text("same less", "+") if side else "",
            text("own"),
            text("own less", "+") if side else "",
        )
    say(f"\n{machine('tensorflow', 'keras', 'numpy', 'openvino')}")


def main() -> None:
    """Read the command line."""
    parser = options(__doc__)
    parser.add_argument("experiment", nargs="?", default="exp6_tuned", help="a file, or a name")
    parser.add_argument("--data", type=Path, required=True, help="a data set's folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("-p", dest="parameters", action="append", default=[], metavar="KEY=VALUE")
    run(parser, measure)


if __name__ == "__main__":
    main()
