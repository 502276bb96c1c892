"""Vision transformers, of plain Keras layers, with the weights of KerasHub's ``ViTBackbone``.

KerasHub keeps a whole encoder in one layer. Here every block's layers are in one flat graph, so
that blocks can be frozen one by one and each block's attention can be read (Dosovitskiy et al.
2021, "An Image is Worth 16x16 Words").
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import KerasTensor, layers, ops

from mura_utils.errors import UserError

PATCH = 16
"""Side of a patch, pixels."""

TOKEN_MAP = "token_map"
"""The layer with the patches' tokens as a map (N, S / 16, S / 16, D)."""

BLOCK_START = "_attention_norm"
"""How the name of each block's first layer ends."""

_EPSILON = 1e-6
_POSITIONS = "layers/vi_t_patching_and_embedding/position_embedding/vars/0"  # in KerasHub's file


@dataclass(frozen=True)
class Size:
    """How large a transformer is: blocks, heads, tokens' width; the MLP is four times as wide."""

    depth: int
    heads: int
    width: int
    preset: str = ""


TINY = Size(12, 3, 192)
SMALL = Size(12, 6, 384)
BASE = Size(12, 12, 768, "vit_base_patch16_224_imagenet")


def ViTTiny(**options) -> keras.Model:
    """12 blocks of width 192 (Touvron et al. 2021, "DeiT", table 1). See `_build`."""
    return _build(TINY, **options)


def ViTSmall(**options) -> keras.Model:
    """12 blocks of width 384 (Touvron et al. 2021, "DeiT", table 1). See `_build`."""
    return _build(SMALL, **options)


def ViTBase(**options) -> keras.Model:
    """12 blocks of width 768 (Dosovitskiy et al. 2021, table 1). See `_build`."""
    return _build(BASE, **options)


def _build(
    size: Size,
    input_tensor: KerasTensor | None = None,
    input_shape: tuple[int, int, int] | None = None,
    weights: str | None = None,
    include_top: bool = False,
) -> keras.Model:
    """The network without a top, with the arguments of ``keras.applications``.

    The class token is the first of the tokens; its start is part of its position's embedding. What
    the head reads are the patches' tokens, as a map with cells of 16 pixels, and averaged over two
    by two of them.

    Args:
        size: of the network.
        input_tensor: (N, S, S, 3), gray value / 127.5 - 1.
        input_shape: used without `input_tensor`.
        weights: None, random ones; "imagenet", those of the preset, for any image size.
        include_top: there is none.

    Raises:
        UserError: no fixed image size; no such weights; KerasHub is not installed.
    """
    if include_top:
        raise ValueError("there is no top")
    images = keras.Input(input_shape) if input_tensor is None else input_tensor
    height, width = images.shape[1:3]
    if height is None or width is None:
        raise UserError("A vision transformer needs a fixed image size: give image_size.")
    x = layers.Conv2D(size.width, PATCH, PATCH, name="patch_embedding")(images)
    rows, columns = x.shape[1:3]
    x = layers.Reshape((rows * columns, size.width), name="patches")(x)
    x = layers.ZeroPadding1D((1, 0), name="class_token")(x)
    numbers = ops.cumsum(ops.ones_like(x[..., 0], dtype="int32"), axis=1) - 1
    positions = layers.Embedding(
        rows * columns + 1,
        size.width,
        keras.initializers.RandomNormal(stddev=0.02),
        name="position",
    )(numbers)
    x = layers.Add(name="tokens")([x, positions])
    for number in range(1, size.depth + 1):
        x = _block(x, size, f"block{number}")
    x = layers.LayerNormalization(epsilon=_EPSILON, name="norm")(x)
    x = layers.Cropping1D((1, 0), name="patch_tokens")(x)
    x = layers.Reshape((rows, columns, size.width), name=TOKEN_MAP)(x)
    x = layers.AveragePooling2D(2, name="token_pool")(x)
    model = keras.Model(keras.utils.get_source_inputs(images), x, name=f"vit_{size.width}")
    if weights == "imagenet":
        take_hub_weights(model, _hub_backbone(size, preset=size.preset))
    return model


