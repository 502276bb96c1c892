"""Read radiographs: any PNG, JPEG or DICOM to a gray uint8 array, or one sentence on why not.

Each file is opened once: its bytes are hashed and decoded from memory. The content decides what a
file is, never its suffix. EXIF orientation is applied nowhere, neither to pixels nor to sizes, as
Keras' loaders ignore it as well; masks drawn on the turned picture are turned back.
What is done with every kind of image stands in docs/images.md.
"""

from __future__ import annotations

import hashlib
import io
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from mura_utils.data import dicom
from mura_utils.data.dicom_pixels import Refused
from mura_utils.data.levels import (
    PERCENT,
    count_levels,
    lack_of_content,
    luma,
    percentile,
    stretch,
)
from mura_utils.errors import UserError

# Both warn of metadata that they cannot read (EXIF, APNG). No pixel depends on it, and a file whose
# pixels cannot be read raises. Threads rule out `catch_warnings`, whose state they share.
warnings.filterwarnings("ignore", module=r"PIL\.(Tiff|Png)ImagePlugin")

FAULTS = ("missing", "zero-byte", "wrong-format", "unreadable", "truncated", "too-small", "uniform")
"""Why a file is not admitted."""

REMARKS = ("suffix-mismatch", "exif-orientation", "several-frames", "clipped", "inverted")
"""What may be odd about a file that is."""

MIN_SIDE = 32
"""Pixels: an image with a shorter side is a placeholder or thumbnail, and shows no bone."""

MAX_PIXELS = 89_478_485
"""A header can promise any size to a decoder. This one takes 256 MiB as 8-bit RGB."""

MAX_BYTES = 256 * 2**20
"""Bytes: larger files are not read. `MAX_PIXELS` fit into it uncompressed as RGB or 16-bit gray."""

INVERTED_BORDER = 0.1
"""Width of the border in which background is looked for, as a share of the shorter side."""

INVERTED_MEDIANS = (0.5, 0.55)
"""An image is inverted if its median and its border's median lie at least so far up from the 1st
to the 99th percentile."""

_NO_MEMORY = "there is not enough memory to decode it"

# The first bytes of a file of that format, and the bytes that end a complete one.
_SIGNATURES = {"PNG": b"\x89PNG\r\n\x1a\n", "JPEG": b"\xff\xd8\xff"}
_ENDINGS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
_SUFFIXES = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg")}

SUFFIXES = (*(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes), *dicom.SUFFIXES)
"""Of files that should be images, in lower case."""

# Pillow's classes rather than `Image.open`, which hides why a header is refused and warns of a
# bomb before anybody can look at the size.
_READERS = {"PNG": PngImageFile, "JPEG": JpegImageFile}

# Of 16-bit color Pillow keeps the high byte of each sample. The decoder for the other byte order
# takes the low one, and RGBA takes gray and alpha byte by byte.
_LOW_BYTES = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L", "LA;16B": "RGBA"}

_NOT_FILES = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (lambda mode: not stat.S_ISREG(mode), "a device"),
)


def not_a_file(mode: int) -> str | None:
    """What something is by its mode (``st_mode``), such as "a folder"; None for a regular file."""
    return next((name for holds, name in _NOT_FILES if holds(mode)), None)


class ImageFault(UserError):
    """A file that cannot be used as a radiograph.

    Attributes:
        path: the file.
        kind: one of `FAULTS`.
        detail: what is wrong, without the path.

    Example:
        >>> str(ImageFault("wrist.png", "zero-byte", "the file is empty"))
        'wrist.png cannot be used (zero-byte): the file is empty.'
    """

    def __init__(self, path: Path | str, kind: str, detail: str) -> None:
        """Keep the parts and make the sentence."""
        self.path, self.kind, self.detail = Path(path), kind, detail
        super().__init__(f"{path} cannot be used ({kind}): {detail}.")


@dataclass(frozen=True)
class Inspection:
    """What one look at a file tells.

    Attributes:
        width, height: pixels, as stored.
        mode: PIL's mode of the image as stored ("L", "RGB", "I;16", ...); "RGB;16", "RGBA;16" and
            "LA;16" for 16-bit color, which PIL has no mode for; for DICOM, see `dicom.Picture`.
        sha256: of the file's bytes, hexadecimal.
        mean, std: of the gray uint8 image, 0 to 255.
        remarks: what is odd about a usable file, from kind (of `REMARKS` or
            `dicom.REMARKS`) to detail.
    """

    width: int
    height: int
    mode: str
    sha256: str
    mean: float
    std: float
    remarks: dict[str, str]


