"""The report's networks: a backbone of ``keras.applications``, frozen in part, and a head.

Every model is one flat functional graph (a nested model would hide its layers from Grad-CAM):

    radiograph (S, S, 1) in 0-255 -> three channels -> scaling -> backbone -> ``features``
    -> head -> ``logits`` -> ``predictions`` (softmax)

Scaling is part of the graph, so that a saved model takes raw grey values and nobody needs to
remember how it was trained.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
from keras import KerasTensor, layers, regularizers

from mura_utils.errors import UserError
from mura_utils.experiments import Experiment, weights_file
from mura_utils.layers import attention_heads, squeeze_excite
from mura_utils.paths import atomic_write, reading

FEATURES = "features"
"""Name of the layer whose output, (N, h, w, C), the head reads: the backbone's final map."""

BACKBONES: dict[str, Callable[..., keras.Model]] = {
    "densenet121": keras.applications.DenseNet121,
    "densenet169": keras.applications.DenseNet169,
    "mobilenet": keras.applications.MobileNet,
}

# Grey values 0-255 to what the ImageNet weights were trained on (keras.applications:
# imagenet_utils.preprocess_input, modes "torch" and "tf").
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BACKBONE_SCALING = {
    "densenet": {
        "scale": [1 / (255 * std) for std in _STD],
        "offset": [-mean / std for mean, std in zip(_MEAN, _STD, strict=True)],
    },
    "mobilenet": {"scale": 1 / 127.5, "offset": -1.0},
}


def build_model(
    experiment: Experiment, classes: Sequence[str] | int, dtype_policy: str = "float32"
) -> keras.Model:
    """Build the network of an experiment, with its weights loaded and its layers frozen.

    Args:
        experiment: `backbone`, `alpha`, `weights`, `scaling`, `image_size`, `unfreeze`, and the
            head's parameters are used.
        classes: the class names, or how many there are.
        dtype_policy: Keras's, e.g. ``"mixed_float16"`` to train on a GPU; see `in_float32`.

    Returns:
        An uncompiled model from (N, S, S, 1) grey values in 0-255 to (N, K) probabilities.

    Raises:
        UserError: weights that cannot be fetched or do not fit.

    Source: report Fig. 15 (exp1) and Fig. 16 (exp6).
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype_policy)
    try:
        return _build(experiment, classes if isinstance(classes, int) else len(classes))
    finally:
        keras.config.set_dtype_policy(before)


def _build(experiment: Experiment, count: int) -> keras.Model:
    keras.utils.set_random_seed(experiment.seed)
    radiograph, backbone = build_backbone(experiment, experiment.image_size)
    freeze(backbone, experiment.unfreeze)

    x = layers.Identity(name=FEATURES)(backbone.output)
    x = (
        _attention_head(x, experiment)
        if experiment.head == "attention"
        else _dense_head(x, experiment)
    )
    x = layers.Dense(count, kernel_regularizer=_regularizer(experiment), name="logits")(x)
    # float32 also under mixed precision: a float16 softmax loses small probabilities.
    probabilities = layers.Activation("softmax", dtype="float32", name="predictions")(x)
    model = keras.Model(radiograph, probabilities, name=f"{experiment.backbone}_{experiment.head}")
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = experiment.batch_norm_momentum
    return model


def build_backbone(
    experiment: Experiment, size: int | None
) -> tuple[keras.KerasTensor, keras.Model]:
    """The part before the head, with its weights loaded.

    Args:
        experiment: `backbone`, `alpha`, `weights` and `scaling` are used.
        size: of the square input, pixels; None takes any.

    Returns:
        The input (N, S, S, 1) in 0-255, and a model with the backbone's output.

    Raises:
        UserError: weights that cannot be fetched or do not fit.
    """
    radiograph = keras.Input((size, size, 1), name="radiograph")
    x = layers.Concatenate(name="three_channels")([radiograph] * 3)
    return radiograph, _load_backbone(experiment, _scaling(experiment)(x))


def in_float32(model: keras.Model) -> keras.Model:
    """The same network and weights, computing in float32; `model` itself if it does already.

    A model trained in mixed precision is saved so: float16 changes its heat-maps visibly.
    """
    if all(layer.compute_dtype == "float32" for layer in model.layers):
        return model

    def as_float32(layer: keras.Layer) -> keras.Layer:
        return layer.__class__.from_config(layer.get_config() | {"dtype": "float32"})

    twin = keras.models.clone_model(model, clone_function=as_float32)
    twin.set_weights(model.get_weights())
    return twin


def freeze(backbone: keras.Model, unfreeze: int | str) -> None:
    """Make the last `unfreeze` Conv2D layers, and all that follows the first of them, trainable.

    What comes before is frozen, and its batch normalisation runs in inference mode. Depthwise
    convolutions do not count, as they are no Conv2D in Keras, but are trained after the cut.

    Args:
        backbone: changed in place.
        unfreeze: how many, at most as many as there are, or ``"all"``.
    """
    convolutions = convolution_names(backbone)
    if unfreeze == "all":
        backbone.trainable = True
        return
    trainable = False
    first = convolutions[-unfreeze] if unfreeze else None
    for layer in backbone.layers:
        trainable = trainable or layer.name == first
        layer.trainable = trainable


def convolution_names(model: keras.Model) -> list[str]:
    """Names of the Conv2D layers up to the feature map, in the graph's order."""
    return [layer.name for layer, _ in feature_layers(model) if isinstance(layer, layers.Conv2D)]


