"""Radiographs as DICOM files, for the tests."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pydicom import Dataset


def dataset(
    pixels: np.ndarray, photometric: str = "MONOCHROME2", bits: int | None = None, **attributes: Any
) -> Dataset:
    """A radiograph of Jane Doe, to be written as explicit VR little endian.

    Args:
        pixels: as stored.
        photometric: MONOCHROME1, RGB, ...
        bits: stored; None for 8, or for 12 in 16.
        attributes: of the header, by keyword.
    """
    from pydicom import Dataset, uid
    from pydicom.dataset import FileMetaDataset

    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = uid.ComputedRadiographyImageStorage, "1.2.3.4"
    header.PatientName, header.PatientID = "DOE^JANE", "4711-SECRET"
    header.add_new(0x00091010, "LO", "PRIVATE-SECRET")
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    header.set_pixel_data(pixels, photometric, bits or (8 if pixels.itemsize == 1 else 12))
    for name, value in attributes.items():
        setattr(header, name, value)
    return header


def to_bytes(header: Dataset) -> bytes:
    """The file's content; any transfer syntax will do."""
    stream = io.BytesIO()
    header.preamble = bytes(128)
    header.save_as(stream, implicit_vr=False, little_endian=True, force_encoding=True)
    return stream.getvalue()
