import json
import shutil

import numpy as np
import pytest
from mura_tree import png

from mura_utils.errors import UserError
from mura_utils.images import read_image
from mura_utils.manifest import admit, quality_report, scan
from mura_utils.sources import LISTING_COLUMNS, load_mask, open_source
from mura_utils.sources.fracatlas import ANNOTATIONS

HEADER = "image_id,hand,leg,hip,shoulder,mixed,hardware,fractured,frontal"
ROWS = [  # hand, leg, hip, shoulder, mixed, hardware, fractured, frontal
    "IMG1.jpg,1,0,0,0,0,0,1,0",
    "IMG2.jpg,0,1,0,0,0,1,0,0",
    "IMG3.jpg,0,0,1,0,0,0,0,1",
    "IMG4.jpg,0,0,0,1,0,0,1,0",
    "IMG5.jpg,1,1,0,0,1,0,0,0",
    "IMG6.jpg,1,1,0,0,0,0,0,0",
    "IMG7.jpg,0,0,0,0,0,0,0,0",
]
FRACTURED = ("IMG1", "IMG4")
SIDE = 40


@pytest.fixture
def root(tmp_path):
    """Four usable images, two of several body parts, one of none; masks on both fractured ones."""
    for folder in ("Fractured", "Non_fractured"):
        (tmp_path / "images" / folder).mkdir(parents=True)
    for number, row in enumerate(ROWS):
        name = row.split(",")[0]
        (image(tmp_path, name.removesuffix(".jpg"))).write_bytes(png(number, SIDE))
    (tmp_path / "dataset.csv").write_text("\n".join([HEADER, *ROWS]) + "\n")
    write_coco(
        tmp_path,
        {"file": "IMG1.jpg", "segmentation": [[10, 5, 19, 5, 19, 24, 10, 24]]},
        {"file": "IMG1.jpg", "segmentation": [], "bbox": [30, 30, 4, 2]},
        {"file": "IMG4.jpg", "segmentation": [[0, 0, 8, 0, 0, 8]]},
    )
    return tmp_path


def image(root, name):
    folder = "Fractured" if name in FRACTURED else "Non_fractured"
    return root / "images" / folder / f"{name}.jpg"


def write_coco(root, *shapes):
    names = sorted({shape["file"] for shape in shapes})
    path = root / ANNOTATIONS
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [
        {"id": index, "file_name": name, "width": SIDE, "height": SIDE}
        for index, name in enumerate(names)
    ]
    annotations = [
        {"bbox": [0, 0, 1, 1], **shape, "image_id": names.index(shape["file"])} for shape in shapes
    ]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))


def remarks(listing):
    return listing.remarks["kind"].value_counts().to_dict()


def edit(root, old, new):
    table = root / "dataset.csv"
    assert old in table.read_text()
    table.write_text(table.read_text().replace(old, new))


def test_rows(root):
    listing = open_source(root)
    assert listing.source == "fracatlas"
    assert tuple(listing.rows.columns) == LISTING_COLUMNS
    assert listing.rows["label"].tolist() == [
        "Abnormal-HAND",
        "Abnormal-SHOULDER",
        "Normal-LEG",
        "Normal-HIP",
    ]
    assert listing.rows.drop(columns="label").iloc[0].to_dict() == {
        "path": "images/Fractured/IMG1.jpg",
        "source": "fracatlas",
        "official_split": "",
        "patient": "IMG1",
        "study": "IMG1",
        "view": 1,
        "body_part": "HAND",
        "abnormality": "Abnormal",
    }
    assert listing.rows["path"].is_unique
    assert all((root / path).is_file() for path in listing.rows["path"])


def test_several_and_no_body_parts_are_left_out_and_counted(root):
    assert remarks(open_source(root)) == {"several-body-parts": 2, "no-body-part": 1}


def test_str_says_that_there_are_no_patient_ids(root):
    text = str(open_source(root))
    assert "4 images, 4 studies, 4 patients (no patient ids" in text
    assert "several-body-parts 2" in text


def test_missing_file_is_kept_and_remarked_also_where_the_row_is_left_out(root):
    image(root, "IMG2").unlink()
    image(root, "IMG5").unlink()
    listing = open_source(root)
    missing = listing.remarks[listing.remarks["kind"] == "missing-file"]
    assert missing["path"].tolist() == [
        "images/Non_fractured/IMG2.jpg",
        "images/Non_fractured/IMG5.jpg",
    ]
    assert len(listing.rows) == 4


def test_unlisted_file_is_left_out(root):
    image(root, "IMG99").write_bytes(png())
    listing = open_source(root)
    assert (len(listing.rows), remarks(listing)["unlisted-file"]) == (4, 1)


