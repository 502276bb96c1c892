"""``mura export``: writing a run's network for another runtime, and checking what was written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mura_utils.errors import UserError
from mura_utils.errors import describe as in_one_sentence
from mura_utils.export.description import describe, one_network
from mura_utils.export.litert import write_litert
from mura_utils.export.openvino import write_openvino
from mura_utils.export.runtime import LIBRARIES, Runtime, require_library
from mura_utils.export.sample import draw_images
from mura_utils.network.build import in_float32
from mura_utils.network.onnx import write_onnx
from mura_utils.network.saved import load_model
from mura_utils.paths import write_json
from mura_utils.runs.record import require_trained

SUFFIXES = {"litert": ".tflite", "onnx": ".onnx", "openvino": ".xml", "keras": ".keras"}
"""Formats, and how their files end."""

AGREEMENT = 1e-3
"""The largest difference of a probability between a run and its export in floating point."""

_CHECKED = 64  # validation images
_CALIBRATED = 256  # training images


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        path: the network's file; `description_file` is beside it.
        size: of the network, in bytes.
        checked: validation images that both the run's network and the file have answered.
        difference: the largest of a probability between the two.
    """

    path: Path
    size: int
    checked: int
    difference: float


def description_file(path: Path) -> Path:
    """The file that describes an export; while it is there, the export is whole.

    Example:
        >>> description_file(Path("exp6.onnx")).name
        'exp6.onnx.json'
    """
    return path.with_name(f"{path.name}.json")


def export_run(run: str, to: str, int8: bool = False, out: Path | None = None) -> Export:
    """Write a trained run for another runtime, with a JSON file that describes it.

    Nothing is left in `out` unless the file gives the run's answers within `AGREEMENT`; an int8
    file only has to answer, and how far it is off is returned. An earlier export of the same name
    is replaced.

    Args:
        run: the name of a run, or the path of its folder.
        to: a format, one of `SUFFIXES`.
        int8: weights and activations of the larger layers in 8 bits, calibrated on training
            images.
        out: folder; by default ``export/`` in the run's.

    Raises:
        UserError: no such format; a library is missing; the run is not trained, or is an ensemble
            of several networks; its images are gone; `out` cannot be written to; the file answers
            otherwise than the run.
    """
    if to not in SUFFIXES:
        raise UserError(f"--to {to} is no format: give one of {', '.join(SUFFIXES)} or web.")
    if int8 and to == "keras":
        raise UserError("Keras has no int8 for convolutions: give another --to, or no --int8.")
    require_library(*_needed(to, int8))
    folder = require_trained(run)
    networks = one_network(folder)
    model = in_float32(load_model(networks.files[0]))
    size, how = model.input_shape[1], networks.resize[0]
    about = describe(folder, size) | {"format": to, "int8": int8}
    images = draw_images(folder, "validation", _CHECKED, size, how)
    calibration = draw_images(folder, "train", _CALIBRATED, size, how) if int8 else None
    out = folder / "export" if out is None else out
    target = out / f"{folder.name}{'-int8' if int8 else ''}{SUFFIXES[to]}"
    with _staging(target) as staged:
        path = staged / target.name
        _WRITERS[to](model, path, about, calibration)
        difference = _difference(model, path, images)
        if not difference <= (1 if int8 else AGREEMENT):  # NaN is refused, too
            raise UserError(
                f"The {to} export of {folder.name} differs from its network by {difference:.2g} in "
                f"a probability, on {len(images)} validation images: nothing was written; give "
                "another format."
            )
        written = sorted(staged.iterdir())
        size = sum(file.stat().st_size for file in written)
        for old in (description_file(target), target):
            old.unlink(missing_ok=True)  # no reader sees parts of two exports
        for file in written:
            file.replace(out / file.name)
        write_json(description_file(target), about)
    return Export(target, size, len(images), difference)


def _write_keras(model: keras.Model, path: Path, *_: Any) -> None:
    model.save(path)


_WRITERS = {
    "litert": write_litert,
    "onnx": write_onnx,
    "openvino": write_openvino,
    "keras": _write_keras,
}


def _needed(to: str, int8: bool) -> list[str]:
    """The libraries that write a format and run it."""
    runs = LIBRARIES.get(SUFFIXES[to])
    through_onnx = to == "onnx" or (to == "openvino" and int8)
    writes = ["onnx", "tf2onnx", "onnxruntime"] if through_onnx else []
    return [*writes, *filter(None, [runs])]


def _difference(model: keras.Model, path: Path, images: np.ndarray) -> float:
    """The largest difference of a probability; NaN where one is none."""
    expected = model.predict(images, verbose=0)
    return float(np.abs(Runtime(path).predict(images) - expected).max())


@contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """An empty folder beside the target that is gone after the block, as is a killed export's.

    Raises:
        UserError: it cannot be made.
    """
    staged = target.with_name(f".{target.name}.tmp")
    try:
        if staged.is_dir():
            shutil.rmtree(staged)
        staged.mkdir(parents=True)
    except OSError as error:
        raise UserError(
            f"{in_one_sentence(error).rstrip('.')}: give another folder with --out."
        ) from None
    try:
        yield staged
    finally:
        shutil.rmtree(staged)
