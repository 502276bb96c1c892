"""One flat graph of a network that holds other networks, such as Keras's ConvNeXt.

What looks at layers one by one (Grad-CAM, freezing, stored activations) does not look into a layer
that is a network itself.
"""

from __future__ import annotations

import re
from itertools import count
from typing import Any

import keras
from keras import KerasTensor, layers

_SHARED = ("dtype", "kernel_size", "strides", "padding", "dilation_rate", "activation", "use_bias")


def flatten(model: keras.Model) -> keras.Model:
    """The same network and weights without a `Sequential` in it; `model` itself if it has none.

    Sums (``a + b``) become `Add` layers. A convolution of each channel by itself becomes a
    `DepthwiseConv2D`: Keras compiles grouped convolutions with XLA on CPUs, where they took ten
    times as long. Names that Keras numbers are the same each time.

    Args:
        model: functional, of layers, sums, and `Sequential` models of layers.

    Returns:
        A new model on a new input of the same name.
    """
    if not any(isinstance(layer, keras.Sequential) for layer in model.layers):
        return model
    numbers = count(1)

    def call(operation: Any, *args: Any, **options: Any) -> KerasTensor:
        if isinstance(operation, keras.Sequential):
            (x,) = args
            for layer in operation.layers:
                x = call(layer, x)
            return x
        name, kind = operation.name, type(operation)
        if re.sub(r"_\d+$", "", name).replace("_", "") == kind.__name__.lower():
            name = f"{model.name}_{kind.__name__.lower()}_{next(numbers)}"
        if not isinstance(operation, keras.Layer):
            return layers.Add(name=name)(list(args))
        layer, weights = _renewed(operation, name)
        x = layer(*args, **options)
        layer.set_weights(weights)
        return x

    return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)


def _renewed(layer: keras.Layer, name: str) -> tuple[keras.Layer, list]:
    """A new layer that computes the same, and its weights."""
    config, weights = layer.get_config() | {"name": name}, layer.get_weights()
    grouped = type(layer) is layers.Conv2D and layer.groups > 1
    if not grouped or layer.kernel.shape[2:] != (1, layer.groups):
        return type(layer).from_config(config), weights
    kernel, *bias = weights
    depthwise = layers.DepthwiseConv2D.from_config({key: config[key] for key in ("name", *_SHARED)})
    return depthwise, [kernel.transpose(0, 1, 3, 2), *bias]
