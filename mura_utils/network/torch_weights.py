"""Tensors from a PyTorch file, without PyTorch and without running what the file says.

A pickle is a program: reading one from elsewhere with `pickle.load` runs it. The reader here knows
the four names that a file of tensors needs, and refuses every other.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import keras
import numpy as np

from mura_utils.errors import UserError

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of torch.save before PyTorch 1.6

_STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
}


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict by name, as ``torch.save`` wrote it before PyTorch 1.6.

    Args:
        path: the file, such as ``*.pth``.

    Raises:
        UserError: the file cannot be read, is damaged or of another format, or holds anything but
            tensors; nothing of it has been executed.
    """
    storages: dict[str, np.ndarray] = {}
    try:
        with path.open("rb") as file:
            if [_Tensors(file, {}).load() for _ in range(2)] != [_MAGIC, _PROTOCOL]:
                raise ValueError("it is no state dict in the format before PyTorch 1.6")
            pickle_of_sizes = _Tensors(file, {}).load()
            if not pickle_of_sizes["little_endian"]:
                raise ValueError("its bytes are big-endian")
            tensors = _Tensors(file, storages).load()
            keys = _Tensors(file, {}).load()
            if sorted(keys) != sorted(storages):
                raise ValueError("it holds other values than its tensors name")
            for key in keys:
                _fill(storages[key], file)
        if not isinstance(tensors, dict) or not all(
            isinstance(name, str) and isinstance(tensor, _View) for name, tensor in tensors.items()
        ):
            raise ValueError("it holds more than named tensors")
        return {name: tensor.read() for name, tensor in tensors.items()}
    except Exception as error:  # what a damaged pickle raises is of any kind
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"{path} cannot be read as PyTorch weights ({reason}): fetch it again."
        ) from None


def assign_tensors(model: keras.Model, path: Path) -> None:
    """Give a network the tensors of a state dict whose layers come in the same order.

    A network without its top leaves the file's last tensors out.

    Raises:
        UserError: as `read_tensors`; or the shapes are another network's.
    """
    tensors = read_tensors(path)
    prefixes = dict.fromkeys(name.rpartition(".")[0] for name in tensors)
    weighted = [layer for layer in model.layers if layer.weights]
    try:
        for layer, prefix in zip(weighted, prefixes, strict=False):
            layer.set_weights(list(_arrays(layer, prefix, tensors)))
        if len(prefixes) < len(weighted):
            raise ValueError(f"{len(prefixes)} layers for {len(weighted)}")
    except (KeyError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise UserError(
            f"{path} does not fit {model.name} ({reason}): check the backbone."
        ) from None


def _arrays(
    layer: keras.Layer, prefix: str, tensors: dict[str, np.ndarray]
) -> Iterator[np.ndarray]:
    """A layer's tensors in Keras's order and layout."""
    if isinstance(layer, keras.layers.BatchNormalization):
        for part in ("weight", "bias", "running_mean", "running_var"):
            yield tensors[f"{prefix}.{part}"]
        return
    kernel = tensors[f"{prefix}.weight"]
    if isinstance(layer, keras.layers.Dense):
        yield kernel.T
        yield tensors[f"{prefix}.bias"]
    else:
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        yield kernel.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))


def _fill(storage: np.ndarray, file: BinaryIO) -> None:
    if int.from_bytes(file.read(8), "little") != len(storage):
        raise ValueError("a tensor has another size than the file says")
    if file.readinto(storage.view(np.uint8)) != storage.nbytes:
        raise ValueError("the file is cut off")


class _View:
    """A tensor whose storage is read after it."""

    def __init__(
        self, storage: np.ndarray, offset: int, shape: Sequence[int], strides: Sequence[int]
    ) -> None:
        self._storage, self._offset = storage, offset
        self._shape, self._strides = tuple(shape), tuple(strides)

    def read(self) -> np.ndarray:
        steps = [
            (size - 1) * stride for size, stride in zip(self._shape, self._strides, strict=True)
        ]
        values = self._storage[self._offset :]
        if self._offset < 0 or min(self._strides, default=0) < 0 or sum(steps) >= len(values):
            raise ValueError("a tensor reaches beyond its storage")
        strides = [stride * values.itemsize for stride in self._strides]
        return np.lib.stride_tricks.as_strided(values, self._shape, strides, writeable=False).copy()


def _rebuild_tensor_v2(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _View:
    return _View(storage, offset, shape, strides)


class _Tensors(pickle.Unpickler):
    """An unpickler that knows tensors and nothing else."""

    def __init__(self, file: BinaryIO, storages: dict[str, np.ndarray]) -> None:
        super().__init__(file)
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor_v2
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no tensor needs")

    def persistent_load(self, about: Any) -> np.ndarray:
        kind, dtype, key, _, count, _ = about
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError("it refers to something that is no storage")
        return self._storages.setdefault(key, np.empty(count, dtype))
