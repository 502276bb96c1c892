import io
import json

import numpy as np
import pandas as pd
import pytest
from mura_tree import image_paths, png, tiny_rows, write_tree
from PIL import Image

from mura_utils.data.images import FAULTS
from mura_utils.data.manifest import (
    admit,
    format_report,
    part_with_both_labels,
    quality_report,
    scan,
)
from mura_utils.data.sources import LISTING_COLUMNS, open_source
from mura_utils.errors import UserError

MEASURED = ("width", "height", "mode", "sha256", "mean", "std")


def write(root, contents=None):
    """A tiny tree, with other bytes (None: no file) for the images with these numbers."""
    tree = write_tree(root, tiny_rows())
    for number, content in (contents or {}).items():
        path = tree / image_paths(tiny_rows())[number]
        path.unlink() if content is None else path.write_bytes(content)
    return open_source(root)


def encode(image, format_="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, format_, **options)
    return stream.getvalue()


def path_of(number):
    return "MURA-v1.1/" + image_paths(tiny_rows())[number]


def test_inventory_has_its_columns_and_measures(tmp_path):
    listing = write(tmp_path)
    inventory = scan(listing, progress=False)
    assert tuple(inventory.columns) == (*LISTING_COLUMNS, *MEASURED, "fault", "detail", "remarks")
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
        6: encode(Image.new("RGBA", (40, 40))),
    }
    listing = write(tmp_path, contents)
    inventory = scan(listing, progress=False)
    report = quality_report(listing, inventory)
    assert report["counts"]["excluded"] == dict.fromkeys(FAULTS, 1)
    assert (report["counts"]["listed"], report["counts"]["admitted"]) == (8, 1)
    found = {entry["path"]: entry["fault"] for entry in report["excluded"]}
    assert found == {path_of(number): fault for number, fault in enumerate(FAULTS)}
    assert all(entry["detail"] for entry in report["excluded"])
    assert report["counts"]["remarks"] == {"missing-file": 1, "zero-byte-file": 1}
    assert report["read_pixels"]
    json.dumps(report, allow_nan=False)


def odd_images():
    """An inverted one, one that is turned and clipped, a JPEG that is called .png."""
    bright = np.full((64, 64), 250, np.uint8)
    bright[20:40, 20:40] = np.arange(0, 200, 10)
    deep = np.tile(np.arange(64, dtype=np.uint16) * 60, (64, 1))
    deep[0, :3] = 65535
    exif = Image.Exif()
    exif[0x0112] = 8
    noise = Image.open(io.BytesIO(png(side=64)))
    return {
        2: encode(Image.fromarray(bright)),
        5: encode(Image.fromarray(deep), exif=exif),
        6: encode(noise, "JPEG"),
    }


def test_odd_images_are_admitted_and_remarked(tmp_path):
    listing = write(tmp_path, odd_images())
    inventory = scan(listing, progress=False)
    assert len(admit(inventory)) == 8
    report = quality_report(listing, inventory)
    assert {kind: [e["path"] for e in entries] for kind, entries in report["remarks"].items()} == {
        "clipped": [path_of(5)],
        "exif-orientation": [path_of(5)],
        "inverted": [path_of(2)],
        "suffix-mismatch": [path_of(6)],
    }
    assert report["counts"]["remarks"] == dict.fromkeys(report["remarks"], 1)
    (mismatch,) = report["remarks"]["suffix-mismatch"]
    assert mismatch["detail"] == "JPEG content under the suffix '.png'"
    json.dumps(report, allow_nan=False)


def test_only_the_body_parts_that_are_asked_for_are_admitted(tmp_path):
    inventory = scan(write(tmp_path), progress=False)
    inventory.loc[0, "fault"] = "truncated"
    inventory["body_part"] = ["ELBOW"] * 3 + ["WRIST"] * 2 + ["hip"] * 3
    assert admit(inventory).equals(admit(inventory, body_parts=[]))
    kept = admit(inventory, body_parts=["elbow", "HIP"])
    assert kept["body_part"].tolist() == ["ELBOW"] * 2 + ["hip"] * 3
    with pytest.raises(UserError, match=r"no image is of 'FOOT, KNEE'; .* has ELBOW, HIP, WRIST\."):
        admit(inventory, body_parts=["FOOT", "wrist", "Knee"])
    inventory.loc[inventory["body_part"] == "WRIST", "fault"] = "truncated"
    with pytest.raises(UserError, match=r"None of the 2 .*of wrist can be used \(truncated 2\)"):
        admit(inventory, body_parts=["wrist"])


def test_body_parts_are_left_out_and_merged(tmp_path):
    inventory = scan(write(tmp_path), progress=False)
    inventory["body_part"] = ["ELBOW"] * 3 + ["WRIST"] * 2 + ["hip"] * 3
    kept = admit(inventory, exclude=["elbow", "HIP"])
    assert kept["body_part"].tolist() == ["WRIST"] * 2
    merged = admit(inventory, exclude=["WRIST"], merge={"LIMB": ["ELBOW", "HIP"]})
    assert set(merged["label"]) == {"Abnormal-LIMB", "Normal-LIMB"}
    assert set(merged["body_part"]) == {"LIMB"}
    assert merged["path"].tolist() == inventory["path"].drop([3, 4]).tolist()
    named = admit(inventory, merge={"HIP": ["hip", "WRIST"]})
    assert named["body_part"].tolist() == ["ELBOW"] * 3 + ["HIP"] * 5


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"exclude": ["FOOT"]}, r"^exclude: no image is of 'FOOT'; .* has HAND, WRIST\."),
        ({"merge": {"ARM": ["HAND", "FOOT"]}}, r"^merge: no image is of 'FOOT'; this data set has"),
        ({"merge": {"WRIST": ["HAND"]}}, "^merge: WRIST is a body part of this data set: list it"),
        ({"exclude": ["HAND", "WRIST"]}, "^exclude: it leaves no body part of this data set"),
    ],
)
def test_body_parts_that_cannot_be_left_out_or_merged_are_named(tmp_path, parameters, message):
    inventory = scan(write(tmp_path), read_pixels=False)
    with pytest.raises(UserError, match=message):
        admit(inventory, **parameters)


