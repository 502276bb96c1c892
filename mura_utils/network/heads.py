"""From a backbone's feature maps to what the last dense layer reads."""

from __future__ import annotations

import keras
from keras import KerasTensor, layers, regularizers

from mura_utils.layers import attention_heads, pooled_attention_heads, squeeze_excite
from mura_utils.sections import Network

FINDING = "attention_0"
"""The sigmoid map (N, h, w, 1) that `mask_supervision` teaches where the finding is."""

FINDING_LOGITS = f"{FINDING}_logits"

FINDING_WEIGHTS = "weights"
"""The softmax over positions of these logits (N, h * w, 1), with which head "pooled" averages."""

LATERAL_FINE = "lateral_16"
"""The convolution by which head "pooled" reads the backbone's map with cells of 16 pixels."""

LOGITS = "logits"
"""The classifier: the last dense layer, one unit a class."""

_FUSED = 128  # channels of the map that two strides are fused into
_RARE = -4.0  # logit of a cell before training: findings cover about one cell in a hundred


def attach_head(network: Network, coarse: KerasTensor, fine: KerasTensor) -> KerasTensor:
    """The head that an experiment describes.

    Args:
        network: `head` and its parameters.
        coarse: the backbone's output (N, H, W, C), a cell of 32 pixels.
        fine: its last map with cells of 16 pixels.

    Returns:
        (N, D), what the layer ``logits`` reads.
    """
    if network.head == "dense":
        return _dense_head(coarse, network)
    if network.head == "attention":
        return _attention_head(coarse, network)
    return _pooled_head(coarse, fine, network)


def regularizer(network: Network) -> regularizers.Regularizer | None:
    """L1 and L2 on dense kernels."""
    if network.l1 == network.l2 == 0:
        return None
    return regularizers.L1L2(l1=network.l1, l2=network.l2)


def _dense_head(x: KerasTensor, network: Network) -> KerasTensor:
    """Head of exp1 to exp4: global average pooling, dense layers, dropout."""
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    for number, units in enumerate(network.dense_units, start=1):
        x = layers.Dense(
            units,
            activation="relu",
            kernel_regularizer=regularizer(network),
            name=f"dense_{number}",
        )(x)
    return layers.Dropout(network.dropout[0], seed=network.seed, name="dropout")(x)


def _attention_head(x: KerasTensor, network: Network) -> KerasTensor:
    """Head of exp5 and exp6 (report Fig. 16): attention, then two dense branches added."""
    seeds = range(5 * network.seed, 5 * network.seed + 5)  # equal ones would draw equal masks
    rates = iter(zip(network.dropout, seeds, strict=True))

    def dropout(x: KerasTensor, name: str) -> KerasTensor:
        rate, seed = next(rates)
        return layers.Dropout(rate, seed=seed, name=f"dropout_{name}")(x)

    def dense(x: KerasTensor, units: int, name: str, **options) -> KerasTensor:
        return layers.Dense(units, kernel_regularizer=regularizer(network), name=name, **options)(x)

    if network.squeeze_excite:
        x = squeeze_excite(x)
    if network.fast_dropout:
        x = pooled_attention_heads(x, *next(rates))
    else:
        x = layers.GlobalAveragePooling2D(name="pool")(dropout(attention_heads(x), "maps"))
    x = dropout(x, "pool")
    a = layers.BatchNormalization(name="a1_bn")(dense(x, 512, "a1"))
    a = layers.BatchNormalization(name="a2_bn")(dense(dropout(a, "a"), 512, "a2"))
    b = layers.BatchNormalization(name="b_bn")(dense(x, 512, "b", use_bias=False))
    x = layers.Activation("relu", name="branches_relu")(layers.Add(name="branches")([a, b]))
    x = dense(dropout(x, "branches"), 256, "dense", activation="relu")
    return dropout(x, "dense")


def _pooled_head(coarse: KerasTensor, fine: KerasTensor, network: Network) -> KerasTensor:
    """Several ways of pooling, side by side, so that a small finding is not averaged away."""
    pooled = {
        "average": lambda: layers.GlobalAveragePooling2D(name="pool_average")(coarse),
        "max": lambda: layers.GlobalMaxPooling2D(name="pool_max")(coarse),
        "lse": lambda: _soft_maximum(coarse, "pool_lse"),
        "attention": lambda: _attended(_fused(coarse, fine, network), network.seed),
    }
    parts = [pooled[name]() for name in network.pooling]
    x = parts[0] if len(parts) == 1 else layers.Concatenate(name="pooled")(parts)
    return layers.Dropout(network.dropout[0], seed=network.seed, name="dropout")(x)


def _soft_maximum(x: KerasTensor, name: str) -> KerasTensor:
    """log of the mean of exp over positions (Pinheiro and Collobert 2015, equation 4, r = 1)."""
    cells = layers.Reshape((-1, x.shape[-1]), name=f"{name}_cells")(x)
    summed = keras.ops.logsumexp(cells, axis=1)
    mean = summed - keras.ops.log(keras.ops.cast(keras.ops.shape(cells)[1], summed.dtype))
    return layers.Identity(name=name)(mean)  # a layer, that the network may be cut behind it


def _fused(coarse: KerasTensor, fine: KerasTensor, network: Network) -> KerasTensor:
    """One map (N, h, w, 128), of the coarse one or of both (Lin et al. 2017, feature pyramids)."""
    x = layers.Conv2D(_FUSED, 1, name="lateral_32")(coarse)
    if network.feature_strides == [16, 32]:
        x = layers.UpSampling2D(interpolation="bilinear", name="upsampled")(x)
        x = layers.Add(name="fused")([x, layers.Conv2D(_FUSED, 1, name=LATERAL_FINE)(fine)])
    x = layers.Activation("relu", name="fused_relu")(x)
    return layers.SeparableConv2D(_FUSED, 3, padding="same", activation="relu", name="smoothed")(x)


def _attended(x: KerasTensor, seed: int) -> KerasTensor:
    """Features weighted by the attention map, its maximum and its mean: (N, 128 + 2)."""
    logits = layers.Conv2D(
        1, 1, bias_initializer=keras.initializers.Constant(_RARE), name=FINDING_LOGITS
    )(layers.SpatialDropout2D(0.1, seed=seed, name="dropout_fused")(x))
    attention = layers.Activation("sigmoid", name=FINDING)(logits)
    weights = layers.Softmax(axis=1, name=FINDING_WEIGHTS)(
        layers.Reshape((-1, 1), name=f"{FINDING_WEIGHTS}_cells")(logits)
    )
    cells = layers.Reshape((-1, x.shape[-1]), name="fused_cells")(x)
    attended = layers.Dot(axes=1, name="attended")([weights, cells])
    parts = [
        layers.Flatten(name="attended_flat")(attended),
        layers.GlobalMaxPooling2D(name="hottest")(logits),
        layers.GlobalAveragePooling2D(name="heat")(attention),
    ]
    return layers.Concatenate(name="pool_attention")(parts)
