"""Heat-maps: which pixels a prediction rests on.

Three families, all for a model of `mura_utils.network` and all as (N, S, S) in [0, 1]:

- **attention**: the weights that a head gives to positions; it does not depend on a target, and
  says nothing of a class. The heads of exp5 and exp6 multiply the features by sigmoid maps; head
  "pooled" averages them with the softmax over positions of one map's logits.
- **saliency**: the gradient of a score at the input pixels. It has no layer argument: wherever the
  report says "saliency at layer L", there is no such thing in tf-keras-vis.
- **class activation**: channels of a feature map, weighted by the score's gradient: Grad-CAM by its
  mean over the map, LayerCAM by its value at each position.

Scores are taken at the logits, in front of the softmax: a sub-model that ends at ``logits`` shares
all layers with the model, so nothing is cloned and no activation is swapped.

Each map is scaled by its own minimum and maximum (the softmax by its maximum alone): colors of two
maps do not compare, and a hottest point exists even where the model found nothing.

Explain a float32 model: under mixed_float16 small gradients are lost and the maps change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import keras
import numpy as np
import tensorflow as tf
from tf_keras_vis.saliency import Saliency

from mura_utils.errors import UserError
from mura_utils.explain.targets import Target
from mura_utils.network.backbone import FEATURES, feature_layers
from mura_utils.network.heads import FINDING, FINDING_WEIGHTS

_RECTIFIERS = tuple(
    getattr(keras.activations, name) for name in ("relu", "gelu", "silu", "hard_silu")
)
_CHUNK = 16  # images at once: bounds the memory of the gradients


def attention_maps(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """The maps of the attention heads, in the order of their numbers.

    For exp5 and exp6 these are the sigmoid maps. Head "pooled" has a sigmoid map too, which is warm
    in most places, but it averages the features with the softmax over positions of that map's
    logits, and this is what is shown: divided by its maximum, so that `energy_in_mask` is the share
    of the weights that the finding gets. A head that weighs every position alike gives zeros.

    Args:
        model: with layers ``attention_0`` ..., each (N, h, w, 1); in head "pooled" with ``weights``
            (N, h * w, 1), which sums to 1 over positions.
        images: (N, S, S, 1) float32 in 0..255.

    Returns:
        (N, heads, S, S) float32 in [0, 1].

    Raises:
        UserError: the model has no attention heads.

    Source: report Fig. 33.
    """
    images = _checked(model, images)
    heads = _attention_layers(model)
    if not heads:
        raise UserError(
            f"{model.name} has no attention heads: choose saliency or grad_cam, or train exp5 "
            "or exp6."
        )
    pooled = any(layer.name == FINDING_WEIGHTS for layer in model.layers)
    shown = [FINDING_WEIGHTS] if pooled else heads
    network = keras.Model(model.input, [model.get_layer(name).output for name in shown])
    maps = keras.tree.flatten(network.predict(images, batch_size=_CHUNK, verbose=0))
    grid = model.get_layer(FINDING).output.shape[1:3]
    maps = [map_.reshape(-1, *grid) for map_ in maps]
    return np.stack([to_heatmaps(map_, images.shape[1], from_zero=pooled) for map_ in maps], axis=1)


def saliency(
    model: keras.Model,
    images: np.ndarray,
    target: Target,
    smooth_samples: int = 0,
    smooth_noise: float = 0.2,
    seed: int = 0,
) -> np.ndarray:
    """Absolute gradient of the score at each input pixel.

    The radiograph's one channel feeds the network's three, so the gradient is already their sum.
    With `smooth_samples` it is the mean of its absolute values over noisy copies (SmoothGrad; the
    paper averages with the sign). tf-keras-vis has that as well, but draws from NumPy's global
    generator; here all images get the same noise field, scaled to their own range, so that a map
    depends neither on the batch nor on earlier draws.

    Args:
        model: ends in ``logits`` and a softmax.
        images: (N, S, S, 1) float32 in 0..255.
        target: the score of each image.
        smooth_samples: noisy copies; 0 for the plain gradient.
        smooth_noise: standard deviation of the noise as a share of the image's range.
        seed: of the noise.

    Returns:
        (N, S, S) float32 in [0, 1].

    Source: Simonyan et al. 2013 (plain); Smilkov et al. 2017 (SmoothGrad); report Fig. 34.
    """
    images = _checked(model, images, target)
    explainer = Saliency(_logit_model(model))
    spread = smooth_noise * np.ptp(images, axis=(1, 2, 3), keepdims=True)
    noise = np.zeros((1, *images.shape[1:]), np.float32)
    if smooth_samples:
        rng = np.random.default_rng(seed)
        noise = rng.standard_normal((smooth_samples, *images.shape[1:]), np.float32)
    chunks = []
    for rows in _chunks(images, copies=len(noise)):
        copies = images[rows, None] + spread[rows, None] * noise
        score = target.score(rows, copies=len(noise))
        flat = copies.reshape(-1, *images.shape[1:])
        gradients = np.asarray(explainer(score, flat, normalize_map=False))
        chunks.append(
            to_heatmaps(gradients.reshape(copies.shape[:-1]).mean(axis=1), images.shape[1])
        )
    return np.concatenate(chunks)


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
    return _activations(model, images, [target], [(layer, _mean)])[0][0]


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
    methods = [(layer or fine_layer(model), _positive)]
    return _activations(model, images, [target], methods)[0][0]


def fine_layer(model: keras.Model) -> str:
    """The last ReLU up to the head whose cells are at most 8 pixels wide, where LayerCAM is made.

    A ReLU, because LayerCAM adds up activations, and a negative one would count as evidence against
    the score where it is none. In DenseNet121 that is ``pool3_relu``; the pooling after it gives
    2 x 2 cells the same gradient. GELU and Swish, which hardly fall below 0, are taken for ReLUs.

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
    if not rectified:
        raise UserError(f"{model.name} has no ReLU with cells of at most 8 pixels: name a layer.")
    return rectified[-1]


