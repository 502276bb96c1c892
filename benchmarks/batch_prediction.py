"""`mura predict --out FILE.csv` on 10,000 images: images/s, memory, and what kill -9 changes.

The rate is that of decoding, resizing, the networks and the rows, against the run's network alone
on a batch that is decoded already: both in turn, in this process. Memory is the largest of a
process of its own, above one that only imports. The images are links to at most 2,000 different
ones of a folder.

    python benchmarks/batch_prediction.py best_fracatlas-0 data/FracAtlas/images
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from _common import alternate, machine, options, run, say, say_head, say_row, workspace

from mura_utils.batch.files import find_images
from mura_utils.batch.folder import stream_rows
from mura_utils.errors import UserError
from mura_utils.network.inference import trace
from mura_utils.network.saved import load_model
from mura_utils.predictor import BATCH_SIZE, Predictor
from mura_utils.runs.record import require_trained

_DIFFERENT = 2000
_IN_A_FOLDER = 500
_EMPTY = (
    sys.executable,
    "-c",
    "import mura_utils.batch, mura_utils.frozen, mura_utils.network.build",
)
_MURA = (sys.executable, "-m", "mura_utils.cli")


def link(images: Path, target: Path, count: int) -> Path:
    """Make a folder of `count` links to the different images of another, in subfolders."""
    sources = itertools.cycle(find_images(images).images[:_DIFFERENT])
    for number, path in zip(range(count), sources, strict=False):
        place = target / f"{number // _IN_A_FOLDER:03d}" / f"{number:05d}{Path(path).suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to((images / path).resolve())
    return target


def rates(folder: Path, images: Path, batches: int, rounds: int) -> tuple[float, float]:
    """Images a second of the network alone, and of all that `mura predict` does, in turn."""
    predictor = Predictor(folder, padded=True)
    paths = find_images(images).images[: batches * BATCH_SIZE]
    models = [load_model(file) for file in predictor.networks.files]
    networks = [(trace(model, BATCH_SIZE), model.input_shape[1]) for model in models]
    rng = np.random.default_rng(0)
    noise = {
        size: rng.integers(0, 256, (BATCH_SIZE, size, size, 1)).astype(np.float32)
        for _, size in networks
    }

    def forward() -> None:
        for _ in range(batches):
            for network, size in networks * (1 + predictor.networks.flip):
                np.asarray(network(noise[size])[0])

    def stream() -> None:
        for _ in stream_rows(predictor, images, paths):
            pass

    seconds = alternate({"network alone": forward, "mura predict": stream}, rounds)
    return tuple(len(paths) / value for value in seconds.values())


def peak(command: Sequence[str | Path]) -> float:
    """The largest resident memory of a command, in GB.

    Raises:
        UserError: it fails.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UserError(f"{command[-1]}: the command ended with status {process.returncode}.")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return usage.ru_maxrss * unit / 1e9


def kill_in_the_middle(command: Sequence[str | Path], table: Path, rows: int) -> int:
    """Start a command and kill it after some rows; returns how many there were then."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not table.exists() or (found := table.read_bytes().count(b"\n") - 1) < rows:
        if process.poll() is not None:
            raise UserError(f"{command[-1]}: the command ended before it was killed.")
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return found


def measure(arguments: argparse.Namespace) -> None:
    """Print the tables."""
    folder = require_trained(arguments.run)
    count = BATCH_SIZE * 3 if arguments.quick else arguments.count
    batches, rounds = (1, 1) if arguments.quick else (10, 5)
    say(machine("tensorflow", "keras", "pillow"))
    with workspace() as place:
        images = link(arguments.images.resolve(), place / "images", count)
        alone, all_of_it = rates(folder, images, min(batches, count // BATCH_SIZE), rounds)
        say_head(f"batch prediction, {folder.name}", "images/s")
        say_row("its network alone, batches of 32", f"{alone:.1f}")
        say_row("`mura predict`", f"{all_of_it:.1f}")
        say_row("**share**", f"**{all_of_it / alone:.2f}**")

        def predict(name: str, of: Path) -> list[str | Path]:
            return [*_MURA, "predict", "--run", folder, of, "--out", place / f"{name}.csv"]

        empty = peak(_EMPTY)
        few = link(arguments.images.resolve(), place / "few", max(3 * BATCH_SIZE, count // 10))
        small = peak(predict("few", few))
        rows = kill_in_the_middle(predict("killed", few), place / "killed.csv", BATCH_SIZE)
        peak(predict("killed", few))
        same = (place / "killed.csv").read_bytes() == (place / "few.csv").read_bytes()
        began = time.perf_counter()
        large = peak(predict("all", images))
        took = time.perf_counter() - began
        say_head("largest memory, GB", "in all", "above the imports")
        say_row("imports alone", f"{empty:.2f}", "")
        for path, memory in ((few, small), (images, large)):
            say_row(
                f"{len(find_images(path).images):,} images",
                f"{memory:.2f}",
                f"{memory - empty:.2f}",
            )
        say(f"\n{count:,} images in {took:.0f} s, with start and loading.")
        say(f"Killed after {rows} rows and started again: {'the same' if same else 'OTHER'} bytes.")


if __name__ == "__main__":
    parser = options(__doc__)
    parser.add_argument("run", help="a run's name, or its folder")
    parser.add_argument("images", type=Path, help="a folder of radiographs")
    parser.add_argument("--count", type=int, default=10_000, help="images to predict")
    run(parser, measure)