def test_csv_wins_over_the_folder(root):
    image(root, "IMG2").rename(root / "images/Fractured/IMG2.jpg")
    listing = open_source(root)
    row = listing.rows[listing.rows["path"] == "images/Fractured/IMG2.jpg"]
    assert row["abnormality"].tolist() == ["Normal"]
    odd = listing.remarks[listing.remarks["kind"] == "label-contradiction"]
    assert odd["detail"].tolist() == ["dataset.csv says Normal, and is believed"]
    assert "missing-file" not in remarks(listing)


def test_masks_that_disagree_with_the_label_are_remarks(root):
    write_coco(root, {"file": "IMG2.jpg", "segmentation": [[0, 0, 8, 0, 0, 8]]})
    found = remarks(open_source(root))
    assert (found["mask-on-normal"], found["abnormal-without-mask"]) == (1, 2)


def test_malformed_and_repeated_rows_are_counted(root):
    edit(root, "IMG3.jpg,0,0,1,0,0,0,0,1\n", "IMG3.jpg,0,0,,0,0,0,0,1\nIMG2.jpg,0,1,0,0,0,1,0,0\n")
    listing = open_source(root)
    assert len(listing.rows) == 3
    assert (remarks(listing)["malformed-row"], remarks(listing)["repeated-row"]) == (1, 1)


def test_mask_is_the_polygons_and_a_box_where_one_is_missing(root):
    mask = load_mask("fracatlas", root, "images/Fractured/IMG1.jpg")
    expected = np.zeros((SIDE, SIDE), bool)
    expected[5:25, 10:20] = True
    expected[30:33, 30:35] = True
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, expected)
    assert load_mask("fracatlas", root, "images/Non_fractured/IMG2.jpg") is None


def test_mask_is_stretched_and_nothing_is_lost(root):
    mask = load_mask("fracatlas", root, "images/Fractured/IMG1.jpg", shape=(4, 8))
    assert mask.shape == (4, 8)
    expected = np.zeros((4, 8), bool)
    expected[0:3, 2:4] = True
    expected[3, 6] = True
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize(
    "lost", ["dataset.csv", "images/Fractured", "images/Non_fractured", ANNOTATIONS]
)
def test_half_copied_is_one_sentence(root, lost):
    path = root / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=f"not a whole FracAtlas: {lost} missing; ") as caught:
        open_source(root)
    assert "\n" not in str(caught.value)


def test_missing_columns_are_one_sentence(root):
    edit(root, "hip,shoulder", "hips,shoulders")
    with pytest.raises(UserError, match=r"dataset\.csv .*: column hip, shoulder missing; copy"):
        open_source(root)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("{", "is not JSON"), ('{"images": []}', "not a COCO file"), ("[]", "not a COCO file")],
)
def test_wrong_annotations_are_one_sentence(root, content, sentence):
    (root / ANNOTATIONS).write_text(content)
    with pytest.raises(UserError, match=sentence):
        open_source(root)


# The real sample: 1,398 rows with the faults of the original.


@pytest.fixture(scope="module")
def sample(shared):
    root = shared / "fracatlas" / "FracAtlas"
    if not root.is_dir():
        pytest.skip(f"no FracAtlas sample: {root} is absent")
    return open_source(root)


def test_sample_is_listed(sample):
    assert len(sample.rows) == 1254
    assert sample.rows["body_part"].value_counts().to_dict() == {
        "LEG": 722,
        "HAND": 436,
        "HIP": 61,
        "SHOULDER": 35,
    }
    assert remarks(sample) == {"several-body-parts": 144, "missing-file": 1, "mask-on-normal": 1}


def test_sample_truncated_files_are_found_and_the_missing_one_is_reported(sample):
    inventory = scan(sample, progress=False)
    report = quality_report(sample, inventory)
    assert {k: n for k, n in report["counts"]["excluded"].items() if n} == {"truncated": 19}
    assert [remark["path"] for remark in report["remarks"]["missing-file"]] == [
        "images/Non_fractured/IMG0003298.jpg"
    ]
    manifest = admit(inventory)
    assert len(manifest) == 1254 - 19
    assert manifest["label"].nunique() == 8
    assert manifest[["width", "height"]].min().min() >= 100
    assert report["modes"] == {"RGB": 1045, "L": 190}


def test_sample_masks_fit_their_images(sample):
    abnormal = sample.rows[sample.rows["abnormality"] == "Abnormal"]["path"]
    for path in abnormal.iloc[::20]:
        mask = load_mask("fracatlas", sample.root, path)
        assert mask.shape == read_image(sample.root / path).shape
        assert 0 < mask.mean() < 0.5
