"""OpenVINO: a network as ``NAME.xml`` and ``NAME.bin``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import numpy as np

from mura_utils.network.onnx import METADATA, input_signature, write_onnx


def write_openvino(
    model: keras.Model,
    path: Path,
    description: Mapping[str, Any],
    calibration: np.ndarray | None = None,
) -> None:
    """Write a network for OpenVINO.

    Args:
        model: functional, with one input.
        path: ends in ``.xml``; the weights come beside it, in a file that ends in ``.bin``.
        description: written into ``rt_info`` as JSON, under `METADATA`.
        calibration: images (N, S, S, 1), which the network is quantized on as for ONNX. Without
            them it stays in float32.
    """
    import openvino

    with TemporaryDirectory() as folder:
        if calibration is None:
            plain = Path(folder) / path.name
            signature = input_signature(model)
            model.export(str(plain), format="openvino", verbose=False, input_signature=signature)
            network = openvino.Core().read_model(plain)
        else:
            quantized = Path(folder) / "network.onnx"
            write_onnx(model, quantized, calibration=calibration)
            network = openvino.convert_model(quantized)  # unlike read_model, folds constants
        network.set_rt_info(json.dumps(description), METADATA)
        openvino.save_model(network, path, compress_to_fp16=False)
