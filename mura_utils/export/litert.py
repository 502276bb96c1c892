"""LiteRT (TensorFlow Lite): a network as one file, in float32 or int8."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from mura_utils.export.onnx import input_signature
from mura_utils.paths import atomic_write


def write_litert(model: keras.Model, path: Path, description: Mapping[str, Any]) -> None:
    """Write a network for LiteRT, of its own operations only.

    Args:
        model: functional, with one input.
        path: ends in ``.tflite``.
        description: not written into the file.
    """
    import tensorflow as tf

    with atomic_write(path) as temporary:
        model.export(
            str(temporary),
            format="litert",
            verbose=False,
            input_signature=input_signature(model),
            target_spec={"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]},
        )
