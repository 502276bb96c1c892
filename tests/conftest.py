"""Every test works in temporary folders and touches no run, data or cache of the user's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"  # real radiographs and weights, or absent

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """Point data/, runs/ and cache/ into the test's own folder."""
    for name in ("data", "runs", "cache"):
        monkeypatch.setenv(f"MURA_{name.upper()}_DIR", str(tmp_path / name))
    return tmp_path


def _in_shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs real data: {path} is absent")
    return path


@pytest.fixture(scope="session")
def real_fracatlas() -> Path:
    """The sample of FracAtlas, 1,398 images."""
    return _in_shared("fracatlas/FracAtlas")


@pytest.fixture(scope="session")
def real_weights() -> Path:
    """MobileNet's weights of ImageNet, alpha 0.25, as Keras publishes them."""
    return _in_shared("weights/mobilenet_2_5_224_tf_no_top.h5")


@pytest.fixture
def tree(tmp_path) -> Path:
    """A faultless MURA of eight images."""
    from mura_tree import tiny_rows, write_tree

    return write_tree(tmp_path, tiny_rows())


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A folder of experiment files for `mura sweep`, whose runs are the stand-in's of `sweeps`."""
    from sweeps import World

    from mura_utils.runs import sweep

    folder = tmp_path / "world"
    folder.mkdir()
    world = World(folder)
    monkeypatch.setattr(sweep, "_MURA", (str(world.child),))
    return world
