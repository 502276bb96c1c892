"""Class activation: channels of a feature map, weighted by the score's gradient there.

Grad-CAM weighs a channel by its mean gradient over the map, LayerCAM by the gradient at each
position.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from mura_utils.errors import UserError
from mura_utils.explain.methods.common import (
    CHUNK,
    checked,
    chunks,
    require_feature_map,
    to_heatmaps,
    traced,
)
from mura_utils.explain.targets import Target
from mura_utils.network.backbone import FEATURES, feature_layers
from mura_utils.network.vision_transformer import TOKEN_MAP

_RECTIFIERS = tuple(
    getattr(keras.activations, name) for name in ("relu", "gelu", "silu", "hard_silu")
)


def grad_cam(
    model: keras.Model, images: np.ndarray, target: Target, layer: str = FEATURES
) -> np.ndarray:
    """Grad-CAM at a layer; by default at the feature map that the head sees.

    The report takes ``conv5_block16_2_conv``, DenseNet121's last convolution. A dense block
    concatenates, so that layer carries only the last block's 32 of the 1,024 channels that reach
    the head: a map made there leaves out 97 % of what the decision rests on. The default is the
    backbone's final activation with all of them (``layer="conv5_block16_2_conv"`` gives the
    report's).

    Only what raises the score is shown. Where nothing does, as `contrast_target` may find on an
    image that looks normal throughout, the map is all zeros.

    Args:
        model: ends in ``logits`` and a softmax.
        images: (N, S, S, 1) float32 in 0..255.
        target: the score of each image.
        layer: name of a layer with output (N, h, w, C) that the logits depend on.

    Returns:
        (N, S, S) float32 in [0, 1].

    Raises:
        UserError: there is no such layer, or its output is no feature map.

    Source: Selvaraju et al. 2017; report Fig. 35.
    """
    return activation_maps(model, images, [target], [(layer, mean_weights)])[0][0]


def layer_cam(
    model: keras.Model, images: np.ndarray, target: Target, layer: str | None = None
) -> np.ndarray:
    """LayerCAM: each position of a feature map is weighed by its own gradient.

    Grad-CAM's mean gradient says what a channel is worth anywhere. That holds best at the end of a
    network, where cells are 32 pixels wide; before it, a channel speaks for the score here and
    against it there. Weighing each position by itself allows for finer maps. Gradients below 0
    count as 0, so that a map is hardly ever empty, however little speaks for the score.

    Args:
        model: ends in ``logits`` and a softmax.
        images: (N, S, S, 1) float32 in 0..255.
        target: the score of each image.
        layer: name of a layer with output (N, h, w, C) that the logits depend on; None takes
            `fine_layer`.

    Returns:
        (N, S, S) float32 in [0, 1].

    Raises:
        UserError: there is no such layer, or its output is no feature map.

    Source: Jiang et al. 2021, "LayerCAM: Exploring Hierarchical Class Activation Maps for
        Localization".
    """
    methods = [(layer or fine_layer(model), positive_weights)]
    return activation_maps(model, images, [target], methods)[0][0]


def fine_layer(model: keras.Model) -> str:
    """The last ReLU up to the head whose cells are at most 8 pixels wide, where LayerCAM is made.

    A ReLU, because LayerCAM adds up activations, and a negative one would count as evidence against
    the score where it is none. In DenseNet121 that is ``pool3_relu``; the pooling after it gives
    2 x 2 cells the same gradient. GELU and Swish, which hardly fall below 0, are taken for ReLUs. A
    vision transformer has none with a place: its patches' tokens are taken, 16 pixels wide.

    Raises:
        UserError: the model has no such layer.
    """
    rectified = [
        layer.name
        for layer, stride in feature_layers(model)
        if stride <= 8
        and len(layer.output.shape) == 4
        and layer.output.shape[1:3] != (1, 1)  # of a squeeze-and-excite
        and (
            isinstance(layer, keras.layers.ReLU)
            or getattr(layer, "activation", None) in _RECTIFIERS
        )
    ]
    if not rectified and any(layer.name == TOKEN_MAP for layer in model.layers):
        return TOKEN_MAP
    if not rectified:
        raise UserError(f"{model.name} has no ReLU with cells of at most 8 pixels: name a layer.")
    return rectified[-1]


def mean_weights(gradients: np.ndarray) -> np.ndarray:
    """Grad-CAM's weights."""
    return gradients.mean(axis=(1, 2), keepdims=True)


def positive_weights(gradients: np.ndarray) -> np.ndarray:
    """LayerCAM's weights."""
    return np.maximum(gradients, 0)


def activation_maps(
    model: keras.Model,
    images: np.ndarray,
    targets: Sequence[Target],
    methods: Sequence[tuple[str, Callable[[np.ndarray], np.ndarray]]],
) -> list[list[np.ndarray]]:
    """Class activation maps at several layers from one pass a target.

    tf-keras-vis would make a pass for each layer, and operation by operation.

    Args:
        model: as for `grad_cam`.
        images: as for `grad_cam`.
        targets: of these images.
        methods: layer, and what makes weights of the gradients (n, h, w, C) there.

    Returns:
        For each target and in it for each method (N, S, S) in [0, 1].
    """
    for target in targets:
        images = checked(model, images, target)
    for layer, _ in methods:
        require_feature_map(model, layer)
    outputs = [*(layer for layer, _ in methods), "logits"]
    network = keras.Model(model.inputs, [model.get_layer(name).output for name in outputs])

    def differentiate(
        batch: tf.Tensor, weights: tf.Tensor
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            tape.watch(batch)
            *maps, logits = network(batch, training=False)
            score = tf.reduce_sum(tf.cast(logits, tf.float32) * weights)
        return maps, tape.gradient(score, maps)

    if len(targets) * len(images) > CHUNK:  # or else tracing takes longer than it saves
        shapes = (images.shape[1:], targets[0].weights.shape[1:])
        signature = [tf.TensorSpec((None, *shape), tf.float32) for shape in shapes]
        differentiate = traced(differentiate, signature)
    results = []
    for target in targets:
        parts = []
        for rows in chunks(images):
            found = differentiate(tf.constant(images[rows]), tf.constant(target.weights[rows]))
            heats = [
                np.maximum((activation.numpy() * weigh(gradient.numpy())).sum(axis=-1), 0)
                for activation, gradient, (_, weigh) in zip(*found, methods, strict=True)
            ]
            parts.append([to_heatmaps(heat, images.shape[1]) for heat in heats])
        results.append([np.concatenate(made) for made in zip(*parts, strict=True)])
    return results
