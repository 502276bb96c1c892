"""Mutated DICOM files: each ends in an image or in one sentence, and its header is not quoted.

1,000 of them, always the same; ``MURA_FUZZ=10`` makes ten times as many.
"""

import io
import random

import numpy as np
import pytest
from dicoms import dataset
from harness import noise
from test_fuzz import mutate_bytes, seeds, survives

from mura_utils.data.dicom import header_offers
from mura_utils.data.images import ImageFault, examine_image

pydicom = pytest.importorskip("pydicom", minversion="3")
from pydicom import uid  # noqa: E402

SECRETS = ("DOE", "SECRET")


def files() -> list[bytes]:
    """One picture in each of six transfer syntaxes, with a window, and without preamble."""
    found = []
    for syntax in (
        uid.ExplicitVRLittleEndian,
        uid.ImplicitVRLittleEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.RLELossless,
        uid.JPEG2000Lossless,
    ):
        header = dataset(
            noise().astype(np.uint16) * 16,
            "MONOCHROME1",
            WindowCenter=[1500, 200],
            WindowWidth=[3000, 400],
            RescaleSlope=1,
            RescaleIntercept=0,
            BodyPartExamined="WRIST",
            PatientAge="034Y",
        )
        if syntax.is_encapsulated:
            header.compress(syntax)
        header.file_meta.TransferSyntaxUID = syntax
        stream = io.BytesIO()
        header.save_as(stream, enforce_file_format=True)
        found.append(stream.getvalue())
    return [*found, found[0][132:]]


def test_mutated_dicom(tmp_path):
    pytest.importorskip("openjpeg")
    path = tmp_path / "image.dcm"
    whole = files()
    ended = {"read": 0, "refused": 0}

    def look() -> None:
        try:
            image, found = examine_image(path)
            ended["read"] += 1
            assert image.shape == (found.height, found.width) and image.dtype == np.uint8
            assert not any(word in str(found.remarks) for word in SECRETS)
        except ImageFault as fault:
            ended["refused"] += 1
            assert not any(word in str(fault) for word in SECRETS)
        header_offers(path)

    for seed in seeds(1000, 80_000):
        rng = random.Random(seed)
        path.write_bytes(mutate_bytes(whole[seed % len(whole)], rng))
        survives(look, tmp_path, f"dicom {seed}")
    assert min(ended.values()) > 100, ended
