"""What TensorFlow computes on: CPU or GPUs, in which precision, with XLA or without."""

from __future__ import annotations

import tensorflow as tf

from mura_utils.experiments import Experiment
from mura_utils.terminal import to_the_terminal


def use_device() -> str:
    """Let TensorFlow grow its GPU memory as needed, and say in words what it computes on."""
    with to_the_terminal():
        gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if not gpus:
        return "CPU"
    names = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus
    ]
    return ", ".join(names)


def strategy(experiment: Experiment) -> tf.distribute.Strategy:
    """How a batch is spread: whole on one device, or in equal parts over several GPUs.

    Build the model inside its `scope()`. With `deterministic`, GPU kernels are asked to give the
    same result each time.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus and experiment.deterministic:
        tf.config.experimental.enable_op_determinism()
    return tf.distribute.MirroredStrategy() if len(gpus) > 1 else tf.distribute.get_strategy()


def dtype_policy(experiment: Experiment) -> str:
    """Keras's policy to train with: float16 arithmetic only with `mixed` on a GPU.

    Example:
        >>> dtype_policy(Experiment(precision="float32"))
        'float32'
    """
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    return "mixed_float16" if experiment.precision == "mixed" and on_gpu else "float32"


def uses_xla(experiment: Experiment) -> bool:
    """Whether XLA compiles an experiment's networks: on a GPU, unless it must be deterministic.

    Example:
        >>> uses_xla(Experiment(deterministic=True))
        False
    """
    return bool(tf.config.list_logical_devices("GPU")) and not experiment.deterministic
