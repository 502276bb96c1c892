"""Images that are no bone radiograph."""

from __future__ import annotations

import numpy as np
from PIL import Image

from mura_utils.data.images import read_image
from mura_utils.phantoms.foreign import foreign_images

BONES = [np.full((40, 30), level, np.uint8) for level in (0, 9, 255)]


def test_there_are_as_many_of_each_kind_and_all_differ_and_are_readable(tmp_path):
    found = foreign_images(BONES, each=3)
    assert list(found) == [
        *("photograph", "noise", "pattern", "text page", "chart", "chest", "negative"),
    ]
    assert {len(images) for images in found.values()} == {3}
    drawn = [image for kind, images in found.items() for image in images if kind != "negative"]
    assert len({image.tobytes() for image in drawn}) == len(drawn)
    for image in drawn:
        Image.fromarray(image).save(tmp_path / "image.png")
        assert (read_image(tmp_path / "image.png") == image).all(), "it is no fault"


def test_negatives_are_of_the_given_radiographs_as_far_as_there_are():
    negatives = foreign_images(BONES, each=2)["negative"]
    assert [int(image[0, 0]) for image in negatives] == [255, 246]
    assert len(foreign_images(BONES, each=5)["negative"]) == 3


def test_a_seed_draws_the_same_and_another_one_others():
    first, again, other = (
        {kind: images[0].tobytes() for kind, images in foreign_images(BONES, 1, seed).items()}
        for seed in (0, 0, 1)
    )
    assert first == again
    drawn = [kind for kind in first if kind != "negative"]
    assert all(first[kind] != other[kind] for kind in drawn)
