"""Where a network is cut: before its first trainable layer, so that the frozen part runs once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import keras
import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Cut:
    """A network in two parts that share its layers.

    Attributes:
        prefix: from radiographs (N, S, S, 1) in 0-255 to a list of activations. Frozen.
        tail: from those activations, and what the network reads beside the radiograph, to
            probabilities. Training it trains the whole network.
        first_trained: name of the first trainable layer.
        frozen_share: of the network's multiply-adds, the prefix's share, 0 to 1.
    """

    prefix: keras.Model
    tail: keras.Model
    first_trained: str
    frozen_share: float

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of one image's activations."""
        return [tuple(tensor.shape[1:]) for tensor in self.prefix.outputs]

    @property
    def width(self) -> int:
        """Values an image."""
        return sum(sizes(self.shapes))


def split_network(model: keras.Model) -> Cut | None:
    """Cut a flat network before its first trainable layer.

    The prefix holds every layer that neither learns nor draws random numbers and depends on no
    layer that does. Where a cheap layer would only repeat what is stored already (a pooled copy of
    a stored map), it goes to the tail.

    Args:
        model: a functional model without nested models, see `build.build_model`.

    Returns:
        None where nothing that has weights is frozen.

    Example:
        >>> inputs = keras.Input((4,))
        >>> stays = keras.layers.Dense(3, trainable=False)(inputs)
        >>> cut = split_network(keras.Model(inputs, keras.layers.Dense(2)(stays)))
        >>> cut.shapes, round(cut.frozen_share, 2)  # 12 of 18 multiply-adds
        ([(3,)], 0.67)
    """
    radiograph, *besides = model.inputs
    given = {tensor._keras_history.operation.name for tensor in besides}
    readers = [layer for layer in model.operations if given & _names(parents(layer))]
    aside = set(given)  # what depends on no radiograph
    frozen: dict[str, keras.Operation] = {}
    first_trained = ""
    for layer in model.operations:
        if layer.name in aside or (parents(layer) and _names(parents(layer)) <= aside):
            aside.add(layer.name)
            continue
        if _is_constant(layer) and all(parent.name in frozen for parent in parents(layer)):
            frozen[layer.name] = layer
        elif not first_trained and getattr(layer, "trainable_weights", ()):
            first_trained = layer.name
    if not any(map(_weights, frozen.values())):
        return None
    boundary = _boundary(model, frozen)
    while repeated := [
        layer
        for layer in boundary
        if not _weights(layer) and {parent.name for parent in parents(layer)} <= _names(boundary)
    ]:
        for layer in repeated:
            del frozen[layer.name]
        boundary = _boundary(model, frozen)
    tensors = [layer.output for layer in boundary]
    # Keras has strategies under TensorFlow alone.
    strategy = getattr(model, "distribute_strategy", None)
    with strategy.scope() if strategy else nullcontext():
        prefix = keras.Model([radiograph], tensors, name="prefix")
        tail = keras.Model(
            [*tensors, *(layer.output for layer in readers)], model.outputs, name="tail"
        )
    costs = multiply_adds(model)
    share = sum(costs[name] for name in frozen if name in costs) / sum(costs.values())
    return Cut(prefix, tail, first_trained, share)


def sizes(shapes: Sequence[tuple[int, ...]]) -> list[int]:
    """Values of each activation of one image."""
    return [int(np.prod(shape)) for shape in shapes]


def describe_cuts(models: Mapping[str, keras.Model]) -> pd.DataFrame:
    """Where networks are cut, and what storing their activations would take.

    Returns:
        One row a network: first trained layer, frozen share of the multiply-adds, and megabytes of
        float16 activations per 1,000 images.
    """
    rows = {}
    for name, model in models.items():
        cut = split_network(model)
        rows[name] = {
            "first trained layer": cut.first_trained if cut else "the first",
            "frozen multiply-adds": f"{cut.frozen_share if cut else 0:.1%}",
            "MB per 1,000 images": f"{2e-3 * cut.width:,.1f}" if cut else "–",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def multiply_adds(model: keras.Model) -> dict[str, int]:
    """Multiply-adds of one image's forward pass in each layer with kernels, attention among them.

    Example:
        >>> convolution = keras.layers.Conv2D(4, 3, padding="same", name="conv")
        >>> multiply_adds(keras.Sequential([keras.Input((8, 8, 1)), convolution]))
        {'conv': 2304}
    """
    costs = {}
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            positions = int(np.prod(layer.output.shape[1:-1]))  # 1 for dense layers
            costs[layer.name] = positions * int(np.prod(layer.kernel.shape))
        elif isinstance(layer, keras.layers.MultiHeadAttention):
            kernels = sum(int(np.prod(w.shape)) for w in layer.weights if len(w.shape) == 3)
            tokens, width = keras.tree.flatten(layer.output)[0].shape[1:]
            costs[layer.name] = tokens * (kernels + 2 * tokens * width)
    return costs


def _weights(layer: keras.Operation) -> list[keras.Variable]:
    return getattr(layer, "weights", [])


def _is_constant(layer: keras.Operation) -> bool:
    learns = bool(_weights(layer)) and layer.trainable
    draws = isinstance(layer, keras.layers.Dropout | keras.layers.GaussianNoise)
    return not learns and not draws


def parents(layer: keras.Operation) -> list[keras.Operation]:
    """The operations whose output a layer of a functional model reads; none for an input."""
    if isinstance(layer, keras.layers.InputLayer):
        return []
    return [tensor._keras_history.operation for tensor in keras.tree.flatten(layer.input)]


def _boundary(model: keras.Model, frozen: dict[str, keras.Operation]) -> list[keras.Operation]:
    """Frozen layers whose output a layer outside reads, in the graph's order."""
    read = {
        parent.name
        for layer in model.operations
        if layer.name not in frozen
        for parent in parents(layer)
    }
    return [layer for layer in frozen.values() if layer.name in read]


def _names(layers: Sequence[keras.Layer]) -> set[str]:
    return {layer.name for layer in layers}
