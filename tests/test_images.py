import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
from mura_tree import png
from PIL import Image

from mura_utils.errors import UserError
from mura_utils.images import FAULTS, MIN_SIDE, ImageFault, inspect_image, read_image, resize

RAMP = np.tile(np.arange(0, 240, 5, dtype=np.uint8), (40, 1))  # (40, 48)


def encode(image, format_="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, format_, **options)
    return stream.getvalue()


def huge_png(side):
    """A PNG whose header promises side x side pixels; a hundred bytes long."""

    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_any_lossless_mode_gives_the_same_grey(tmp_path, mode):
    file = tmp_path / "image.png"
    file.write_bytes(encode(Image.fromarray(RAMP).convert(mode)))
    image = read_image(file)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, RAMP)
    assert inspect_image(file).mode == mode


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_modes_give_nearly_the_same_grey(tmp_path, mode):
    file = tmp_path / "image.jpg"
    file.write_bytes(encode(Image.fromarray(RAMP).convert(mode), "JPEG", quality=95))
    assert np.abs(read_image(file).astype(int) - RAMP).mean() < 3
    assert inspect_image(file).mode == mode


def test_colour_becomes_luma_and_alpha_is_dropped(tmp_path):
    file = tmp_path / "image.png"
    file.write_bytes(encode(Image.new("RGBA", (40, 40), (200, 100, 50, 0))))
    assert set(read_image(file).ravel()) == {round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)}


def test_one_bit_images_become_black_and_white(tmp_path):
    file = tmp_path / "image.png"
    file.write_bytes(encode(Image.fromarray(RAMP > 100)))
    np.testing.assert_array_equal(read_image(file), np.where(RAMP > 100, 255, 0))


def test_16_bit_is_stretched_from_its_own_range(tmp_path):
    file = tmp_path / "image.png"
    deep = np.linspace(1000, 3000, 40 * 40).reshape(40, 40).astype(np.uint16)
    file.write_bytes(encode(Image.fromarray(deep)))
    image = read_image(file)
    assert (image.min(), image.max()) == (0, 255)
    expected = (deep.astype(float) - 1000) / 2000 * 255
    assert np.abs(image - expected).max() <= 0.5
    assert inspect_image(file).mode == "I;16"


def test_constant_16_bit_image_is_black(tmp_path):
    file = tmp_path / "image.png"
    file.write_bytes(encode(Image.fromarray(np.full((40, 40), 700, np.uint16))))
    assert not read_image(file).any()


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
NOISE_PNG, NOISE_JPEG = encode(Image.fromarray(NOISE)), encode(Image.fromarray(NOISE), "JPEG")
BROKEN_PNG = NOISE_PNG[:600] + b"\0" * 40 + NOISE_PNG[640:]


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("missing", None),
        ("zero-byte", b""),
        ("wrong-format", b"GIF89a, or so it says"),
        ("wrong-format", encode(Image.fromarray(RAMP), "BMP")),
        ("truncated", NOISE_PNG[:200]),
        ("truncated", NOISE_PNG[:20]),
        ("truncated", NOISE_JPEG[: len(NOISE_JPEG) // 2]),
        ("truncated", NOISE_JPEG[:30]),
        ("unreadable", BROKEN_PNG),
        ("too-small", png(side=1)),
        ("too-small", png(side=MIN_SIDE - 1)),
    ],
)
def test_faults_are_one_sentence_of_their_kind(tmp_path, kind, content):
    file = tmp_path / "image.png"
    if content is not None:
        file.write_bytes(content)
    for look in (read_image, inspect_image):
        with pytest.raises(ImageFault) as caught:
            look(file)
        assert (caught.value.kind, caught.value.path) == (kind, file)
        assert kind in FAULTS
        assert str(caught.value).startswith(str(file))
        assert str(caught.value).count("\n") == 0
        assert isinstance(caught.value, UserError)


def test_a_folder_in_place_of_a_file_is_a_fault(tmp_path):
    with pytest.raises(ImageFault, match=r"\(unreadable\): Is a directory\."):
        read_image(tmp_path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 60_000])  # PIL warns of the first, refuses the second
def test_decompression_bomb_is_a_fault(tmp_path, side):
    file = tmp_path / "image.png"
    file.write_bytes(huge_png(side))
    with pytest.raises(ImageFault, match=r"unreadable.* pixels") as caught:
        read_image(file)
    assert caught.value.kind == "unreadable"


def test_smallest_admitted_side(tmp_path):
    file = tmp_path / "image.png"
    file.write_bytes(png(side=MIN_SIDE))
    assert read_image(file).shape == (MIN_SIDE, MIN_SIDE)


def test_inspection_measures_the_grey_image_and_the_bytes(tmp_path):
    file = tmp_path / "image.PNG"
    file.write_bytes(NOISE_PNG)
    found = inspect_image(file)
    assert (found.width, found.height, found.detail) == (64, 64, "")
    assert found.sha256 == hashlib.sha256(NOISE_PNG).hexdigest()
    assert found.mean == pytest.approx(NOISE.mean())
    assert found.std == pytest.approx(NOISE.std())


def test_width_and_height_are_not_swapped(tmp_path):
    file = tmp_path / "image.png"
    file.write_bytes(encode(Image.fromarray(RAMP)))
    found = inspect_image(file)
    assert (found.width, found.height) == (48, 40)


def test_content_counts_not_the_suffix(tmp_path):
    file = tmp_path / "image.png"
    file.write_bytes(NOISE_JPEG)
    assert read_image(file).shape == (64, 64)
    assert inspect_image(file).detail == "JPEG content under the suffix '.png'"


def test_resize_stretches_to_a_square():
    image = resize(np.repeat([[0, 255]], 100, axis=0).astype(np.uint8).repeat(20, axis=1), 32)
    assert image.shape == (32, 32)
    assert image.dtype == np.uint8
    assert (image[:, :8] == 0).all()
    assert (image[:, -8:] == 255).all()


def test_resize_does_not_alias():
    stripes = np.tile(np.array([0, 255], np.uint8), (512, 256))
    assert np.abs(resize(stripes, 64).astype(int) - 127).max() < 16
