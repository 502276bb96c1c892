"""What computes the activations to store: TensorFlow, or OpenVINO in float32, bfloat16 or int8."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import keras
import numpy as np
import tensorflow as tf

from mura_utils.data.dataset import Images
from mura_utils.devices import uses_xla
from mura_utils.experiments import Experiment, require_extractor
from mura_utils.network.build import in_float32
from mura_utils.network.cut import Cut
from mura_utils.network.inference import (
    compile_for_openvino,
    load_in_openvino,
    trace,
)
from mura_utils.network.onnx import write_onnx

_SAMPLE = 32  # training images that int8 is calibrated on


def library_and_precision(experiment: Experiment) -> tuple[str, str]:
    """`extractor` and `precision`, with ``extractor: auto`` decided for this machine.

    ``auto`` is OpenVINO where it is installed and TensorFlow has no GPU, and TensorFlow elsewhere.
    ``precision: int8`` is always OpenVINO's.

    Returns:
        "tensorflow" or "openvino"; "float32", "mixed" or "int8".
    """
    library, precision = experiment.extractor, experiment.precision
    if library == "auto":
        here = find_spec("openvino") and not tf.config.list_physical_devices("GPU")
        library = "openvino" if here or precision == "int8" else "tensorflow"
    return library, precision


def sample(images: Images) -> np.ndarray:
    """Positions of the training images that int8 is calibrated on: the same for all seeds."""
    rows = images.positions("train")
    count = min(_SAMPLE, len(rows))
    return np.sort(np.random.default_rng(0).choice(rows, count, replace=False))


def extractor(
    cut: Cut, experiment: Experiment, some: np.ndarray
) -> tuple[Callable[[tf.Tensor], np.ndarray], str, float]:
    """What computes a prefix's activations: `extractor` and `precision` choose it.

    Args:
        cut: whose prefix it is.
        experiment: extractor, precision and deterministic are used.
        some: (n, S, S, 1) images in 0-255, to calibrate int8 on, and to see what a lower precision
            changes.

    Returns:
        A function from images (N, S, S, 1) float32 in 0-255 to (N, width) float32; the library and
        precision that it computes with; and how far it is from TensorFlow in float32: the mean
        absolute difference in standard deviations of the activations.

    Raises:
        UserError: a package is not installed.
    """
    require_extractor(experiment)
    library, precision = library_and_precision(experiment)
    plain = in_float32(cut.prefix)
    traced = trace(plain)
    if library == "tensorflow":
        compiled = uses_xla(experiment)
        dtype = cut.prefix.layers[-1].compute_dtype
        words = f"TensorFlow {dtype}" + (" compiled by XLA" if compiled else "")
        run = _joined(trace(cut.prefix, jit_compile=compiled))
        if dtype == "float32":
            return run, words, 0.0
    else:
        if precision == "int8":
            network, used = _quantized(plain, some), "int8"
        else:
            network, used = compile_for_openvino(traced, precision == "mixed")
        run, words = _joined(lambda images: network(images.numpy())), f"OpenVINO {used}"
    few = tf.constant(some[:8], tf.float32)
    expected = _joined(traced)(few)
    difference = float(np.abs(run(few) - expected).mean() / max(expected.std(), 1e-12))
    return run, words, difference


def _joined(network: Callable) -> Callable[[tf.Tensor], np.ndarray]:
    def run(images: tf.Tensor) -> np.ndarray:
        outputs = [np.asarray(output) for output in network(images)]
        return np.concatenate([output.reshape(len(output), -1) for output in outputs], axis=1)

    return run


def _quantized(prefix: keras.Model, some: np.ndarray) -> Callable[[np.ndarray], list[np.ndarray]]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "prefix.onnx"
        write_onnx(prefix, path, calibration=some)
        return load_in_openvino(path, reduced=True)[0]  # what int8 leaves in floats
