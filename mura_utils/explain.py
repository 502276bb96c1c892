"""Heat-maps: which pixels a prediction rests on.

Three families, all for a model of `mura_utils.models` and all as (N, S, S) in [0, 1]:

- **attention**: what the report's heads weigh; it does not depend on a target, and says nothing
  of a class.
- **saliency**: the gradient of a score at the input pixels. It has no layer argument: wherever the
  report says "saliency at layer L", there is no such thing in tf-keras-vis.
- **class activation**: channels of a feature map, weighted by the score's gradient: Grad-CAM by its
  mean over the map, LayerCAM by its value at each position.

Scores are taken at the logits, in front of the softmax: a sub-model that ends at ``logits`` shares
all layers with the model, so nothing is cloned and no activation is swapped.

Each map is scaled by its own minimum and maximum: colours of two maps do not compare, and a
hottest point exists even where the model found nothing.

Explain a float32 model: under mixed_float16 small gradients are lost and the maps change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import keras
import numpy as np
import tensorflow as tf
from tf_keras_vis.gradcam import Gradcam
from tf_keras_vis.layercam import Layercam
from tf_keras_vis.saliency import Saliency

from mura_utils.errors import UserError
from mura_utils.models import FEATURES

_CHUNK = 16  # images at once: bounds the memory of the gradients


@dataclass(frozen=True)
class Target:
    """What is explained: for each image a weighted sum of the logits.

    Attributes:
        weights: (N, K) float32, the weight of each class's logit in each image's score.
    """

    weights: np.ndarray

    def score(self, rows: slice) -> Callable[[tf.Tensor], tf.Tensor]:
        """Score function for tf-keras-vis: logits (n, K) of these rows -> (n,)."""
        weights = tf.constant(self.weights[rows])
        return lambda logits: tf.reduce_sum(tf.cast(logits, tf.float32) * weights, axis=-1)


def class_target(indices: Sequence[int], classes: Sequence[str]) -> Target:
    """Explain the logit of one class for each image.

    A class such as Abnormal-ELBOW says two things, and its logit mostly explains the anatomy: a
    heat-map over the whole elbow is no sign of the finding. For that, see `contrast_target`.

    Args:
        indices: (N,) positions in `classes`, for instance of the predicted labels.
        classes: K labels, in the order of the model's outputs.
    """
    return Target(np.eye(len(classes), dtype=np.float32)[np.asarray(indices)])


def contrast_target(indices: Sequence[int], classes: Sequence[str]) -> Target:
    """Explain abnormal against normal of the same body part, for each image.

    The score is the logit of Abnormal-X minus that of Normal-X, so what speaks for the body part
    as such cancels and the finding remains. The sign is the same whichever of the two was
    predicted: heat is what speaks for "abnormal".

    Args:
        indices: (N,) positions in `classes`; only their body part matters.
        classes: K labels, in the order of the model's outputs.

    Raises:
        UserError: the model lacks one of the two classes.
    """
    position = {label: k for k, label in enumerate(classes)}
    weights = np.zeros((len(indices), len(classes)), np.float32)
    for row, index in enumerate(indices):
        part = classes[index].partition("-")[2]
        for label, weight in ((f"Abnormal-{part}", 1), (f"Normal-{part}", -1)):
            if label not in position:
                raise UserError(
                    f"The model has no class {label}, so abnormal - normal of {part} does not "
                    "exist: use class_target."
                )
            weights[row, position[label]] = weight
    return Target(weights)


def attention_maps(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """The maps of the attention heads, in the order of their numbers.

    The sigmoid's level is lost in the scaling: a head that weighs every position alike gives zeros.

    Args:
        model: with layers ``attention_0`` ..., each (N, h, w, 1).
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
    maps = keras.Model(model.input, [model.get_layer(name).output for name in heads])
    chunks = [
        np.stack([_heatmaps(map_[..., 0], images.shape[1]) for map_ in maps(images[rows])], axis=1)
        for rows in _chunks(images)
    ]
    return np.concatenate(chunks)


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
    With `smooth_samples` it is the mean over noisy copies (SmoothGrad). tf-keras-vis has that as
    well, but draws from NumPy's global generator; here all images get the same noise field,
    scaled to their own range, so that a map depends neither on the batch nor on earlier draws.

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
    chunks = []
    for rows in _chunks(images):
        gradient = partial(explainer, target.score(rows), normalize_map=False)
        if smooth_samples:
            rng = np.random.default_rng(seed)
            total = sum(
                gradient(
                    images[rows]
                    + spread[rows] * rng.standard_normal(images.shape[1:], dtype=np.float32)
                )
                for _ in range(smooth_samples)
            )
        else:
            total = gradient(images[rows])
        chunks.append(_heatmaps(total, images.shape[1]))
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

    Only what raises the score is shown. Where nothing does, as with `contrast_target` on an image
    that looks normal throughout, the map is all zeros.

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
    return _activate(Gradcam, model, images, target, layer)


