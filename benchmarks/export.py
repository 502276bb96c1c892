"""What each export of runs is worth: size, images a second, and how far its answers go astray.

A run is exported in every format, or measured as it lies in the folder `--out`. TensorFlow runs the
saved network as a compiled function, not `predict`, which is slower. All sides answer in turn, in
one process on two cores: `--rounds` times 16 images one by one, and a batch of 32. Differences and
AUROC are those of the run's test images, with paired intervals over patients.

    python benchmarks/export.py demo best_fracatlas-0
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from _common import alternate, machine, options, run, say, say_head, say_row

from mura_utils.data.pixels import load_pixels
from mura_utils.evaluation import predictions_frame
from mura_utils.evaluation.paired import compare_paired
from mura_utils.export.runtime import Runtime
from mura_utils.export.sample import rows_of
from mura_utils.export.writing import SUFFIXES, description_file, export_run
from mura_utils.labels import probabilities_of
from mura_utils.paths import read_json
from mura_utils.runs.record import require_trained

_CORES = 2
_ALONE, _BATCH = 16, 32  # images
_ORIGINAL = "TensorFlow"
_AUROC = "AUROC of abnormal, per study"


def exports(name: str, out: Path | None) -> dict[str, Path]:
    """Each export's file, made where it is not there."""
    folder = require_trained(name)
    out = out or folder / "export"
    found = {}
    for to, suffix in SUFFIXES.items():
        for int8 in (False, True) if to != "keras" else (False,):
            path = out / f"{folder.name}{'-int8' * int8}{suffix}"
            if not description_file(path).is_file():
                export_run(name, to, int8, out)
            title = _ORIGINAL if to == "keras" else f"{to}, {'int8' if int8 else 'float32'}"
            found[title] = path
    return {_ORIGINAL: found.pop(_ORIGINAL), **found}


def megabytes(path: Path) -> float:
    """Size of a network, with OpenVINO's second file."""
    weights = path.with_suffix(".bin")
    return (path.stat().st_size + (weights.stat().st_size if path.suffix == ".xml" else 0)) / 1e6


def astray(expected: pd.DataFrame, found: pd.DataFrame) -> tuple[float, pd.Series]:
    """The largest difference of a probability, and the paired comparison of AUROC."""
    difference = (probabilities_of(expected) - probabilities_of(found)).abs().to_numpy().max()
    return float(difference), compare_paired(expected, found).loc[_AUROC]


def measure_run(name: str, arguments: argparse.Namespace) -> None:
    """Print one run's table."""
    files = exports(name, arguments.out)
    about = read_json(description_file(files[_ORIGINAL]))
    root, rows = rows_of(require_trained(name), "test")
    if arguments.quick:
        rows = rows.groupby("abnormality").head(_BATCH)
    pixels = load_pixels(root, rows, about["image_size"], resize=about["resize"])[..., None]
    runtimes = {title: Runtime(path, _CORES) for title, path in files.items()}
    speeds = []
    for batch_size, count in ((1, _ALONE), (_BATCH, _BATCH)):
        images = np.asarray(pixels[:count], np.float32)
        sides = {
            title: partial(runtime.predict, images, batch_size)
            for title, runtime in runtimes.items()
        }
        seconds = alternate(sides, 1 if arguments.quick else arguments.rounds)
        speeds.append({title: len(images) / taken for title, taken in seconds.items()})
    answers = {
        title: predictions_frame(rows, about["classes"], runtime.predict(pixels))
        for title, runtime in runtimes.items()
    }
    say(f"\n{name}: {len(rows)} test images of {about['image_size']} px")
    say_head(
        "export", "MB", "images/s, one by one", f"images/s, {_BATCH} at a time",
        "largest difference", "AUROC", "less the run's",
    )  # fmt: skip
    for title, path in files.items():
        largest, auroc = astray(answers[_ORIGINAL], answers[title])
        ratios = [speed[title] / speed[_ORIGINAL] for speed in speeds]
        say_row(
            title,
            f"{megabytes(path):.1f}",
            *(f"{s[title]:.1f} (× {r:.2f})" for s, r in zip(speeds, ratios, strict=True)),
            f"{largest:.1g}",
            f"{auroc['second']:.4f}",
            f"{auroc['difference']:+.4f} [{auroc['low']:+.4f}, {auroc['high']:+.4f}]",
        )


def measure(arguments: argparse.Namespace) -> None:
    """Print a table for each run, and how busy the machine was."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:_CORES])
    for name in arguments.runs:
        measure_run(name, arguments)
    load = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    say(f"\n{machine('tensorflow', 'onnxruntime', 'ai-edge-litert', 'openvino')}; load {load}")


if __name__ == "__main__":
    parser = options(__doc__)
    parser.add_argument("runs", nargs="+", help="names or folders of trained runs")
    parser.add_argument("--out", type=Path, help="folder of the exports; without: the runs' own")
    parser.add_argument("--rounds", type=int, default=7)
    run(parser, measure)
