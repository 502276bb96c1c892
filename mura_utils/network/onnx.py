"""ONNX: a network as one file, in float32 or int8."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import numpy as np

from mura_utils.paths import atomic_write

METADATA = "mura"
"""Key under which a file holds its description, as JSON."""

_OPSET = 17
_QUANTIZED = ("Conv", "Gemm", "MatMul", "Relu", "Clip")
_DENSE = ("Gemm", "MatMul")


def write_onnx(
    model: keras.Model,
    path: Path,
    description: Mapping[str, Any] | None = None,
    calibration: np.ndarray | None = None,
) -> None:
    """Write a network as ONNX.

    Inputs and outputs have the names that they have in Keras: of a run's network ``radiograph``,
    (N, S, S, 1) float32 in 0-255, and ``predictions``, (N, K) float32.

    Args:
        model: functional.
        path: ends in ``.onnx``.
        description: written into ``metadata_props`` as JSON, under `METADATA`.
        calibration: images (N, S, S, 1), which a network with one input is quantized on; see
            `quantize`. Without them it stays in float32.
    """
    import onnx

    with atomic_write(path) as temporary:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "In the future `np.object`", FutureWarning)  # Keras's
            model.export(
                str(temporary),
                format="onnx",
                verbose=False,
                input_signature=input_signature(model),
                opset_version=_OPSET,
            )
        proto = onnx.load(temporary)
        _rename(proto.graph, [tensor.name for tensor in model.inputs] + model.output_names)
        onnx.save(proto, temporary)
        if calibration is not None:
            quantize(temporary, calibration)
            proto = onnx.load(temporary)
        onnx.helper.set_model_props(proto, {METADATA: json.dumps(description or {})})
        onnx.save(proto, temporary)


def input_signature(model: keras.Model) -> list[keras.InputSpec]:
    """What a network takes, for Keras's ``export``: it knows that only of one that was called."""
    return [
        keras.InputSpec(shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)
        for tensor in model.inputs
    ]


def quantize(path: Path, images: np.ndarray) -> None:
    """Make weights and activations of convolutions and dense layers integers of 8 bits, in place.

    Weights have a scale for each output channel; activations have one for each tensor, from its
    minimum and maximum over the images (static quantization, as pairs of QuantizeLinear and
    DequantizeLinear). See `_in_float` for what stays in float32.

    Args:
        path: of a network with one input.
        images: (N, S, S, 1) for calibration.

    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference"; ONNX Runtime's guide to quantization.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self, name: str) -> None:
            self._batches = ({name: image[None].astype(np.float32)} for image in images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._batches, None)

    with TemporaryDirectory() as folder:
        folded = Path(folder) / "folded.onnx"
        # Symbolic shapes need SymPy; plain shape inference knows all that matters here.
        quant_pre_process(path, folded, skip_symbolic_shape=True)
        graph = onnx.load(folded).graph
        quantize_static(
            folded,
            path,
            Reader(graph.input[0].name),
            op_types_to_quantize=list(_QUANTIZED),
            nodes_to_exclude=list(_in_float(graph)),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def _in_float(graph: Any) -> Iterator[str]:
    """Nodes that cost little time and much accuracy: first convolution, attention, classifier.

    Softmax, sigmoid and pooling stay in float anyway: their kind is not quantized.
    """
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    dense = [node for node in graph.node if node.op_type in _DENSE]
    yield convolutions[0].name
    for node in convolutions[1:]:
        if weights[node.input[1]][0] == 1:
            yield node.name
    for node in dense:
        if node is dense[-1] or node.input[1] not in weights:
            yield node.name


def _rename(graph: Any, names: Sequence[str]) -> None:
    """Give inputs and outputs these names, and all of them one number of images, N."""
    renamed = {}
    for value, name in zip((*graph.input, *graph.output), names, strict=True):
        renamed[value.name] = value.name = name
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
