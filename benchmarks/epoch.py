"""An epoch, and a whole training, of exp4 and exp6: stored activations against the report's way.

The report's way: ImageDataGenerator from files for training and validation, the whole network in
`fit`, with the last five convolutions trainable. Ours: the frozen part's activations, computed once
for eight views of each training image, and the part after them trained by `training.fit`. Both with
the callbacks of the report's Fig. 27, so that both write checkpoints. The first epoch of either
side is not counted. Weights are random: the time does not depend on them. Where the processor
multiplies in bfloat16, ours is also trained in it ("mixed"). Each measurement has a process of its
own, because the report's way takes most of a small machine's memory, and keeps it.

A whole training of n epochs is n epochs of the report's, or the pixel cache, the extraction and n
epochs of ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import keras
import numpy as np
import pandas as pd
from _common import EXTRACTORS, draw_manifest, machine, options, say, say_head, say_row, workspace
from _report import SIZE, callbacks, flow, whole_network

from mura_utils import frozen, training
from mura_utils.data.dataset import load_images
from mura_utils.devices import dtype_policy
from mura_utils.experiments import Experiment, load_experiment
from mura_utils.frozen.extractors import sample
from mura_utils.network.build import build_model

_VIEWS = 8
_EPOCHS = (20, 150)

Variant = tuple[Experiment, str]
"""What is trained, and Keras's policy for it."""


def extraction_speeds(
    root: Path, manifest: pd.DataFrame, experiment: Experiment, step: int
) -> dict[str, tuple[float, float]]:
    """Seconds that each extractor takes to start, and an image, by the words for what it is.

    Measured on twice `step` of the training images' views and one of the others, in turn.
    """
    images = load_images(root, manifest, SIZE, progress=False)
    model = build_model(experiment, images.classes)
    some = images.pixels[sample(images)][..., np.newaxis]
    seconds: dict[str, list[tuple[float, float]]] = {}
    for views in (step, 2 * step):
        for extractor in EXTRACTORS:
            changed = experiment.model_copy(update={**extractor, "views": views})
            stored = frozen.plan(model, images, changed)
            began = time.perf_counter()
            frozen.extractor(stored.cut, changed, some)
            once = time.perf_counter() - began
            done = frozen.extract(stored, images, changed, progress=False)
            each = (done.seconds - once) / done.computed
            seconds.setdefault(done.computed_by, []).append((once, each))
            say(f"{done.sentence} {once:.0f} s were the start.")
    return {words: tuple(np.median(values, axis=0)) for words, values in seconds.items()}


class _Clock(keras.callbacks.Callback):
    """Seconds of each epoch, with validation."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch, logs=None):
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self._began)
        say(f"the report's epoch: {self.seconds[-1]:.2f} s")


def report_epochs(
    root: Path, manifest: pd.DataFrame, experiment: Experiment, epochs: int
) -> list[float]:
    """Seconds of epochs of the report's way, after a first one that does not count."""
    classes, clock = sorted(manifest["label"].unique()), _Clock()
    parts = {name: manifest[manifest["split"] == name] for name in ("train", "validation")}
    whole_network(experiment, classes).fit(
        flow(root, parts["train"], classes, training=True),
        validation_data=flow(root, parts["validation"], classes, training=False),
        epochs=1 + epochs,
        callbacks=[*callbacks(experiment, root / "report.keras"), clock],
        verbose=0,
    )
    return clock.seconds[1:]


def our_epoch(
    root: Path, manifest: pd.DataFrame, experiment: Experiment, policy: str, epochs: int
) -> float:
    """Mean seconds of epochs of ours, after one that traces; their activations are stored.

    Args:
        root: the data set.
        manifest: its images, with a split.
        experiment: what is trained.
        policy: Keras's, for the network.
        epochs: that count.
    """
    images = load_images(root, manifest, SIZE, progress=False)
    model = build_model(experiment, images.classes, policy)
    stored = frozen.plan(model, images, experiment)
    frozen.extract(stored, images, experiment, progress=False)
    task = training.make_task(model, images, experiment, stored)
    training.compile_task(task, experiment)

    def seconds(epochs: int) -> float:
        settings = experiment.model_copy(update={"epochs": epochs})
        path = root / "ours" / "model.keras"
        return training.fit(model, task, settings, path, progress=False).seconds

    seconds(1)
    return seconds(epochs) / epochs