def test_duplicates_are_looked_for_among_the_body_parts_that_are_admitted(tmp_path):
    inventory = scan(write(tmp_path, {0: png(100), 7: png(100)}), progress=False)
    inventory["body_part"] = ["ELBOW"] * 4 + ["WRIST"] * 4
    inventory["label"] = "Normal-ELBOW"
    assert len(admit(inventory, exclude_duplicates=True)) == 7
    assert len(admit(inventory, exclude_duplicates=True, body_parts=["ELBOW"])) == 4


def test_an_inventory_of_an_earlier_version_is_admitted(tmp_path):
    inventory = scan(write(tmp_path), progress=False)
    assert admit(inventory.drop(columns="remarks")).equals(admit(inventory))


def test_a_report_names_faults_remarks_and_duplicates(tmp_path):
    contents = odd_images() | {0: png(100), 1: png(100), 3: png(200), 7: png(200), 4: b"no image"}
    listing = write(tmp_path, contents)
    report = quality_report(listing, scan(listing, progress=False))
    lines = format_report(report, 0).splitlines()
    excluded, *remarks, across, within, tally = lines
    assert excluded == (
        f"excluded: {path_of(4)}: wrong-format: its content is neither PNG nor JPEG"
    )
    assert [line.split(": ")[1] for line in remarks] == list(report["remarks"])
    assert remarks[1] == (
        f"remark: exif-orientation: {path_of(5)}: EXIF orientation 8 is not applied"
    )
    assert across == (
        f"duplicates across patient, study, official_split, label: {path_of(3)} = {path_of(7)}"
    )
    assert within == f"duplicates: {path_of(0)} = {path_of(1)}"
    assert tally == (
        "4 files are byte-identical to another one, in 2 groups; "
        "groups that differ in: patient 1, study 1, official_split 1, label 1"
    )


def test_long_lists_are_cut_and_counted(tmp_path):
    listing = write(
        tmp_path, dict.fromkeys(range(5), b"no image") | dict.fromkeys((5, 6, 7), png(9))
    )
    report = quality_report(listing, scan(listing, progress=False))
    lines = format_report(report, 2).splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["excluded"] * 2
    assert lines[2] == "and 3 more excluded as wrong-format (--show 0 lists all)"
    assert lines[3].endswith(f": {path_of(5)} = {path_of(7)} and 1 more")
    assert len(format_report(report, 5).splitlines()) == 7


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
    assert "No file was opened" in format_report(report, 0)
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
    inventory["label"] = "Normal-HAND"
    assert len(admit(inventory)) == 8
    manifest = admit(inventory, exclude_duplicates=True)
    assert set(inventory["path"]) - set(manifest["path"]) == {path_of(1), path_of(2)}
    assert manifest["path"].is_monotonic_increasing


def test_of_duplicates_with_different_labels_none_is_kept(tmp_path):
    listing = write(tmp_path, {0: png(100), 1: png(100), 2: png(200), 6: png(200)})
    inventory = scan(listing, progress=False)
    left_out = set(inventory["path"]) - set(admit(inventory, exclude_duplicates=True)["path"])
    assert left_out == {path_of(1), path_of(2), path_of(6)}


def test_labels_of_duplicates_are_compared_once_body_parts_are_merged(tmp_path):
    inventory = scan(write(tmp_path, {0: png(100), 7: png(100)}), progress=False)
    inventory["abnormality"] = "Normal"
    inventory["body_part"] = ["ELBOW"] * 4 + ["WRIST"] * 4
    inventory["label"] = "Normal-" + inventory["body_part"]
    assert len(admit(inventory, exclude_duplicates=True)) == 6
    assert len(admit(inventory, exclude_duplicates=True, merge={"ARM": ["ELBOW", "WRIST"]})) == 7


def test_nothing_admitted_is_one_sentence(tmp_path):
    listing = write(tmp_path, dict.fromkeys(range(8), b"no image"))
    with pytest.raises(UserError, match=r"None of the 8 listed images .*wrong-format 8"):
        admit(scan(listing, progress=False))


def test_a_body_part_is_shown_that_has_both_labels():
    pairs = [("WRIST", "Normal"), ("WRIST", "Abnormal"), ("HAND", "Normal"), ("HAND", "Abnormal")]
    images = pd.DataFrame(pairs, columns=["body_part", "abnormality"])
    assert part_with_both_labels(images, "WRIST") == "WRIST"
    assert part_with_both_labels(images, "ELBOW") == "HAND"
    with pytest.raises(UserError, match="No body part has normal and abnormal images"):
        part_with_both_labels(images[images["abnormality"] == "Normal"], "WRIST")
