"""Quicker kernels for three of Keras's layers and for Adam, where TensorFlow trains on a CPU.

Keras composes batch normalization and Adam of a dozen operations, each of which reads and writes
all values: TensorFlow has one kernel for either. A 1 x 1 convolution is a matrix product. Keras's
dropout draws 32 random bits a value: 8 or 16 decide as well. The objects, their variables and what
is saved stay Keras's own.
"""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import layers


def use_cpu_kernels(model: keras.Model) -> None:
    """Change how layers of a model compute, in place; nothing where there is a GPU.

    Batch normalization and convolutions compute the same up to rounding. Dropout drops other units
    than Keras's would with the same seed, each with the same probability up to 2^-17.

    Args:
        model: before it is traced.
    """
    if tf.config.list_logical_devices("GPU"):
        return
    for layer in model.layers:
        kind = _KERNELS.get(type(layer))
        if kind and kind.fits(layer) and not isinstance(layer.call, kind):
            layer.call = kind(layer)


def use_cpu_adam(optimizer: keras.optimizers.Adam) -> None:
    """Change how Adam updates a variable, in place: the same up to rounding.

    Nothing is changed where there is a GPU, or several devices train together.

    Args:
        optimizer: before it is traced; not with `amsgrad`.
    """
    if not tf.config.list_logical_devices("GPU") and not tf.distribute.has_strategy():
        optimizer.update_step = _AdamStep(optimizer)


class _AdamStep:
    def __init__(self, optimizer: keras.optimizers.Adam) -> None:
        self._optimizer = optimizer

    def __call__(self, gradient, variable, learning_rate):
        optimizer = self._optimizer
        index = optimizer._get_variable_index(variable)
        momentum, velocity = optimizer._momentums[index], optimizer._velocities[index]
        step = tf.cast(optimizer.iterations + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=momentum.value.handle,
            v=velocity.value.handle,
            beta1_power=optimizer.beta_1**step,
            beta2_power=optimizer.beta_2**step,
            lr=tf.cast(learning_rate, tf.float32),
            beta1=optimizer.beta_1,
            beta2=optimizer.beta_2,
            epsilon=optimizer.epsilon,
            grad=gradient,
        )


class _Normalization:
    @staticmethod
    def fits(layer: layers.BatchNormalization) -> bool:
        maps = layer.input_spec.ndim == 4 and layer.axis in (-1, 3)
        plain = layer.scale and layer.center and not (layer.renorm or layer.synchronized)
        return maps and plain

    def __init__(self, layer: layers.BatchNormalization) -> None:
        self._layer, self._infer = layer, layer.call

    def __call__(self, inputs, training=None, mask=None):
        layer = self._layer
        if not (training and layer.trainable):
            return self._infer(inputs, training=training, mask=mask)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=tf.cast(inputs, tf.float32),
            scale=layer.gamma,
            offset=layer.beta,
            mean=[],
            variance=[],
            epsilon=layer.epsilon,
            is_training=True,
        )
        count = tf.cast(tf.size(inputs) // tf.shape(inputs)[-1], tf.float32)
        variance *= (count - 1) / count  # the kernel's is unbiased, Keras's is not
        for moving, value in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
            moving.assign(moving * layer.momentum + value * (1 - layer.momentum))
        return tf.cast(outputs, layer.compute_dtype)


class _Pointwise:
    @staticmethod
    def fits(layer: layers.Conv2D) -> bool:
        ones = (1, 1)
        plain = layer.groups == 1 and layer.data_format == "channels_last"
        return plain and (layer.kernel_size, layer.strides, layer.dilation_rate) == (ones,) * 3

    def __init__(self, layer: layers.Conv2D) -> None:
        self._layer = layer

    def __call__(self, inputs):
        layer = self._layer
        rows = tf.reshape(inputs, (-1, inputs.shape[-1]))
        outputs = tf.matmul(rows, layer.kernel[0, 0])
        if layer.use_bias:
            outputs = tf.nn.bias_add(outputs, layer.bias)
        _, height, width, _ = inputs.shape
        sides = (height or tf.shape(inputs)[1], width or tf.shape(inputs)[2])
        return layer.activation(tf.reshape(outputs, (-1, *sides, layer.filters)))


class _Dropout:
    @staticmethod
    def fits(layer: layers.Dropout) -> bool:
        return layer.rate > 0 and layer.noise_shape is None

    def __init__(self, layer: layers.Dropout) -> None:
        self._layer = layer
        self._bits = 8 if layer.rate * 2**8 == round(layer.rate * 2**8) else 16

    def __call__(self, inputs, training=False):
        layer = self._layer
        if not training:
            return inputs
        shape, dtype = tf.shape(inputs), {8: tf.uint8, 16: tf.uint16}[self._bits]
        count, each = tf.reduce_prod(shape), 32 // self._bits
        seed = tf.cast(layer.seed_generator.next(), tf.int32)
        words = tf.random.stateless_uniform([-(-count // each)], seed, None, None, tf.uint32)
        drawn = tf.reshape(tf.bitcast(words, dtype), [-1])[:count]
        kept = tf.reshape(drawn, shape) >= tf.constant(round(layer.rate * 2**self._bits), dtype)
        return tf.where(kept, inputs * (1 / (1 - layer.rate)), 0)


_KERNELS = {
    layers.BatchNormalization: _Normalization,
    layers.Conv2D: _Pointwise,
    layers.Dropout: _Dropout,
}
