"""Somebody's own images as DICOM: the same rows, pixels and masks as from PNG."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from dicoms import dataset, to_bytes
from mura_tree import png
from PIL import Image

from mura_utils.data.dataset import load_images
from mura_utils.data.manifest import admit, scan
from mura_utils.data.sources import load_mask, open_source

pytest.importorskip("pydicom")

NAMES = "abcd"
ROWS = pd.DataFrame(
    {
        "body_part": ["WRIST", "WRIST", "ELBOW", "ELBOW"],
        "abnormality": [0, 1, 0, 1],
        "patient": [1, 2, 3, 4],
        "box": ["", "10 20 30 8", "", ""],
    }
)


def write(root, suffix: str):
    """The four images as PNG, or as DICOM of both photometric interpretations."""
    root.mkdir()
    for number, name in enumerate(NAMES):
        (root / f"{name}.png").write_bytes(png(number))
        if suffix == ".dcm":
            gray = np.asarray(Image.open(root / f"{name}.png").convert("L"))
            first = number % 2
            stored, kind = (255 - gray, "MONOCHROME1") if first else (gray, "MONOCHROME2")
            (root / f"{name}.dcm").write_bytes(to_bytes(dataset(stored, kind)))
            (root / f"{name}.png").unlink()
    ROWS.assign(path=[name + suffix for name in NAMES]).to_csv(root / "images.csv", index=False)
    listing = open_source(root)
    manifest = admit(scan(listing, progress=False))
    assert listing.source == "table" and len(manifest) == 4
    images = load_images(root, manifest.assign(split="train"), 64, progress=False)
    return images, load_mask("table", root, f"b{suffix}")


def test_dicom_and_png_give_the_same_pixels_labels_and_masks(tmp_path):
    (plain, mask), (dicom, same) = (
        write(tmp_path / name, suffix) for name, suffix in (("p", ".png"), ("d", ".dcm"))
    )
    np.testing.assert_array_equal(dicom.pixels, plain.pixels)
    assert dicom.rows["label"].tolist() == plain.rows["label"].tolist()
    assert dicom.rows["mode"].unique().tolist() == ["DICOM L"]
    np.testing.assert_array_equal(same, mask)
    assert mask[20:28, 10:40].all() and not mask[:19].any() and not mask[30:].any()
