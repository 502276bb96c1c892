import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from mura_tree import png
from PIL import ExifTags, Image

from mura_utils.data.images import read_image
from mura_utils.data.manifest import admit, quality_report, scan
from mura_utils.data.sources import LISTING_COLUMNS, load_mask, open_source
from mura_utils.data.sources.fracatlas import ANNOTATIONS
from mura_utils.data.squares import resize_mask
from mura_utils.errors import UserError

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
OUTLINE = [[10, 5, 20, 5, 20, 25, 10, 25]]


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
        {"file": "IMG1.jpg", "segmentation": OUTLINE},
        {"file": "IMG4.jpg", "segmentation": [[0, 0, 8, 0, 0, 8]]},
    )
    return tmp_path


def image(root, name):
    folder = "Fractured" if name in FRACTURED else "Non_fractured"
    return root / "images" / folder / f"{name}.jpg"


def write_coco(root, *shapes, side=SIDE):
    names = sorted({shape["file"] for shape in shapes})
    path = root / ANNOTATIONS
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [
        {"id": index, "file_name": name, "width": side, "height": side}
        for index, name in enumerate(names)
    ]
    annotations = [
        {"id": number, "category_id": 0, **shape, "image_id": names.index(shape["file"])}
        for number, shape in enumerate(shapes)
    ]
    categories = [{"id": 0, "name": "fractured"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))


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


@pytest.fixture
def boxed(root):
    """The same, with a box and no outline on one image."""
    box = {"file": "IMG1.jpg", "segmentation": [], "bbox": [30, 30, 4, 2]}
    other = {"file": "IMG4.jpg", "segmentation": [[0, 0, 8, 0, 0, 8]]}
    write_coco(root, {"file": "IMG1.jpg", "segmentation": OUTLINE}, box, other)
    return root


def test_mask_is_the_polygons_and_a_box_where_one_is_missing(boxed):
    root = boxed
    mask = load_mask("fracatlas", root, "images/Fractured/IMG1.jpg")
    expected = np.zeros((SIDE, SIDE), bool)
    expected[5:25, 10:20] = True
    expected[30:32, 30:34] = True
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, expected)
    assert load_mask("fracatlas", root, "images/Non_fractured/IMG2.jpg") is None


def test_boxes_that_count_are_a_remark(boxed):
    assert remarks(open_source(boxed))["accepted-variant"] == 1


def test_mask_is_stretched_and_nothing_is_lost(boxed):
    mask = resize_mask(load_mask("fracatlas", boxed, "images/Fractured/IMG1.jpg"), 8)
    assert mask.shape == (8, 8)
    expected = np.zeros((4, 8), bool)
    expected[0:3, 2:4] = True
    expected[3, 6] = True
    np.testing.assert_array_equal(mask.reshape(4, 2, 8).any(axis=1), expected)


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
    with pytest.raises(
        UserError, match=r"dataset\.csv: .*column hip, shoulder is missing: row 1, 'image_id,"
    ):
        open_source(root)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "is not JSON"),
        ('{"images": []}', "not a COCO file: 'annotations' is missing"),
        ("[]", "not a COCO file"),
    ],
)
def test_wrong_annotations_are_one_sentence(root, content, sentence):
    (root / ANNOTATIONS).write_text(content)
    with pytest.raises(UserError, match=sentence):
        open_source(root)


def swap_flags(yes, no):
    def change(text):
        header, *rows = text.splitlines()
        cells = [row.split(",") for row in rows]
        words = {"1": yes, "0": no}
        return "\n".join([header, *(",".join([n, *map(words.get, f)]) for n, *f in cells)])

    return change


