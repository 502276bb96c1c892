"""The mean of several networks' weights, a "model soup"."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mura_utils.errors import UserError
from mura_utils.network.build import load_model

_OF_TRAINING = {"name", "trainable", "dtype", "seed", "rate", "momentum"}
_OF_TRAINING_TOO = ("_regularizer", "_initializer", "_constraint")


def mean_network(files: Mapping[str, Path]) -> keras.Model:
    """The network whose every weight is the mean of those of several trained networks.

    Weights that all of them share stay exactly as they are, so that stored activations of a frozen
    part fit. Moving statistics of batch normalization are averaged as well.

    Networks can be averaged this way only near each other: fine-tuned from the same weights, with
    the same head. Seeds of this series draw a head of their own each, so that validation has to say
    whether their soup is worth anything.

    Args:
        files: by the run's name, its model.

    Returns:
        An uncompiled model.

    Raises:
        UserError: a file is absent or no model, or a network differs in more than its weights and
            what concerns its training alone (dropout, regularization, what was frozen).

    Source: Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models
        improves accuracy without increasing inference time" (the uniform soup).
    """
    (first, file), *others = files.items()
    model = load_model(file)
    layers = _layers(model)
    sums = [weight.astype(np.float64) for weight in model.get_weights()]
    for name, file in others:
        other = load_model(file)
        difference = _first_difference(layers, _layers(other))
        if difference is not None:
            raise UserError(
                f"{name} has another network than {first} (layer {difference}): only weights of "
                "one architecture have a mean; leave out --soup to average the answers."
            )
        for total, weight in zip(sums, other.get_weights(), strict=True):
            total += weight
    model.set_weights([total / len(files) for total in sums])
    return model


def _layers(model: keras.Model) -> list[tuple[str, Any]]:
    """Name of each layer, and what it computes but for its weights."""
    return [
        (
            layer.name,
            (
                type(layer).__name__,
                layer.compute_dtype,
                [tuple(weight.shape) for weight in layer.weights],
                str([tensor.shape for tensor in keras.tree.flatten(layer.output)]),
                _computing(layer.get_config()),
            ),
        )
        for layer in model.layers
    ]


def _computing(config: Any) -> Any:
    """A layer's configuration without what concerns its name or its training alone."""
    return {
        key: value
        for key, value in config.items()
        if key not in _OF_TRAINING and not key.endswith(_OF_TRAINING_TOO)
    }


def _first_difference(ours: list[tuple[str, Any]], theirs: list[tuple[str, Any]]) -> str | None:
    """The name of the first layer that is not the same in both, in either."""
    for (name, layer), (_, other) in zip(ours, theirs, strict=False):
        if layer != other:
            return name
    if len(ours) == len(theirs):
        return None
    longer = max(ours, theirs, key=len)
    return longer[min(len(ours), len(theirs))][0]
