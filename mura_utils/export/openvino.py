"""OpenVINO: a network as ``NAME.xml`` and ``NAME.bin``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras

from mura_utils.export.onnx import METADATA, input_signature


def write_openvino(model: keras.Model, path: Path, description: Mapping[str, Any]) -> None:
    """Write a network for OpenVINO.

    Args:
        model: functional, with one input.
        path: ends in ``.xml``; the weights come beside it, in a file that ends in ``.bin``.
        description: written into ``rt_info`` as JSON, under `METADATA`.
    """
    import openvino

    with TemporaryDirectory() as folder:
        plain = Path(folder) / path.name
        model.export(
            str(plain),
            format="openvino",
            verbose=False,
            input_signature=input_signature(model),
        )
        network = openvino.Core().read_model(plain)
        network.set_rt_info(json.dumps(description), METADATA)
        openvino.save_model(network, path, compress_to_fp16=False)