def alone(work: Callable, *arguments: object) -> Any:
    """What a function returns in a process of its own, whose memory it does not leave behind."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def in_each_precision(name: str, experiment: Experiment) -> dict[str, Variant]:
    """Trained in float32, and mixed where that is something else; on the same activations."""
    policies = {name: "float32"}
    mixed = dtype_policy(experiment.model_copy(update={"precision": "mixed"}))
    if mixed != "float32":
        policies[f"{name}, mixed"] = mixed
    return {name: (experiment, policy) for name, policy in policies.items()}


def epoch_seconds(
    root: Path, manifest: pd.DataFrame, variants: Mapping[str, Variant], rounds: int, epochs: int
) -> dict[str, tuple[float, float]]:
    """Median seconds of an epoch of the report's way and of ours, which runs before and after it.

    Args:
        root: the data set.
        manifest: its images, with a split.
        variants: that the report's way does not tell apart, by name.
        rounds: epochs of the report's way that count.
        epochs: of each of ours, before and after.

    Returns:
        The report's and ours, for each variant.
    """
    ours: dict[str, list[float]] = {name: [] for name in variants}

    def run_ours() -> None:
        for name, (experiment, policy) in variants.items():
            ours[name].append(alone(our_epoch, root, manifest, experiment, policy, epochs))
            say(f"our epoch of {name}: {ours[name][-1]:.2f} s")

    run_ours()
    experiment, _ = next(iter(variants.values()))
    report = median(alone(report_epochs, root, manifest, experiment, rounds))
    run_ours()
    return {name: (report, median(seconds)) for name, seconds in ours.items()}


def main() -> None:
    """Measure the pixel cache, the extraction and the epochs, and print the ratios."""
    parser = options(__doc__)
    parser.add_argument("--images", type=int, default=1024, help="training images")
    arguments = parser.parse_args()
    training_images = 64 if arguments.quick else arguments.images
    step, rounds, epochs = (1, 1, 2) if arguments.quick else (1, 3, 16)
    others = round(training_images * 15 / 85)
    say(machine("tensorflow", "keras", "numpy", "openvino"))

    with workspace() as folder:
        root, manifest, _ = draw_manifest(folder, training_images + others)
        is_training = np.arange(training_images + others) < training_images
        manifest["split"] = np.where(is_training, "train", "validation")
        began = time.perf_counter()
        count = len(load_images(root, manifest, SIZE, progress=False))
        cache = time.perf_counter() - began
        say(f"pixel cache: {cache:.2f} s for {count:,} images")

        changes = {"weights": "none", "source": "phantom"}
        changes |= {"cache_features": "on", "views": _VIEWS, **EXTRACTORS[-1]}
        exp6 = in_each_precision("exp6", load_experiment("exp6", **changes))
        faster = load_experiment("exp6", **changes, fast_dropout=True)
        exp6 |= in_each_precision("exp6, fast_dropout", faster)
        exp4 = in_each_precision("exp4", load_experiment("exp4", **changes))
        speeds = alone(extraction_speeds, root, manifest, faster, step)
        measured = {}
        for variants in (exp6, exp4):
            measured |= epoch_seconds(root, manifest, variants, rounds, epochs)

    computed = _VIEWS * training_images + others
    say_head(
        f"epoch of {training_images:,} + {others:,} images", "report, s", "ours, s", "times faster"
    )
    for name, (report, ours) in measured.items():
        say_row(name, f"{report:.1f}", f"{ours:.2f}", f"{report / ours:.1f}")
    say_head("extraction", "s to start", "images/s", f"s for {_VIEWS} views and validation")
    for words, (start, each) in speeds.items():
        say_row(words, f"{start:.0f}", f"{1 / each:.1f}", f"{start + computed * each:.0f}")
    say_head("end to end", "epochs", "report, s", "ours, s", "times faster")
    for name, (report, ours) in measured.items():
        for count in _EPOCHS:
            for words, (start, each) in speeds.items():
                once = cache + start + computed * each
                theirs, own = count * report, once + count * ours
                numbers = (f"{theirs:.0f}", f"{own:.0f}", f"{theirs / own:.1f}")
                say_row(f"{name}, {words}", str(count), *numbers)


if __name__ == "__main__":
    main()
