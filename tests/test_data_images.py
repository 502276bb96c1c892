import hashlib
import io
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from mura_tree import png
from PIL import Image, PngImagePlugin

from mura_utils.data import dicom, images, levels
from mura_utils.data.images import (
    FAULTS,
    MAX_BYTES,
    MIN_SIDE,
    REMARKS,
    ImageFault,
    examine_image,
    inspect_image,
    look_at,
    read_image,
)
from mura_utils.errors import UserError
from mura_utils.phantoms.dataset import BODY_PARTS, draw_case

RAMP = np.tile(np.arange(0, 240, 5, dtype=np.uint8), (40, 1))  # (40, 48)


def encode(image, format_="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, format_, **options)
    return stream.getvalue()


def raw_png(width, height, depth, color, pixels):
    """A PNG of any header, from rows that each begin with their filter, 0."""

    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def huge_png(side):
    """A PNG whose header promises side x side pixels; a hundred bytes long."""
    return raw_png(side, side, 8, 0, b"")


def color_png(samples):
    """A 16-bit color PNG of `(H, W, C)` uint16: C is 2 (gray, alpha), 3 (RGB) or 4 (RGBA)."""
    height, width, channels = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return raw_png(width, height, 16, {2: 4, 3: 2, 4: 6}[channels], rows)


def phantom(seed=0, part="ELBOW"):
    return draw_case(np.random.default_rng(seed), part, "fracture", abnormal=False)[0]


@pytest.fixture
def alarm():
    """A hang of more than a minute fails the test."""

    def stop(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_any_lossless_mode_gives_the_same_gray(tmp_path, mode):
    file = tmp_path / "image.png"
    file.write_bytes(encode(Image.fromarray(RAMP).convert(mode)))
    image = read_image(file)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, RAMP)
    assert inspect_image(file).mode == mode


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_modes_give_nearly_the_same_gray(tmp_path, mode):
    file = tmp_path / "image.jpg"
    file.write_bytes(encode(Image.fromarray(RAMP).convert(mode), "JPEG", quality=95))
    assert np.abs(read_image(file).astype(int) - RAMP).mean() < 3
    assert inspect_image(file).mode == mode


def test_color_becomes_luma_and_alpha_is_dropped(tmp_path):
    file = tmp_path / "image.png"
    halves = Image.new("RGBA", (40, 40), (200, 100, 50, 0))
    halves.paste((0, 0, 0, 90), (0, 0, 20, 40))
    file.write_bytes(encode(halves))
    assert set(read_image(file).ravel()) == {0, round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)}


def test_one_bit_images_become_black_and_white(tmp_path):
    file = tmp_path / "image.png"
    file.write_bytes(encode(Image.fromarray(RAMP > 100)))
    np.testing.assert_array_equal(read_image(file), np.where(RAMP > 100, 255, 0))


