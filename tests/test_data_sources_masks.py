import io
import os

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from mura_utils.data.sources.coco import AnnotatedImage, Fracture
from mura_utils.data.sources.masks import (
    Fit,
    Header,
    describe_fit,
    draw,
    fit,
    read_header,
    read_mask,
)
from mura_utils.errors import UserError

WIDTH, HEIGHT = 80, 50
BLOB = (slice(6, 16), slice(50, 74))  # rows, columns: off the center, and not square


def scene():
    """An image without symmetry: dark, with one bright finding."""
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[BLOB] = 255
    return Image.fromarray(pixels)


def write_image(path, image, orientation=None, kind="JPEG"):
    exif = Image.Exif()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    image.save(path, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
    return path


def outline(image):
    """The finding in a picture as a polygon of its pixels' outer corners."""
    ys, xs = np.nonzero(np.asarray(image) > 127)
    left, top, right, bottom = map(float, (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))
    return left, top, right, top, right, bottom, left, bottom


def annotate(picture, form="polygon", size=None):
    """What somebody annotates who sees `picture`."""
    left, top, _, _, right, bottom, _, _ = points = outline(picture)
    if form == "polygon":
        fracture = Fracture(polygons=(points,))
    elif form == "box":
        fracture = Fracture(box=(left, top, right - left, bottom - top))
    else:
        down = np.asarray(picture).T.ravel() > 127
        ends = np.flatnonzero(np.diff(down))
        runs = np.diff([0, *(ends + 1).tolist(), down.size])
        fracture = Fracture(runs=tuple(runs.tolist()))
    return AnnotatedImage("a.jpg", size or picture.size, [fracture])


def overlap(mask, pixels):
    finding = np.asarray(pixels) > 127
    return (mask & finding).sum() / (mask | finding).sum()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("form", ["polygon", "box", "runs"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_of_the_displayed_picture_lies_on_the_stored_finding(
    tmp_path, orientation, form, kind
):
    path = write_image(tmp_path / "a.jpg", scene(), orientation, kind)
    with Image.open(path) as stored:
        displayed = ImageOps.exif_transpose(stored).convert("L")
    image = read_header(path)
    assert image == Header(WIDTH, HEIGHT, orientation)
    assert image.displayed == displayed.size
    annotated = annotate(displayed)
    mask = draw(annotated, image)
    assert mask.shape == (HEIGHT, WIDTH)
    assert overlap(mask, scene()) > 0.95
    remark = describe_fit(annotated, image)
    assert remark is None if orientation == 1 else remark[0] == "mask-turned"
    if orientation in (2, 3, 4):
        assert "the sizes cannot tell" in remark[1]


@pytest.mark.parametrize("form", ["polygon", "box", "runs"])
@pytest.mark.parametrize("orientation", [1, 5, 6, 7, 8])
def test_a_mask_of_the_stored_picture_is_left_as_it_is(orientation, form):
    image = Header(WIDTH, HEIGHT, orientation)
    annotated = annotate(scene(), form)
    assert overlap(draw(annotated, image), scene()) > 0.95
    assert describe_fit(annotated, image) is None


@pytest.mark.parametrize("form", ["polygon", "box", "runs"])
@pytest.mark.parametrize("orientation", [1, 6, 8])
@pytest.mark.parametrize("factor", [0.5, 3])
def test_a_mask_for_another_size_is_scaled(orientation, form, factor):
    image = Header(WIDTH, HEIGHT, orientation)
    turn = {1: None, 6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90}[orientation]
    picture = scene() if turn is None else scene().transpose(turn)
    small = picture.resize([round(side * factor) for side in picture.size], Image.Resampling.BOX)
    annotated = annotate(small, form)
    assert overlap(draw(annotated, image), scene()) > 0.75
    kind, detail = describe_fit(annotated, image)
    assert kind == ("mask-scaled" if orientation == 1 else "mask-turned")
    assert "scaled" in detail


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("size", [(WIDTH, WIDTH), (WIDTH + 2, HEIGHT), (1, 1), (10**6, 1)])
def test_a_mask_for_another_shape_is_refused(orientation, size):
    image = Header(WIDTH, HEIGHT, orientation)
    annotated = annotate(scene(), size=size)
    assert fit(size, image) is None
    assert draw(annotated, image) is None
    kind, detail = describe_fit(annotated, image)
    assert kind == "mask-size-mismatch"
    assert detail.startswith(f"drawn for {size[0]} x {size[1]} pixels, while the image has 80 x 50")


def test_what_the_sizes_of_a_square_cannot_tell_is_taken_for_the_displayed_picture():
    assert fit((50, 50), Header(50, 50, 6)) == Fit(turned=True, scaled=False, certain=False)
    assert fit((50, 50), Header(50, 50, 1)) == Fit(turned=False, scaled=False)


@pytest.mark.parametrize("orientation", [1, 6])
def test_without_a_size_the_displayed_picture_is_meant(orientation):
    image = Header(WIDTH, HEIGHT, orientation)
    assert fit(None, image) == Fit(orientation == 6, scaled=False, certain=orientation == 1)
    assert draw(AnnotatedImage("a.jpg", None), image).shape == (HEIGHT, WIDTH)


@pytest.mark.parametrize("orientation", [None, 0, 9, 1])
def test_what_is_no_orientation_turns_nothing(tmp_path, orientation):
    path = write_image(tmp_path / "a.jpg", scene(), orientation)
    assert read_header(path) == Header(WIDTH, HEIGHT)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_metadata_turns_nothing(tmp_path):
    stream = io.BytesIO()
    scene().save(stream, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff broken")
    (tmp_path / "a.jpg").write_bytes(stream.getvalue())
    assert read_header(tmp_path / "a.jpg") == Header(WIDTH, HEIGHT)


@pytest.mark.parametrize("content", [b"", b"text", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_a_broken_file_has_no_header(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    assert read_header(tmp_path / "a.jpg") is None


def test_what_is_no_file_has_no_header(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    assert read_header(tmp_path / "a.jpg") is None
    assert read_header(tmp_path) is None
    assert read_header(tmp_path / "nothing.jpg") is None


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "1"])
def test_masks_are_read_in_every_mode(tmp_path, mode):
    scene().convert(mode).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), np.asarray(scene()) > 127)


@pytest.mark.parametrize("content", [b"text", b"\x89PNG\r\n\x1a\n"])
def test_a_mask_that_is_no_image_is_one_sentence(tmp_path, content):
    (tmp_path / "mask.png").write_bytes(content)
    with pytest.raises(UserError, match=r"mask\.png is not a mask that can be read \(.+\)\."):
        read_mask(tmp_path / "mask.png")


def test_a_mask_that_ends_early_is_one_sentence(tmp_path):
    scene().save(tmp_path / "mask.png")
    data = (tmp_path / "mask.png").read_bytes()
    (tmp_path / "mask.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="is not a mask that can be read"):
        read_mask(tmp_path / "mask.png")


@pytest.mark.parametrize(
    ("polygon", "pixels"),
    [
        ((2, 3, 12, 3, 12, 13, 2, 13), 100),  # ten by ten, without a border
        ((2.6, 3, 4.4, 3, 4.4, 5, 2.6, 5), 2),  # centers of one column only
        ((0.5, 0.5, 4.5, 0.5, 4.5, 4.5, 0.5, 4.5), 16),  # centers on its border
        ((2.6, 3.6, 2.9, 3.6, 2.9, 3.9), 1),  # of no pixel: the one it lies in
        ((2.6, 3.5, 2.9, 3.5, 2.9, 12.5, 2.6, 12.5), 10),  # a hairline
        ((-5, -5, -2, -5, -2, -2), 1),  # outside: the nearest
    ],
)
def test_a_polygon_holds_the_pixels_whose_centers_it_encloses(polygon, pixels):
    annotated = AnnotatedImage("a.jpg", (WIDTH, HEIGHT), [Fracture(polygons=(polygon,))])
    assert draw(annotated, Header(WIDTH, HEIGHT)).sum() == pixels
