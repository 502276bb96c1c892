"""DICOM's pixels as gray levels: decoding, modality values, VOI window, colors, padding.

Decoding is pydicom's. The steps from stored values to gray are those of PS3.3 C.11 and C.7.6.3,
computed once for each possible value, not for each pixel.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from mura_utils.data.levels import luma

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.uid import UID

_Number = TypeVar("_Number", int, float)

_NO_WINDOW = "the window of its header cannot be used; read as if without one"
_DAMAGED = "cannot be decoded: damaged, or not what its header says"


class Refused(Exception):
    """A DICOM file that cannot be used.

    Attributes:
        kind: one of `images.FAULTS`.
        detail: why; it quotes no text of the header, which may name a patient.
    """

    def __init__(self, kind: str, detail: str) -> None:
        """Keep both."""
        self.kind, self.detail = kind, detail
        super().__init__(detail)


def number(
    header: Dataset, name: str, default: _Number, kind: Callable[[Any], _Number] = int
) -> _Number:
    """A number of the header, or the default where it has none.

    Raises:
        Refused: it is no number. pydicom parses a value only where it is asked for.
    """
    try:
        value = header.get(name)
        return default if value is None else kind(value)
    except Exception as error:
        raise Refused("unreadable", f"its header has no usable {name}") from error


def decode_frame(header: Dataset) -> np.ndarray:
    """Decode the first frame, as stored.

    Returns:
        `(H, W)`, or `(H, W, 3)` RGB: (u)int8 or (u)int16.

    Raises:
        Refused: other depths, no decoder, another size than the header's, damaged.
    """
    from pydicom.pixels import get_decoder, pixel_array
    from pydicom.uid import RLELossless

    allocated, stored = header.BitsAllocated, header.BitsStored
    if allocated not in (8, 16) or not 8 <= stored <= allocated:
        detail = f"its pixels have {stored} bits stored in {allocated}; 8 to 16 are read"
        raise Refused("unreadable", detail)
    syntax = _transfer_syntax(header)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        detail = f"its transfer syntax ({_name(syntax)}) is none that can be decoded"
        raise Refused("unreadable", detail) from error
    if not decoder.is_available:
        needed = "which needs one more package: pip install python-gdcm"
        raise Refused("unreadable", f"its pixels are coded as {_name(syntax)}, {needed}")
    try:
        if decoder.is_encapsulated and syntax != RLELossless:
            _require_coded_size(header)
        return pixel_array(header, index=0)
    except (Refused, MemoryError):
        raise
    except Exception as error:  # RuntimeError of all decoders, ValueError, AttributeError, ...
        if "less than expected" in str(error):
            raise Refused("truncated", "the file ends before its image does") from error
        detail = f"its pixels, coded as {_name(syntax)}, {_DAMAGED}"
        raise Refused("unreadable", detail) from error


def gray_of_color(header: Dataset, pixels: np.ndarray) -> np.ndarray:
    """Luma (ITU-R 601) of RGB, or of palette indices: `(H, W)`, uint8 or uint16."""
    from pydicom.pixels import apply_color_lut

    if pixels.ndim == 2:
        try:
            pixels = apply_color_lut(pixels, header)[..., :3]
        except Exception as error:  # as many kinds as in `decode_frame`
            raise Refused("unreadable", "the palette of its header cannot be used") from error
        if pixels.dtype != np.uint8:  # such palettes hold 8-bit colors, scaled
            pixels = (pixels >> 8).astype(np.uint8)
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).convert("L"))
    return luma(pixels)


def gray_levels(
    header: Dataset, pixels: np.ndarray, blank: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None, dict[str, str]]:
    """Levels that rise from dark to bright, and how the header wants each of them shown.

    Args:
        header: its modality LUT or rescale, its first VOI LUT or window, and whether it is
            MONOCHROME1 are applied.
        pixels: `(H, W)` as stored, signed or not.
        blank: what `padding` gives.

    Returns:
        Levels `(H, W)`, uint8 where 8 bits are enough, else uint16; the gray of each level, 0 to
        255 (256 or more,), or None without a usable window; remarks.
    """
    inside = pixels if blank is None else pixels[~blank]
    least, most = int(inside.min()), int(inside.max())
    lowest, top = _range(header, pixels.dtype, least, most)
    deep, slope = top > 255 or header.BitsStored > 8, 1.0
    stored = np.arange(lowest, lowest + top + 1)
    levels = pixels.clip(least, most).astype(np.int32) - lowest
    if header.get("ModalityLUTSequence"):
        table = _lookup(header, "ModalityLUTSequence", stored)
        levels, top = table[levels], _filled(int(table.max()))
        deep, values = top > 255, np.arange(top + 1)
    else:
        slope = number(header, "RescaleSlope", 1.0, float)
        values = stored * slope + number(header, "RescaleIntercept", 0.0, float)
        if slope == 0 or not np.isfinite(values).all():
            raise Refused("unreadable", "its header has no usable RescaleSlope")
    window, remarks = _window(header, values)
    negative = header.get("PhotometricInterpretation") == "MONOCHROME1"
    if negative and window is not None:
        window = 255 - window
    if negative != (slope < 0):
        levels, window = top - levels, None if window is None else window[::-1]
    return levels.astype(np.uint16 if deep else np.uint8), window, remarks


def padding(header: Dataset, pixels: np.ndarray) -> np.ndarray | None:
    """Where pixels are no part of the image, `(H, W)` bool; None if they all are."""
    if header.get("PixelPaddingValue") is None:
        return None
    first = number(header, "PixelPaddingValue", 0)
    last = number(header, "PixelPaddingRangeLimit", first)
    if min(first, last) > np.iinfo(pixels.dtype).max:  # a negative number, read as unsigned
        first, last = (value - (1 << 8 * pixels.itemsize) for value in (first, last))
    blank = (pixels >= min(first, last)) & (pixels <= max(first, last))
    return blank if blank.any() and not blank.all() else None


def _transfer_syntax(header: Dataset) -> UID:
    """The header's own, or the one that it is written in where it does not say."""
    from pydicom import uid

    if "TransferSyntaxUID" not in header.file_meta:
        implicit, little = header.original_encoding
        written = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
        header.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else written
    return uid.UID(header.file_meta.TransferSyntaxUID or "")


