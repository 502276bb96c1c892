"""The facts of each backbone, one record each; `network.backbone` builds from them."""

from __future__ import annotations

from dataclasses import dataclass

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Backbone:
    """A network of ``keras.applications`` that can stand before a head.

    Attributes:
        builder: its name in ``keras.applications``; called with include_top, input_tensor, weights,
            and alpha where there are `alphas`.
        convolutions: how many Conv2D layers it has, the most that `unfreeze` can count.
        scale, offset: from grey values 0-255 to what its ImageNet weights were trained on
            (``imagenet_utils.preprocess_input``), one number or one a channel.
        alphas: width multipliers that ImageNet weights exist for; empty: it has no such parameter.
        phantom: whether ``weights: phantom`` is of this network.
        licence: of the ImageNet weights.
    """

    builder: str
    convolutions: int
    scale: float | tuple[float, ...]
    offset: float | tuple[float, ...]
    alphas: tuple[float, ...] = ()
    phantom: bool = False
    licence: str = "Apache-2.0"


_TORCH = {
    "scale": tuple(1 / (255 * std) for std in _STD),
    "offset": tuple(-mean / std for mean, std in zip(_MEAN, _STD, strict=True)),
}
_TF = {"scale": 1 / 127.5, "offset": -1.0}

BACKBONES = {
    "densenet121": Backbone("DenseNet121", 120, **_TORCH, phantom=True),
    "densenet169": Backbone("DenseNet169", 168, **_TORCH),
    "mobilenet": Backbone("MobileNet", 14, **_TF, alphas=(0.25, 0.5, 0.75, 1.0)),
}
"""Every backbone by the name that the parameter `backbone` takes."""
