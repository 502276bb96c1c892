"""The features by which an image is familiar: maps from the middle of a network, averaged."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from mura_utils.backbones import BACKBONES
from mura_utils.data.dataset import Images
from mura_utils.experiments import Experiment
from mura_utils.frozen.store import feature_sets
from mura_utils.frozen.use import make_dataset as frozen_dataset
from mura_utils.generators import make_dataset
from mura_utils.network.cut import split_network
from mura_utils.terminal import to_the_terminal


def pooled_layers(model: keras.Model, backbone: str) -> list[str]:
    """The layers whose maps tell best what a network was trained on from what it was not.

    The backbone's last layer with cells of 16 pixels or, where that is frozen, the layers in which
    the frozen part ends: they are stored. What comes later takes anything for a bone, see
    ``benchmarks/README.md``.

    Args:
        model: a trained network, whole.
        backbone: its name in `backbones`.
    """
    fine = BACKBONES[backbone].fine
    cut = split_network(model)
    if cut is None or any(layer.name == fine for layer in cut.tail.layers):
        return [fine]
    return [tensor._keras_history.operation.name for tensor in cut.prefix.outputs]


def with_pooled(model: keras.Model, layers: Sequence[str]) -> keras.Model:
    """The same network with a second output: those layers' maps, averaged over positions (N, D)."""
    return keras.Model(model.inputs[0], [*model.outputs, _averages(model, layers)])


@to_the_terminal()
def pooled_features(
    model: keras.Model, images: Images, experiment: Experiment, most: int = 1000
) -> tuple[np.ndarray, np.ndarray]:
    """The averaged maps of `pooled_layers`, of at most `most` images a split, drawn at random.

    Stored activations are used if there are; those of training images are of augmented versions.

    Args:
        model: a trained network, whole.
        images: their path, sha256 and split are used besides the pixels.
        experiment: of the run that trained the model.
        most: images.

    Returns:
        Positions of the images (n,), training images first, and features (n, D).
    """
    rng = np.random.default_rng(0)
    drawn = [
        np.sort(rng.permutation(images.positions(split))[:most])
        for split in ("train", "validation", "test")
    ]
    rows = [drawn[0], np.concatenate(drawn[1:])]
    labels = np.zeros((len(images), 1), np.float32)  # nobody reads them
    features = _averages(model, pooled_layers(model, experiment.backbone))
    cut = split_network(model) if experiment.cache_features != "off" else None
    sets = feature_sets(cut, images, experiment) if cut is not None else ()
    if sets and all(each.complete for each in sets):
        network = keras.Model(cut.prefix.outputs, features)
        batches = [
            frozen_dataset(
                each, np.searchsorted(each.rows, chosen), labels[each.rows], experiment.batch_size
            )
            for each, chosen in zip(sets, rows, strict=True)
        ]
    else:
        network = keras.Model(model.inputs[0], features)
        batches = [
            make_dataset(images.pixels, chosen, labels, experiment.batch_size) for chosen in rows
        ]
    found = [network.predict(each, verbose=0) for each in batches]
    return np.concatenate(rows), np.concatenate(found)


def _averages(model: keras.Model, layers: Sequence[str]) -> keras.KerasTensor:
    pooled = []
    for name in layers:
        output = model.get_layer(name).output
        if len(output.shape) == 4:
            average = keras.layers.GlobalAveragePooling2D(name=f"{name}_average", dtype="float32")
            output = average(output)
        pooled.append(output)
    if len(pooled) == 1:
        return pooled[0]
    return keras.layers.Concatenate(name="averages", dtype="float32")(pooled)
