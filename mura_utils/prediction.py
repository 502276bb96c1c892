"""Classify single radiographs with a trained run, as ``mura predict`` does."""

from __future__ import annotations

import itertools
import os
import stat
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mura_utils.data.images import examine_image
from mura_utils.data.squares import resize
from mura_utils.errors import UserError
from mura_utils.labels import body_part, p_abnormal, probability_columns
from mura_utils.paths import atomic_write, reading
from mura_utils.runs.record import require_trained

_MARK = ("Software", "mura_utils")  # a text chunk of each overlay
_MARKED = b"tEXt" + "\0".join(_MARK).encode()  # in a file's first bytes: that chunk comes first
_LONGEST_STEM = 200  # bytes; file systems allow 255 for stem, number, ending and temporary name


def predict_images(run: str, images: Sequence[Path], out: Path) -> list[dict[str, Any]]:
    """Class probabilities and an explaining overlay for each radiograph.

    The overlay is LayerCAM of (abnormal - normal) of the predicted body part, written to
    ``out/<image's name>_overlay.png``. A name gets a number where it is taken: by an overlay of the
    same call (MURA's images are all ``image1.png``; an image given twice has two), by one of the
    images, or by any file that is not an overlay of an earlier call, which is replaced.

    Args:
        run: a run's name, or the path of its folder.
        images: PNG or JPEG files.
        out: folder of the overlays, made if need be.

    Returns:
        For each image, in the given order: image, label, body_part, p_abnormal, probabilities (by
        class), remarks (kind and detail of what is odd about the image), overlay.

    Raises:
        UserError: no trained run; a file is missing or no readable radiograph; `out` is no folder.
            All of that is found before the model is loaded, and nothing is written then.
    """
    folder = require_trained(run)
    with reading(folder / "training.json") as training:
        classes = list(training["classes"])
    examined = [examine_image(path) for path in images]
    _require_folder(out)
    targets = _targets(images, out)

    from mura_utils.explain.maps import layer_cam
    from mura_utils.explain.targets import contrast_target
    from mura_utils.network.build import load_model
    from mura_utils.plotting.heatmaps import overlay

    model = load_model(folder / "model.keras")
    if model.output_shape[-1] != len(classes):
        raise UserError(
            f"{folder / 'training.json'} names {len(classes)} classes, but the model next to it "
            f"has {model.output_shape[-1]}: they are not of one training; run 05_modeling again."
        )
    size = model.input_shape[1]
    batch = np.stack([resize(grey, size) for grey, _ in examined])[..., None].astype("float32")
    probabilities = model.predict(batch, verbose=0)
    if not np.isfinite(probabilities).all():
        raise UserError(f"{folder / 'model.keras'} gives no finite probabilities: train it again.")
    predicted = probabilities.argmax(axis=1)
    labels = [classes[index] for index in predicted]
    heatmaps = layer_cam(model, batch, contrast_target(predicted, classes))
    table = pd.DataFrame(probabilities, columns=probability_columns(classes))

    mark = PngInfo()
    mark.add_text(*_MARK)
    for target, pixels, heatmap in zip(targets, batch[..., 0], heatmaps, strict=True):
        with atomic_write(target) as temporary:
            Image.fromarray(overlay(pixels.astype("uint8"), heatmap)).save(temporary, pnginfo=mark)
    return [
        {
            "image": str(path),
            "label": label,
            "body_part": body_part(label),
            "p_abnormal": round(abnormal, 6),
            "probabilities": {
                name: round(float(p), 6) for name, p in zip(classes, row, strict=True)
            },
            "remarks": [
                {"kind": kind, "detail": detail} for kind, detail in inspection.remarks.items()
            ],
            "overlay": str(target),
        }
        for path, label, abnormal, row, (_, inspection), target in zip(
            images, labels, p_abnormal(table), probabilities, examined, targets, strict=True
        )
    ]


def _require_folder(out: Path) -> None:
    nearest = next(path for path in (out, *out.parents) if path.exists() or path.is_symlink())
    if not nearest.is_dir():
        raise UserError(f"{nearest} is not a folder; --out names the folder for the overlays.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{nearest} cannot be written to; give another folder with --out.")


def _targets(images: Sequence[Path], out: Path) -> list[Path]:
    """Choose a name for each overlay that belongs to nothing else."""
    taken = {_file_key(path.resolve()) for path in images}
    folder = out.resolve()
    targets = []
    for path in images:
        stem = os.fsencode(path.stem)[:_LONGEST_STEM].decode("utf-8", "ignore")
        for number in itertools.count(1):
            name = f"{stem}_{number}_overlay.png" if number > 1 else f"{stem}_overlay.png"
            key = _file_key(folder / name)
            if key not in taken and _is_free(folder / name):
                break
        taken.add(key)
        targets.append(out / name)
    return targets


def _file_key(path: Path) -> str:
    """What two paths share where the file system takes them for one: case, and form of accents."""
    return unicodedata.normalize("NFC", str(path).casefold())


def _is_free(path: Path) -> bool:
    """Whether nothing is there, or an overlay that this module has written."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return False
    except FileNotFoundError:
        return True
    try:
        with path.open("rb") as file:
            return _MARKED in file.read(200)
    except OSError:
        return False