def layer_cam(
    model: keras.Model, images: np.ndarray, target: Target, layer: str | None = None
) -> np.ndarray:
    """LayerCAM: each position of a feature map is weighed by its own gradient.

    Grad-CAM's mean gradient says what a channel is worth anywhere. That holds at the end of a
    network, where cells are a 32nd of the image; before it, a channel speaks for the score here and
    against it there. Weighing each position by itself allows for finer maps.

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

    Source: Jiang et al. 2021, "LayerCAM", equations 4 to 6.
    """
    return _activate(Layercam, model, images, target, layer or fine_layer(model))


def fine_layer(model: keras.Model) -> str:
    """The last layer up to the head whose cells are 8 pixels wide (in a small network, fewer)."""
    for layer in model.layers:
        shape = layer.output.shape
        # A padded map has a border that belongs to no cell.
        if len(shape) == 4 and not isinstance(layer, keras.layers.ZeroPadding2D):
            if round(model.input_shape[1] / shape[1]) > 8:
                break
            chosen = layer.name
        if layer.name == FEATURES:
            break
    return chosen


def _activate(
    method: type[Gradcam], model: keras.Model, images: np.ndarray, target: Target, layer: str
) -> np.ndarray:
    """Class activation maps at a layer, enlarged and scaled: (N, S, S)."""
    images = _checked(model, images, target)
    chosen = next((one for one in model.layers if one.name == layer), None)
    if chosen is None or len(chosen.output.shape) != 4:
        raise UserError(
            f"{model.name} has no layer {layer!r} with an output (N, h, w, C): choose one from "
            f"model.summary(), or {FEATURES!r}, the map that the head sees."
        )
    explainer = method(_logit_model(model))
    # By default tf-keras-vis walks back from a layer that is no convolution to the one before it:
    # from the feature map to exactly the 32-channel layer that we avoid. Its own enlargement is
    # not used either, as it puts the centres of the corner cells onto the image's corners.
    chunks = [
        _heatmaps(
            explainer(
                target.score(rows),
                images[rows],
                penultimate_layer=layer,
                seek_penultimate_conv_layer=False,
                expand_cam=False,
                normalize_cam=False,
            ),
            images.shape[1],
        )
        for rows in _chunks(images)
    ]
    return np.concatenate(chunks)


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
    """Every method's heat-maps for every target, to be scored beside each other.

    SmoothGrad is left out: it costs sixteen saliency maps.

    Args:
        model: of `mura_utils.models`.
        images: (N, S, S, 1) float32 in 0..255.
        targets: name -> target of these images.
        layer: Grad-CAM is made at the feature map that the head sees and at this layer, LayerCAM
            at `fine_layer`.

    Returns:
        (method, target's name) -> (N, S, S) in [0, 1]; the heads' target is "no target".
    """
    maps = {}
    if heads := _attention_layers(model):
        attention = attention_maps(model, images)
        maps = {(name, "no target"): attention[:, head] for head, name in enumerate(heads)}
    for name, target in targets.items():
        maps["saliency", name] = saliency(model, images, target)
    for at in (FEATURES, layer):
        for name, target in targets.items():
            maps[f"grad_cam at {at}", name] = grad_cam(model, images, target, at)
    fine = fine_layer(model)
    for name, target in targets.items():
        maps[f"layer_cam at {fine}", name] = layer_cam(model, images, target, fine)
    return maps


def _attention_layers(model: keras.Model) -> list[str]:
    return sorted(layer.name for layer in model.layers if layer.name.startswith("attention_"))


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


def _chunks(images: np.ndarray) -> Iterator[slice]:
    for start in range(0, len(images), _CHUNK):
        yield slice(start, start + _CHUNK)


def _heatmaps(maps: np.ndarray | tf.Tensor, size: int) -> np.ndarray:
    """Enlarge (n, h, w) to (n, size, size), cell centres kept, and scale each map to [0, 1]."""
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
    return np.divide(maps - low, high - low, out=np.zeros_like(maps), where=varies)
