"""The augmentation against Keras's ImageDataGenerator, and the batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from keras.src.legacy.preprocessing.image import ImageDataGenerator
from scipy.ndimage import gaussian_filter

from mura_utils.augmentation import Augmentation
from mura_utils.data.images import read_image
from mura_utils.data.squares import resize
from mura_utils.generators import augment, make_dataset
from mura_utils.report import AUGMENTATION

SIZE = 224
REPORT = Augmentation(**AUGMENTATION)


def bone_like(seed: int = 0) -> np.ndarray:
    """A bright shaft with sharp edges and grain: detail down to the single pixel, as in bone."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    axis = 110 + 25 * np.sin(rows / 60 + seed)
    shaft = 90.0 * (np.abs(columns - axis) < 32) + 70 * (np.abs(np.abs(columns - axis) - 28) < 4)
    image = 30 + shaft + gaussian_filter(rng.normal(0, 12, (SIZE, SIZE)), 0.7)
    return image.clip(0, 255).astype(np.uint8)


def real_radiographs(fracatlas: Path, count: int) -> np.ndarray:
    files = sorted((fracatlas / "images" / "Non_fractured").glob("*.jpg"))[:count]
    return np.stack([resize(read_image(file), SIZE) for file in files])


@pytest.mark.filterwarnings("ignore:Please import `affine_transform`:DeprecationWarning")  # Keras's
@pytest.mark.parametrize("source", ["drawn", "real"])
def test_augmentation_equals_image_data_generator(source, request):
    count = 8
    if source == "real":
        images = real_radiographs(request.getfixturevalue("real_fracatlas"), count)
    else:
        images = np.stack([*map(bone_like, range(count))])
    images = images[..., np.newaxis]
    augmentation = replace(REPORT, shear_range=12)  # larger than the report's, so that it shows
    drawn = augmentation.draw(count, SIZE, np.random.default_rng(5))
    drawn["flip_horizontal"] = np.arange(count) % 2 == 0
    matrices = augmentation.matrices(drawn, SIZE)
    ours = augment(images, matrices).numpy()
    keras_generator = ImageDataGenerator(fill_mode="nearest", data_format="channels_last")
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for index, (xx, xy, x0, yx, yy, y0, _, _) in enumerate(matrices):
        one = {name: values[index] for name, values in drawn.items()}
        expected = keras_generator.apply_transform(images[index].astype(np.float32), one)
        assert np.abs(expected - images[index]).mean() > 5  # the transform does something
        source_x, source_y = xx * columns + xy * rows + x0, yx * columns + yy * rows + y0
        inside = (np.minimum(source_x, source_y) > 3) & (np.maximum(source_x, source_y) < SIZE - 4)
        assert inside.mean() > 0.2
        assert np.abs(expected - ours[index])[inside].mean() < 0.01


def test_draws_follow_the_ranges_of_image_data_generator():
    count = 20_000
    drawn = replace(REPORT, width_shift_range=0.1).draw(count, 100, np.random.default_rng(0))
    limits = {
        "theta": (-40, 40),
        "tx": (-20, 20),
        "ty": (-10, 10),
        "shear": (-0.2, 0.2),
        "zx": (0.8, 1.2),
        "zy": (0.8, 1.2),
    }
    for name, (low, high) in limits.items():
        unit = (drawn[name] - low) / (high - low)
        assert unit.min() >= 0
        assert unit.max() <= 1
        quarters = np.array([0.25, 0.5, 0.75])
        np.testing.assert_allclose(np.quantile(unit, quarters), quarters, atol=0.02)
    assert drawn["flip_horizontal"].mean() == pytest.approx(0.5, abs=0.02)
    assert abs(np.corrcoef(drawn["zx"], drawn["zy"])[0, 1]) < 0.05


def test_no_augmentation_at_all_leaves_the_image():
    still = Augmentation(0, 0, 0, 0, 0, horizontal_flip=False)
    matrices = still.matrices(still.draw(2, SIZE, np.random.default_rng(0)), SIZE)
    images = np.stack([bone_like(0), bone_like(1)])[..., np.newaxis]
    np.testing.assert_allclose(augment(images, matrices), images, atol=1e-3)


def toy_data(count: int = 10, size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Images that carry their own number, as gray level and as label."""
    pixels = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None], (count, size, size))
    return pixels.copy(), np.eye(count, dtype=np.float32)


def test_batches_pair_images_with_their_labels_in_the_order_of_the_indices():
    pixels, labels = toy_data()
    indices = np.array([7, 2, 9, 4, 0])
    dataset = make_dataset(pixels, indices, labels, batch_size=2)
    assert dataset.cardinality() == 3
    images, targets = zip(*dataset, strict=True)
    assert [len(batch) for batch in images] == [2, 2, 1]
    images, targets = np.concatenate(images), np.concatenate(targets)
    assert images.dtype == np.float32
    assert images.shape == (5, 16, 16, 1)
    np.testing.assert_array_equal(images[:, 3, 3, 0], indices)
    np.testing.assert_array_equal(targets.argmax(axis=1), indices)
    warped = make_dataset(pixels, indices, labels, 2, REPORT)
    assert warped.element_spec[0].shape[1:] == (16, 16, 1)  # Keras builds layers from it


def test_each_iteration_is_new_and_the_sequence_repeats_for_a_seed():
    pixels = np.stack([bone_like(seed)[::7, ::7] for seed in range(12)])
    labels = np.eye(12)

    def iterations(seed: int, global_seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        keras.utils.set_random_seed(global_seed)  # must not matter
        dataset = make_dataset(pixels, np.arange(12), labels, 5, REPORT, True, seed)
        return [tuple(np.concatenate(part) for part in zip(*dataset, strict=True)) for _ in "ab"]

    first, again, other = iterations(1, 7), iterations(1, 8), iterations(2, 7)
    for (images, targets), (same_images, same_targets) in zip(first, again, strict=True):
        np.testing.assert_array_equal(images, same_images)
        np.testing.assert_array_equal(targets, same_targets)
        assert sorted(targets.argmax(axis=1)) == list(range(12))  # every image once
    assert first[0][1].tolist() != first[1][1].tolist()
    assert first[0][1].tolist() != other[0][1].tolist()
    by_label = [images[targets.argmax(axis=1).argsort()] for images, targets in first]
    assert np.abs(by_label[0] - by_label[1]).mean() > 5  # new draws, not only a new order


def test_keras_trains_from_it_for_several_epochs():
    pixels, labels = toy_data()
    dataset = make_dataset(pixels, np.arange(10), labels, 4, REPORT, shuffle=True)
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(10, "softmax")])
    model.compile("sgd", "categorical_crossentropy")
    history = model.fit(dataset, epochs=3, shuffle=False, verbose=0, validation_data=dataset)
    assert len(history.history["val_loss"]) == 3


def test_labels_of_another_length_are_refused():
    pixels, labels = toy_data()
    with pytest.raises(ValueError, match="9 rows of labels for 10 images"):
        make_dataset(pixels, np.arange(9), labels[:9], 4)
