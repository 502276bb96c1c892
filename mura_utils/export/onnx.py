"""ONNX: a network as one file, in float32 or int8."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from mura_utils.paths import atomic_write

METADATA = "mura"
"""Key under which a file holds its description, as JSON."""

_OPSET = 17


def write_onnx(
    model: keras.Model, path: Path, description: Mapping[str, Any] | None = None
) -> None:
    """Write a network as ONNX.

    Inputs and outputs have the names that they have in Keras: of a run's network ``radiograph``,
    (N, S, S, 1) float32 in 0-255, and ``predictions``, (N, K) float32.

    Args:
        model: functional.
        path: ends in ``.onnx``.
        description: written into ``metadata_props`` as JSON, under `METADATA`.
    """
    import onnx

    with atomic_write(path) as temporary:
        model.export(
            str(temporary),
            format="onnx",
            verbose=False,
            input_signature=input_signature(model),
            opset_version=_OPSET,
        )
        proto = onnx.load(temporary)
        _rename(proto.graph, [tensor.name for tensor in model.inputs] + model.output_names)
        onnx.helper.set_model_props(proto, {METADATA: json.dumps(description or {})})
        onnx.save(proto, temporary)


def input_signature(model: keras.Model) -> list[keras.InputSpec]:
    """What a network takes, for Keras's ``export``: it knows that only of one that was called."""
    return [
        keras.InputSpec(shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)
        for tensor in model.inputs
    ]


def _rename(graph: Any, names: Sequence[str]) -> None:
    """Give inputs and outputs these names, and all of them one number of images, N."""
    renamed = {}
    for value, name in zip((*graph.input, *graph.output), names, strict=True):
        renamed[value.name] = value.name = name
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
