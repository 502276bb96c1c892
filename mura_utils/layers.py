"""The report's two kinds of attention as functions over Keras tensors.

They add ordinary Keras layers to the graph, so that a saved model loads on a machine without this
package.
"""

from __future__ import annotations

from keras import KerasTensor, layers


def squeeze_excite(x: KerasTensor, ratio: int = 16) -> KerasTensor:
    """Weigh each channel by a gate computed from all channels' means.

    Args:
        x: feature map, (N, H, W, C).
        ratio: C / ratio units in the bottleneck.

    Returns:
        (N, H, W, C): `x` with every channel multiplied by a factor in (0, 1).

    Source: Hu et al. 2018, "Squeeze-and-Excitation Networks", equations 2-4; report Fig. 16.

    Example:
        >>> import keras
        >>> squeeze_excite(keras.Input((7, 7, 64)), ratio=16).shape
        (None, 7, 7, 64)
    """
    channels = x.shape[-1]
    gate = layers.GlobalAveragePooling2D(name="squeeze")(x)
    gate = layers.Dense(max(channels // ratio, 1), activation="relu", name="excite_reduce")(gate)
    gate = layers.Dense(channels, activation="sigmoid", name="excite_expand")(gate)
    gate = layers.Reshape((1, 1, channels), name="excite")(gate)
    return layers.Multiply(name="squeeze_excite")([x, gate])


def attention_heads(x: KerasTensor, count: int = 3) -> KerasTensor:
    """Weigh positions by `count` learned maps and concatenate the weighted copies.

    The maps are the outputs of the layers ``attention_0`` ... (N, H, W, 1), values in (0, 1).

    Args:
        x: feature map, (N, H, W, C).
        count: number of heads.

    Returns:
        (N, H, W, count * C).

    Source: report Fig. 16, layers ``attention_0 ... 2`` and ``multiply_1 ... 3``.

    Example:
        >>> import keras
        >>> attention_heads(keras.Input((7, 7, 64)), count=3).shape
        (None, 7, 7, 192)
    """
    weighted = []
    for head in range(count):
        attention = layers.Conv2D(1, 1, activation="sigmoid", name=f"attention_{head}")(x)
        weighted.append(layers.Multiply(name=f"multiply_{head + 1}")([x, attention]))
    return layers.Concatenate(name="attended")(weighted)
