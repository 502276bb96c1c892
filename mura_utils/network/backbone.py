"""The part of a network before its head: built, scaled, and loaded with weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, layers

from mura_utils.backbones import BACKBONES
from mura_utils.errors import UserError, naming_damage
from mura_utils.experiments import weights_file
from mura_utils.network.flat import flatten
from mura_utils.network.saved import take_backbone
from mura_utils.network.torch_weights import assign_tensors
from mura_utils.network.vision_transformer import BLOCK_START, read_hub_file
from mura_utils.paths import atomic_write, reading
from mura_utils.sections import Network

FEATURES = "features"
"""Name of the layer whose output, (N, h, w, C), the head reads: the backbone's final map."""


def build_backbone(network: Network, size: int | None) -> tuple[keras.KerasTensor, keras.Model]:
    """The part before the head, with its weights loaded.

    Args:
        network: `backbone`, `alpha`, `weights` and `scaling` are used.
        size: of the square input, pixels; None takes any.

    Returns:
        The input (N, S, S, 1) in 0-255, and a model with the backbone's output.

    Raises:
        UserError: weights that cannot be fetched or do not fit.
    """
    radiograph = keras.Input((size, size, 1), name="radiograph")
    x = layers.Concatenate(name="three_channels")([radiograph] * 3)
    backbone = _load_backbone(network, _scaling(network)(x))
    for operation in backbone.operations:
        if operation.name.startswith("multiply"):  # Keras's numbers; the heads' are the report's
            operation.name = f"backbone_{operation.name}"
    return backbone.input, backbone


def convolution_names(model: keras.Model) -> list[str]:
    """Names of the Conv2D layers up to the feature map, in the graph's order.

    Of a vision transformer's blocks, each counts with its first layer.
    """
    return [
        layer.name
        for layer, _ in feature_layers(model)
        if isinstance(layer, layers.Conv2D) or layer.name.endswith(BLOCK_START)
    ]


def feature_layers(model: keras.Model) -> Iterator[tuple[keras.Layer, int]]:
    """Layers up to the feature map in the graph's order, with the pixels a cell of their maps.

    Padding is left out: its border belongs to no cell.
    """
    stride = 1
    for layer in model.layers:
        stride *= getattr(layer, "strides", (1,))[0]
        if not isinstance(layer, layers.ZeroPadding2D):
            yield layer, stride
        if layer.name == FEATURES:
            break


def _scaling(network: Network) -> layers.Layer:
    if network.scaling == "unit":
        return layers.Rescaling(1 / 255, name="scaling")
    facts = BACKBONES[network.backbone]
    scale, offset = (
        list(value) if isinstance(value, tuple) else value for value in (facts.scale, facts.offset)
    )
    return layers.Rescaling(scale, offset, name="scaling")


def _load_backbone(network: Network, x: KerasTensor) -> keras.Model:
    facts = BACKBONES[network.backbone]
    module, _, name = facts.builder.rpartition(":")
    build = getattr(import_module(module or "keras.applications"), name)
    options = {"include_top": False, "input_tensor": x, **facts.options}
    if facts.alphas:
        options["alpha"] = network.alpha
    if network.weights == "none":
        return flatten(build(weights=None, **options))
    path = weights_file(network)
    if path is None:
        return flatten(_download(network, build, options))
    readers = {".npz": _read_weights, ".pth": assign_tensors, ".keras": take_backbone}
    if facts.kerashub:
        readers[".h5"] = read_hub_file
    read = readers.get(path.suffix)
    if read is not None:
        backbone = flatten(build(weights=None, **options))
        read(backbone, path)
        return backbone
    # A file is loaded into the network as its users save it, without our input layers, whose extra
    # containers Keras would report as missing from the file.
    size = network.image_size
    as_saved = build(
        weights=None, **options | {"input_tensor": None, "input_shape": (size, size, 3)}
    )
    try:
        as_saved.load_weights(path)
    except Exception as error:  # h5py's and Keras's, of many kinds
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"{path} does not fit {network.backbone} without its top ({reason}): check the "
            "backbone, and for mobilenet alpha."
        ) from None
    backbone = build(weights=None, **options)
    backbone.set_weights(as_saved.get_weights())
    return flatten(backbone)


def _download(
    network: Network, build: Callable[..., keras.Model], options: dict[str, Any]
) -> keras.Model:
    try:
        return build(weights="imagenet", **options)
    except Exception as error:  # Keras raises a bare Exception when its download fails.
        if isinstance(error, ValueError):  # an alpha that ImageNet weights do not exist for
            raise UserError(f"{network.backbone}: {error}") from None
        if "URL fetch failure" not in str(error):
            raise
        raise UserError(
            f"The ImageNet weights of {network.backbone} could not be downloaded "
            f"({error}): fetch that file on a machine with network and give its path as "
            "weights=<path>, or train from random weights with weights=none."
        ) from None


def save_weights(weights: Sequence[keras.Variable], path: Path) -> None:
    """Write weights as float16 by their names, e.g. ``conv1_conv/kernel``: half of Keras's file.

    Raises:
        ValueError: a weight that float16 cannot hold.
    """
    arrays = {_stored_name(weight): np.asarray(weight).astype(np.float16) for weight in weights}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError("a weight is not finite as float16")
    with atomic_write(path) as temporary:
        np.savez(temporary, **arrays)


def _read_weights(backbone: keras.Model, path: Path) -> None:
    """Assign what `save_weights` wrote, after a look at the sha256 in the card next to it.

    Raises:
        UserError: the file is not that of its card, damaged, or of another network.
    """
    card = path.with_suffix(".json")
    if card.is_file():
        with reading(card) as described:
            expected = described["sha256"]
        if expected != hashlib.sha256(path.read_bytes()).hexdigest():
            raise UserError(f"{path} is not the file that {card.name} describes: fetch both again.")
    with naming_damage(path, "fetch it again"), np.load(path) as stored:
        known = set(stored.files)
        names = [_stored_name(weight) for weight in backbone.weights]
        arrays = [stored[name] for name in names if name in known]
    shapes = [weight.shape for weight in backbone.weights]
    if [array.shape for array in arrays] != shapes:
        raise UserError(
            f"{path} does not fit {backbone.name} without its top: check the backbone, and for "
            "mobilenet alpha."
        )
    backbone.set_weights([array.astype(np.float32) for array in arrays])


def _stored_name(weight: keras.Variable) -> str:
    """Its path without the number that Keras gives to a weight without a name."""
    return re.sub(r"/variable_\d+$", "/variable", weight.path)
