"""An exported file, run by the library that it is for."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from mura_utils.errors import UserError, naming_damage

_BATCH = 32

LIBRARIES = {".onnx": "onnxruntime", ".tflite": "ai_edge_litert", ".xml": "openvino"}
"""What runs a file, by its ending; a ``.keras`` file needs nothing else."""


class Runtime:
    """An exported network.

    Args:
        path: ends in ``.onnx``, ``.tflite``, ``.xml`` (OpenVINO, with its ``.bin`` beside) or
            ``.keras``.
        threads: how many it computes with.

    Raises:
        UserError: its library is not installed; the file is absent, damaged, or of another kind.
    """

    def __init__(self, path: Path, threads: int = 2) -> None:
        """Load the file."""
        path = Path(path)
        if path.suffix not in _LOADERS:
            raise UserError(f"{path} is no exported network: give one of {', '.join(_LOADERS)}.")
        require_library(*filter(None, [LIBRARIES.get(path.suffix)]))
        if not path.is_file():
            raise UserError(f"{path} is missing: write it with 'mura export'.")
        with naming_damage(path, "write it again with 'mura export'"):
            self._answer = _LOADERS[path.suffix](path, threads)

    def predict(self, images: np.ndarray, batch_size: int = _BATCH) -> np.ndarray:
        """Probabilities of each class.

        Args:
            images: (N, S, S, 1) gray values in 0-255.
            batch_size: how many are computed at a time.

        Returns:
            (N, K) float32.
        """
        starts = range(0, len(images), batch_size)
        batches = (images[start : start + batch_size].astype(np.float32) for start in starts)
        return np.concatenate([self._answer(batch) for batch in batches])


def require_library(*modules: str) -> None:
    """Refuse to go on without libraries of the extra ``export``.

    Raises:
        UserError: names the first that is not installed.
    """
    for module in modules:
        if find_spec(module) is None:
            raise UserError(f"An export needs {module}: pip install -e .[export].")


def _onnx(path: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    return lambda batch: session.run(None, {name: batch})[0]


def _litert(path: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    shape: tuple[int, ...] = ()

    def answer(batch: np.ndarray) -> np.ndarray:
        nonlocal shape
        if batch.shape != shape:
            interpreter.resize_tensor_input(taken["index"], batch.shape)
            interpreter.allocate_tensors()
            shape = batch.shape
        interpreter.set_tensor(taken["index"], batch)
        interpreter.invoke()
        return interpreter.get_tensor(given["index"])

    return answer


def _openvino(path: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    import openvino

    compiled = openvino.Core().compile_model(
        path,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "f32",  # what is int8 stays int8; no bfloat16
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        },
    )
    return lambda batch: compiled(batch)[0]


def _keras(path: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    import tensorflow as tf

    from mura_utils.network.saved import load_model

    model = load_model(path)
    signature = [tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)]
    compiled = tf.function(lambda images: model(images, training=False), input_signature=signature)
    return lambda batch: compiled(batch).numpy()


_LOADERS: dict[str, Callable[[Path, int], Callable[[np.ndarray], np.ndarray]]] = {
    ".onnx": _onnx,
    ".tflite": _litert,
    ".xml": _openvino,
    ".keras": _keras,
}
