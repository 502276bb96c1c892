"""What computes: the machine, CPU or GPUs, in which precision, with XLA or without."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import joblib
import tensorflow as tf

from mura_utils.sections import Training
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


def describe_machine() -> dict[str, str]:
    """Processor, cores that this process may use, memory, and what TensorFlow computes on."""
    memory = "unknown"
    if hasattr(os, "sysconf"):  # not on Windows
        memory = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB"
    return {
        "processor": processor(),
        "cores": str(joblib.cpu_count()),
        "memory": memory,
        "device": use_device(),
    }


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    described = Path("/proc/cpuinfo")  # Linux; elsewhere Python knows
    names = re.findall(r"model name\s*: (.+)", described.read_text()) if described.exists() else []
    return names[0] if names else platform.processor()


def strategy(training: Training) -> tf.distribute.Strategy:
    """How a batch is spread: whole on one device, or in equal parts over several GPUs.

    Build the model inside its `scope()`. With `deterministic`, GPU kernels are asked to give the
    same result each time.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus and training.deterministic:
        tf.config.experimental.enable_op_determinism()
    return tf.distribute.MirroredStrategy() if len(gpus) > 1 else tf.distribute.get_strategy()


def dtype_policy(training: Training) -> str:
    """Keras's policy to train with: float16 arithmetic only with `mixed` on a GPU.

    Example:
        >>> dtype_policy(Training(precision="float32"))
        'float32'
    """
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    return "mixed_float16" if training.precision == "mixed" and on_gpu else "float32"


def uses_xla(training: Training) -> bool:
    """Whether XLA compiles the networks: on a GPU, unless it must be deterministic.

    Example:
        >>> uses_xla(Training(deterministic=True))
        False
    """
    return bool(tf.config.list_logical_devices("GPU")) and not training.deterministic
