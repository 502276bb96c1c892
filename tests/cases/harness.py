"""Cases from people who do this work: each ends in a result or in one sentence.

A case is given to a command of `mura` in this process. It has a time limit, prints no traceback,
and changes none of its inputs.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import signal
import stat
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mura_utils import cli

SECONDS = 60  # a case that takes longer hangs


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line of standard error with which a command refuses."""
        assert self.status == 1, self
        (line,) = [line for line in self.err.splitlines() if line.startswith("mura: ")]
        return line


@contextlib.contextmanager
def time_limit(seconds: int = SECONDS) -> Iterator[None]:
    """Raise where the block takes longer: SIGALRM also interrupts a read that never returns."""

    def late(*_: object) -> None:
        raise AssertionError(f"still at work after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def digest(folder: Path) -> dict[str, str]:
    """Content of every regular file below a folder."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if not path.is_symlink() and stat.S_ISREG(path.stat().st_mode)
    }


def call(*arguments: object) -> Said:
    """Run the command; a traceback, or a warning that a user would see, fails the test."""
    out, err = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, ["mura", *map(str, arguments)]
    try:
        with (
            time_limit(),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("error", module="PIL")
            cli.main()
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    except Exception:
        pytest.fail(f"mura {' '.join(map(str, arguments))}\n{traceback.format_exc()}")
    finally:
        sys.argv = argv
    said = Said(status, out.getvalue(), err.getvalue())
    assert "Traceback" not in said.out + said.err, said
    return said


@pytest.fixture
def mura(tmp_path) -> Iterator[Callable[..., Said]]:
    """`call`, and afterwards the inputs below ``tmp_path / "input"`` are as they were."""
    seen: dict[str, dict[str, str]] = {}

    def observed(*arguments: object) -> Said:
        seen.setdefault("before", digest(tmp_path / "input"))
        return call(*arguments)

    yield observed
    if seen:
        assert digest(tmp_path / "input") == seen["before"], "an input was changed"


def noise(seed: int = 0, shape: tuple[int, int] = (60, 40)) -> np.ndarray:
    """A gray image that is no uniform one: uint8 (H, W)."""
    return np.random.default_rng(seed).integers(0, 200, shape, dtype=np.uint8)


def write_fracatlas(root: Path, rows: str | None = None, coco: object = None) -> Path:
    """FracAtlas's layout with eight images of two body parts, fractures outlined; returns `root`.

    Args:
        root: made.
        rows: content of dataset.csv; None for eight good ones.
        coco: content of the annotations; None for a box around each fracture.
    """
    names = [f"IMG{number:07d}.jpg" for number in range(8)]
    for number, name in enumerate(names):
        folder = root / "images" / ("Fractured" if number % 2 else "Non_fractured")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(number)).save(folder / name)
    header = "image_id,hand,leg,hip,shoulder,mixed,hardware,fractured"
    good = [f"{name},{n < 4:d},{n >= 4:d},0,0,0,0,{n % 2}" for n, name in enumerate(names)]
    (root / "dataset.csv").write_text(rows or "\n".join([header, *good]) + "\n")
    if coco is None:
        coco = coco_file([name for n, name in enumerate(names) if n % 2])
    target = root / "Annotations" / "COCO JSON"
    target.mkdir(parents=True, exist_ok=True)
    text = coco if isinstance(coco, str) else json.dumps(coco)
    (target / "COCO_fracture_masks.json").write_text(text)
    return root


def coco_file(names: list[str], size: tuple[int, int] = (40, 60)) -> dict:
    """COCO annotations: on each image one polygon, the square from (10, 10) to (20, 20)."""
    return {
        "categories": [{"id": 1, "name": "fractured"}],
        "images": [
            {"id": n, "file_name": name, "width": size[0], "height": size[1]}
            for n, name in enumerate(names)
        ],
        "annotations": [
            {
                "id": 100 + n,
                "image_id": n,
                "category_id": 1,
                "bbox": [10, 10, 10, 10],
                "segmentation": [[10, 10, 20, 10, 20, 20, 10, 20]],
            }
            for n in range(len(names))
        ],
    }