def read_image(path: Path | str) -> np.ndarray:
    """Read a PNG, JPEG or DICOM file as a gray image, in the stored orientation.

    Color becomes luma (ITU-R 601, as PIL and Keras compute it) and alpha is dropped. 8-bit gray
    levels stay as they are. An image of 16 bits, gray or color, is stretched linearly to 0..255
    from its 0.5th to its 99.5th percentile, each moved outwards by a tenth of their distance but
    never beyond minimum and maximum; what lies outside is clipped. One saturated marker would else
    turn the picture black. DICOM is shown as its header asks, see `dicom.decode`.

    Returns:
        `(H, W)` uint8, 0 to 255.

    Raises:
        ImageFault: the file is missing, empty, damaged, too small or too large, neither PNG,
            JPEG nor DICOM, or shows nothing.
    """
    return read_hashed_image(path)[0]


def is_image(path: Path | str) -> bool:
    """Whether a file begins as PNG, JPEG or DICOM; False also where nobody can read it."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(132)
            return head.startswith(tuple(_SIGNATURES.values())) or dicom.is_dicom(head)
    except OSError:
        return False


def look_at(path: Path | str) -> np.ndarray | None:
    """What can be shown of a file, faulty or not; never what a network is given.

    Returns:
        (H, W) uint8, black where a truncated file ends; None if nothing can be shown, or the image
        has more than `MAX_PIXELS`.
    """
    try:
        return read_image(path)
    except ImageFault as fault:
        if fault.kind not in ("truncated", "too-small", "uniform"):
            return None
    as_before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            return np.asarray(image.convert("L"))
    except Exception:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        return None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = as_before


def read_hashed_image(path: Path | str) -> tuple[np.ndarray, str]:
    """As `read_image`, with the sha256 of the bytes that were decoded, hexadecimal."""
    data = _read_bytes(path)
    return _decode(path, data)[0], hashlib.sha256(data).hexdigest()


def inspect_image(path: Path | str) -> Inspection:
    """Hash, decode and measure a file that is opened once.

    Raises:
        ImageFault: as `read_image`.
    """
    return examine_image(path)[1]


def examine_image(path: Path | str) -> tuple[np.ndarray, Inspection]:
    """What `read_image` and `inspect_image` give, of a file that is opened once.

    Raises:
        ImageFault: as `read_image`.
    """
    data = _read_bytes(path)
    gray, histogram, mode, remarks = _decode(path, data)
    # Exact, and no float copy of the image in each thread, as `gray.std()` would make.
    levels = np.arange(256)
    mean = histogram @ levels / gray.size
    inspection = Inspection(
        width=gray.shape[1],
        height=gray.shape[0],
        mode=mode,
        sha256=hashlib.sha256(data).hexdigest(),
        mean=float(mean),
        std=float(np.sqrt(histogram @ (levels - mean) ** 2 / gray.size)),
        remarks=remarks | _remark_inverted(gray, histogram),
    )
    return gray, inspection


def _read_bytes(path: Path | str) -> bytes:
    try:
        status = Path(path).stat()
        if (what := not_a_file(status.st_mode)) is not None:
            raise ImageFault(path, "unreadable", f"it is {what}, not a file")
        if status.st_size > MAX_BYTES:
            size = f"it has {status.st_size:,} bytes, and no more than {MAX_BYTES:,} are read"
            raise ImageFault(path, "unreadable", size)
        data = Path(path).read_bytes()
    except ImageFault:
        raise
    except FileNotFoundError:
        raise ImageFault(path, "missing", "there is no such file") from None
    except OSError as error:
        raise ImageFault(path, "unreadable", error.strerror or str(error)) from error
    except ValueError as error:  # a null character, or one that file names cannot hold
        raise ImageFault(path, "missing", f"no file can have this path ({error})") from error
    except MemoryError as error:
        raise ImageFault(path, "unreadable", "there is not enough memory to read it") from error
    if not data:
        raise ImageFault(path, "zero-byte", "the file is empty")
    return data


def _decode(path: Path | str, data: bytes) -> tuple[np.ndarray, np.ndarray, str, dict[str, str]]:
    """Decode to (gray image, its histogram, mode as stored, remarks by kind)."""
    suffix = Path(path).suffix.lower()
    format_ = next((name for name, head in _SIGNATURES.items() if data.startswith(head)), None)
    if format_ is None and dicom.is_dicom(data):
        return _decode_dicom(path, data, suffix)
    if format_ is None:
        nor = ", nor is it DICOM" if suffix in dicom.SUFFIXES else ""
        raise ImageFault(path, "wrong-format", f"its content is neither PNG nor JPEG{nor}")
    remarks = {}
    if suffix not in _SUFFIXES[format_]:
        remarks["suffix-mismatch"] = f"{format_} content under the suffix '{Path(path).suffix}'"
    try:
        with _READERS[format_](io.BytesIO(data)) as image:
            _require_size(path, *image.size)
            if getattr(image, "n_frames", 1) > 1 or "mp" in image.info:
                remarks["several-frames"] = "it holds several images; the first is read"
            rawmode = image.tile[0].args if image.tile else ""
            mode = rawmode[:-1] if rawmode in _LOW_BYTES else image.mode
            gray = _levels(image, data, rawmode)
            remarks |= _remark_orientation(image)
            histogram = count_levels(gray)
            _require_content(path, image, histogram)
            if gray.dtype != np.uint8:
                gray, clipped = stretch(gray, histogram)
                histogram, remarks = count_levels(gray), remarks | clipped
            return gray, histogram, mode, remarks
    except ImageFault:
        raise
    except MemoryError as error:
        raise ImageFault(path, "unreadable", _NO_MEMORY) from error
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        if "truncated" in text or not _is_ended(data, format_):
            raise ImageFault(path, "truncated", "the file ends before its image does") from error
        if isinstance(error, SyntaxError):
            text = text.replace("not identified by this driver", "no size, or no kind of pixels")
            text = f"its {format_} header cannot be read ({text})"
        raise ImageFault(path, "unreadable", text) from error


def _decode_dicom(
    path: Path | str, data: bytes, suffix: str
) -> tuple[np.ndarray, np.ndarray, str, dict[str, str]]:
    """As `_decode`."""
    try:
        header = dicom.read_header(data)
        _require_size(path, header.Columns, header.Rows)
        gray, mode, remarks = dicom.decode(header)
    except ImageFault:
        raise
    except Refused as refused:
        raise ImageFault(path, refused.kind, refused.detail) from refused
    except MemoryError as error:
        raise ImageFault(path, "unreadable", _NO_MEMORY) from error
    except Exception as error:  # pydicom parses a value where it is asked for; its text quotes it
        detail = f"its DICOM header cannot be read ({type(error).__name__})"
        raise ImageFault(path, "unreadable", detail) from error
    if any(suffix in others for others in _SUFFIXES.values()):  # those of DICOM are many
        remarks |= {"suffix-mismatch": f"DICOM content under the suffix '{Path(path).suffix}'"}
    return gray, count_levels(gray), mode, remarks


def _require_size(path: Path | str, width: int, height: int) -> None:
    """Refuse what its header says is too large, or too small, before a pixel is decoded."""
    if width * height > MAX_PIXELS:
        size = f"it has {width:,} x {height:,} pixels, more than {MAX_PIXELS:,}"
        raise ImageFault(path, "unreadable", size)
    if min(width, height) < MIN_SIDE:
        size = f"{width} x {height} pixels, and a side below {MIN_SIDE} shows no bone"
        raise ImageFault(path, "too-small", size)


def _is_ended(data: bytes, format_: str) -> bool:
    if format_ == "PNG":  # whatever follows
        return _ENDINGS[format_] in data
    return data.rstrip(b"\0\r\n").endswith(_ENDINGS[format_])  # some writers pad


def _levels(image: Image.Image, data: bytes, rawmode: str) -> np.ndarray:
    """Decode an opened image to gray levels as stored: `(H, W)`, uint8 or uint16."""
    if rawmode in _LOW_BYTES:
        with PngImageFile(io.BytesIO(data)) as low:
            low.tile = [tile._replace(args=_LOW_BYTES[rawmode]) for tile in low.tile]
            low_bytes = np.asarray(low)
        if rawmode == "LA;16B":
            return low_bytes[..., 0].astype(np.uint16) << 8 | low_bytes[..., 1]
        samples = np.asarray(image)[..., :3].astype(np.uint32) << 8 | low_bytes[..., :3]
        return luma(samples)
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.uint16)
    if image.mode in ("P", "CMYK"):
        image = image.convert("RGBA" if image.mode == "P" else "RGB")
    return np.asarray(image.convert("L"))


def _require_content(path: Path | str, image: Image.Image, histogram: np.ndarray) -> None:
    """Refuse an image that shows nothing, before a stretch makes a picture of its noise."""
    detail = lack_of_content(histogram)
    if not detail:
        return
    if image.has_transparency_data:
        alpha = np.array(image.convert("RGBA").getchannel("A").histogram())
        if not lack_of_content(alpha):
            detail += "; its picture is in the alpha channel only"
    raise ImageFault(path, "uniform", detail)


def _remark_orientation(image: Image.Image) -> dict[str, str]:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # as many kinds as for pixels; and what cannot be read turns no image
        return {}
    if orientation not in range(2, 9):
        return {}
    return {"exif-orientation": f"EXIF orientation {orientation} is not applied"}


def _remark_inverted(gray: np.ndarray, histogram: np.ndarray) -> dict[str, str]:
    """Background is dark in a radiograph, so its median is, and most of its border."""
    width = round(INVERTED_BORDER * min(gray.shape))
    border = histogram - count_levels(gray[width:-width, width:-width])
    low, high = (percentile(histogram, percent) for percent in (PERCENT, 100 - PERCENT))
    medians = [percentile(histogram, 50), percentile(border, 50)]
    required = [low + share * (high - low) for share in INVERTED_MEDIANS]
    if any(median < least for median, least in zip(medians, required, strict=True)):
        return {}
    detail = (
        f"bright background, as in a negative: the median is {medians[1]} along the border and "
        f"{medians[0]} overall, where dark is {low} and bright {high}"
    )
    return {"inverted": detail}
