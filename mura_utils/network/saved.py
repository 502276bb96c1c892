"""Saved networks: loading one, and taking its weights into a new one."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import keras
import numpy as np

from mura_utils.errors import UserError
from mura_utils.paths import reading


def load_model(path: Path) -> keras.Model:
    """Load a trained model.

    Raises:
        UserError: the file is absent or not a Keras model.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: train it with notebook 05_modeling.")
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # whatever a layer raises that does not know its configuration
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise UserError(
            f"{path}, {_saved_by(path)}, cannot be read by Keras {keras.__version__} ({reason}): "
            "use an environment with the version that saved it, or train it again with 05_modeling."
        ) from error


def classes_of_run(path: Path) -> list[str] | None:
    """The class names of the run whose ``model.keras`` this is; None where nothing names them.

    Raises:
        UserError: the run's ``training.json`` is damaged.
    """
    record = path.with_name("training.json")
    if not record.is_file():
        return None
    with reading(record) as content:
        return list(content["classes"])


def take_weights(
    model: keras.Model, saved: keras.Model, but: str = ""
) -> tuple[list[str], list[str]]:
    """Give each layer the weights of the saved layer that has its name and its weights' shapes.

    Args:
        model: changed in place.
        saved: where the weights come from.
        but: name of a layer that stays as it is.

    Returns:
        Names of the layers with weights: those that took them, and those that stay as they are.
    """
    there = {layer.name: layer.get_weights() for layer in saved.layers}
    taken, new = [], []
    for layer in model.layers:
        if not layer.weights:
            continue
        weights = there.get(layer.name, [])
        shapes = [tuple(weight.shape) for weight in layer.weights]
        if layer.name != but and [array.shape for array in weights] == shapes:
            layer.set_weights(weights)
            taken.append(layer.name)
        else:
            new.append(layer.name)
    return taken, new


def take_backbone(backbone: keras.Model, path: Path) -> None:
    """Give a backbone the weights that it has in an earlier run's network.

    Args:
        backbone: from gray values to features, with the layer ``scaling``; changed in place.
        path: the run's ``model.keras``.

    Raises:
        UserError: the file cannot be read, or is not of this series; its network has another
            backbone, or scales gray values otherwise.
    """
    saved = load_model(path)
    layers = {layer.name: layer for layer in getattr(saved, "layers", [])}
    channels = [tensor.shape[-1] for tensor in getattr(saved, "inputs", [])[:1]]
    scaling = layers.get("scaling")
    if channels != [1] or not isinstance(scaling, keras.layers.Rescaling):
        raise UserError(
            f"weights: {path} is no network of this series, which takes gray values and scales "
            "them itself: give a run's model.keras, or save the backbone's weights as *.weights.h5 "
            "and give that file."
        )
    _, missing = take_weights(backbone, saved)
    if missing:
        raise UserError(
            f"weights: {path} has another backbone than {backbone.name} (no layer {missing[0]} of "
            "the same shape): give the backbone of its run, and for mobilenet its alpha."
        )
    if not np.allclose(_per_channel(scaling), _per_channel(backbone.get_layer("scaling"))):
        raise UserError(
            f"weights: {path} was trained with another scaling of gray values: give the parameter "
            "scaling the value that it has in that run's experiment.yaml."
        )


def _per_channel(scaling: keras.layers.Rescaling) -> np.ndarray:
    """Scale and offset, (2, 3)."""
    return np.array([np.broadcast_to(values, 3) for values in (scaling.scale, scaling.offset)])


def _saved_by(path: Path) -> str:
    """What a model's file says about the Keras that saved it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return f"saved by Keras {json.loads(archive.read('metadata.json'))['keras_version']}"
    except (OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile):
        return "which is no whole Keras file"
