"""The report's two kinds of attention as functions over Keras tensors.

They add ordinary Keras layers to the graph, so that a saved model loads on a machine without this
package.
"""

from __future__ import annotations

from keras import KerasTensor, layers, ops

_TINY = 1e-10


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
    weighted = [
        layers.Multiply(name=f"multiply_{head}")([x, attention])
        for head, attention in enumerate(_attention_maps(x, count), start=1)
    ]
    return layers.Concatenate(name="attended")(weighted)


def pooled_attention_heads(
    x: KerasTensor, rate: float, seed: int | None = None, count: int = 3
) -> KerasTensor:
    """`attention_heads`, dropout and global average pooling, without building the weighted copies.

    Outside training the values are those of the three layers. In training, dropout does not draw
    each of H * W * C * count values: the mean over positions is drawn from a normal distribution
    with the mean and the variance that it has under dropout. So the random numbers differ, and the
    tails of a sum of H * W terms.

    Args:
        x: feature map, (N, H, W, C).
        rate: of the dropout on the weighted copies, 0 up to but not including 1.
        seed: of the noise.
        count: number of heads.

    Returns:
        (N, count * C).

    Source: Wang and Manning 2013, "Fast dropout training", section 2.1.

    Example:
        >>> import keras
        >>> pooled_attention_heads(keras.Input((7, 7, 64)), rate=0.5).shape
        (None, 192)
    """
    height, width, channels = x.shape[1:]
    positions = height * width
    maps = layers.Concatenate(name="attention_maps")(_attention_maps(x, count))
    maps = layers.Reshape((positions, count), name="map_positions")(maps)
    features = layers.Reshape((positions, channels), name="feature_positions")(x)
    pooled = layers.Dot(axes=1, name="pool_heads")([maps, features]) / positions
    squares = layers.Dot(axes=1, name="pool_squares")([ops.square(maps), ops.square(features)])
    variance = squares * (rate / (1 - rate) / positions**2)
    noise = layers.GaussianNoise(1.0, seed=seed, name="dropout_maps")(ops.zeros_like(pooled))
    pooled = pooled + noise * ops.sqrt(variance + _TINY)  # whose slope at 0 is infinite
    return layers.Reshape((count * channels,), name="pool")(pooled)


def _attention_maps(x: KerasTensor, count: int) -> list[KerasTensor]:
    return [
        layers.Conv2D(1, 1, activation="sigmoid", name=f"attention_{head}")(x)
        for head in range(count)
    ]
