"""The report's networks: a backbone of ``keras.applications``, frozen in part, and a head.

Every model is one flat functional graph (a nested model would hide its layers from Grad-CAM):

    radiograph (S, S, 1) in 0-255 -> three channels -> scaling -> backbone -> ``features``
    -> head -> ``logits`` -> ``predictions`` (softmax)

With the parameter `tabular` a second input joins in before ``logits``, see `network.tabular`.

Scaling is part of the graph, so that a saved model takes raw gray values and nobody needs to
remember how it was trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import pandas as pd
from keras import layers

from mura_utils.backbones import BACKBONES
from mura_utils.experiments import is_network, weights_file
from mura_utils.network.backbone import FEATURES, build_backbone, convolution_names
from mura_utils.network.heads import LOGITS, attach_head, regularizer
from mura_utils.network.saved import classes_of_run, load_model, take_weights
from mura_utils.network.tabular import attach_tabular
from mura_utils.sections import Network


def build_model(
    network: Network, classes: Sequence[str] | int, dtype_policy: str = "float32"
) -> keras.Model:
    """Build a network, with its weights loaded and its layers frozen.

    Of an earlier run's ``model.keras`` every layer takes the weights that has its name and shapes
    there, in the head as well. The classifier is new, unless that run has the same `classes`. How
    many layers are new is printed.

    Args:
        network: what to build, such as an experiment.
        classes: the class names, or how many there are.
        dtype_policy: Keras's, e.g. ``"mixed_float16"`` to train on a GPU; see `in_float32`.

    Returns:
        An uncompiled model from (N, S, S, 1) gray values in 0-255, and age and sex where `tabular`
        names them, to (N, K) probabilities.

    Raises:
        UserError: weights that cannot be fetched or do not fit.

    Source: report Fig. 15 (exp1) and Fig. 16 (exp6).
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype_policy)
    try:
        return _build(network, classes)
    finally:
        keras.config.set_dtype_policy(before)


def _build(network: Network, classes: Sequence[str] | int) -> keras.Model:
    keras.utils.set_random_seed(network.seed)
    radiograph, backbone = build_backbone(network, network.image_size)
    count = classes if isinstance(classes, int) else len(classes)
    model = add_head(network, radiograph, backbone, count)
    if is_network(network.weights):
        path = weights_file(network)
        same = not isinstance(classes, int) and classes_of_run(path) == list(classes)
        taken, new = take_weights(model, load_model(path), but="" if same else LOGITS)
        print(
            f"Weights of {network.weights}: {len(taken)} layers take theirs, {len(new)} start new"
            + (f" ({', '.join(new)})." if new else ".")
        )
    return model


def add_head(
    network: Network, radiograph: keras.KerasTensor, backbone: keras.Model, count: int
) -> keras.Model:
    """The whole network on a backbone that is there already; its head starts new.

    Networks on one backbone share its layers, and with them what is frozen: look at one before the
    next is made.

    Args:
        network: the head and what is frozen.
        radiograph: input of the backbone, as returned by `build_backbone`.
        backbone: frozen in place as `network` says.
        count: of the classes.
    """
    freeze(backbone, network.unfreeze, network.freeze_batch_norm)
    coarse = layers.Identity(name=FEATURES)(backbone.output)
    fine = backbone.get_layer(BACKBONES[network.backbone].fine).output
    x, besides = attach_tabular(attach_head(network, coarse, fine), network)
    x = layers.Dense(count, kernel_regularizer=regularizer(network), name=LOGITS)(x)
    # float32 also under mixed precision: a float16 softmax loses small probabilities.
    probabilities = layers.Activation("softmax", dtype="float32", name="predictions")(x)
    model = keras.Model(
        [*keras.tree.flatten(radiograph), *besides] if besides else radiograph,
        probabilities,
        name=f"{network.backbone}_{network.head}",
    )
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = network.batch_norm_momentum
    return model


