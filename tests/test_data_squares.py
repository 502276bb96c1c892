import numpy as np
import pytest

from mura_utils.data.squares import resize, resize_mask


def test_stretching_fills_the_square():
    image = resize(np.repeat([[0, 255]], 100, axis=0).astype(np.uint8).repeat(20, axis=1), 32)
    assert image.shape == (32, 32)
    assert image.dtype == np.uint8
    assert (image[:, :8] == 0).all()
    assert (image[:, -8:] == 255).all()


def test_resizing_does_not_alias():
    stripes = np.tile(np.array([0, 255], np.uint8), (512, 256))
    assert np.abs(resize(stripes, 64).astype(int) - 127).max() < 16


@pytest.mark.parametrize(("shape", "filled"), [((300, 100), (60, 20)), ((40, 120), (20, 60))])
def test_padding_keeps_the_ratio_of_the_sides_and_the_middle(shape, filled):
    square = resize(np.full(shape, 200, np.uint8), 60, "pad")
    rows, columns = np.nonzero(square)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == filled
    assert abs(rows.mean() - 29.5) <= 0.5
    assert abs(columns.mean() - 29.5) <= 0.5


@pytest.mark.parametrize("how", ["stretch", "pad"])
def test_a_mask_lies_where_its_image_does(how):
    image = np.zeros((310, 170), np.uint8)
    image[200:240, 30:90] = 250
    square, mask = resize(image, 64, how), resize_mask(image > 0, 64, how)
    assert mask.dtype == bool
    assert (mask[square > 125]).all()
    assert not (square[~mask] > 60).any()


def test_another_way_is_no_silent_stretch():
    with pytest.raises(ValueError, match="stretch or pad"):
        resize(np.zeros((4, 4), np.uint8), 2, "crop")


def test_a_thin_mask_is_not_lost():
    thin = np.zeros((900, 900), bool)
    thin[400, 10:800] = True
    assert resize_mask(thin, 32).any(axis=0).sum() > 25
    assert resize_mask(thin, 32, "pad").any(axis=0).sum() > 25
