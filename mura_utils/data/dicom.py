"""Read a radiograph stored as DICOM: gray as its header says that it is shown, and what it offers.

Of a header only the attributes named in this module are parsed: no name, number or date of a
patient, and no private attribute. No sentence quotes a header, but for the code of a body part.
What is done with every kind of file stands in docs/images.md.
"""

from __future__ import annotations

import io
import re
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from mura_utils.data.dicom_pixels import (
    Refused,
    decode_frame,
    gray_levels,
    gray_of_color,
    number,
    padding,
)
from mura_utils.data.levels import PERCENT, count_levels, lack_of_content, percentile, stretch
from mura_utils.errors import UserError

if TYPE_CHECKING:
    from pydicom import Dataset

# It warns of values that no pixel depends on, and quotes them. Threads rule out `catch_warnings`,
# whose state they share.
warnings.filterwarnings("ignore", module=r"pydicom\.")

SUFFIXES = (".dcm", ".dicom", ".dic", ".ima")
"""Of DICOM files; many have none, or end in a part of their UID."""

REMARKS = ("window", "collimation", "header-body-part")
"""What may be odd about a DICOM file, beside `images.REMARKS`."""

BORDER_LEVEL = 0.9
"""A border's pixels lie at least so far up from the 1st to the 99th percentile."""

BORDER_SHARE = 0.95
"""At least this share of each of its rows or columns does."""

BORDER_AREA = 0.98
"""What it leaves is at most this share of the image."""

MAX_INFLATED = 512 * 2**20
"""Bytes: a deflated file is not read that holds more."""

