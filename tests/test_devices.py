"""What the machine computes with."""

from __future__ import annotations

from contextlib import contextmanager

import keras
import pytest
import tensorflow as tf

from mura_utils import devices
from mura_utils.backbones import BACKBONES
from mura_utils.experiments import load_experiment
from mura_utils.network.backbone import build_backbone


@pytest.mark.parametrize(
    ("gpus", "flags", "backbone", "expected"),
    [
        (["GPU:0"], "avx512_bf16", "densenet121", "mixed_float16"),
        (["GPU:0"], "avx2", "mobilenet", "mixed_float16"),
        ([], "avx512f avx512_bf16", "densenet121", "mixed_bfloat16"),
        ([], "amx_bf16 amx_tile", "vit_tiny", "mixed_bfloat16"),
        ([], "avx512_bf16", "mobilenet", "float32"),  # depthwise convolutions are slower in it
        ([], "avx512_bf16", "efficientnet_lite0", "float32"),
        ([], "avx512f avx512_bf16x", "densenet121", "float32"),
        ([], "", "densenet121", "float32"),
    ],
)
def test_mixed_is_what_the_machine_is_quick_with(monkeypatch, gpus, flags, backbone, expected):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    monkeypatch.setattr(
        devices, "_processor_facts", lambda: f"model name\t: X\nflags\t\t: {flags}\n"
    )
    mixed = load_experiment("exp6", backbone=backbone, weights="none", precision="mixed")
    assert devices.dtype_policy(mixed) == expected
    for precision in ("float32", "int8"):
        other = mixed.model_copy(update={"precision": precision})
        assert devices.dtype_policy(other) == "float32"


def test_what_tensorflow_writes_when_it_starts_a_device_goes_to_the_terminal(monkeypatch):
    inside, started = [], []

    @contextmanager
    def terminal():
        inside.append(True)
        yield
        inside.pop()

    monkeypatch.setattr(devices, "to_the_terminal", terminal)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda: started.extend(inside))
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    assert devices.use_device() == "CPU"
    assert started == [True]


def test_depthwise_backbones_are_marked():
    for name, facts in BACKBONES.items():
        network = load_experiment("exp6", backbone=name, weights="none", unfreeze=1)
        _, built = build_backbone(network, 64)
        kinds = {type(layer) for layer in built.layers}
        grouped = any(getattr(layer, "groups", 1) > 1 for layer in built.layers)
        assert facts.depthwise == (keras.layers.DepthwiseConv2D in kinds or grouped), name
