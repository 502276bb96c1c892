"""Classify single radiographs with a trained run, as ``mura predict`` does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mura_utils.errors import UserError
from mura_utils.images import read_image, resize
from mura_utils.paths import atomic_write, read_json, runs_dir


def predict_images(run: str, images: Sequence[Path], out: Path) -> list[dict[str, Any]]:
    """Class probabilities and an explaining overlay for each radiograph.

    The overlay is LayerCAM of (abnormal - normal) of the predicted body part, written to
    ``out/<image's name>_overlay.png``; images of one name (MURA's are all ``image1.png``) get a
    number.

    Args:
        run: a run's name, or the path of its folder.
        images: PNG or JPEG files.
        out: folder of the overlays, made if need be.

    Returns:
        For each image: image, label, body_part, p_abnormal, probabilities (by class), overlay.

    Raises:
        UserError: no trained run; a file is missing or no readable radiograph. All files are read
            before anything is written.
    """
    named = runs_dir() / run
    folder = named if named.is_dir() else Path(run)
    training = folder / "training.json"
    if not training.is_file():
        raise UserError(
            f"There is no trained run {run!r} in {runs_dir()}: train it with 'mura run'."
        )
    grey = [read_image(path) for path in images]

    from mura_utils.explain import contrast_target, layer_cam
    from mura_utils.models import load_model
    from mura_utils.plotting import overlay

    model = load_model(folder / "model.keras")
    classes = read_json(training)["classes"]
    size = model.input_shape[1]
    batch = np.stack([resize(image, size) for image in grey])[..., None].astype("float32")
    probabilities = model.predict(batch, verbose=0)
    predicted = probabilities.argmax(axis=1)
    labels = [classes[index] for index in predicted]
    heatmaps = layer_cam(model, batch, contrast_target(predicted, classes))

    results = []
    for path, target, pixels, heatmap, row, label in zip(
        images, _targets(images, out), batch[..., 0], heatmaps, probabilities, labels, strict=True
    ):
        with atomic_write(target) as temporary:
            Image.fromarray(overlay(pixels.astype("uint8"), heatmap)).save(temporary)
        results.append(_result(path, classes, row, label, target))
    return results


def _targets(images: Sequence[Path], out: Path) -> list[Path]:
    seen: Counter[str] = Counter()
    targets = []
    for path in images:
        seen[path.stem] += 1
        number = f"_{seen[path.stem]}" if seen[path.stem] > 1 else ""
        targets.append(out / f"{path.stem}{number}_overlay.png")
    return targets


def _result(
    path: Path, classes: Sequence[str], probabilities: np.ndarray, label: str, overlay: Path
) -> dict[str, Any]:
    by_class = {name: round(float(p), 6) for name, p in zip(classes, probabilities, strict=True)}
    abnormal = sum(p for name, p in by_class.items() if name.startswith("Abnormal-"))
    return {
        "image": str(path),
        "label": label,
        "body_part": label.split("-", 1)[1],
        "p_abnormal": round(abnormal, 6),
        "probabilities": by_class,
        "overlay": str(overlay),
    }
