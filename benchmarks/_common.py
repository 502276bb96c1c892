"""What the benchmarks share: a temporary workspace, phantoms, a clock for two sides, the output."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import joblib
import keras
import pandas as pd

from mura_utils import frozen, training
from mura_utils.data.dataset import Images
from mura_utils.data.manifest import admit, scan
from mura_utils.data.sources import open_source
from mura_utils.devices import processor
from mura_utils.errors import UserError
from mura_utils.experiments import INT8_PACKAGES, Experiment
from mura_utils.network.build import build_model
from mura_utils.phantoms.dataset import draw_phantoms

EXTRACTORS = [{"extractor": "tensorflow", "precision": "float32"}]
"""What can compute activations here, as parameters of an experiment."""
if importlib.util.find_spec("openvino"):
    EXTRACTORS += [
        {"extractor": "openvino", "precision": "float32"},
        {"extractor": "openvino", "precision": "mixed"},
    ]
    if all(map(importlib.util.find_spec, INT8_PACKAGES)):
        EXTRACTORS.append({"extractor": "openvino", "precision": "int8"})

_IMAGES_A_PATIENT = 3.5  # a little fewer than phantoms have


def options(description: str) -> argparse.ArgumentParser:
    """A parser with ``--quick``; `description` is the script's docstring."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="only see that it works; the numbers mean nothing"
    )
    return parser


def positive(text: str) -> int:
    """The type of an option that counts something, from 1 on."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 on")
    return int(text)


def run(parser: argparse.ArgumentParser, measure: Callable[[argparse.Namespace], object]) -> None:
    """Measure what the command line asks for; a user's error ends in its sentence."""
    try:
        measure(parser.parse_args())
    except UserError as error:
        sys.exit(str(error))


@contextmanager
def workspace() -> Iterator[Path]:
    """A folder that is removed at the end, and holds the caches of `mura_utils` until then."""
    with TemporaryDirectory(prefix="mura-benchmark-") as name:
        os.environ["MURA_CACHE_DIR"] = str(Path(name) / "cache")
        yield Path(name)


def draw_manifest(folder: Path, images: int) -> tuple[Path, pd.DataFrame, list[str]]:
    """Draw phantoms and admit `images` of them, chosen at random.

    Returns:
        The data set's folder, the manifest, and all 14 classes.
    """
    root = folder / "phantoms"
    draw_phantoms(root, patients=max(28, round(images / _IMAGES_A_PATIENT)))
    listing = open_source(root)
    classes = sorted(listing.rows["label"].unique())
    rows = listing.rows.sample(images, random_state=0, ignore_index=True)
    manifest = admit(scan(dataclasses.replace(listing, rows=rows), progress=False))
    return root, manifest, classes


def train(
    images: Images, experiment: Experiment, folder: Path
) -> tuple[keras.Model, training.Training]:
    """Train as notebook 05 does.

    Returns:
        The model with the weights of its best epoch, and what `mura_utils.training.fit` returns.
    """
    model = build_model(experiment, images.classes)
    stored = frozen.plan(model, images, experiment)
    frozen.extract(stored, images, experiment, progress=False)
    task = training.make_task(model, images, experiment, stored)
    training.compile_task(task, experiment)
    fitted = training.fit(model, task, experiment, folder / "model.keras", progress=False)
    return model, fitted


def alternate(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each side over `rounds`; a round runs each side once.

    One more round goes before them and does not count: it traces, and fills the system's caches.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, work in sides.items():
            began = time.perf_counter()
            work()
            took = time.perf_counter() - began
            say(f"{f'round {number}' if number else 'warm-up'}, {name}: {took:.3f} s")
            if number:
                seconds[name].append(took)
    return {name: median(values) for name, values in seconds.items()}


def machine(*libraries: str) -> str:
    """One line: processor, cores, versions of Python and of the libraries, date."""
    numbers = [f"Python {platform.python_version()}"]
    for library in libraries:
        try:
            numbers.append(f"{library} {version(library)}")
        except PackageNotFoundError:
            numbers.append(f"no {library}")
    return f"{processor()}, {joblib.cpu_count()} cores; {', '.join(numbers)}; {date.today()}"


def say(text: str) -> None:
    """Print at once, so that a run that is cut off has shown what it measured."""
    print(text, flush=True)


def say_head(*cells: str) -> None:
    """Print the head of a Markdown table: text on the left, numbers on the right."""
    say("")
    say_row(*cells)
    say("|:---|" + "---:|" * (len(cells) - 1))


def say_row(*cells: str) -> None:
    """Print a row of a Markdown table."""
    say(f"| {' | '.join(cells)} |")