# Each changes the table to a form that occurs in practice.
VARIANTS = {
    "yes and no": swap_flags("Yes", "No"),
    "y and n": swap_flags("y", "N"),
    "truth values": swap_flags("TRUE", "FALSE"),
    "floats": swap_flags("1.0", "0.0"),
    "a header in capitals": lambda text: text.replace("image_id,hand", "Image ID, HAND "),
    "names without a suffix": lambda text: text.replace(".jpg", ""),
    "names with another suffix": lambda text: text.replace(".jpg", ".png"),
    "names in another case": lambda text: text.replace("IMG", "img").replace(".jpg", ".JPG"),
    "names with a folder": lambda text: text.replace("IMG", "images/IMG"),
    "names with a drive": lambda text: text.replace("IMG", "C:\\images\\IMG"),
    "semicolons": lambda text: text.replace(",", ";"),
    "tabs": lambda text: text.replace(",", "\t"),
    "trailing commas": lambda text: text.replace("\n", ",\n"),
    "a byte-order mark": lambda text: "\ufeff" + text,
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_harmless_variants_give_the_same_rows_and_one_remark(root, variant):
    expected = open_source(root)
    table = root / "dataset.csv"
    table.write_text(VARIANTS[variant](table.read_text()), encoding="utf-8")
    listing = open_source(root)
    pd.testing.assert_frame_equal(listing.rows, expected.rows)
    found = remarks(listing)
    assert found.pop("accepted-variant") == 1
    assert found == remarks(expected)


def test_more_columns_and_an_index_are_no_variant(root):
    """As FracAtlas itself has more of them than are read."""
    table = root / "dataset.csv"
    lines = table.read_text().splitlines()
    indexed = [",".join([str(number or ""), line]) for number, line in enumerate(lines)]
    table.write_text("\r\n".join(indexed))
    assert "accepted-variant" not in remarks(open_source(root))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is empty"),
        (HEADER, "a header is its only row: row 1, 'image_id,hand"),
        (HEADER + ",Hand\n" + ROWS[0], "two columns have the same name: row 1"),
        (ROWS[0] + "\n" + ROWS[1], "column image_id, hand, .* is missing: row 1, 'IMG1.jpg,1,0,0"),
        (
            HEADER + "\nIMG1.jpg,maybe,0,0,0,0,0,1,0",
            "none of its 1 rows can be understood: row 2, 'IMG1.jpg,maybe,.*; expected an image",
        ),
        (
            HEADER + "\n" + "\n".join(ROWS[4:]),
            "no image of one body part: of 3 rows 2 have several or are mixed, and 1 have none; "
            "the first is row 2, 'IMG5.jpg,1,1",
        ),
    ],
)
def test_wrong_table_is_one_sentence(root, content, sentence):
    (root / "dataset.csv").write_text(content)
    with pytest.raises(UserError, match=rf"dataset\.csv:? .*{sentence}") as caught:
        open_source(root)
    assert "\n" not in str(caught.value)
    assert "again" not in str(caught.value)


def test_malformed_rows_are_quoted(root):
    edit(root, "IMG3.jpg,0,0,1,", "IMG3.jpg,0,0,perhaps,")
    found = open_source(root).remarks
    (row,) = found[found["kind"] == "malformed-row"].itertuples()
    assert row.path == "dataset.csv"
    assert row.detail.startswith("row 4, 'IMG3.jpg,0,0,perhaps,0,0,0,0,1': expected an image and 0")


def test_rows_that_say_something_else_of_an_image_are_a_remark(root):
    edit(root, "IMG3.jpg,0,", "IMG1.jpg,1,0,0,0,0,0,0,0\nimg2.JPG,0,1,0,0,0,1,0,0\nIMG3.jpg,0,")
    listing = open_source(root)
    found = remarks(listing)
    assert (found["contradictory-row"], found["repeated-row"], len(listing.rows)) == (1, 1, 4)
    row = listing.remarks[listing.remarks["kind"] == "contradictory-row"].iloc[0]
    assert row["path"] == "images/Fractured/IMG1.jpg"
    assert row["detail"].startswith("row 4, 'IMG1.jpg,1,0,0,0,0,0,0,0': an earlier row says some")


def test_of_two_files_that_differ_in_case_the_listed_one_counts(root):
    image(root, "img2").write_bytes(png())
    found = remarks(open_source(root))
    assert ("missing-file" in found, found["unlisted-file"]) == (False, 1)
    edit(root, "IMG2.jpg", "Img2.jpg")
    found = remarks(open_source(root))
    assert (found["missing-file"], found["unlisted-file"]) == (1, 2)


def test_files_in_folders_of_folders_are_not_taken(root):
    (root / "images/Fractured/more").mkdir()
    image(root, "IMG2").rename(root / "images/Fractured/more/IMG2.jpg")
    found = remarks(open_source(root))
    assert (found["missing-file"], found["unlisted-file"]) == (1, 1)


def test_without_any_file_is_one_sentence(root):
    for path in root.glob("images/*/*.jpg"):
        path.unlink()
    with pytest.raises(
        UserError, match=r"none of the 7 images listed in .*: images/Fractured/IMG1"
    ):
        open_source(root)


def test_named_pipes_are_never_opened(root):
    pipe = image(root, "IMG1")
    pipe.unlink()
    os.mkfifo(pipe)
    found = remarks(open_source(root))
    assert (found["not-a-regular-file"], found["missing-file"]) == (1, 1)
    assert load_mask("fracatlas", root, "images/Fractured/IMG1.jpg") is None
    (root / ANNOTATIONS).unlink()
    os.mkfifo(root / ANNOTATIONS)
    with pytest.raises(UserError, match=r"masks\.json cannot be read: it is a named pipe"):
        open_source(root)


# Annotations.