def test_a_palette_of_16_entries_gives_its_gray_levels(tmp_path):
    file = tmp_path / "image.png"
    palette = Image.fromarray(RAMP // 48 * 51).quantize(16)
    file.write_bytes(encode(palette, bits=4))
    assert set(read_image(file).ravel()) == {0, 51, 102, 153, 204}


def test_16_bit_is_stretched_from_its_own_range(tmp_path):
    file = tmp_path / "image.png"
    deep = np.linspace(1000, 3000, 40 * 40).reshape(40, 40).astype(np.uint16)
    file.write_bytes(encode(Image.fromarray(deep)))
    image, inspection = examine_image(file)
    assert (image.min(), image.max()) == (0, 255)
    expected = (deep.astype(float) - 1000) / 2000 * 255
    assert np.abs(image - expected).max() <= 0.5
    assert (inspection.mode, inspection.remarks) == ("I;16", {})


def with_marker(gray, channels=0):
    """12 bits in 16 with a saturated corner, (H, W), or as color with an opaque alpha."""
    deep = gray.astype(np.uint16) * 16
    deep[:5, :5] = 65535
    if channels:
        deep = np.repeat(deep[..., None], channels, 2)
    if channels in (2, 4):
        deep[..., -1] = 65535
    return deep


def test_one_saturated_marker_does_not_turn_a_16_bit_image_black(tmp_path):
    file = tmp_path / "image.png"
    gray = phantom()
    file.write_bytes(encode(Image.fromarray(with_marker(gray))))
    image, inspection = examine_image(file)
    assert np.abs(image[5:].astype(int) - gray[5:]).mean() < 15  # 53 from minimum to maximum
    assert np.corrcoef(image[5:].ravel(), gray[5:].ravel())[0, 1] > 0.999
    (detail,) = inspection.remarks.values()
    assert list(inspection.remarks) == ["clipped"]
    assert detail.startswith("gray levels run from 0 to 65,535 and were clipped to 0 to 3,7")
    file.write_bytes(encode(Image.fromarray(gray.astype(np.uint16) * 16)))
    plain, inspection = examine_image(file)
    assert inspection.remarks == {}
    assert np.abs(image[5:].astype(int) - plain[5:]).mean() < 1


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_16_bit_color_keeps_all_its_bits(tmp_path, channels):
    gray, color = tmp_path / "gray.png", tmp_path / "color.png"
    gray.write_bytes(encode(Image.fromarray(with_marker(phantom()))))
    color.write_bytes(color_png(with_marker(phantom(), channels)))
    image, inspection = examine_image(color)
    np.testing.assert_array_equal(image, read_image(gray))
    assert inspection.mode == {2: "LA;16", 3: "RGB;16", 4: "RGBA;16"}[channels]
    assert len(np.unique(image)) > 200  # the high bytes hold 16


def test_16_bit_color_becomes_luma(tmp_path):
    file = tmp_path / "image.png"
    samples = np.random.default_rng(0).integers(0, 65536, (40, 48, 3)).astype(np.uint16)
    samples[0, :2] = [[0, 0, 0], [65535, 65535, 65535]]
    file.write_bytes(color_png(samples))
    luma = samples @ np.array([0.299, 0.587, 0.114])
    low, high = np.percentile(luma, [0.5, 99.5])
    low, high = max(0, low - (high - low) / 10), min(65535, high + (high - low) / 10)
    expected = ((luma - low) / (high - low) * 255).clip(0, 255)
    assert np.abs(read_image(file) - expected).max() < 1


UNIFORM = {
    "black": Image.new("L", (40, 40)),
    "one gray": Image.new("RGB", (40, 40), (90, 90, 90)),
    "white": Image.new("1", (40, 40), 1),
    "seven levels": Image.fromarray(100 + RAMP // 5 % 7),
    "a marker on black": Image.fromarray(np.pad(np.full((4, 4), 255, np.uint8), 40)),
    "16 bits": Image.fromarray(np.full((40, 40), 700, np.uint16)),
    "noise of two in 16 bits": Image.fromarray(30_000 + RAMP.astype(np.uint16) % 3),
    "noise of two, times 16": Image.fromarray(2000 + RAMP.astype(np.uint16) % 3 * 16),
}


@pytest.mark.parametrize("name", UNIFORM)
def test_an_image_without_content_is_a_fault(tmp_path, name):
    file = tmp_path / "image.png"
    file.write_bytes(encode(UNIFORM[name]))
    with pytest.raises(ImageFault, match=r"\(uniform\): 98% of its pixels [^;]* gray levels?\.$"):
        read_image(file)


def test_few_levels_are_enough_and_a_jpeg_is_judged_alike(tmp_path):
    file = tmp_path / "image.png"
    file.write_bytes(encode(Image.fromarray(100 + RAMP // 5 % 9)))
    assert len(np.unique(read_image(file))) == 9
    file.write_bytes(encode(Image.new("L", (40, 40), 90), "JPEG"))
    with pytest.raises(ImageFault, match="uniform"):
        read_image(file)


def in_alpha(mode, gray):
    """The picture as transparency of one color."""
    if mode == "P":
        image = Image.fromarray(gray).convert("P")
        image.putpalette([9] * 768)
        return encode(image, transparency=bytes(range(256)))
    if mode == "RGBA;16":
        samples = np.zeros((*gray.shape, 4), np.uint16)
        samples[..., 3] = gray.astype(np.uint16) * 257
        return color_png(samples)
    image = Image.new(mode, gray.shape[::-1])
    image.putalpha(Image.fromarray(gray))
    return encode(image)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "RGBA;16"])
def test_a_picture_in_the_alpha_channel_only_is_said(tmp_path, mode):
    file = tmp_path / "image.png"
    file.write_bytes(in_alpha(mode, phantom()))
    said = r"\(uniform\): .*; its picture is in the alpha channel only\.$"
    with pytest.raises(ImageFault, match=said):
        inspect_image(file)


def test_a_bright_background_is_remarked_and_a_dark_one_is_not(tmp_path):
    file = tmp_path / "image.png"
    found = {False: 0, True: 0}
    for seed, part in enumerate(BODY_PARTS * 2):
        gray = phantom(seed, part)
        for negative in found:
            file.write_bytes(encode(Image.fromarray(255 - gray if negative else gray)))
            found[negative] += "inverted" in inspect_image(file).remarks
    assert found[False] == 0
    assert found[True] >= 2 * len(BODY_PARTS) - 1


def test_neither_a_bright_frame_nor_a_bright_middle_is_a_bright_background(tmp_path):
    file = tmp_path / "image.png"
    ramp = np.tile(np.linspace(0, 100, 200, dtype=np.uint8), (200, 1))
    framed = np.pad(ramp, 20, constant_values=250)
    middle = np.pad(ramp + 150, 30, constant_values=0)
    for image in (framed, middle):
        file.write_bytes(encode(Image.fromarray(image)))
        assert inspect_image(file).remarks == {}


def test_real_radiographs_are_neither_uniform_nor_inverted(real_fracatlas):
    folder = real_fracatlas / "images"
    kinds = set()
    for file in sorted(folder.rglob("*.jpg"))[::10]:
        try:
            kinds.update(inspect_image(file).remarks)
        except ImageFault as fault:
            kinds.add(fault.kind)
    assert kinds <= {"truncated", "exif-orientation"}


@pytest.mark.parametrize("format_", ["PNG", "JPEG"])
def test_exif_orientation_is_remarked_and_not_applied(tmp_path, format_):
    file = tmp_path / f"image.{format_.lower()}"
    upright = encode(Image.fromarray(RAMP), format_)
    for orientation in range(10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        file.write_bytes(encode(Image.fromarray(RAMP), format_, exif=exif))
        image, inspection = examine_image(file)
        assert image.shape == RAMP.shape == (inspection.height, inspection.width)
        turned = {"exif-orientation": f"EXIF orientation {orientation} is not applied"}
        assert inspection.remarks == (turned if 2 <= orientation <= 8 else {})
    file.write_bytes(upright)
    np.testing.assert_array_equal(image, read_image(file))


def test_of_several_frames_the_first_is_read(tmp_path):
    file = tmp_path / "image.png"
    first = Image.fromarray(RAMP)
    file.write_bytes(encode(first, save_all=True, append_images=[first.rotate(180)]))
    image, inspection = examine_image(file)
    np.testing.assert_array_equal(image, RAMP)
    assert inspection.remarks == {"several-frames": "it holds several images; the first is read"}
    file = tmp_path / "image.jpg"
    file.write_bytes(encode(first, "MPO", save_all=True, append_images=[first.rotate(180)]))
    assert list(inspect_image(file).remarks) == ["several-frames"]


def test_bytes_after_the_image_are_ignored(tmp_path):
    file = tmp_path / "image.png"
    file.write_bytes(encode(Image.fromarray(RAMP)) + b"something else" * 99)
    np.testing.assert_array_equal(read_image(file), RAMP)


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
NOISE_PNG, NOISE_JPEG = encode(Image.fromarray(NOISE)), encode(Image.fromarray(NOISE), "JPEG")
BROKEN_PNG = NOISE_PNG[:600] + b"\0" * 40 + NOISE_PNG[640:]
SIZE_AT = NOISE_JPEG.index(b"\xff\xc0") + 4  # of bits, height and width


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
        ("unreadable", BROKEN_PNG + b"something else"),
        ("unreadable", raw_png(0, 64, 8, 0, b"")),
        ("unreadable", raw_png(64, 64, 8, 5, b"")),
        ("unreadable", NOISE_PNG[:29] + b"\0\0\0\0" + NOISE_PNG[33:]),
        ("unreadable", NOISE_JPEG[: SIZE_AT + 1] + b"\0\0" + NOISE_JPEG[SIZE_AT + 3 :]),
        ("unreadable", NOISE_JPEG[:SIZE_AT] + b"\x0c" + NOISE_JPEG[SIZE_AT + 1 :]),
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
        assert not re.search(r"identif|object at", str(caught.value))
        assert isinstance(caught.value, UserError)


def test_only_regular_files_are_opened(tmp_path, monkeypatch, alarm):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    file = Path("image1.png")
    os.mkfifo(file)
    with pytest.raises(ImageFault, match=r"\(unreadable\): it is a named pipe, not a file\."):
        read_image(file)
    file.unlink()
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(file))
        with pytest.raises(ImageFault, match=r"\(unreadable\): it is a socket, not a file\."):
            read_image(file)
    file.unlink()
    for target, what in ((".", "a folder"), ("/dev/zero", "a device")):
        file.symlink_to(target)
        with pytest.raises(ImageFault, match=rf"\(unreadable\): it is {what}, not a file\."):
            read_image(file)
        file.unlink()
    file.symlink_to(file)
    with pytest.raises(ImageFault, match=r"\(unreadable\): Too many levels of symbolic links\."):
        read_image(file)


def test_an_absurdly_large_file_is_not_read(tmp_path, monkeypatch):
    file = tmp_path / "image1.png"
    with file.open("wb") as sparse:
        sparse.truncate(100 * 2**30)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} read"))
    with pytest.raises(ImageFault, match=rf"it has 107,374,182,400 bytes, .* {MAX_BYTES:,} are"):
        read_image(file)


@pytest.mark.parametrize("path", ["image\0.png", "image\ud800.png"])
def test_a_path_that_no_file_can_have_is_a_fault(path):
    with pytest.raises(ImageFault, match=r"\(missing\): no file can have this path"):
        read_image(path)


def test_too_little_memory_is_a_fault(tmp_path, monkeypatch):
    file = tmp_path / "image.png"
    file.write_bytes(NOISE_PNG)

    def load(image):
        raise MemoryError

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    with pytest.raises(ImageFault, match=r"\(unreadable\): there is not enough memory to decode"):
        read_image(file)


@pytest.mark.parametrize("side", [10_000, 60_000])  # PIL warns of the first, refuses the second
def test_decompression_bomb_is_a_fault(tmp_path, side):
    file = tmp_path / "image.png"
    file.write_bytes(huge_png(side))
    said = rf"\(unreadable\): it has {side:,} x {side:,} pixels, more than"
    with pytest.raises(ImageFault, match=said):
        read_image(file)


def test_no_warning_of_pillow_reaches_the_terminal(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "a description that is not stored in place"
    broken = bytearray(encode(Image.fromarray(RAMP), "JPEG", exif=exif))
    start = broken.index(b"Exif\0\0") + 6
    broken[start + 14 : start + 18] = b"\xff\xff\xff\x7f"  # the length of the first entry
    # Without the count of frames, which an APNG begins with.
    chunk = b"acTL" + struct.pack(">II", 0, 0)
    apng = struct.pack(">I", 8) + chunk + struct.pack(">I", zlib.crc32(chunk))
    palette = Image.fromarray(RAMP).convert("P")
    contents = {
        "bomb.png": huge_png(10_000),
        "exif.jpg": bytes(broken),
        "frames.png": NOISE_PNG[:33] + apng + NOISE_PNG[33:],
        "palette.png": encode(palette, transparency=bytes(range(256))),
        "no.png": b"\x89PNG\r\n\x1a\n and nothing else",
    }
    code = "import sys; from mura_utils.data.images import ImageFault, inspect_image\n"
    code += "for path in sys.argv[1:]:\n try: inspect_image(path)\n"
    code += " except ImageFault as fault: print(fault.kind)\n"
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    command = [sys.executable, "-c", code, *(str(tmp_path / name) for name in contents)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["unreadable", "truncated"]
    assert done.stderr == ""


def test_smallest_admitted_side(tmp_path):
    file = tmp_path / "image.png"
    file.write_bytes(png(side=MIN_SIDE))
    assert read_image(file).shape == (MIN_SIDE, MIN_SIDE)


def test_inspection_measures_the_gray_image_and_the_bytes(tmp_path):
    file = tmp_path / "image.PNG"
    file.write_bytes(NOISE_PNG)
    found = inspect_image(file)
    assert (found.width, found.height, found.remarks) == (64, 64, {})
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
    mismatch = {"suffix-mismatch": "JPEG content under the suffix '.png'"}
    assert inspect_image(file).remarks == mismatch


def test_the_page_on_images_states_the_numbers_and_kinds_of_the_code():
    page = (Path(__file__).parents[1] / "docs" / "images.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([\d,. ]+)", page, re.MULTILINE)
    stated = {name: [float(n.replace(",", "")) for n in value.split()] for name, value in rows}
    assert stated == {
        "MIN_SIDE": [images.MIN_SIDE],
        "MAX_PIXELS": [images.MAX_PIXELS],
        "MAX_BYTES": [images.MAX_BYTES],
        "MIN_LEVELS": [levels.MIN_LEVELS],
        "STRETCH_PERCENTILE": [levels.STRETCH_PERCENTILE],
        "STRETCH_MARGIN": [levels.STRETCH_MARGIN],
        "INVERTED_BORDER": [images.INVERTED_BORDER],
        "INVERTED_MEDIANS": list(images.INVERTED_MEDIANS),
        "MAX_INFLATED": [dicom.MAX_INFLATED],
        "BORDER_LEVEL": [dicom.BORDER_LEVEL],
        "BORDER_SHARE": [dicom.BORDER_SHARE],
        "BORDER_AREA": [dicom.BORDER_AREA],
    }
    listed = Path(__file__).parents[1] / "notebooks" / "02_data_preprocessing.ipynb"
    for text in (page, listed.read_text(encoding="utf-8")):
        assert all(f"`{kind}`" in text for kind in (*FAULTS, *REMARKS))
    assert all(f"`{kind}`" in page for kind in dicom.REMARKS)


def test_what_can_be_shown_of_a_damaged_file_is_shown(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(NOISE_PNG[: len(NOISE_PNG) // 2])
    assert look_at(path)[0].any() and not look_at(path)[-1].any()
    path.write_bytes(b"no image")
    assert look_at(path) is None
    assert look_at(tmp_path) is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are made on Unix")
def test_a_pipe_is_not_looked_at(tmp_path):
    os.mkfifo(tmp_path / "image.png")
    assert look_at(tmp_path / "image.png") is None
