"""A row for a GPU box where Keras computes with JAX: images a second, and the share of the peak.

What `gpu.py` measures with TensorFlow, as far as it needs no TensorFlow: exp6's network
(DenseNet121 at 224 px, batches of 64, random weights), its frozen part forwards (extraction),
training on stored activations, and training of all layers; in float32 and with bfloat16 arithmetic
(mixed). Batches lie in the device's memory. JAX compiles everything with XLA, and computes float32
in TF32 on GPUs that have it, in the matrix product that stands for the peak as in the network.

Needs JAX besides the package's requirements, and no TensorFlow; only the first device is used.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import date

os.environ["KERAS_BACKEND"] = "jax"

try:
    import jax
    import jax.numpy as jnp
except ModuleNotFoundError:
    sys.exit("gpu_jax.py needs JAX (pip install jax[cuda13]); gpu.py measures with TensorFlow.")
import keras
from _gpu import Size, command_line, forward_operations

from mura_utils.experiments import Experiment, load_experiment
from mura_utils.network.build import build_model
from mura_utils.network.cut import split_network

_CLASSES = 14
_POLICIES = {"float32": "float32", "mixed": "mixed_bfloat16"}
_DTYPES = {"float32": jnp.float32, "mixed": jnp.bfloat16}
Step = Callable[[], object]


def rate(step: Step, images: int, seconds: float) -> float:
    """Images a second of a step that is repeated for some seconds, after two that do not count."""
    for _ in range(2):
        jax.block_until_ready(step())
    began, steps = time.perf_counter(), 0
    while not steps or time.perf_counter() - began < seconds:
        results = [step() for _ in range(5)]
        jax.block_until_ready(results[-1])
        steps += 5
    return steps * images / (time.perf_counter() - began)


def product(side: int, dtype: jnp.dtype) -> Step:
    """A product of two (side, side) matrices, 2 side^3 operations."""
    matrix = jax.random.normal(jax.random.key(0), (side, side)).astype(dtype)
    multiply = jax.jit(jnp.matmul)
    return lambda: multiply(matrix, matrix)


def _inputs(model: keras.Model, count: int) -> list[jax.Array]:
    key = jax.random.key(0)
    return [255 * jax.random.uniform(key, (count, *tensor.shape[1:])) for tensor in model.inputs]


def forward(model: keras.Model, count: int) -> Step:
    """The forward pass of a frozen network on a batch of random inputs."""
    trained, fixed = ([v.value for v in kind] for kind in _variables(model))
    call = jax.jit(lambda given: model.stateless_call(trained, fixed, given, training=False)[0])
    given = _inputs(model, count)
    return lambda: call(given)


def training_step(model: keras.Model, count: int) -> Step:
    """A step of Adam on cross-entropy, whose weights stay on the device from step to step."""
    loss, optimizer = keras.losses.CategoricalCrossentropy(), keras.optimizers.Adam(1e-4)
    optimizer.build(model.trainable_variables)
    given = _inputs(model, count)
    labels = jax.nn.one_hot(jnp.arange(count) % _CLASSES, _CLASSES)

    def loss_of(trained: list, fixed: list) -> tuple[jax.Array, list]:
        answers, fixed = model.stateless_call(trained, fixed, given, training=True)
        return loss(labels, answers), fixed

    @jax.jit
    def step(trained: list, fixed: list, moments: list) -> tuple[list, list, list]:
        (_, fixed), gradients = jax.value_and_grad(loss_of, has_aux=True)(trained, fixed)
        trained, moments = optimizer.stateless_apply(moments, gradients, trained)
        return trained, fixed, moments

    state = [[v.value for v in kind] for kind in (*_variables(model), optimizer.variables)]

    def once() -> list:
        state[:] = step(*state)
        return state[0]

    return once


def _variables(model: keras.Model) -> tuple[list, list]:
    return model.trainable_variables, model.non_trainable_variables


def measure_all(size: Size, seconds: float) -> None:
    """Print a row for each measurement as it comes."""
    experiment = load_experiment("exp6", weights="none", **size.changes)
    device = jax.devices()[0].device_kind
    versions = f"Python {platform.python_version()}, jax {jax.__version__}, keras {keras.version()}"
    _say(f"{device}; {versions}; {date.today()}\n")
    _say("| measured | precision | images/s | TFLOP/s | share of the product's rate |")
    _say("|:---|:---|---:|---:|---:|")
    for precision, dtype in _DTYPES.items():
        peak = rate(product(size.side, dtype), 1, seconds) * 2 * size.side**3
        _say(f"| product of {size.side} x {size.side} | {precision} | – | {peak / 1e12:.3g} | – |")
        measure_networks(experiment, precision, peak, seconds)


def measure_networks(experiment: Experiment, precision: str, peak: float, seconds: float) -> None:
    """Print the rows of exp6's network in one precision; a training counts three passes."""
    count, policy = experiment.batch_size, _POLICIES[precision]
    cut = split_network(build_model(experiment, _CLASSES, policy))
    whole = experiment.model_copy(update={"unfreeze": "all"})
    ahead, tail = forward_operations(cut.prefix), forward_operations(cut.tail)
    ways = (
        ("extraction", lambda: forward(cut.prefix, count), ahead),
        ("exp6 stored", lambda: training_step(cut.tail, count), 3 * tail),
        (
            "full training",
            lambda: training_step(build_model(whole, _CLASSES, policy), count),
            3 * (ahead + tail),
        ),
    )
    for name, prepare, operations in ways:
        speed = rate(prepare(), count, seconds)
        reached = speed * operations
        cells = f"{speed:,.0f} | {reached / 1e12:.3g} | {100 * reached / peak:.0f} %"
        _say(f"| {name} | {precision} | {cells} |")


def _say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    """Measure what the command line asks for."""
    given = command_line(__doc__).parse_args()
    measure_all(given.size, given.seconds)


if __name__ == "__main__":
    main()
