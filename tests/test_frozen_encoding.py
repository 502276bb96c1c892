"""Activations as rows of a file: what is lost, and how long a row is."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from small import frozen_experiment, noise, stored, vivid

from mura_utils import frozen
from mura_utils.frozen.encoding import ENCODINGS, LARGEST

SHAPES = [(7, 7, 5), (3, 4), (2,)]


def activations(count: int = 6) -> np.ndarray:
    values = np.random.default_rng(0).normal(0, 3, (count, 245 + 12 + 2)).astype("float32")
    values[0] = 0
    values[1] *= 1e-6
    values[2, :3] = -LARGEST, LARGEST, 1
    return values


def decoded(name: str, values: np.ndarray) -> np.ndarray:
    rows = tf.constant(ENCODINGS[name].encode(values, SHAPES))
    maps = ENCODINGS[name].decode(rows, SHAPES)
    assert [tuple(each.shape[1:]) for each in maps] == SHAPES
    return np.concatenate([each.numpy().reshape(len(values), -1) for each in maps], axis=1)


def test_a_value_of_8_bits_is_off_by_half_a_step_of_its_channel_in_its_image():
    values = activations()
    found = decoded("uint8", values)
    cells, back = (each[:, :245].reshape(-1, 49, 5) for each in (values, found))
    step = np.ptp(cells, axis=1, keepdims=True) / 255
    rounded = 2**-11 * np.abs(cells).max(axis=1, keepdims=True) + 255 * 2**-11 * step + 255 * 2**-25
    assert (np.abs(back - cells) <= step / 2 + rounded).all()
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[0], 0)


def test_16_bits_are_what_numpy_rounds_to():
    values = activations()
    np.testing.assert_array_equal(decoded("float16", values), values.astype("float16"))


@pytest.mark.parametrize(("name", "size"), [("float16", 2 * 259), ("uint8", 259 + 4 * 11)])
def test_a_row_is_as_long_as_it_says(name, size):
    encoding = ENCODINGS[name]
    rows = encoding.encode(activations(), SHAPES)
    assert rows.dtype == np.dtype(encoding.dtype)
    assert rows.nbytes == len(rows) * size == len(rows) * encoding.width(SHAPES) * rows.itemsize


def test_training_on_8_bits_answers_as_on_16_and_shares_no_folder():
    images = noise(size=96)
    answers, folders = [], set()
    for stored_as in ("float16", "uint8"):
        experiment = frozen_experiment(stored_as=stored_as, image_size=96)
        model = vivid(experiment)
        chosen = stored(experiment, images, model)
        folders.add(chosen.train.folder)
        answers.append(frozen.predict(model, images, experiment)[0])
    assert len(folders) == 2
    assert 0 < np.abs(answers[0] - answers[1]).max() < 0.01
