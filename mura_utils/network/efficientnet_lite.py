"""EfficientNet-Lite: EfficientNet without squeeze-and-excite and with ReLU6, for small devices.

Stem and top keep their width, first and last stage their depth (Liu 2020, "Higher accuracy on
vision models with EfficientNet-Lite"; Tan and Le 2019, "EfficientNet", table 1).
"""

from __future__ import annotations

import math

import keras
from keras import KerasTensor, layers

_STAGES = (
    # kernel, blocks, filters, expansion, stride
    (3, 1, 16, 1, 1),
    (3, 2, 24, 6, 2),
    (5, 2, 40, 6, 2),
    (3, 3, 80, 6, 2),
    (5, 3, 112, 6, 1),
    (5, 4, 192, 6, 2),
    (3, 1, 320, 6, 1),
)


def EfficientNetLite0(**options) -> keras.Model:
    """Width 1.0, depth 1.0; 224 px, ImageNet top-1 75.1 %. See `_build`."""
    return _build("efficientnet_lite0", 1.0, 1.0, **options)


def EfficientNetLite2(**options) -> keras.Model:
    """Width 1.1, depth 1.2; 260 px, ImageNet top-1 77.6 %. See `_build`."""
    return _build("efficientnet_lite2", 1.1, 1.2, **options)


def _build(
    name: str,
    width: float,
    depth: float,
    include_top: bool = True,
    weights: None = None,
    input_tensor: KerasTensor | None = None,
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    classes: int = 1000,
) -> keras.Model:
    """The network, with the arguments of ``keras.applications``.

    Args:
        name: of the model, and of its weights.
        width: factor of the filters.
        depth: factor of the blocks a stage.
        include_top: whether to end with average pooling, dropout and a softmax.
        weights: None, random ones; see `torch_weights.assign_tensors`.
        input_tensor: (N, H, W, 3), (gray value - mean) / deviation as for PyTorch's networks.
        input_shape: used without `input_tensor`.
        classes: of the top.
    """
    images = keras.Input(input_shape) if input_tensor is None else input_tensor
    x = layers.Conv2D(32, 3, 2, "same", use_bias=False, name="stem_conv")(images)
    x = _normalize(x, "stem")
    for stage, (kernel, blocks, filters, expansion, stride) in enumerate(_STAGES):
        deep = 0 < stage < len(_STAGES) - 1
        for block in range(math.ceil(depth * blocks) if deep else blocks):
            x = _block(
                x, f"block{stage + 1}{chr(97 + block)}", kernel, _rounded(filters * width),
                expansion, stride if block == 0 else 1,
            )  # fmt: skip
    x = layers.Conv2D(1280, 1, use_bias=False, name="top_conv")(x)
    x = _normalize(x, "top")
    if include_top:
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
        x = layers.Dropout(0.2, name="top_dropout")(x)
        x = layers.Dense(classes, activation="softmax", name="predictions")(x)
    inputs = images if input_tensor is None else keras.utils.get_source_inputs(input_tensor)
    return keras.Model(inputs, x, name=name)


def _rounded(filters: float) -> int:
    """The nearest multiple of 8 that loses at most a tenth."""
    rounded = max(8, int(filters + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * filters else rounded


def _normalize(x: KerasTensor, name: str, activate: bool = True) -> KerasTensor:
    x = layers.BatchNormalization(epsilon=1e-3, name=f"{name}_bn")(x)
    return layers.ReLU(6.0, name=f"{name}_activation")(x) if activate else x


def _block(
    x: KerasTensor, name: str, kernel: int, filters: int, expansion: int, stride: int
) -> KerasTensor:
    """Inverted residual: expand, filter each channel, project; added where the shapes agree."""
    before = x
    if expansion > 1:
        wide = x.shape[-1] * expansion
        x = layers.Conv2D(wide, 1, use_bias=False, name=f"{name}_expand_conv")(x)
        x = _normalize(x, f"{name}_expand")
    x = layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False, name=f"{name}_dwconv")(x)
    x = _normalize(x, name)
    x = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_project_conv")(x)
    x = _normalize(x, f"{name}_project", activate=False)
    return layers.Add(name=f"{name}_add")([x, before]) if x.shape == before.shape else x
