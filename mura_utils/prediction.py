"""Classify single radiographs with a trained run, as ``mura predict`` does."""

from __future__ import annotations

import itertools
import os
import stat
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mura_utils.data.images import examine_image
from mura_utils.data.squares import resize
from mura_utils.data.tabular import encode, require_person
from mura_utils.errors import UserError
from mura_utils.evaluation.calibration import at_temperature
from mura_utils.evaluation.familiarity import FAMILIARITY, Familiarity, read_familiarity
from mura_utils.labels import body_part, p_abnormal, probability_columns
from mura_utils.paths import atomic_write
from mura_utils.runs.ensemble import Networks, networks_of
from mura_utils.runs.record import (
    ENSEMBLE,
    chosen_number,
    is_ensemble,
    is_tested,
    require_trained,
)

_MARK = ("Software", "mura_utils")  # a text chunk of each overlay
_MARKED = b"tEXt" + "\0".join(_MARK).encode()  # in a file's first bytes: that chunk comes first
_LONGEST_STEM = 200  # bytes; file systems allow 255 for stem, number, ending and temporary name

_TAUGHT = "attention taught by masks"
_CONTRAST = "LayerCAM of abnormal - normal"


def predict_images(
    run: str,
    images: Sequence[Path],
    out: Path,
    method: str | None = None,
    age: float | None = None,
    sex: str | None = None,
) -> list[dict[str, Any]]:
    """Class probabilities and an explaining overlay for each radiograph.

    An ensemble answers with the mean of its networks' probabilities, over the mirror image as well
    where it was made so. An image is unfamiliar to it where it is to at least half of its networks,
    of those whose runs know what is familiar.

    What notebook 06 chose on validation images is applied where the run has it: the threshold of
    ``operating_point.json``, the temperature of ``calibration.json``, the limit of
    ``familiarity.npz``.

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
    networks = networks_of(folder)
    person = _person(folder, networks, age, sex)
    examined = [examine_image(path) for path in images]
    _require_folder(out)
    targets = _targets(images, out)

    from mura_utils.plotting.heatmaps import overlay

    answers = _answer(networks, [gray for gray, _ in examined], method, person)
    rules = _rules(folder, networks)
    labels = [networks.classes[index] for index in answers.probabilities.argmax(axis=1)]
    abnormal = _abnormal(answers.probabilities, networks.classes)
    calibrated = _calibrated(answers.probabilities, networks.classes, rules.temperature)

    mark = PngInfo()
    mark.add_text(*_MARK)
    for target, pixels, heatmap in zip(targets, answers.shown, answers.heatmaps, strict=True):
        with atomic_write(target) as temporary:
            Image.fromarray(overlay(pixels.astype("uint8"), heatmap)).save(temporary, pnginfo=mark)
    return [
        {
            "image": str(images[n]),
            "label": labels[n],
            "body_part": body_part(labels[n]),
            "p_abnormal": round(abnormal[n], 6),
            "p_abnormal_calibrated": None if calibrated is None else round(calibrated[n], 6),
            "called": "abnormal" if abnormal[n] > rules.threshold else "normal",
            "threshold": rules.threshold,
            "threshold_from": rules.threshold_from,
            "unfamiliar": None if unlike is None else bool(unlike),
            "probabilities": {
                name: round(float(p), 6)
                for name, p in zip(networks.classes, answers.probabilities[n], strict=True)
            },
            "remarks": [
                {"kind": kind, "detail": detail}
                for kind, detail in (inspection.remarks | _remark_unfamiliar(unlike)).items()
            ],
            "heatmap": method or (_TAUGHT if networks.taught else _CONTRAST),
            "overlay": str(targets[n]),
        }
        for n, ((_, inspection), unlike) in enumerate(
            zip(examined, answers.unfamiliar, strict=True)
        )
    ]


class _Answers(NamedTuple):
    """Mean probabilities (N, K) and heat-maps (N, S, S), the images at that size, and of each
    image why it is unfamiliar: "" where it is not, None where nobody knows."""

    probabilities: np.ndarray
    heatmaps: np.ndarray
    shown: np.ndarray
    unfamiliar: list[str | None]


class _Rules(NamedTuple):
    """What was chosen on validation images."""

    threshold: float
    threshold_from: str
    temperature: float | None


def _rules(folder: Path, networks: Networks) -> _Rules:
    threshold = chosen_number(folder / "operating_point.json", "threshold")
    temperature = chosen_number(folder / "calibration.json", "temperature")
    if threshold is None:
        parameters = ENSEMBLE if is_ensemble(folder) else "experiment.yaml"
        return _Rules(networks.threshold, parameters, temperature)
    return _Rules(threshold, "operating_point.json", temperature)


def _known(file: Path) -> Familiarity | None:
    """What the run of a model's file knows as familiar."""
    path = file.with_name(FAMILIARITY)
    return read_familiarity(path) if is_tested(file.parent) and path.is_file() else None


