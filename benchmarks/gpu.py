"""A row for a GPU box: images a second of what a run computes, and the share of the device's peak.

The network is exp6's, DenseNet121 at 224 px in batches of 64, with random weights, in three ways:
the forward pass of the frozen part (extraction), training on stored activations, and training of
all layers. Each in float32 and in mixed precision, without and with XLA; nothing is asked to be
deterministic. Batches lie in the device's memory, but for the input pipeline, which runs on the
processor and makes them.

The peak is measured: the rate of a large matrix product in the same precision. TensorFlow computes
float32 in TF32 on GPUs that have it, in the product as well as in the network. A training step
counts as three forward passes of what is trained, for its gradients by inputs and by weights.

What does not fit into memory, or has no kernel, is a row that says so. Only the first GPU is used.
"""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import keras
import numpy as np
import tensorflow as tf
from _common import machine, run, say, say_head, say_row
from _gpu import Size, command_line, forward_operations

from mura_utils import frozen, training
from mura_utils.augmentation import Augmentation
from mura_utils.devices import dtype_policy, processor, use_device
from mura_utils.experiments import Experiment, load_experiment
from mura_utils.generators import augment, make_dataset
from mura_utils.network.build import build_model

_CLASSES = 14
_DTYPES = {"float32": tf.float32, "mixed": tf.float16}
_WORDS = {None: "–", False: "off", True: "on"}
_NO_FLOAT16 = "not possible: float16 is for GPUs"
NETWORKS = ("extraction", "exp6 stored", "full training")
_HEAD = ("measured", "precision", "XLA", "images/s", "TFLOP/s", "share of the product's rate")


@dataclass
class Results:
    """Prints each measurement as it comes, and keeps it for the last row.

    Attributes:
        peaks: operations a second of the matrix product, by precision.
        cells: of the last row by its column: one speed, or those without and with XLA.
    """

    peaks: dict[str, float] = field(default_factory=dict)
    cells: dict[str, list[str]] = field(default_factory=dict)

    def add(
        self,
        name: str,
        speed: float | str,
        precision: str = "",
        xla: bool | None = None,
        operations: float = 0.0,
    ) -> None:
        """Print a row, and keep its cell.

        Args:
            name: of what was measured.
            speed: images a second, or why there is none, as `attempt` gives it.
            precision: "float32" or "mixed"; "" where there is no choice.
            xla: whether XLA compiled it; None where there is no choice.
            operations: floating-point operations an image.
        """
        words, cell = [str(speed), "–", "–"], "–"
        if isinstance(speed, float):
            cell = f"{speed:,.0f}"
            words = [cell, "–", "–"]
            if operations:
                words[1] = f"{speed * operations / 1e12:.3g}"
            if operations and precision in self.peaks:
                words[2] = f"{100 * speed * operations / self.peaks[precision]:.0f} %"
                cell += f" ({words[2]})"
        say_row(name, precision or "–", _WORDS[xla], *words)
        self.cells.setdefault(", ".join(filter(None, (name, precision))), []).append(cell)

    def add_peak(self, precision: str, side: int, speed: float | str) -> None:
        """Print the row of the matrix product: `speed` is products a second, or why there is none.

        A product of two (side, side) matrices has 2 side^3 operations.
        """
        cell, words = "–", str(speed)
        if isinstance(speed, float):
            self.peaks[precision] = speed * 2 * side**3
            cell, words = f"{self.peaks[precision] / 1e12:.3g}", "–"
        name = f"product of {side} x {side}"
        say_row(name, _DTYPES[precision].name, "–", words, cell, "–")
        self.cells[f"{_DTYPES[precision].name} product, TFLOP/s"] = [cell]


def rate(step: Callable[[], object], images: float, seconds: float) -> float:
    """Images a second of a step that is repeated for some seconds, after one that does not count.

    Example:
        >>> rate(lambda: time.sleep(0.01), 5, seconds=0.05) < 500
        True
    """
    step()
    began, steps = time.perf_counter(), 0
    while not steps or time.perf_counter() - began < seconds:
        step()
        steps += 1
    return steps * images / (time.perf_counter() - began)


def attempt(measure: Callable[[], float]) -> float | str:
    """What `measure` gives, or why the device cannot do it; other errors pass.

    Example:
        >>> def too_large():
        ...     raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")
        >>> attempt(too_large)
        'not possible: out of memory'
    """
    try:
        return measure()
    except (tf.errors.ResourceExhaustedError, MemoryError):
        return "not possible: out of memory"
    except tf.errors.OpError as error:
        return f"not possible: {_reason(error)}"
    finally:
        gc.collect()


def _reason(error: tf.errors.OpError) -> str:
    """An error of TensorFlow's in one line without bars, which would end a cell."""
    text = " ".join(str(error.message).replace("|", "/").split())
    if lacking := re.search(r"No registered '(\w+)' OpKernel for XLA", text):
        return f"XLA has no kernel for {lacking[1]}"
    return text if len(text) <= 160 else f"{text[:157]}..."


def _product(side: int, dtype: tf.DType) -> Callable[[], object]:
    matrix = tf.cast(tf.random.normal((side, side)), dtype)
    return lambda: tf.matmul(matrix, matrix)[0, 0].numpy()