def test_bad_annotations_are_remarks_and_the_rest_counts(root):
    good = {"file": "IMG1.jpg", "segmentation": OUTLINE}
    bad = {"file": "IMG4.jpg", "segmentation": [[1, 2, 3]], "bbox": None}
    write_coco(root, good, bad, {**good, "file": "IMG99.jpg"}, {**bad, "category_id": 5})
    listing = open_source(root)
    found = remarks(listing)
    assert (found["bad-annotation"], found["mask-without-row"]) == (2, 1)
    assert found["abnormal-without-mask"] == 1
    details = listing.remarks.set_index("kind").loc["bad-annotation", "detail"].tolist()
    assert details[0].startswith("annotation 1 of IMG4.jpg: polygon 1 has an odd number")
    assert set(listing.remarks.set_index("kind").loc["bad-annotation", "path"]) == {ANNOTATIONS}
    assert load_mask("fracatlas", root, "images/Fractured/IMG1.jpg").sum() == 200
    assert load_mask("fracatlas", root, "images/Fractured/IMG4.jpg") is None


def test_masks_of_another_size_are_scaled_or_refused(root):
    shape = {"file": "IMG1.jpg", "segmentation": [[20, 10, 40, 10, 40, 50, 20, 50]]}
    write_coco(root, shape, {**shape, "file": "IMG4.jpg"}, side=2 * SIDE)
    Image.new("L", (60, 40)).save(image(root, "IMG4"), "PNG")
    listing = open_source(root)
    found = remarks(listing)
    assert (found["mask-scaled"], found["mask-size-mismatch"]) == (1, 1)
    mask = load_mask("fracatlas", root, "images/Fractured/IMG1.jpg")
    expected = np.zeros((SIDE, SIDE), bool)
    expected[5:25, 10:20] = True
    assert (mask & expected).sum() / (mask | expected).sum() > 0.9
    assert load_mask("fracatlas", root, "images/Fractured/IMG4.jpg") is None


def test_masks_of_turned_pictures_are_turned_back(root):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("L", (SIDE, 2 * SIDE)).save(image(root, "IMG1"), "JPEG", exif=exif)
    coco = json.loads((root / ANNOTATIONS).read_text())
    coco["images"][0] |= {"width": 2 * SIDE, "height": SIDE}
    (root / ANNOTATIONS).write_text(json.dumps(coco))
    assert remarks(open_source(root))["mask-turned"] == 1
    mask = load_mask("fracatlas", root, "images/Fractured/IMG1.jpg")
    expected = np.zeros((2 * SIDE, SIDE), bool)  # displayed as stored, turned clockwise
    expected[2 * SIDE - 20 : 2 * SIDE - 10, 5:25] = True
    np.testing.assert_array_equal(mask, expected)


def test_a_broken_annotated_image_stops_nothing(root):
    image(root, "IMG1").write_bytes(b"text")
    image(root, "IMG4").unlink()
    assert len(open_source(root).rows) == 4
    assert load_mask("fracatlas", root, "images/Fractured/IMG1.jpg") is None
    assert load_mask("fracatlas", root, "images/Fractured/IMG4.jpg") is None


# Where the folder lies.


@pytest.mark.parametrize("below", ["FracAtlas", "FracAtlas/FracAtlas", "a/b/FracAtlas"])
def test_the_folder_is_found_in_folders_around_it(root, tmp_path_factory, below):
    expected = open_source(root)
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(root, home / below)
    (home / "__MACOSX/FracAtlas/images/Fractured").mkdir(parents=True)
    for source in ("auto", "fracatlas"):
        listing = open_source(home, source)
        paths = listing.rows["path"]
        assert paths.tolist() == [f"{below}/{path}" for path in expected.rows["path"]]
        assert remarks(listing).get("accepted-variant", 0) == (below != "FracAtlas")
    other = listing.remarks[listing.remarks["kind"] != "accepted-variant"]
    assert other["path"].tolist() == [f"{below}/{path}" for path in expected.remarks["path"]]
    assert all((home / path).is_file() for path in paths)
    assert load_mask("fracatlas", home, f"{below}/images/Fractured/IMG1.jpg").sum() == 200
    inventory = scan(listing, progress=False)
    assert len(admit(inventory)) == 4


def test_two_data_sets_in_a_folder_are_one_sentence(root, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(root, home / "FracAtlas")
    (home / "MURA-v1.1/train/XR_WRIST").mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"several data sets \(fracatlas in FracAtlas, mura in MURA-v1.1\)"
    ):
        open_source(home)
    assert len(open_source(home, "fracatlas").rows) == 4


def test_a_part_of_the_folder_names_the_whole(root):
    with pytest.raises(UserError, match="Fractured is a part of the data set in "):
        open_source(root / "images/Fractured")


# The real sample: 1,398 rows with the faults of the original.


@pytest.fixture(scope="module")
def sample(real_fracatlas):
    return open_source(real_fracatlas)


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
