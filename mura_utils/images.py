"""Read radiographs: any PNG or JPEG to a grey uint8 array, or one sentence on why not.

Each file is opened once: its bytes are hashed and decoded from memory. The content decides what a
file is, never its suffix. EXIF orientation is not applied, because the polygons of FracAtlas are
drawn in the stored orientation and Keras' loaders ignore it as well.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mura_utils.errors import UserError

FAULTS = ("missing", "zero-byte", "wrong-format", "unreadable", "truncated", "too-small")
"""Why a file is not admitted."""

MIN_SIDE = 32
"""Pixels: a radiograph with a shorter side shows no bone; MURA's smallest side is 89."""

MAX_PIXELS = 89_478_485
"""PIL warns of a decompression bomb above this many (0.25 GiB of RGB); here it is a fault."""

# The first bytes of a file of that format, and the bytes that end a complete one.
_SIGNATURES = {"PNG": b"\x89PNG\r\n\x1a\n", "JPEG": b"\xff\xd8\xff"}
_ENDINGS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
_SUFFIXES = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg")}
_DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")


class ImageFault(UserError):
    """A file that cannot be used as a radiograph.

    Attributes:
        path: the file.
        kind: one of `FAULTS`.
        detail: what is wrong, without the path.
    """

    def __init__(self, path: Path | str, kind: str, detail: str) -> None:
        """Keep the parts and make the sentence."""
        self.path, self.kind, self.detail = Path(path), kind, detail
        super().__init__(f"{path} cannot be used ({kind}): {detail}.")


@dataclass(frozen=True)
class Inspection:
    """What one look at a file tells.

    Attributes:
        width, height: pixels.
        mode: PIL's mode of the image as stored ("L", "RGB", "I;16", ...).
        sha256: of the file's bytes, hexadecimal.
        mean, std: of the grey uint8 image, 0 to 255.
        detail: what is odd about a usable file, "" for nothing.
    """

    width: int
    height: int
    mode: str
    sha256: str
    mean: float
    std: float
    detail: str


def read_image(path: Path | str) -> np.ndarray:
    """Read a PNG or JPEG as a grey image.

    Images deeper than 8 bits are rescaled linearly from their own minimum..maximum to 0..255, alpha
    is dropped, and colour becomes luma (ITU-R 601, as PIL and Keras compute it).

    Returns:
        `(H, W)` uint8, 0 to 255.

    Raises:
        ImageFault: the file is missing, empty, damaged, too small, or neither PNG nor JPEG.
    """
    return read_hashed_image(path)[0]


def read_hashed_image(path: Path | str) -> tuple[np.ndarray, str]:
    """As `read_image`, with the sha256 of the bytes that were decoded, hexadecimal."""
    data = _read_bytes(path)
    grey, _, _ = _decode(path, data)
    return grey, hashlib.sha256(data).hexdigest()


def inspect_image(path: Path | str) -> Inspection:
    """Hash and decode a file that is opened once.

    Raises:
        ImageFault: as `read_image`.
    """
    data = _read_bytes(path)
    grey, mode, format_ = _decode(path, data)
    suffix = Path(path).suffix
    # Exact, and no float copy of the image in each thread, as `grey.std()` would make.
    histogram, levels = np.array(Image.fromarray(grey).histogram()), np.arange(256)
    mean = histogram @ levels / grey.size
    odd = suffix.lower() not in _SUFFIXES[format_]
    return Inspection(
        width=grey.shape[1],
        height=grey.shape[0],
        mode=mode,
        sha256=hashlib.sha256(data).hexdigest(),
        mean=float(mean),
        std=float(np.sqrt(histogram @ (levels - mean) ** 2 / grey.size)),
        detail=f"{format_} content under the suffix '{suffix}'" if odd else "",
    )


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Stretch a grey image to a square, as the report does, with antialiasing.

    Args:
        image: `(H, W)` uint8.
        size: side of the result in pixels.

    Returns:
        `(size, size)` uint8.
    """
    # With a reducing gap PIL first shrinks by a whole factor: the same to the eye, and quicker.
    resized = Image.fromarray(image).resize(
        (size, size), Image.Resampling.BILINEAR, reducing_gap=3.0
    )
    return np.asarray(resized)


def _read_bytes(path: Path | str) -> bytes:
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise ImageFault(path, "missing", "there is no such file") from None
    except OSError as error:
        raise ImageFault(path, "unreadable", error.strerror or str(error)) from error
    if not data:
        raise ImageFault(path, "zero-byte", "the file is empty")
    return data


def _decode(path: Path | str, data: bytes) -> tuple[np.ndarray, str, str]:
    """Decode to (grey image, mode as stored, "PNG" or "JPEG")."""
    format_ = next((name for name, head in _SIGNATURES.items() if data.startswith(head)), None)
    if format_ is None:
        raise ImageFault(path, "wrong-format", "its content is neither PNG nor JPEG")
    try:
        with Image.open(io.BytesIO(data), formats=(format_,)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise Image.DecompressionBombError
            if min(width, height) < MIN_SIDE:
                size = f"{width} x {height} pixels, and a side below {MIN_SIDE} shows no bone"
                raise ImageFault(path, "too-small", size)
            return _grey(image), image.mode, format_
    except ImageFault:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        detail = f"it has more than {MAX_PIXELS:,} pixels"
        raise ImageFault(path, "unreadable", detail) from None
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        # Some writers pad with zeros or a line end after the last marker.
        ended = data.rstrip(b"\0\r\n").endswith(_ENDINGS[format_])
        if "truncated" in str(error) or not ended:
            raise ImageFault(path, "truncated", "the file ends before its image does") from error
        text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ImageFault(path, "unreadable", text) from error


def _grey(image: Image.Image) -> np.ndarray:
    """Convert an opened image to `(H, W)` uint8 grey; decodes it."""
    if image.mode in _DEEP_MODES:
        deep = np.asarray(image, dtype=np.float64)
        low, high = deep.min(), deep.max()
        return np.rint((deep - low) * (255.0 / max(high - low, 1.0))).astype(np.uint8)
    if image.mode in ("P", "PA", "CMYK"):
        image = image.convert("RGB")
    return np.asarray(image.convert("L"))