def in_float32(model: keras.Model) -> keras.Model:
    """The same network and weights, computing in float32; `model` itself if it does already.

    A model trained in mixed precision is saved so: float16 changes its heat-maps visibly.
    """
    if all(layer.compute_dtype == "float32" for layer in model.layers):
        return model

    def as_float32(layer: keras.Operation) -> keras.Operation:
        policy = {"dtype": "float32"} if isinstance(layer, keras.Layer) else {}
        return layer.__class__.from_config(layer.get_config() | policy)

    twin = keras.models.clone_model(model, clone_function=as_float32)
    twin.set_weights(model.get_weights())
    return twin


def freeze(backbone: keras.Model, unfreeze: int | str, batch_norm: bool = False) -> None:
    """Make the last `unfreeze` Conv2D layers, and all that follows the first of them, trainable.

    What comes before is frozen, and its batch normalization runs in inference mode. Depthwise
    convolutions do not count, as they are no Conv2D in Keras, but are trained after the cut: of
    ConvNeXt, 1 trains its last stage, 2 the last two.

    Args:
        backbone: changed in place.
        unfreeze: how many, at most as many as there are, or ``"all"``.
        batch_norm: whether every batch normalization stays frozen.
    """
    convolutions = convolution_names(backbone)
    trainable = unfreeze == "all"
    first = convolutions[-unfreeze] if unfreeze and not trainable else None
    for layer in backbone.layers:
        trainable = trainable or layer.name == first
        frozen = batch_norm and isinstance(layer, layers.BatchNormalization)
        layer.trainable = trainable and not frozen


def parameter_counts(model: keras.Model) -> tuple[int, int, int]:
    """Parameters of a model: (total, trainable, non-trainable).

    Example:
        >>> network = keras.Sequential([keras.Input((4,)), layers.BatchNormalization()])
        >>> parameter_counts(network)
        (16, 8, 8)
    """

    def count(variables: list[keras.Variable]) -> int:
        return sum(int(keras.ops.size(variable)) for variable in variables)

    return (
        count(model.weights),
        count(model.trainable_weights),
        count(model.non_trainable_weights),
    )


def head_summary(model: keras.Model) -> pd.DataFrame:
    """What follows a model's backbone, layer by layer (report Fig. 15 and 16).

    Args:
        model: as returned by `build_model`, or any that has a layer `FEATURES`.

    Returns:
        One row a layer, indexed by its name: ``type``; ``activation``, "" for none; ``output``, the
        shape of one image's; ``parameters``; ``reads``, the names of the layers before it. The
        first row, ``features``, stands for the whole backbone.
    """
    operations = list(model.operations)
    first = 1 + [operation.name for operation in operations].index(FEATURES)
    before = {operation.name for operation in operations[:first]}
    rows = {
        FEATURES: {
            "type": "backbone",
            "activation": "",
            "output": _sides(operations[first - 1]),
            "parameters": sum(map(_parameters, operations[:first])),
            "reads": "",
        }
    }
    for operation in operations[first:]:
        inputs = [tensor._keras_history.operation.name for tensor in _inputs(operation)]
        rows[operation.name] = {
            "type": type(operation).__name__,
            "activation": _activation(operation),
            "output": _sides(operation),
            "parameters": _parameters(operation),
            "reads": ", ".join(FEATURES if name in before else name for name in inputs),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("layer")


def _inputs(operation: keras.Operation) -> list[keras.KerasTensor]:
    return keras.tree.flatten(operation.input)


def _activation(operation: keras.Operation) -> str:
    function = getattr(operation, "activation", None)
    name = "" if function is None else str(keras.activations.serialize(function))
    return "" if name == "linear" else name


def _sides(operation: keras.Operation) -> str:
    return " × ".join(map(str, operation.output.shape[1:]))


def _parameters(operation: keras.Operation) -> int:
    return operation.count_params() if isinstance(operation, keras.Layer) else 0