def _block(x: KerasTensor, size: Size, name: str) -> KerasTensor:
    """Attention and an MLP, each normalized before and added to what it read."""
    y = layers.LayerNormalization(epsilon=_EPSILON, name=f"{name}{BLOCK_START}")(x)
    attention = layers.MultiHeadAttention(
        size.heads, size.width // size.heads, name=f"{name}_attention"
    )
    y, _ = attention(y, y, return_attention_scores=True)
    x = layers.Add(name=f"{name}_attended")([x, y])
    y = layers.LayerNormalization(epsilon=_EPSILON, name=f"{name}_mlp_norm")(x)
    y = layers.Dense(4 * size.width, activation="gelu", name=f"{name}_mlp_wide")(y)
    y = layers.Dense(size.width, name=f"{name}_mlp_narrow")(y)
    return layers.Add(name=f"{name}_output")([x, y])


def attention_scores(model: keras.Model) -> list[KerasTensor]:
    """Each block's attention, (N, heads, tokens, tokens), rows sum to 1; empty without blocks."""
    return [
        layer.output[1]
        for layer in model.layers
        if isinstance(layer, layers.MultiHeadAttention) and isinstance(layer.output, list | tuple)
    ]


def read_hub_file(model: keras.Model, path: Path) -> None:
    """Give a network the weights that KerasHub saved of its ``ViTBackbone``.

    Args:
        model: made here.
        path: ``model.weights.h5`` of a preset's folder.

    Raises:
        UserError: the file does not fit, or KerasHub is not installed.
    """
    import h5py

    size = _size_of(model)
    try:
        with h5py.File(path) as file:
            positions = len(file[_POSITIONS])
        hub = _hub_backbone(size, side=PATCH * round((positions - 1) ** 0.5))
        hub.load_weights(path)
    except UserError:
        raise
    except (KeyError, OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"{path} does not fit {model.name} ({reason}): give model.weights.h5 of a KerasHub "
            "preset of this size."
        ) from None
    take_hub_weights(model, hub)


def take_hub_weights(model: keras.Model, hub: keras.Model) -> None:
    """Copy the weights of KerasHub's network; positions are interpolated where the grids differ.

    Args:
        model: made here.
        hub: a ``ViTBackbone`` with a class token, of the same size.

    Source: Dosovitskiy et al. 2021, section 3.2, on positions at another resolution.
    """
    token, kernel, bias, positions, *blocks = (np.asarray(weight) for weight in hub.weights)
    positions[0] += token[0, 0]
    first, rest = positions[:1], positions[1:]
    rows, columns = model.get_layer(TOKEN_MAP).output.shape[1:3]
    side = round(len(rest) ** 0.5)
    if (rows, columns) != (side, side):
        grid = rest.reshape(side, side, -1)
        grid = ops.image.resize(grid, (rows, columns), interpolation="bicubic")
        rest = np.asarray(grid).reshape(rows * columns, -1)
    model.set_weights([kernel, bias, np.concatenate([first, rest]), *blocks])


def _hub_backbone(size: Size, preset: str | None = None, side: int = 224) -> keras.Model:
    try:
        from keras_hub.models import ViTBackbone
    except ImportError:
        raise UserError(
            "Weights of a vision transformer are read with KerasHub: pip install -e .[transformer]."
        ) from None
    if preset is None:
        return ViTBackbone(
            (side, side, 3), PATCH, size.depth, size.heads, size.width, 4 * size.width
        )
    if not preset:
        raise UserError(
            "There are no ImageNet weights of this vision transformer: take vit_base, give a "
            "file, or weights none."
        )
    try:
        return ViTBackbone.from_preset(preset)
    except Exception as error:  # of the hubs' clients, of many kinds
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"KerasHub could not fetch {preset} ({reason}): give the path of its "
            "model.weights.h5 as weights=<path>, or train from random weights with weights=none."
        ) from None


def _size_of(model: keras.Model) -> Size:
    return next(size for size in (TINY, SMALL, BASE) if model.name == f"vit_{size.width}")
