"""Small networks and radiographs on which the frozen part is stored, and trainings are shown.

The constants and functions that more than one test file needs; no file defines its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from mura_utils import frozen, training
from mura_utils.data.dataset import Images
from mura_utils.experiments import validate_parameters
from mura_utils.network import build, heads
from mura_utils.network.backbone import FEATURES
from mura_utils.training import fitting, resume

HERE = Path(__file__).parent
CLASSES = ["Abnormal-HAND", "Normal-HAND"]
ATTENTION = {"head": "attention", "dropout": [0.1] * 5}


def experiment(**changes):
    """MobileNet at 32 px, whose last convolution is trained; epochs of a few steps."""
    small = {
        "backbone": "mobilenet", "alpha": 0.25, "weights": "none", "unfreeze": 1,
        "image_size": 32, "head": "dense", "dense_units": [16], "dropout": [0.4], "batch_size": 8,
        "epochs": 4, "learning_rate": 1e-2, "views": 2, "cache_features": "off",
        "extractor": "tensorflow",
    }  # fmt: skip
    return validate_parameters({**small, **changes}, "test")


def frozen_experiment(**changes):
    """The same, with more to train behind the cut, three views, and activations that are stored."""
    small = {
        "unfreeze": 5, "dense_units": [8], "dropout": [0.0], "batch_size": 16, "epochs": 5,
        "views": 3, "cache_features": "on",
    }  # fmt: skip
    return experiment(**{**small, **changes})


def images_of(pixels, split, labels):
    """Images in a folder that does not exist, `labels` being numbers of CLASSES."""
    rows = pd.DataFrame(
        {
            "path": [f"{row}.png" for row in range(len(split))],
            "sha256": [f"{row:064x}" for row in range(len(split))],
            "label": np.take(CLASSES, labels),
            "split": split,
        }
    )
    return Images(Path("radiographs"), rows, pixels)


def python(function, *arguments):
    """Start a process of its own that calls a function of a test file."""
    call = f"t.{function.__name__}(*{[str(each) for each in arguments]})"
    code = f"import {function.__module__} as t; {call}"
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=HERE, stdout=subprocess.PIPE, text=True
    )


def one_sentence(error):
    text = str(error.value)
    return "\n" not in text and text.endswith(".") and ". " not in text


# --- the frozen part ----------------------------------------------------------------------------


def network(settings):
    return build.build_model(settings, CLASSES)


def vivid(settings):
    """A network whose activations and probabilities differ between images.

    Keras's own random weights let them vanish within a few layers; He's keep their size.
    """
    model = network(settings)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            shape = layer.kernel.shape
            layer.kernel.assign(rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape))
        elif isinstance(layer, keras.layers.DepthwiseConv2D):
            layer.kernel.assign(rng.normal(0, 1, layer.kernel.shape))
    return model


def with_head(settings, classes):
    """Two convolutions in place of a backbone, and a real head; large weights."""
    keras.utils.set_random_seed(0)
    options = {"activation": "relu", "kernel_initializer": "he_normal", "bias_initializer": "ones"}
    inputs = keras.Input((settings.image_size, settings.image_size, 1), name="radiograph")
    x = keras.layers.Rescaling(1 / 64, name="scaling")(inputs)
    fine = keras.layers.Conv2D(8, 16, strides=16, name="fine", **options)(x)
    coarse = keras.layers.Conv2D(12, 2, strides=2, name="last", **options)(fine)
    coarse = keras.layers.Identity(name=FEATURES)(coarse)
    x = heads.attach_head(settings, coarse, fine)
    logits = keras.layers.Dense(classes, kernel_initializer="he_normal", name=heads.LOGITS)(x)
    return keras.Model(inputs, keras.layers.Activation("softmax", name="predictions")(logits))


def noise(train=20, validation=7, test=5, size=32):
    """Noise under light of several strengths; test images come first."""
    count = train + validation + test
    rng = np.random.default_rng(0)
    light = rng.uniform(0.2, 1, (count, 1, 1))
    pixels = (rng.integers(0, 256, (count, size, size)) * light).astype(np.uint8)
    split = np.repeat(["test", "train", "validation"], [test, train, validation])
    return images_of(pixels, split, np.arange(count) % 2)


def stored(settings, images, model=None):
    """A plan whose activations are all on disk."""
    chosen = frozen.plan(model or vivid(settings), images, settings)
    frozen.extract(chosen, images, settings, progress=False)
    return chosen


# --- trainings ----------------------------------------------------------------------------------


def squares(train=36, swapped=False):
    """Bright and dark squares, learnt in a few steps; `swapped`: the wrong way round to validate.

    36 images make five steps of eight, the last one half full.
    """
    split = np.repeat(["train", "validation", "test"], [train, 16, 12])
    bright = np.arange(len(split)) % 2
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 60, (len(split), 32, 32)) + 100 * bright[:, None, None]
    labels = np.where((split == "validation") & swapped, 1 - bright, bright)
    return images_of(pixels.astype("uint8"), split, labels)


def tiny(settings):
    """A network that compiles in a second: a frozen convolution, a trained one, dropout."""
    layers = keras.layers
    keras.utils.set_random_seed(settings.seed)
    size = settings.image_size
    x = inputs = keras.Input((size, size, 1), name="radiograph")
    x = layers.Rescaling(1 / 255, name="scaling")(x)
    x = layers.Conv2D(4, 3, strides=4, trainable=False, name="frozen")(x)
    x = layers.BatchNormalization(trainable=False, name="frozen_bn")(x)
    x = layers.Conv2D(6, 3, strides=2, activation="relu", name="trained")(x)
    if settings.batch_norm_momentum:
        x = layers.BatchNormalization(momentum=settings.batch_norm_momentum, name="trained_bn")(x)
    x = layers.Dropout(settings.dropout[0] / 2, seed=settings.seed, name="dropout_maps")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(settings.dropout[0], seed=settings.seed + 1, name="dropout")(x)
    x = layers.Dense(2, kernel_regularizer=keras.regularizers.L2(settings.l2), name="logits")(x)
    return keras.Model(inputs, layers.Activation("softmax", name="predictions")(x))


@dataclass
class Trained:
    result: training.Training
    model: keras.Model
    task: training.Task
    path: Path

    @property
    def history(self):
        return self.result.history


def prepare(settings, images, model=None):
    """A compiled task; its activations are stored where the experiment says so."""
    model = model or tiny(settings)
    chosen = frozen.plan(model, images, settings)
    frozen.extract(chosen, images, settings, progress=False)
    task = training.make_task(model, images, settings, chosen)
    assert (task.network is model) != (chosen.on or settings.mask_supervision > 0)
    training.compile_task(task, settings)
    return model, task


def train(folder, settings, images=None, model=None):
    model, task = prepare(settings, images or squares(), model)
    path = folder / "model.keras"
    return Trained(training.fit(model, task, settings, path, progress=False), model, task, path)


def assert_same(resumed, expected):
    pd.testing.assert_frame_equal(resumed.history, expected.history, check_exact=True)
    assert resumed.result.kept_epoch == expected.result.kept_epoch
    saved = build.load_model(resumed.path)
    for model in (resumed.model, saved):
        for ours, theirs in zip(model.weights, expected.model.weights, strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)
    assert not (resumed.path.parent / ".checkpoint").exists()


# --- interruptions ------------------------------------------------------------------------------


resume._CHECKPOINT_SECONDS = 0  # for every epoch here to be written


class InterruptedHere(Exception):
    """Stands for a crash in tests that need no process of their own."""


def crash():
    raise InterruptedHere


def interrupt(patch, moment, stop):
    """Make the next training end at a moment: what happens, and how many times it happened."""
    event, number = moment.rsplit(" ", 1)
    counts = {"seen": 0}

    def now():
        counts["seen"] += 1
        return counts["seen"] == int(number)

    if event == "step":

        def on_train_batch_end(self, batch, logs=None):
            if now():
                stop()

        patch.setattr(fitting._LearningRate, "on_train_batch_end", on_train_batch_end)
    elif event == "begin of epoch":
        begin = fitting._LearningRate.on_epoch_begin

        def on_epoch_begin(self, epoch, logs=None):
            begin(self, epoch, logs)
            if now():
                stop()

        patch.setattr(fitting._LearningRate, "on_epoch_begin", on_epoch_begin)
    elif event == "half of file":
        savez = np.savez

        def half(path, **arrays):
            savez(path, **arrays)
            if now():
                os.truncate(path, path.stat().st_size // 2)
                stop()

        patch.setattr(np, "savez", half)
    elif event == "removal of an older best":
        unlink = Path.unlink

        def unlink_or_stop(path, missing_ok=False):
            if path.name.startswith("kept-") and now():
                stop()
            unlink(path, missing_ok)

        patch.setattr(Path, "unlink", unlink_or_stop)
    elif event == "saving":
        save = keras.Model.save

        def save_or_stop(*args, **options):
            if now():
                stop()
            save(*args, **options)

        patch.setattr(keras.Model, "save", save_or_stop)
    else:
        raise ValueError(event)