def feature_layers(model: keras.Model) -> Iterator[tuple[keras.Layer, int]]:
    """Layers up to the feature map in the graph's order, with the pixels a cell of their maps.

    Padding is left out: its border belongs to no cell.
    """
    stride = 1
    for layer in model.layers:
        stride *= getattr(layer, "strides", (1,))[0]
        if not isinstance(layer, layers.ZeroPadding2D):
            yield layer, stride
        if layer.name == FEATURES:
            break


def parameter_counts(model: keras.Model) -> tuple[int, int, int]:
    """Parameters of a model: (total, trainable, non-trainable)."""

    def count(variables: list[keras.Variable]) -> int:
        return sum(int(keras.ops.size(variable)) for variable in variables)

    return (
        count(model.weights),
        count(model.trainable_weights),
        count(model.non_trainable_weights),
    )


def load_model(path: Path) -> keras.Model:
    """Load a trained model.

    Raises:
        UserError: the file is absent or not a Keras model.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: train it with notebook 05_modeling.")
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # whatever a layer raises that does not know its configuration
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise UserError(
            f"{path}, {_saved_by(path)}, cannot be read by Keras {keras.__version__} ({reason}): "
            "use an environment with the version that saved it, or train it again with 05_modeling."
        ) from error


def _saved_by(path: Path) -> str:
    """What a model's file says about the Keras that saved it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return f"saved by Keras {json.loads(archive.read('metadata.json'))['keras_version']}"
    except (OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile):
        return "which is no whole Keras file"


def _scaling(experiment: Experiment) -> layers.Layer:
    if experiment.scaling == "unit":
        return layers.Rescaling(1 / 255, name="scaling")
    family = experiment.backbone.rstrip("0123456789")
    return layers.Rescaling(**_BACKBONE_SCALING[family], name="scaling")


def _load_backbone(experiment: Experiment, x: KerasTensor) -> keras.Model:
    build = BACKBONES[experiment.backbone]
    options = {"include_top": False, "input_tensor": x}
    if experiment.backbone == "mobilenet":
        options["alpha"] = experiment.alpha
    if experiment.weights == "none":
        return build(weights=None, **options)
    if experiment.weights == "imagenet":
        try:
            return build(weights="imagenet", **options)
        except Exception as error:  # Keras raises a bare Exception when its download fails.
            if isinstance(error, ValueError):  # an alpha that ImageNet weights do not exist for
                raise UserError(f"{experiment.backbone}: {error}") from None
            if "URL fetch failure" not in str(error):
                raise
            raise UserError(
                f"The ImageNet weights of {experiment.backbone} could not be downloaded "
                f"({error}): fetch that file on a machine with network and give its path as "
                "weights=<path>, or train from random weights with weights=none."
            ) from None
    path = weights_file(experiment.weights)
    if path.suffix == ".npz":
        backbone = build(weights=None, **options)
        _read_weights(backbone, path)
        return backbone
    # A file is loaded into the network as its users save it, without our input layers, whose extra
    # containers Keras would report as missing from the file.
    size = experiment.image_size
    as_saved = build(
        weights=None, **options | {"input_tensor": None, "input_shape": (size, size, 3)}
    )
    try:
        as_saved.load_weights(path)
    except Exception as error:  # h5py's and Keras's, of many kinds
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"{path} does not fit {experiment.backbone} without its top ({reason}): check the "
            "backbone, and for mobilenet alpha."
        ) from None
    backbone = build(weights=None, **options)
    backbone.set_weights(as_saved.get_weights())
    return backbone


