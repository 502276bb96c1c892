"""LiteRT (TensorFlow Lite): a network as one file, in float32 or int8."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mura_utils.network.onnx import input_signature
from mura_utils.paths import atomic_write


def write_litert(
    model: keras.Model,
    path: Path,
    description: Mapping[str, Any],
    calibration: np.ndarray | None = None,
) -> None:
    """Write a network for LiteRT, of its own operations only.

    Args:
        model: functional, with one input.
        path: ends in ``.tflite``.
        description: not written into the file; `writing.export_run` puts it beside.
        calibration: images (N, S, S, 1), on which weights and activations of all layers are
            quantized to 8 bits; input and output stay float32. Without them all is float32.
    """
    import tensorflow as tf

    target = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    options: dict[str, Any] = {"target_spec": target}
    if calibration is not None:
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
        options["representative_dataset"] = lambda: (
            [image[None].astype(np.float32)] for image in calibration
        )
    with atomic_write(path) as temporary:
        model.export(
            str(temporary),
            format="litert",
            verbose=False,
            input_signature=input_signature(model),
            **options,
        )
