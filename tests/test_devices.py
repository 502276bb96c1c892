"""What the machine computes with."""

from __future__ import annotations

import tensorflow as tf
from small import experiment

from mura_utils import devices


def test_mixed_precision_needs_a_gpu(monkeypatch):
    mixed, plain = experiment(precision="mixed"), experiment()
    for gpus, expected in (([], "float32"), (["GPU:0"], "mixed_float16")):
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind, gpus=gpus: gpus)
        assert devices.dtype_policy(mixed) == expected
        assert devices.dtype_policy(plain) == "float32"