def _mean(gradients: np.ndarray) -> np.ndarray:
    """Grad-CAM's weights."""
    return gradients.mean(axis=(1, 2), keepdims=True)


def _positive(gradients: np.ndarray) -> np.ndarray:
    """LayerCAM's weights."""
    return np.maximum(gradients, 0)


def _activations(
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
        images = _checked(model, images, target)
    for layer, _ in methods:
        chosen = next((one for one in model.layers if one.name == layer), None)
        if chosen is None or len(chosen.output.shape) != 4:
            raise UserError(
                f"{model.name} has no layer {layer!r} with an output (N, h, w, C): choose one from "
                f"model.summary(), or {FEATURES!r}, the map that the head sees."
            )
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

    if len(targets) * len(images) > _CHUNK:  # or else tracing takes longer than it saves
        shapes = (images.shape[1:], targets[0].weights.shape[1:])
        signature = [tf.TensorSpec((None, *shape), tf.float32) for shape in shapes]
        differentiate = tf.function(differentiate, signature)
    results = []
    for target in targets:
        chunks = []
        for rows in _chunks(images):
            found = differentiate(tf.constant(images[rows]), tf.constant(target.weights[rows]))
            heats = [
                np.maximum((activation.numpy() * weigh(gradient.numpy())).sum(axis=-1), 0)
                for activation, gradient, (_, weigh) in zip(*found, methods, strict=True)
            ]
            chunks.append([to_heatmaps(heat, images.shape[1]) for heat in heats])
        results.append([np.concatenate(parts) for parts in zip(*chunks, strict=True)])
    return results


def _attention(model: keras.Model, images: np.ndarray, target: Target, head: int) -> np.ndarray:
    return attention_maps(model, images)[:, head]


METHODS: dict[str, Callable[[keras.Model, np.ndarray, Target], np.ndarray]] = {
    **{f"attention_{head}": partial(_attention, head=head) for head in range(3)},
    "saliency": saliency,
    "smooth_grad": partial(saliency, smooth_samples=16),
    "grad_cam": grad_cam,
    "layer_cam": layer_cam,
}
"""Name -> function (model, images (N, S, S, 1), target) -> (N, S, S) in [0, 1]."""


def methods_of(model: keras.Model) -> list[str]:
    """Names of the `METHODS` that a model has: without attention heads, no attention maps."""
    heads = _attention_layers(model)
    return [name for name in METHODS if not name.startswith("attention_") or name in heads]


def explain(
    model: keras.Model, images: np.ndarray, targets: Mapping[str, Target], layer: str
) -> dict[tuple[str, str], np.ndarray]:
    """Every method's heat-maps for every target, to be scored next to each other.

    SmoothGrad is left out: it costs sixteen saliency maps.

    Args:
        model: as returned by `network.build.build_model`.
        images: (N, S, S, 1) float32 in 0..255.
        targets: name -> target of these images.
        layer: Grad-CAM is made at the feature map that the head sees, at this layer and at
            `fine_layer`; LayerCAM at the first and the last of these.

    Returns:
        (method, target's name) -> (N, S, S) in [0, 1]; the heads' target is "no target".
    """
    maps = {}
    if heads := _attention_layers(model):
        attention = attention_maps(model, images)
        maps = {(name, "no target"): attention[:, head] for head, name in enumerate(heads)}
    for name, target in targets.items():
        maps["saliency", name] = saliency(model, images, target)
    fine = fine_layer(model)
    methods = {f"grad_cam at {at}": (at, _mean) for at in (FEATURES, layer, fine)}
    methods |= {f"layer_cam at {at}": (at, _positive) for at in (FEATURES, fine)}
    found = _activations(model, images, list(targets.values()), list(methods.values()))
    for row, method in enumerate(methods):
        maps |= {(method, name): of[row] for name, of in zip(targets, found, strict=True)}
    return maps


def _attention_layers(model: keras.Model) -> list[str]:
    return sorted(
        layer.name for layer in model.layers if re.fullmatch(r"attention_\d+", layer.name)
    )


def _logit_model(model: keras.Model) -> keras.Model:
    # a list of inputs, because tf-keras-vis always passes a list
    return keras.Model(model.inputs, model.get_layer("logits").output)


def _checked(model: keras.Model, images: np.ndarray, target: Target | None = None) -> np.ndarray:
    if images.ndim != 4 or images.shape[1:] != model.input_shape[1:]:
        raise UserError(
            f"Images of shape {images.shape} do not fit {model.name}, which takes (N, "
            f"{', '.join(map(str, model.input_shape[1:]))}): resize them to the model's input."
        )
    if target is not None and target.weights.shape != (len(images), model.output_shape[-1]):
        raise UserError(
            f"A target of shape {target.weights.shape} does not fit {len(images)} images and "
            f"{model.output_shape[-1]} classes: make it for these images and this model."
        )
    return np.asarray(images, np.float32)


def _chunks(images: np.ndarray, copies: int = 1) -> Iterator[slice]:
    step = max(_CHUNK // copies, 1)
    for start in range(0, len(images), step):
        yield slice(start, start + step)


def to_heatmaps(maps: np.ndarray | tf.Tensor, size: int, from_zero: bool = False) -> np.ndarray:
    """Enlarge maps to the image, the centers of their cells kept, and scale each to [0, 1].

    Args:
        maps: (N, h, w), finite.
        size: of the image, pixels.
        from_zero: divide by the maximum alone and do not subtract the minimum.

    Returns:
        (N, size, size) float32 in [0, 1]; zeros where a map is constant.

    Raises:
        UserError: a value is not finite.

    Example:
        >>> to_heatmaps(np.array([[[1.0, 3.0], [2.0, 2.0]]]), size=2)[0].tolist()
        [[0.0, 1.0], [0.5, 0.5]]
    """
    maps = np.asarray(maps, np.float32)
    if not np.isfinite(maps).all():
        raise UserError(
            "The model's outputs or gradients are not finite: its training diverged; train it "
            "again with a smaller learning rate."
        )
    maps = tf.image.resize(maps[..., None], (size, size))[..., 0].numpy()
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    # What differs only by rounding is constant: scaling it up would show noise.
    varies = high - low > 1e-6 * np.maximum(abs(low), abs(high))
    if from_zero:
        low = np.zeros_like(low)
    return np.divide(maps - low, high - low, out=np.zeros_like(maps), where=varies)