_ENDED = "the file ends before its image does"
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_ATTRIBUTES = (
    *("SOPClassUID", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated"),
    *("PhotometricInterpretation", "PlanarConfiguration", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *(
        f"{kind}{color}PaletteColorLookupTable{part}"
        for color in ("Red", "Green", "Blue")
        for kind, part in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
    ),
    *("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept"),
    *("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", *_PIXELS),
)
_OFFERED = (
    *("PatientAge", "PatientSex", "BodyPartExamined"),
    *("ImageLaterality", "Laterality", "ViewPosition"),
)
_UNITS_OF_AGE = {"Y": 1, "M": 12, "W": 52.18, "D": 365.25}  # how many are a year

_VAGUE_PARTS = ("EXTREM", "LIMB", "OTHER", "UNKNOWN")

_PIXEL_TAGS = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")
# A file without the preamble of PS3.10 begins with its first attribute, of group 2 or 8.
_BARE = re.compile(rb"\x02\0[\0-\x10]\0[A-Z]{2}|\x08\0[\0-\x70]\0|\0\x08\0[\0-\x70][A-Z]{2}")


class Picture(NamedTuple):
    """A radiograph as it is shown.

    Attributes:
        gray: `(H, W)` uint8, 0 to 255.
        mode: how it is stored: "DICOM L", "DICOM I;12", "DICOM RGB", "DICOM RGB;16", "DICOM P".
        remarks: what is odd about it, from kind to detail.
    """

    gray: np.ndarray
    mode: str
    remarks: dict[str, str]


def is_dicom(data: bytes) -> bool:
    """Whether bytes begin as a DICOM file does, with or without its preamble.

    Example:
        >>> is_dicom(bytes(128) + b"DICM"), is_dicom(bytes.fromhex("89504e470d0a1a0a"))
        (True, False)
    """
    return data[128:132] == b"DICM" or _BARE.match(data) is not None


def read_header(data: bytes) -> Dataset:
    """Parse a file's bytes; no pixel is decoded yet.

    Returns:
        The attributes that `decode` needs; sizes and depths are positive integers.

    Raises:
        Refused: there is no image in it, or pydicom is not installed.
    """
    header = _parse(io.BytesIO(data), _ATTRIBUTES)
    if "PixelData" not in header:
        if any(name in header for name in _PIXELS):
            raise Refused("unreadable", "its pixels are floating-point numbers")
        cut = "Rows" in header or not len(header)  # pydicom keeps nothing of cut compressed data
        if cut and any(tag in data for tag in _PIXEL_TAGS):
            raise Refused("truncated", _ENDED)
        raise Refused("wrong-format", f"it is DICOM without pixels{_described(header)}")
    for name in ("Rows", "Columns", "BitsAllocated", "BitsStored"):
        value = number(header, name, 0)
        if value < 1:
            raise Refused("unreadable", f"its header has no usable {name}")
        header.add_new(name, "US", value)
    return header


def decode(header: Dataset) -> Picture:
    """Decode the first frame of what `read_header` gives, and show it as the header asks.

    Stored values become those of the modality (LUT or rescale), and these become gray by the first
    VOI LUT or window (PS3.3 C.11). Without one, or where it shows nothing, 16 bits are stretched as
    those of a PNG and 8 bits stay as they are. MONOCHROME1 is inverted, padding is black, color
    becomes luma (ITU-R 601).

    Raises:
        Refused: it shows nothing, or cannot be decoded.
    """
    remarks = _remark_frames(header)
    pixels = decode_frame(header)
    window = blank = None
    if pixels.ndim == 3 or header.get("PhotometricInterpretation") == "PALETTE COLOR":
        levels = gray_of_color(header, pixels)
        mode = "DICOM RGB" if pixels.ndim == 3 else "DICOM P"
        mode += "" if levels.dtype == np.uint8 else ";16"
    else:
        blank = padding(header, pixels)
        levels, window, more = gray_levels(header, pixels, blank)
        remarks |= more
        mode = f"DICOM I;{header.BitsStored}" if header.BitsStored > 8 else "DICOM L"
    gray, more = _show(levels, window, blank)
    return Picture(gray, mode, remarks | more | _remark_collimation(gray))


def header_offers(path: Path | str) -> dict[str, Any]:
    """What a header says of patient and view: offered, never trusted, as it is often wrong.

    Returns:
        age: years, float; sex: "F", "M" or "O"; body_part and view: codes in upper case, such as
        "WRIST" and "AP"; laterality: "L", "R" or "B" for both. None where the header has no such
        code.

    Raises:
        UserError: no DICOM file, or pydicom is not installed.
    """
    try:
        if not Path(path).is_file():
            raise UserError(f"{path} cannot be read: there is no such file.")
        with Path(path).open("rb") as file:
            if not is_dicom(file.read(132)):
                raise UserError(f"{path} cannot be read: it is no DICOM file.")
            file.seek(0)
            header = _parse(file, _OFFERED, stop_before_pixels=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Refused as refused:
        raise UserError(f"{path} cannot be read: {refused.detail}.") from refused
    sex = _code(header, "PatientSex")
    side = _code(header, "ImageLaterality") or _code(header, "Laterality")
    return {
        "age": _years(_code(header, "PatientAge")),
        "sex": sex if sex in ("F", "M", "O") else None,
        "body_part": _code(header, "BodyPartExamined"),
        "laterality": side if side in ("L", "R", "B") else None,
        "view": _code(header, "ViewPosition"),
    }


def remark_body_part(path: Path | str, body_part: str) -> dict[str, str]:
    """The remark `header-body-part`, where a file's header names another than its data set does.

    Codes that contain one another agree, as "LOWERLEG" and "LEG" do, and some name no part.
    """
    said = header_offers(path)["body_part"] or ""
    codes = [re.sub("[ _]", "", code.upper()) for code in (said, body_part)]
    vague = any(word in codes[0] for word in _VAGUE_PARTS)
    if vague or codes[0] in codes[1] or codes[1] in codes[0]:
        return {}
    return {"header-body-part": f"its header says {said}, its data set {body_part}"}


def _parse(file: BinaryIO, names: tuple[str, ...], stop_before_pixels: bool = False) -> Dataset:
    try:
        from pydicom import dcmread, pixels  # noqa: F401, as pydicom 2 has no such module
    except ImportError:
        needed = "it is DICOM, which needs pydicom 3: pip install -e .[dicom]"
        raise Refused("unreadable", needed) from None
    try:
        _require_bounded(file)
        return dcmread(
            file, stop_before_pixels=stop_before_pixels, force=True, specific_tags=list(names)
        )
    except (Refused, MemoryError):
        raise
    except zlib.error as error:
        raise Refused("truncated", _ENDED) from error
    except Exception as error:  # struct.error, ValueError, RecursionError, ...
        detail = f"its DICOM header cannot be read ({type(error).__name__})"
        raise Refused("unreadable", detail) from error


def _require_bounded(file: BinaryIO) -> None:
    """Refuse a deflated file that pydicom would inflate without end."""
    from pydicom.filereader import read_dataset, read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    read_preamble(file, force=True)
    meta = read_dataset(file, False, True, stop_when=lambda tag, *_: tag.group != 2)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        inflate.decompress(file.read(), MAX_INFLATED)
        if inflate.unconsumed_tail:
            raise Refused("unreadable", f"it inflates to more than {MAX_INFLATED:,} bytes")
    file.seek(0)


def _show(
    levels: np.ndarray, window: np.ndarray | None, blank: np.ndarray | None
) -> tuple[np.ndarray, dict[str, str]]:
    """Gray of `gray_levels`, by the window if that shows something; remarks."""
    counts = count_levels(levels if blank is None else levels[~blank])
    if why := lack_of_content(counts):
        raise Refused("uniform", why)
    remarks = {}
    if window is not None:
        shown = np.bincount(window, counts[: len(window)], 256)
        if why := lack_of_content(shown):
            remarks = {"window": f"by the window of its header {why}; read as if without one"}
            window = None
    if window is not None:
        gray = window[levels]
    elif levels.dtype == np.uint8:
        gray = levels
    else:
        gray, clipped = stretch(levels, counts)
        remarks |= clipped
    return (gray if blank is None else np.where(blank, np.uint8(0), gray)), remarks


def _code(header: Dataset, name: str) -> str | None:
    """A code string (VR CS or AS) in upper case; what is none is not offered."""
    try:
        value = str(header.get(name) or "").strip().upper()
    except Exception:  # pydicom parses a value where it is asked for
        return None
    return value if re.fullmatch(r"[A-Z0-9_ ]{1,16}", value) else None


def _years(age: str | None) -> float | None:
    """Years of an age such as "034Y".

    Example:
        >>> _years("034Y"), _years("006M"), _years("34")
        (34.0, 0.5, None)
    """
    if not re.fullmatch(r"\d{1,3}[YMWD]", age or ""):
        return None
    return int(age[:-1]) / _UNITS_OF_AGE[age[-1]]


def _described(header: Dataset) -> str:
    """What DICOM calls this kind of object, if it is one of its own."""
    try:
        uid = header.SOPClassUID
        return "" if uid.name == str(uid) else f" ({uid.name})"
    except Exception:  # as in `_code`
        return ""


def _remark_frames(header: Dataset) -> dict[str, str]:
    if number(header, "NumberOfFrames", 1) < 2:
        return {}
    return {"several-frames": "it holds several images; the first is read"}


def _remark_collimation(gray: np.ndarray) -> dict[str, str]:
    """The box inside a bright border, as an unexposed part of the detector gives one."""
    counts = count_levels(gray)
    low, high = (percentile(counts, percent) for percent in (PERCENT, 100 - PERCENT))
    bright = gray >= low + BORDER_LEVEL * (high - low)
    edges = []
    for axis in (0, 1):
        inside = np.flatnonzero(bright.mean(axis) < BORDER_SHARE)
        if not len(inside):
            return {}
        edges += [int(inside[0]) + 1, int(inside[-1]) + 1]
    left, right, top, bottom = edges
    if (right - left + 1) * (bottom - top + 1) > BORDER_AREA * gray.size:
        return {}
    box = f"columns {left} to {right} and rows {top} to {bottom}"
    return {"collimation": f"a bright border around {box}; nothing is cropped"}
