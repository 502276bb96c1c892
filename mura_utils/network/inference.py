"""What computes a network's outputs: TensorFlow, or OpenVINO on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def trace(network: keras.Model, images: int | None = None, jit_compile: bool = False) -> Callable:
    """Trace a network once, for inference.

    Args:
        network: from radiographs (N, S, S, 1) to one output or several.
        images: N, if every call has the same; None allows any.
        jit_compile: whether XLA compiles it.

    Returns:
        A `tf.function` from images, float32, to the list of outputs.
    """
    signature = [tf.TensorSpec((images, *network.input_shape[1:]), tf.float32)]

    @tf.function(input_signature=signature, jit_compile=jit_compile)
    def forward(radiographs: tf.Tensor) -> list[tf.Tensor]:
        return keras.tree.flatten(network(radiographs, training=False))

    return forward


def computes_in_bfloat16() -> bool:
    """Whether this machine's processor does, as OpenVINO sees it."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def compile_for_openvino(
    traced: Callable, reduced: bool = False
) -> tuple[Callable[[np.ndarray], list[np.ndarray]], str]:
    """Convert a traced network for OpenVINO, on all cores of the CPU.

    Args:
        traced: what `trace` gives, not compiled by XLA.
        reduced: compute in bfloat16 where the processor has it.

    Returns:
        A function from images to the list of outputs, and the precision that it computes in, as in
        "f32".
    """
    return load_in_openvino(traced.get_concrete_function(), reduced)


def load_in_openvino(
    network: Any, reduced: bool = False
) -> tuple[Callable[[np.ndarray], list[np.ndarray]], str]:
    """The same for all that OpenVINO converts, as the path of a file in ONNX."""
    import openvino

    # Asked for where the processor lacks it, bfloat16 is emulated: slower, and less exact.
    reduced = reduced and computes_in_bfloat16()
    # One call at a time on all cores; the throughput hint would leave each call to one core.
    compiled = openvino.Core().compile_model(
        openvino.convert_model(network),
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "bf16" if reduced else "f32",
            "PERFORMANCE_HINT": "LATENCY",
        },
    )

    def forward(images: np.ndarray) -> list[np.ndarray]:
        result = compiled(images)
        return [result[output] for output in range(len(compiled.outputs))]

    return forward, compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
