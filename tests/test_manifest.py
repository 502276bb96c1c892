import io
import json

import pytest
from mura_tree import image_paths, png, tiny_rows, write_tree
from PIL import Image

from mura_utils.errors import UserError
from mura_utils.images import FAULTS
from mura_utils.manifest import admit, quality_report, scan
from mura_utils.sources import LISTING_COLUMNS, open_source

MEASURED = ("width", "height", "mode", "sha256", "mean", "std")


def write(root, contents=None):
    """A tiny tree, with other bytes (None: no file) for the images with these numbers."""
    tree = write_tree(root, tiny_rows())
    for number, content in (contents or {}).items():
        path = tree / image_paths(tiny_rows())[number]
        path.unlink() if content is None else path.write_bytes(content)
    return open_source(root)


def path_of(number):
    return "MURA-v1.1/" + image_paths(tiny_rows())[number]


def test_inventory_has_its_columns_and_measures(tmp_path):
    listing = write(tmp_path)
    inventory = scan(listing, progress=False)
    assert tuple(inventory.columns) == (*LISTING_COLUMNS, *MEASURED, "fault", "detail")
    assert inventory["path"].tolist() == listing.rows["path"].tolist()
    assert set(inventory["width"]) == set(inventory["height"]) == {40}
    assert inventory["sha256"].str.fullmatch("[0-9a-f]{64}").all()
    assert inventory["sha256"].is_unique
    assert inventory["mean"].between(100, 155).all()
    assert set(inventory["fault"]) == {""}


def test_manifest_is_the_inventory_without_faults(tmp_path):
    manifest = admit(scan(write(tmp_path, {0: b"", 3: None}), progress=False))
    assert tuple(manifest.columns) == (*LISTING_COLUMNS, *MEASURED)
    assert len(manifest) == 6
    assert manifest.index.tolist() == list(range(6))
    assert not manifest["path"].isin([path_of(0), path_of(3)]).any()
    assert manifest["width"].dtype.kind == "i"


def test_result_does_not_depend_on_the_number_of_threads(tmp_path):
    listing = write(tmp_path, {0: b"", 3: None})
    one, many = (scan(listing, workers=count, progress=False) for count in (1, 8))
    assert one.equals(many)


def test_every_fault_is_excluded_and_reported(tmp_path):
    png_bytes = png(side=64)
    contents = {
        0: None,
        1: b"",
        2: b"no image",
        3: png_bytes[:600] + b"\0" * 40 + png_bytes[640:],
        4: png_bytes[:300],
        5: png(side=1),
    }
    listing = write(tmp_path, contents)
    inventory = scan(listing, progress=False)
    report = quality_report(listing, inventory)
    assert report["counts"]["excluded"] == dict.fromkeys(FAULTS, 1)
    assert (report["counts"]["listed"], report["counts"]["admitted"]) == (8, 2)
    found = {entry["path"]: entry["fault"] for entry in report["excluded"]}
    assert found == {path_of(number): fault for number, fault in enumerate(FAULTS)}
    assert all(entry["detail"] for entry in report["excluded"])
    assert report["counts"]["remarks"] == {"missing-file": 1, "zero-byte-file": 1}
    assert report["read_pixels"]
    json.dumps(report, allow_nan=False)


def test_suffix_mismatch_is_admitted_and_remarked(tmp_path):
    stream = io.BytesIO()
    Image.new("L", (40, 40), 90).save(stream, "JPEG")
    listing = write(tmp_path, {6: stream.getvalue()})
    inventory = scan(listing, progress=False)
    assert len(admit(inventory)) == 8
    (remark,) = quality_report(listing, inventory)["remarks"]["suffix-mismatch"]
    assert remark == {"path": path_of(6), "detail": "JPEG content under the suffix '.png'"}


def test_without_pixels_the_listing_is_trusted(tmp_path):
    listing = write(tmp_path, {0: None, 1: b"", 2: b"no image"})
    inventory = scan(listing, read_pixels=False)
    assert inventory.dtypes.equals(scan(listing, progress=False).dtypes)
    report = quality_report(listing, inventory)
    found = {entry["path"]: entry["fault"] for entry in report["excluded"]}
    assert found == {path_of(0): "missing", path_of(1): "zero-byte"}
    assert not report["read_pixels"]
    assert report["modes"] == {}
    assert report["duplicates"]["groups"] == 0
    assert len(admit(inventory)) == 6
    with pytest.raises(UserError, match="read_pixels=True"):
        admit(inventory, exclude_duplicates=True)


def test_duplicates_and_what_they_cross(tmp_path):
    # 0, 1: two views of one study. 2: Normal-HAND, 6: Abnormal-WRIST of valid.
    listing = write(tmp_path, {0: png(100), 1: png(100), 2: png(200), 6: png(200)})
    inventory = scan(listing, progress=False)
    duplicates = quality_report(listing, inventory)["duplicates"]
    assert (duplicates["groups"], duplicates["files"]) == (2, 4)
    assert duplicates["across"] == {"patient": 1, "study": 1, "official_split": 1, "label": 1}
    assert {
        tuple(sorted(group["paths"])): group["across"] for group in duplicates["files_by_group"]
    } == {
        (path_of(0), path_of(1)): [],
        (path_of(2), path_of(6)): ["patient", "study", "official_split", "label"],
    }


def test_excluding_duplicates_keeps_the_official_valid_one(tmp_path):
    listing = write(tmp_path, {0: png(100), 1: png(100), 2: png(200), 6: png(200)})
    inventory = scan(listing, progress=False)
    assert len(admit(inventory)) == 8
    manifest = admit(inventory, exclude_duplicates=True)
    assert set(inventory["path"]) - set(manifest["path"]) == {path_of(1), path_of(2)}
    assert manifest["path"].is_monotonic_increasing


def test_nothing_admitted_is_one_sentence(tmp_path):
    listing = write(tmp_path, dict.fromkeys(range(8), b"no image"))
    with pytest.raises(UserError, match=r"None of the 8 listed images .*wrong-format 8"):
        admit(scan(listing, progress=False))
