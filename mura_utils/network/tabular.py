"""The branch of a head that reads age and sex, and the same network with these held fixed."""

from __future__ import annotations

import keras
import numpy as np
from keras import KerasTensor, layers

from mura_utils.data.tabular import COLUMNS, missing_values
from mura_utils.errors import UserError
from mura_utils.network.heads import LOGITS, regularizer
from mura_utils.sections import Network

TABULAR = "tabular"
"""A network's second input, (N, F) with the `data.tabular.COLUMNS` of its attributes."""

_JOINED = "with_tabular"
_UNITS = 32


def attach_tabular(x: KerasTensor, network: Network) -> tuple[KerasTensor, list[KerasTensor]]:
    """Join what a small dense layer makes of age and sex to what the classifier reads.

    The classifier is linear, so that the two add up in every logit: whatever the age and the sex
    are, a pixel changes a logit as much. What an age means for one finding and not for another is
    for the classes to learn; what it means for one shape of a bone is not learned.

    Args:
        x: (N, D), of the radiograph.
        network: its parameter `tabular` and the regularization are used.

    Returns:
        (N, D + 32), or `x` itself where `tabular` is empty; and the inputs besides the radiograph.
    """
    if not network.tabular:
        return x, []
    given = keras.Input((sum(len(COLUMNS[name]) for name in network.tabular),), name=TABULAR)
    # Keras cuts a network behind a layer, not behind an input.
    values = layers.Identity(name="tabular_values")(given)
    described = layers.Dense(
        _UNITS, activation="relu", kernel_regularizer=regularizer(network), name="tabular_dense"
    )(values)
    return layers.Concatenate(name=_JOINED)([x, described]), [given]


def at_values(model: keras.Model, values: np.ndarray | None) -> keras.Model:
    """The same network for one age and sex: it takes radiographs alone.

    Their part of the logits is a constant, which goes into the bias of the last layer. All other
    layers are shared with `model`.

    Args:
        model: a network; one without the input ``tabular`` is returned as it is.
        values: (F,), as `data.tabular.encode` makes them; None for a network that reads none.

    Raises:
        UserError: the network reads other values.
    """
    reads, given = [tensor.shape[1] for tensor in model.inputs[1:]], np.shape(values)
    if reads != [*given]:
        raise UserError(
            f"The network {model.name} and the parameter tabular of its run do not fit each other: "
            "train it again with 05_modeling."
        )
    if values is None:
        return model
    of_image, of_person = model.get_layer(_JOINED).input
    kernel, bias = model.get_layer(LOGITS).get_weights()
    width = of_image.shape[-1]
    person = keras.Model(model.inputs[1], of_person)(np.asarray(values, np.float32)[None])
    logits = layers.Dense(len(bias), name=LOGITS, dtype=model.get_layer(LOGITS).dtype_policy)
    answers = layers.Activation("softmax", dtype="float32", name="predictions")(logits(of_image))
    offset = (keras.ops.convert_to_numpy(person) @ kernel[width:])[0]
    logits.set_weights([kernel[:width], bias + offset])
    return keras.Model(model.inputs[0], answers, name=model.name)


def with_nothing_known(model: keras.Model, network: Network) -> keras.Model:
    """`at_values` where age and sex are missing; `model` itself where it reads neither."""
    return at_values(model, missing_values(network.tabular) if network.tabular else None)
