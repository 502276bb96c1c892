"""The pixel cache: decoded once, under a key that follows the content."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mura_utils.data import pixels as data_pixels
from mura_utils.data.images import ImageFault, read_image
from mura_utils.data.pixels import load_pixels
from mura_utils.data.squares import resize
from mura_utils.errors import UserError


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (110, 90), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path) -> tuple[Path, pd.DataFrame]:
    root = tmp_path / "data"
    root.mkdir()
    for number in range(5):
        Image.fromarray(picture(number)[: 60 + 10 * number]).save(root / f"{number}.png")
    names = [f"{number}.png" for number in (3, 0, 4, 1, 2)]
    hashes = [hashlib.sha256((root / name).read_bytes()).hexdigest() for name in names]
    return root, pd.DataFrame({"path": names, "sha256": hashes})


@pytest.mark.parametrize("hashed", [True, False])
def test_pixels_are_decoded_once_in_the_order_of_the_manifest(
    folder, tmp_path, hashed, monkeypatch
):
    root, manifest = folder
    if not hashed:
        manifest["sha256"] = np.nan  # what an empty column of a CSV file reads back as
    cache = tmp_path / "cache"
    pixels = load_pixels(root, manifest, 32, cache, progress=False)
    assert pixels.shape == (5, 32, 32)
    for row, name in enumerate(manifest["path"]):
        np.testing.assert_array_equal(pixels[row], resize(read_image(root / name), 32))
    with pytest.raises(ValueError, match="read-only"):
        pixels[0] = 0
    monkeypatch.setattr(
        data_pixels, "read_hashed_image", lambda path: pytest.fail(f"{path} read again")
    )
    np.testing.assert_array_equal(load_pixels(root, manifest, 32, cache, progress=False), pixels)
    assert len(list(cache.iterdir())) == 1


def test_another_size_order_or_content_is_another_file(folder, tmp_path):
    root, manifest = folder
    cache = tmp_path / "cache"
    load_pixels(root, manifest, 32, cache, progress=False)
    load_pixels(root, manifest, 24, cache, progress=False)
    load_pixels(root, manifest.iloc[::-1], 32, cache, progress=False)
    unhashed = manifest.assign(sha256="")
    load_pixels(root, unhashed, 32, cache, progress=False)
    Image.fromarray(picture(9)).save(root / "0.png")
    changed = load_pixels(root, unhashed, 32, cache, progress=False)
    np.testing.assert_array_equal(changed[1], resize(picture(9), 32))
    assert len(list(cache.iterdir())) == 5


@pytest.mark.parametrize("hashed", [True, False])
def test_a_file_that_vanished_is_named_and_nothing_is_left(folder, tmp_path, hashed):
    root, manifest = folder
    manifest = manifest if hashed else manifest.assign(sha256="")
    (root / "4.png").unlink()
    with pytest.raises(UserError, match=r"4\.png .*missing"):
        load_pixels(root, manifest, 32, tmp_path / "cache", progress=False)
    assert not list((tmp_path).glob("cache/*"))


def test_a_file_that_changed_is_named(folder, tmp_path):
    root, manifest = folder
    Image.fromarray(picture(9)).save(root / "4.png")
    with pytest.raises(UserError, match=r"4\.png has changed since the manifest was made"):
        load_pixels(root, manifest, 32, tmp_path / "cache", progress=False)


def test_a_file_that_cannot_be_decoded_is_an_image_fault(folder, tmp_path):
    root, manifest = folder
    (root / "4.png").write_bytes(b"not an image")
    with pytest.raises(ImageFault, match=r"4\.png"):
        load_pixels(root, manifest.assign(sha256=""), 32, tmp_path / "cache", progress=False)


def test_a_full_disk_is_said_before_anything_is_written(folder, tmp_path, monkeypatch):
    root, manifest = folder
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="pixel cache needs"):
        load_pixels(root, manifest, 32, tmp_path / "cache", progress=False)
    assert not list((tmp_path / "cache").iterdir())