def _name(syntax: UID) -> str:
    return syntax.name if syntax.is_valid else "no valid UID"


def _require_coded_size(header: Dataset) -> None:
    """Refuse compressed data of another size than the header's, before memory is taken for it."""
    from pydicom.encaps import get_frame

    frames = max(number(header, "NumberOfFrames", 1), 1)
    stated = (header.Columns, header.Rows)
    for size in _coded_sizes(get_frame(header.PixelData, 0, number_of_frames=frames)):
        if size != stated:
            said, found = (f"{width:,} x {height:,}" for width, height in (stated, size))
            detail = f"its header says {said} pixels, but its compressed data {found}"
            raise Refused("unreadable", detail)


def _coded_sizes(frame: bytes) -> Iterator[tuple[int, int]]:
    """Width and height in the codestream of a JPEG, JPEG-LS or JPEG 2000 image."""
    at = frame.find(b"\xff\x4f\xff\x51")  # start of a JPEG 2000 codestream, and its sizes
    if at >= 0:
        right, bottom, left, top = struct.unpack_from(">4I", frame, at + 8)
        yield right - left, bottom - top
    at = 2
    while frame.startswith(b"\xff\xd8") and frame[at] == 0xFF:
        marker, length = struct.unpack_from(">BH", frame, at + 1)
        if marker == 0xDA:  # pixels follow
            return
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            height, width = struct.unpack_from(">HH", frame, at + 5)
            yield width, height
        at += 2 + length


def _lookup(header: Dataset, name: str, values: np.ndarray) -> np.ndarray:
    """What the first LUT of a sequence gives for each of `values`; beyond its ends, the ends."""
    try:
        item = header.get(name)[0]
        count, first, _ = (int(number) for number in item.LUTDescriptor)
        count, entries = count or 1 << 16, item.LUTData
        if isinstance(entries, bytes):
            depth = "u1" if len(entries) < 2 * count else "u2"
            order = "<" if header.original_encoding[1] else ">"
            entries = np.frombuffer(entries, order + depth)
        entries = np.atleast_1d(entries)[:count].astype(np.int32)
        if first > values.max():  # a negative number, read as unsigned
            first -= 1 << 16
        return entries[np.clip(np.rint(values) - first, 0, len(entries) - 1).astype(int)]
    except Exception as error:  # as many kinds as in `decode_frame`
        raise Refused("unreadable", f"its header has no usable {name}") from error


def _range(header: Dataset, dtype: np.dtype, least: int, most: int) -> tuple[int, int]:
    """The lowest value of the bits in use, and how far above it the highest is."""
    lowest = -128 if dtype.kind == "i" else 0
    if header.BitsStored == 8 and lowest <= least and most <= lowest + 255:
        return lowest, 255
    lowest = -_filled(-least - 1) - 1 if least < 0 else 0
    return lowest, _filled(most - lowest)


def _filled(value: int) -> int:
    """The highest number of as many bits, 8 at least: headers often claim more than are used.

    Example:
        >>> _filled(3000), _filled(7)
        (4095, 255)
    """
    return max(255, (1 << value.bit_length()) - 1)


def _window(header: Dataset, values: np.ndarray) -> tuple[np.ndarray | None, dict[str, str]]:
    """The gray of each modality value, uint8, by the first VOI LUT or window; remarks."""
    from pydicom import Dataset
    from pydicom.pixels import apply_windowing

    try:
        if header.get("VOILUTSequence"):
            table = _lookup(header, "VOILUTSequence", values)
            gray = table * (255 / _filled(int(table.max())))
        elif header.get("WindowCenter") is None or header.get("WindowWidth") is None:
            return None, {}
        else:
            shown = Dataset()  # with values of 8 bits: apply_windowing gives gray, 0 to 255
            shown.PhotometricInterpretation = "MONOCHROME2"
            shown.BitsStored, shown.PixelRepresentation = 8, 0
            shown.WindowCenter, shown.WindowWidth = header.WindowCenter, header.WindowWidth
            shown.VOILUTFunction = header.get("VOILUTFunction") or "LINEAR"
            gray = apply_windowing(values, shown)
        return np.rint(gray).astype(np.uint8), {}
    except Exception:  # as many kinds as in `decode_frame`
        return None, {"window": _NO_WINDOW}
