"""An epoch, and a whole training, of exp4 and exp6: stored activations against the report's way.

The report's way: ImageDataGenerator from files for training and validation, the whole network in
`fit`, with the last five convolutions trainable. Ours: the frozen part's activations, computed once
for eight views of each training image, and the part after them trained by `training.fit`. Both with
the callbacks of the report's Fig. 27, so that both write checkpoints. The first epoch of either
side is not counted. Weights are random: the time does not depend on them. Where the processor
multiplies in bfloat16, ours is also trained in it ("mixed").

A whole training of n epochs is n epochs of the report's, or the pixel cache, the extraction and n
epochs of ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

import keras
import numpy as np
from _common import EXTRACTORS, draw_manifest, machine, options, say, say_head, say_row, workspace
from _report import SIZE, callbacks, flow, whole_network

from mura_utils import frozen, training
from mura_utils.data.dataset import Images, load_images
from mura_utils.devices import dtype_policy
from mura_utils.experiments import Experiment, load_experiment
from mura_utils.frozen.extractors import sample
from mura_utils.network.build import build_model

_VIEWS = 8
_EPOCHS = (20, 150)

Variant = tuple[Experiment, str]
"""What is trained, and Keras's policy for it."""


def extraction_speeds(
    images: Images, experiment: Experiment, step: int
) -> dict[str, tuple[float, float]]:
    """Seconds that each extractor takes to start, and an image, by the words for what it is.

    Measured on twice `step` of the training images' views and one of the others, in turn.
    """
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


class _Epochs(keras.callbacks.Callback):
    """Seconds of each epoch, with validation; `between` runs after it, off the clock."""

    def __init__(self, between: Callable[[], None]) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._between = between

    def on_epoch_begin(self, epoch, logs=None):
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self._began)
        say(f"the report's epoch: {self.seconds[-1]:.2f} s")
        self._between()


def in_each_precision(name: str, experiment: Experiment) -> dict[str, Variant]:
    """Trained in float32, and mixed where that is something else; on the same activations."""
    policies = {name: "float32"}
    mixed = dtype_policy(experiment.model_copy(update={"precision": "mixed"}))
    if mixed != "float32":
        policies[f"{name}, mixed"] = mixed
    return {name: (experiment, policy) for name, policy in policies.items()}


def epoch_seconds(
    images: Images, variants: Mapping[str, Variant], rounds: int, epochs: int
) -> dict[str, tuple[float, float]]:
    """Median seconds of an epoch of the report's way and of ours, in turn.

    Args:
        images: to train on and to validate with.
        variants: that the report's way does not tell apart, by name.
        rounds: epochs of the report's way that count.
        epochs: of each of ours after each of them.

    Returns:
        The report's and ours, for each variant.
    """
    root, classes = images.root, images.classes
    ours: dict[str, list[float]] = {name: [] for name in variants}
    trained = {}
    for name, (experiment, policy) in variants.items():
        model = build_model(experiment, classes, policy)
        stored = frozen.plan(model, images, experiment)
        say(frozen.extract(stored, images, experiment, progress=False).sentence)
        task = training.make_task(model, images, experiment, stored)
        training.compile_task(task, experiment)
        trained[name] = model, task

    def train(name: str, epochs: int) -> float:
        settings = variants[name][0].model_copy(update={"epochs": epochs})
        path = root / "ours" / "model.keras"
        return training.fit(*trained[name], settings, path, progress=False).seconds

    def train_ours() -> None:
        for name, seconds in ours.items():
            first = train(name, 1)  # traces
            seconds.append((train(name, 1 + epochs) - first) / epochs)
            say(f"our epoch of {name}, mean of {epochs} after the first: {seconds[-1]:.2f} s")

    clock = _Epochs(train_ours)
    parts = {name: images.rows.iloc[images.positions(name)] for name in ("train", "validation")}
    experiment, _ = next(iter(variants.values()))
    whole_network(experiment, classes).fit(
        flow(root, parts["train"], classes, training=True),
        validation_data=flow(root, parts["validation"], classes, training=False),
        epochs=1 + rounds,
        callbacks=[*callbacks(experiment, root / "report.keras"), clock],
        verbose=0,
    )
    report = median(clock.seconds[1:])
    return {name: (report, median(seconds[1:])) for name, seconds in ours.items()}


def main() -> None:
    """Measure the pixel cache, the extraction and the epochs, and print the ratios."""
    parser = options(__doc__)
    parser.add_argument("--images", type=int, default=1024, help="training images")
    arguments = parser.parse_args()
    training_images = 64 if arguments.quick else arguments.images
    step, rounds, epochs = (1, 1, 2) if arguments.quick else (1, 3, 8)
    others = round(training_images * 15 / 85)
    say(machine("tensorflow", "keras", "numpy", "openvino"))

    with workspace() as folder:
        root, manifest, _ = draw_manifest(folder, training_images + others)
        is_training = np.arange(training_images + others) < training_images
        manifest["split"] = np.where(is_training, "train", "validation")
        began = time.perf_counter()
        images = load_images(root, manifest, SIZE, progress=False)
        cache = time.perf_counter() - began
        say(f"pixel cache: {cache:.2f} s for {len(images):,} images")

        changes = {"weights": "none", "source": "phantom"}
        changes |= {"cache_features": "on", "views": _VIEWS, **EXTRACTORS[-1]}
        exp6 = in_each_precision("exp6", load_experiment("exp6", **changes))
        faster = load_experiment("exp6", **changes, fast_dropout=True)
        exp6 |= in_each_precision("exp6, fast_dropout", faster)
        exp4 = in_each_precision("exp4", load_experiment("exp4", **changes))
        speeds = extraction_speeds(images, faster, step)
        measured = {}
        for variants in (exp6, exp4):
            measured |= epoch_seconds(images, variants, rounds, epochs)

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
