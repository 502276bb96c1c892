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
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mura_utils.data.images import Inspection, examine_image
from mura_utils.errors import UserError
from mura_utils.labels import body_part
from mura_utils.paths import atomic_write
from mura_utils.predictor import Inputs, Predictor, person_values
from mura_utils.runs.ensemble import networks_of
from mura_utils.runs.record import require_trained

_MARK = ("Software", "mura_utils")  # a text chunk of each overlay
_MARKED = b"tEXt" + "\0".join(_MARK).encode()  # in a file's first bytes: that chunk comes first
_LONGEST_STEM = 200  # bytes; file systems allow 255 for stem, number, ending and temporary name

_TAUGHT = "attention taught by masks"
_AGAIN = "attention taught by masks, second look"
_CONTRAST = "LayerCAM of abnormal - normal"


def predict_images(
    run: str,
    images: Sequence[Path],
    out: Path,
    method: str | None = None,
    age: float | None = None,
    sex: str | None = None,
) -> list[dict[str, Any]]:
    """Class probabilities and an explaining overlay for each radiograph, see `Predictor`.

    What notebook 06 chose on validation images is applied where the run has it: the threshold of
    ``operating_point.json``, the temperature of ``calibration.json``, the limit of
    ``familiarity.npz``.

    The overlay is the attention map of a run that masks taught where a finding is (the parameter
    `mask_supervision`), else LayerCAM of (abnormal - normal) of the predicted body part. For an
    ensemble it is the mean of its networks' maps, at the size of the largest, over those that read
    images of the shape that this one reads (`resize`); it takes attention maps where all of them
    were taught. It is written to
    ``out/<image's name>_overlay.png``. A name gets a number where it is taken: by an overlay of the
    same call (MURA's images are all ``image1.png``; an image given twice has two), by one of the
    images, or by any file that is not an overlay of an earlier call, which is replaced.

    Args:
        run: the name of a run or an ensemble, or the path of its folder.
        images: PNG, JPEG or DICOM files.
        out: folder of the overlays, made if need be.
        method: the heat-map to draw instead, a name in `explain.METHODS`, for
            (abnormal - normal) of the predicted body part.
        age: of the patient whose images these are, years; None where it is unknown.
        sex: F, M or O; None where it is unknown.

    Returns:
        For each image, in the given order: image; label and body_part, the likeliest;
        p_abnormal; p_abnormal_calibrated (None without a temperature); called ("abnormal" or
        "normal": whether p_abnormal is above the threshold); threshold and threshold_from, the file
        that it was read from; unfamiliar (None where no network's run knows); probabilities by
        class; remarks (kind and detail of what is odd about the image); heatmap (which map);
        overlay (its file).

    Raises:
        UserError: no trained run, or an ensemble one of whose members was trained again; an age or
            a sex that the run does not read; a file is missing or no readable radiograph; `out` is
            no folder. All of that is found before a model is loaded, and nothing is written then. A
            network lacks the method: that is found later, but nothing is written either.
    """
    folder = require_trained(run)
    person_values(folder, networks_of(folder), age, sex)
    examined = _examine(images)
    _require_folder(out)
    targets = _targets(images, out)

    from mura_utils.plotting.heatmaps import overlay

    predictor = Predictor(folder, age=age, sex=sex)
    inputs = [predictor.prepare(gray) for gray, _ in examined]
    answers = predictor.answer(inputs)
    shown, heatmaps, share = _maps(predictor, inputs, answers.probabilities, method)
    mark = PngInfo()
    mark.add_text(*_MARK)
    for target, pixels, heatmap in zip(targets, shown, heatmaps, strict=True):
        with atomic_write(target) as temporary:
            Image.fromarray(overlay(pixels.astype("uint8"), heatmap)).save(temporary, pnginfo=mark)
    results = predictor.results(answers, [inspection.remarks for _, inspection in examined])
    taught = _AGAIN if all(predictor.networks.second_look) else _TAUGHT
    drawn = method or (taught if predictor.networks.taught else _CONTRAST)
    return [
        {
            "image": str(image),
            **result,
            "heatmap": drawn
            + share
            + _of_one_class(result["label"], drawn, predictor.networks.classes),
            "overlay": str(target),
        }
        for image, result, target in zip(images, results, targets, strict=True)
    ]


def _examine(images: Sequence[Path]) -> list[tuple[np.ndarray, Inspection]]:
    """Read all images, so that every one that cannot be read is named at once."""
    examined, refused = [], {}
    for path in images:
        try:
            examined.append(examine_image(path))
        except UserError as error:
            refused[path] = error
    if len(refused) > 1:
        others = ", ".join(map(str, [*refused][1:]))
        raise UserError(f"{next(iter(refused.values()))} Nor can {others} be predicted.")
    for error in refused.values():
        raise error
    return examined


def _maps(
    predictor: Predictor, inputs: Sequence[Inputs], probabilities: np.ndarray, method: str | None
) -> tuple[np.ndarray, np.ndarray, str]:
    """The images (N, S, S) at the size of the largest network, and heat-maps (N, S, S) of them.

    The third is what is to be said of the networks that read images of another shape; "" if none.
    """
    from mura_utils.explain import METHODS, attention_maps, layer_cam, methods_of
    from mura_utils.explain.second_look import second_look_maps
    from mura_utils.explain.targets import contrast_target

    views = [*predictor.views(inputs)]
    largest = max((view for view in views if view.step == 1), key=lambda view: view.batch.size)
    asked = [view.how for view in views if view.step == 1]
    views = [view for view in views if view.how == largest.how]  # of one shape, to lie on it
    target = contrast_target(probabilities.argmax(axis=1), predictor.networks.classes)
    maps = []
    for model, batch, step, fine, _ in views:
        if method:
            if method not in methods_of(model):
                raise UserError(
                    f"There is no map {method!r} of {model.name}: give --map one of "
                    f"{', '.join(methods_of(model))}."
                )
            heat = METHODS[method](model, batch, target)
        elif predictor.networks.taught and fine is not None:
            heat = second_look_maps(model, batch, fine)
        elif predictor.networks.taught:
            heat = attention_maps(model, batch)[:, 0]  # the first head is the one that masks teach
        else:
            heat = layer_cam(model, batch, target)
        maps.append(_enlarge(heat[:, :, ::step], largest.batch.shape[1]))
    used = asked.count(largest.how)
    share = f"; of {used} of {len(asked)} networks, with resize = {largest.how}"
    return largest.batch[..., 0], np.mean(maps, axis=0), share if used < len(asked) else ""


def _of_one_class(label: str, drawn: str, classes: Sequence[str]) -> str:
    """What is to be said of a map for abnormal - normal where the model lacks one of the two."""
    from mura_utils.explain.targets import alone

    if "attention" in drawn or not alone(label, classes):
        return ""
    return f"; of the class {label} alone, as the run has no other for {body_part(label)}"


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
        named = path.name if path.suffix[1:].isdigit() else path.stem  # a UID has no suffix
        stem = os.fsencode(named)[:_LONGEST_STEM].decode("utf-8", "ignore")
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
