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
from mura_utils.paths import atomic_write
from mura_utils.runs.ensemble import Networks, networks_of
from mura_utils.runs.record import require_trained

_MARK = ("Software", "mura_utils")  # a text chunk of each overlay
_MARKED = b"tEXt" + "\0".join(_MARK).encode()  # in a file's first bytes: that chunk comes first
_LONGEST_STEM = 200  # bytes; file systems allow 255 for stem, number, ending and temporary name

_TAUGHT = "attention taught by masks"
_CONTRAST = "LayerCAM of abnormal - normal"


def predict_images(
    run: str, images: Sequence[Path], out: Path, method: str | None = None
) -> list[dict[str, Any]]:
    """Class probabilities and an explaining overlay for each radiograph.

    An ensemble answers with the mean of its networks' probabilities, over the mirror image as well
    where it was made so.

    The overlay is the attention map of a run that masks taught where a finding is (the parameter
    `mask_supervision`), else LayerCAM of (abnormal - normal) of the predicted body part. For an
    ensemble it is the mean of its networks' maps, at the size of the largest; it takes attention
    maps where all of them were taught. It is written to
    ``out/<image's name>_overlay.png``. A name gets a number where it is taken: by an overlay of the
    same call (MURA's images are all ``image1.png``; an image given twice has two), by one of the
    images, or by any file that is not an overlay of an earlier call, which is replaced.

    Args:
        run: the name of a run or an ensemble, or the path of its folder.
        images: PNG or JPEG files.
        out: folder of the overlays, made if need be.
        method: the heat-map to draw instead, a name in `explain.METHODS`, for
            (abnormal - normal) of the predicted body part.

    Returns:
        For each image, in the given order: image, label, body_part, p_abnormal, probabilities (by
        class), remarks (kind and detail of what is odd about the image), heatmap (which
        map), overlay (its file).

    Raises:
        UserError: no trained run, or an ensemble one of whose members was trained again; a file is
            missing or no readable radiograph; `out` is no folder. All of that is found before a
            model is loaded, and nothing is written then. A network lacks the method: that is found
            later, but nothing is written either.
    """
    folder = require_trained(run)
    networks = networks_of(folder)
    classes = networks.classes
    examined = [examine_image(path) for path in images]
    _require_folder(out)
    targets = _targets(images, out)

    from mura_utils.plotting.heatmaps import overlay

    probabilities, heatmaps, shown = _answer(networks, [gray for gray, _ in examined], method)
    labels = [classes[index] for index in probabilities.argmax(axis=1)]
    table = pd.DataFrame(probabilities, columns=probability_columns(classes))

    mark = PngInfo()
    mark.add_text(*_MARK)
    for target, pixels, heatmap in zip(targets, shown, heatmaps, strict=True):
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
            "heatmap": method or (_TAUGHT if networks.taught else _CONTRAST),
            "overlay": str(target),
        }
        for path, label, abnormal, row, (_, inspection), target in zip(
            images, labels, p_abnormal(table), probabilities, examined, targets, strict=True
        )
    ]


def _answer(
    networks: Networks, grays: Sequence[np.ndarray], method: str | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean probabilities (N, K), mean heat-maps (N, S, S), and the images at that size."""
    from mura_utils.explain import METHODS, attention_maps, layer_cam, methods_of
    from mura_utils.explain.targets import contrast_target
    from mura_utils.network.build import load_model

    models = [load_model(file) for file in networks.files]
    answers, views = [], []
    for model, file, how in zip(models, networks.files, networks.resize, strict=True):
        if model.output_shape[-1] != len(networks.classes):
            raise UserError(
                f"{networks.described_in} names {len(networks.classes)} classes, but {file} has "
                f"{model.output_shape[-1]}: they are not of one training; run 05_modeling again."
            )
        size = model.input_shape[1]
        squares = [resize(gray, size, how) for gray in grays]
        batch = np.stack(squares)[..., None].astype("float32")
        for step in (1, -1) if networks.flip else (1,):
            views.append((model, batch[:, :, ::step], step))
            answers.append(model.predict(views[-1][1], verbose=0))
            if not np.isfinite(answers[-1]).all():
                raise UserError(f"{file} gives no finite probabilities: train it again.")
    probabilities = np.mean(answers, axis=0, dtype=float)
    target = contrast_target(probabilities.argmax(axis=1), networks.classes)
    largest = max((batch for _, batch, step in views if step == 1), key=np.size)
    maps = []
    for model, batch, step in views:
        if method:
            if method not in methods_of(model):
                raise UserError(
                    f"There is no map {method!r} of {model.name}: give --map one of "
                    f"{', '.join(methods_of(model))}."
                )
            heat = METHODS[method](model, batch, target)
        elif networks.taught:
            heat = attention_maps(model, batch)[:, 0]  # the first head is the one that masks teach
        else:
            heat = layer_cam(model, batch, target)
        maps.append(_enlarge(heat[:, :, ::step], largest.shape[1]))
    return probabilities, np.mean(maps, axis=0), largest[..., 0]


def _enlarge(heatmaps: np.ndarray, size: int) -> np.ndarray:
    """(N, s, s) to (N, size, size)."""
    if heatmaps.shape[1] == size:
        return heatmaps
    square = (size, size)
    return np.stack(
        [
            np.asarray(Image.fromarray(heat).resize(square, Image.Resampling.BILINEAR))
            for heat in heatmaps
        ]
    )


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
