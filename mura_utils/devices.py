"""What computes: the machine, CPU or GPUs, in which precision, with XLA or without."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import joblib
import tensorflow as tf

from mura_utils.backbones import BACKBONES
from mura_utils.experiments import Experiment
from mura_utils.sections import Training
from mura_utils.terminal import to_the_terminal


def use_device() -> str:
    """Start what TensorFlow computes on, and name it: "CPU", or the GPUs."""
    with to_the_terminal():
        tf.config.list_logical_devices()  # starts them, and TensorFlow writes of it
        gpus = tf.config.list_physical_devices("GPU")
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
    names = re.findall(r"model name\s*: (.+)", _processor_facts())  # elsewhere Python knows
    return names[0] if names else platform.processor()


def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for it: without them float32 is quicker.

    They are AVX512_BF16 and AMX, and looked for on Linux; elsewhere the answer is no.
    """
    return bool(re.search(r"\b(avx512_bf16|amx_bf16)\b", _processor_facts()))


def _processor_facts() -> str:
    described = Path("/proc/cpuinfo")
    return described.read_text() if described.exists() else ""


def strategy(training: Training) -> tf.distribute.Strategy:
    """How a batch is spread: whole on one device, or in equal parts over several GPUs.

    Build the model inside its `scope()`. With `deterministic`, GPU kernels are asked to give the
    same result each time.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus and training.deterministic:
        tf.config.experimental.enable_op_determinism()
    return tf.distribute.MirroredStrategy() if len(gpus) > 1 else tf.distribute.get_strategy()


def dtype_policy(experiment: Experiment) -> str:
    """Keras's policy to train with: what ``precision: mixed`` means on this machine.

    On a GPU float16. On a CPU bfloat16, where its processor multiplies in it and the backbone has
    no depthwise convolutions, which TensorFlow computes more slowly in it. Else float32.

    Example:
        >>> dtype_policy(Experiment(name="mine", precision="float32"))
        'float32'
    """
    if experiment.precision != "mixed":
        return "float32"
    if tf.config.list_physical_devices("GPU"):
        return "mixed_float16"
    quicker = multiplies_bfloat16() and not BACKBONES[experiment.backbone].depthwise
    return "mixed_bfloat16" if quicker else "float32"


def uses_xla(training: Training) -> bool:
    """Whether XLA compiles the networks: on a GPU, unless it must be deterministic.

    Example:
        >>> uses_xla(Training(deterministic=True))
        False
    """
    return bool(tf.config.list_logical_devices("GPU")) and not training.deterministic
