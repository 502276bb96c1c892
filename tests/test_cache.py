from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from mura_utils.cache import entries, map_array, prune, read_soon
from mura_utils.errors import UserError
from mura_utils.paths import cache_dir, write_json

ABOUT = {
    "network": "mobilenet before conv_pw_9",
    "images": 3,
    "image_size": 32,
    "augmentation": {"rotation_range": 10.0},
    "view_seed": 0,
    "computed_by": "tensorflow, float32",
}


def age(path, days):
    then = time.time() - days * 86_400
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        os.utime(file, (then, then))


def pixels(days, name="pixels-0123.npy"):
    path = cache_dir() / name
    path.parent.mkdir(exist_ok=True)
    np.save(path, np.zeros((5, 32, 32), np.uint8))
    age(path, days)
    return path


def activations(days, name="features-4567"):
    folder = cache_dir() / name
    folder.mkdir(parents=True)
    write_json(folder / "about.json", ABOUT)
    np.save(folder / "view-0.npy", np.zeros((3, 4), np.float16))
    (folder / "view-1.partial").write_bytes(b"half")
    (folder / ".lock").touch()
    age(folder, days)
    return folder


def test_entries_say_what_they_hold_how_large_they_are_and_when_they_were_used():
    older, newer = pixels(days=9), activations(days=2)
    first, second = entries()
    assert [first.path, second.path] == [newer, older]
    assert first.content == (
        "activations of 3 images at 32 px, 1 augmented version(s) and 1 unfinished, "
        "mobilenet before conv_pw_9, tensorflow, float32"
    )
    assert second.content == "5 images of 32 x 32 pixels"
    assert second.size == older.stat().st_size
    assert first.size == sum(file.stat().st_size for file in newer.iterdir())
    assert 8.9 < second.unused_for < 9.1 and 1.9 < first.unused_for < 2.1


def test_an_absent_cache_is_empty():
    assert entries() == [] and prune(0) == ([], [])


def test_only_what_was_not_used_for_so_long_is_removed():
    older, newer = pixels(days=40), activations(days=2)
    removed, kept = prune(30)
    assert [entry.path for entry in removed] == [older] and not kept
    assert not older.exists() and newer.exists()


def test_what_a_process_is_computing_is_kept():
    folder = activations(days=40)
    decoding = pixels(days=0, name=".pixels-89ab.77.tmp.npy")
    abandoned = pixels(days=1, name=".pixels-cdef.78.tmp.npy")
    with FileLock(folder / ".lock"):
        age(folder, days=40)
        removed, kept = prune(0)
    assert {entry.path for entry in kept} == {folder, decoding}
    assert [entry.path for entry in removed] == [abandoned]
    assert {entry.path for entry in prune(0)[0]} == {folder}


def test_a_damaged_file_is_named_and_listed_as_such():
    path = pixels(days=3)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"pixels-0123\.npy is damaged .* remove it"):
        map_array(path)
    assert [entry.content for entry in entries()] == ["damaged"]


def test_a_mapped_file_counts_as_used():
    path = pixels(days=9)
    assert map_array(path).shape == (5, 32, 32)
    assert entries()[0].unused_for < 0.1


@pytest.mark.skipif(not Path("/proc/self/io").is_file(), reason="Linux counts what is read")
def test_rows_that_are_wanted_soon_are_read_alone(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (400, 100_000), np.uint8))
    with path.open("r+b") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = bytes_read()
    array = map_array(path)
    if bytes_read() == before:
        pytest.skip("the folder for temporary files is in memory")
    rows = np.arange(5, 400, 40)
    for row in rows:
        read_soon(array, row)
    wanted = np.stack([array[row] for row in rows])
    assert bytes_read() - before < 3e6, "1 MB is wanted, 40 MB is the file"
    np.testing.assert_array_equal(wanted, np.load(path)[rows])


def bytes_read():
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["read_bytes"])