def _input_pipeline(experiment: Experiment, images: int) -> tuple[Callable[[], object], float]:
    """An epoch of augmented batches, from pixels in memory."""
    side = experiment.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (images, side, side), np.uint8)
    labels = np.eye(_CLASSES)[np.arange(images) % _CLASSES]
    batches = make_dataset(
        pixels,
        np.arange(images),
        labels,
        experiment.batch_size,
        Augmentation.of(experiment),
        shuffle=True,
    )
    return lambda: [None for _ in batches], images


def _augmentation(experiment: Experiment, xla: bool) -> tuple[Callable[[], object], float]:
    """A batch that is warped on the device, as before the extraction."""
    count, side = experiment.batch_size, experiment.image_size
    images = tf.random.uniform((count, side, side, 1), 0, 255)
    drawn = Augmentation.of(experiment).transforms(count, side, np.random.default_rng(0))
    transforms = tf.constant(drawn)
    warp = tf.function(augment, jit_compile=xla)
    return lambda: warp(images, transforms)[0, 0, 0, 0].numpy(), count


def _extraction(
    cut: frozen.Cut, experiment: Experiment, xla: bool
) -> tuple[Callable[[], object], float]:
    """The forward pass of the frozen part."""
    count, side = experiment.batch_size, experiment.image_size
    images = tf.random.uniform((count, side, side, 1), 0, 255)

    @tf.function(jit_compile=xla)
    def forward(images: tf.Tensor) -> list[tf.Tensor]:
        return tf.nest.flatten(cut.prefix(images, training=False))

    return lambda: [output[0].numpy() for output in forward(images)], count


def _training(
    network: keras.Model, experiment: Experiment, xla: bool
) -> tuple[Callable[[], object], float]:
    """A training step of a network on one batch of its inputs."""
    count = experiment.batch_size
    inputs = [tf.random.uniform((count, *tensor.shape[1:])) for tensor in network.inputs]
    labels = tf.one_hot(np.arange(count) % _CLASSES, _CLASSES)
    none = tf.data.Dataset.range(0)
    task = training.Task(network, lambda _: none, none, None, steps=1, fingerprint="")
    training.compile_task(task, experiment)
    network.jit_compile = xla  # `compile_task` would leave it off on a processor
    given = inputs if len(inputs) > 1 else inputs[0]
    return lambda: network.train_on_batch(given, labels), count


def measure_all(size: Size, seconds: float) -> None:
    """Measure each part, print a row for each, and the row for benchmarks/README.md."""
    experiment = load_experiment("exp6", weights="none", **size.changes)
    device = _one_device()
    say(machine("tensorflow", "keras", "numpy"))
    results = Results()
    say_head(*_HEAD)
    mixed = experiment.model_copy(update={"precision": "mixed"})
    has_float16 = dtype_policy(mixed) == "mixed_float16"
    for precision, dtype in _DTYPES.items():
        speed: float | str = _NO_FLOAT16
        if precision == "float32" or has_float16:
            speed = attempt(lambda dtype=dtype: rate(_product(size.side, dtype), 1, seconds))
        results.add_peak(precision, size.side, speed)
    speed = attempt(lambda: rate(*_input_pipeline(experiment, size.images), seconds))
    results.add("input pipeline", speed)
    for xla in (False, True):
        speed = attempt(lambda xla=xla: rate(*_augmentation(experiment, xla), seconds))
        results.add("augmentation", speed, xla=xla)
    measure_networks(results, experiment, seconds)
    if has_float16:
        measure_networks(results, mixed, seconds)
    else:
        for name in NETWORKS:
            for xla in (False, True):
                results.add(name, _NO_FLOAT16, "mixed", xla)
    say_head("device", *results.cells)
    say_row(device, *(" / ".join(cells) for cells in results.cells.values()))


def measure_networks(results: Results, experiment: Experiment, seconds: float) -> None:
    """Measure exp6's network in the three ways, in one precision, without and with XLA."""
    policy = dtype_policy(experiment)
    cut = frozen.split_network(build_model(experiment, _CLASSES, policy))
    forward, tail = forward_operations(cut.prefix), forward_operations(cut.tail)
    trained = experiment.model_copy(update={"unfreeze": "all"})
    ways = (
        (lambda xla: _extraction(cut, experiment, xla), forward),
        (lambda xla: _training(cut.tail, experiment, xla), 3 * tail),
        (
            lambda xla: _training(build_model(trained, _CLASSES, policy), trained, xla),
            3 * (forward + tail),
        ),
    )
    for name, (prepare, operations) in zip(NETWORKS, ways, strict=True):
        for xla in (False, True):
            speed = attempt(lambda prepare=prepare, xla=xla: rate(*prepare(xla), seconds))
            results.add(name, speed, experiment.precision, xla, operations)


def _one_device() -> str:
    """Use the first GPU alone, if there is one, and name what computes."""
    gpus = tf.config.list_physical_devices("GPU")
    if len(gpus) > 1:
        tf.config.set_visible_devices(gpus[:1], "GPU")
    named = use_device()
    return processor() if named == "CPU" else named.split(", ")[0]


def main() -> None:
    """Measure what the command line asks for."""
    run(command_line(__doc__), lambda given: measure_all(given.size, given.seconds))


if __name__ == "__main__":
    main()