def save_weights(weights: Sequence[keras.Variable], path: Path) -> None:
    """Write weights as float16 by their names, e.g. ``conv1_conv/kernel``: half of Keras's file.

    Raises:
        ValueError: a weight that float16 cannot hold.
    """
    arrays = {weight.path: np.asarray(weight).astype(np.float16) for weight in weights}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError("a weight is not finite as float16")
    with atomic_write(path) as temporary:
        np.savez(temporary, **arrays)


def _read_weights(backbone: keras.Model, path: Path) -> None:
    """Assign what `save_weights` wrote, after a look at the sha256 in the card beside it.

    Raises:
        UserError: the file is not that of its card, damaged, or of another network.
    """
    card = path.with_suffix(".json")
    if card.is_file():
        with reading(card) as described:
            expected = described["sha256"]
        if expected != hashlib.sha256(path.read_bytes()).hexdigest():
            raise UserError(f"{path} is not the file that {card.name} describes: fetch both again.")
    try:
        with np.load(path) as stored:
            arrays = [stored[weight.path] for weight in backbone.weights]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}): fetch it again.") from None
    except KeyError:
        arrays = []
    shapes = [weight.shape for weight in backbone.weights]
    if [array.shape for array in arrays] != shapes:
        raise UserError(
            f"{path} does not fit {backbone.name} without its top: check the backbone, and for "
            "mobilenet alpha."
        )
    backbone.set_weights([array.astype(np.float32) for array in arrays])


def _regularizer(experiment: Experiment) -> regularizers.Regularizer | None:
    if experiment.l1 == experiment.l2 == 0:
        return None
    return regularizers.L1L2(l1=experiment.l1, l2=experiment.l2)


def _dense_head(x: KerasTensor, experiment: Experiment) -> KerasTensor:
    """Head of exp1 to exp4: global average pooling, dense layers, dropout."""
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    for number, units in enumerate(experiment.dense_units, start=1):
        x = layers.Dense(
            units,
            activation="relu",
            kernel_regularizer=_regularizer(experiment),
            name=f"dense_{number}",
        )(x)
    return layers.Dropout(experiment.dropout[0], seed=experiment.seed, name="dropout")(x)


def _attention_head(x: KerasTensor, experiment: Experiment) -> KerasTensor:
    """Head of exp5 and exp6 (report Fig. 16): attention, then two dense branches added."""
    rates = iter(enumerate(experiment.dropout))

    def dropout(x: KerasTensor, name: str) -> KerasTensor:
        number, rate = next(rates)
        seed = 5 * experiment.seed + number  # with one seed, equal shapes would get equal masks
        return layers.Dropout(rate, seed=seed, name=f"dropout_{name}")(x)

    def dense(x: KerasTensor, units: int, name: str, **options) -> KerasTensor:
        return layers.Dense(
            units, kernel_regularizer=_regularizer(experiment), name=name, **options
        )(x)

    if experiment.squeeze_excite:
        x = squeeze_excite(x)
    x = dropout(attention_heads(x), "maps")
    x = dropout(layers.GlobalAveragePooling2D(name="pool")(x), "pool")
    a = layers.BatchNormalization(name="a1_bn")(dense(x, 512, "a1"))
    a = layers.BatchNormalization(name="a2_bn")(dense(dropout(a, "a"), 512, "a2"))
    b = layers.BatchNormalization(name="b_bn")(dense(x, 512, "b", use_bias=False))
    x = layers.Activation("relu", name="branches_relu")(layers.Add(name="branches")([a, b]))
    x = dense(dropout(x, "branches"), 256, "dense", activation="relu")
    return dropout(x, "dense")