def _abnormal(probabilities: np.ndarray, classes: Sequence[str]) -> list[float]:
    return p_abnormal(pd.DataFrame(probabilities, columns=probability_columns(classes))).tolist()


def _calibrated(
    probabilities: np.ndarray, classes: Sequence[str], temperature: float | None
) -> list[float] | None:
    """P(abnormal) after temperature scaling (Guo et al. 2017)."""
    if temperature is None:
        return None
    return _abnormal(at_temperature(probabilities, temperature), classes)


def _unfamiliar(known: Sequence[Familiarity], scores: Sequence[np.ndarray]) -> list[str]:
    """Why each image is unfamiliar to at least half of the networks, else "".

    Args:
        known: what is familiar to each of K networks.
        scores: of N images, for each network.
    """
    above = np.array([s > one.limit for s, one in zip(scores, known, strict=True)])
    found = []
    for image, votes in enumerate(above.T):
        if votes.mean() < 0.5:
            found.append("")
        elif len(known) == 1:
            found.append(f"score {scores[0][image]:.2f}, limit {known[0].limit:.2f}")
        else:
            found.append(f"so find {votes.sum()} of {len(known)} networks")
    return found


def _remark_unfamiliar(why: str | None) -> dict[str, str]:
    if not why:
        return {}
    return {
        "unfamiliar": f"this image is unlike the run's training images ({why}): do not read its "
        "label"
    }


def _person(
    folder: Path, networks: Networks, age: float | None, sex: str | None
) -> list[np.ndarray | None]:
    """What each network reads of the patient besides the images; None where it reads nothing.

    Raises:
        UserError: no network reads what is given, or the values are none.
    """
    said = require_person(age, sex)
    for name in said.columns[said.notna().any()]:
        if not any(name in names for names in networks.tabular):
            raise UserError(
                f"The run {folder.name} does not read the patient's {name} (its parameter tabular "
                f"has no {name}): leave out --{name}."
            )
    return [encode(names, said).numbers[0] if names else None for names in networks.tabular]


def _answer(
    networks: Networks,
    grays: Sequence[np.ndarray],
    method: str | None,
    person: Sequence[np.ndarray | None],
) -> _Answers:
    from mura_utils.explain import METHODS, attention_maps, layer_cam, methods_of
    from mura_utils.explain.targets import contrast_target
    from mura_utils.frozen import with_pooled
    from mura_utils.network.build import load_model
    from mura_utils.network.tabular import at_values

    models = [
        at_values(load_model(file), values)
        for file, values in zip(networks.files, person, strict=True)
    ]
    known = [_known(file) for file in networks.files]
    answers, views, scores = [], [], []
    for model, file, how, familiar in zip(
        models, networks.files, networks.resize, known, strict=True
    ):
        if model.output_shape[-1] != len(networks.classes):
            raise UserError(
                f"{networks.described_in} names {len(networks.classes)} classes, but {file} has "
                f"{model.output_shape[-1]}: they are not of one training; run 05_modeling again."
            )
        size = model.input_shape[1]
        squares = [resize(gray, size, how) for gray in grays]
        batch = np.stack(squares)[..., None].astype("float32")
        whole = with_pooled(model, familiar.layers) if familiar else model
        for step in (1, -1) if networks.flip else (1,):
            views.append((model, batch[:, :, ::step], step))
            answer = whole.predict(views[-1][1], verbose=0)
            if familiar:
                answer, features = answer
                if step == 1:
                    scores.append(familiar.scores(features))
            answers.append(answer)
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
    knowing = [familiar for familiar in known if familiar]
    unfamiliar = _unfamiliar(knowing, scores) if knowing else [None] * len(grays)
    return _Answers(probabilities, np.mean(maps, axis=0), largest[..., 0], unfamiliar)


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
