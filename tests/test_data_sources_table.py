"""Somebody's own images: a CSV file in the folder that holds them."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from mura_tree import png
from PIL import Image

from mura_utils.data.attributes import ATTRIBUTES
from mura_utils.data.manifest import admit, quality_report, scan
from mura_utils.data.sources import load_attributes, load_mask, open_source
from mura_utils.data.splits import leak_free, split
from mura_utils.errors import UserError
from mura_utils.paths import REPOSITORY

TABLE = """path,body_part,abnormality,patient
images/a.png,WRIST,0,1
images/b.png,WRIST,1,2
images/c.png,Lower  leg,0,2
images/d.png,lower leg,1,3
"""
PATHS = [f"images/{name}.png" for name in "abcd"]


@pytest.fixture
def own(tmp_path):
    """Write a folder of four images and a table; returns the folder."""

    def write(table: str = TABLE, files=PATHS, name="images.csv", encoding="utf-8"):
        root = tmp_path / "own"
        for number, file in enumerate(files):
            path = root / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(number))
        (root / name).write_bytes(table.encode(encoding))
        return root

    return write


def kinds(listing) -> dict[str, int]:
    return listing.remarks["kind"].value_counts().to_dict()


def with_column(name: str, *cells: str) -> str:
    """The table with one more column."""
    lines = zip(TABLE.splitlines(), (name, *cells), strict=True)
    return "\n".join(f"{line},{cell}" for line, cell in lines) + "\n"


def refusal(root, source="table") -> str:
    with pytest.raises(UserError) as caught:
        open_source(root, source)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    return str(caught.value)


# --- what is read -------------------------------------------------------------------------------


def test_a_folder_with_a_table_is_recognized_and_listed(own):
    listing = open_source(own())
    assert (listing.source, listing.has_patients) == ("table", True)
    rows = listing.rows.set_index("path")
    assert rows["label"].tolist() == [
        "Normal-WRIST", "Abnormal-WRIST", "Normal-LOWER LEG", "Abnormal-LOWER LEG",
    ]  # fmt: skip
    assert rows["patient"].tolist() == ["1", "2", "2", "3"]
    assert rows["study"].tolist() == PATHS and set(rows["view"]) == {1}
    assert kinds(listing) == {}
    assert "abnormality = 'abnormality', patient = 'patient'; not used: none" in str(listing)
    assert "no study ids: every image is its own study" in str(listing)


def test_the_table_of_the_page_is_read(own):
    page = (REPOSITORY / "docs" / "your_data.md").read_text(encoding="utf-8")
    table = re.search(r"^```\n(path,.*?)^```$", page, re.MULTILINE | re.DOTALL)[1]
    files = [line.split(",")[0] for line in table.splitlines()[1:]]
    listing = open_source(own(table, files))
    assert len(table.splitlines()) == 5 and len(listing.rows) == 4 and kinds(listing) == {}
    assert "not used: none" in str(listing)


OFFICE = TABLE.replace(",", ";").replace("\n", "\r\n")


@pytest.mark.parametrize(
    ("table", "encoding"),
    [
        (OFFICE, "utf-8-sig"),
        ("sep=;\r\n" + OFFICE, "utf-16"),
        (TABLE.replace("Lower  leg", "Lower leg é").replace("lower leg", "LOWER LEG É"), "latin-1"),
        (TABLE.replace(",", "\t"), "utf-8"),
        (TABLE.replace("images/", "C:\\scans\\images\\"), "utf-8"),
        (TABLE.replace("images/", "/home/somebody/own/images/"), "utf-8"),
        (TABLE.replace("images/", ".\\images\\"), "utf-8"),
        (TABLE.replace("images/", "../images/"), "utf-8"),
        (TABLE.replace("images/", ""), "utf-8"),
        (TABLE.replace(".png", ""), "utf-8"),
        (TABLE.replace(".png", ".JPG").replace("images/", "images//"), "utf-8"),
        (TABLE.replace("images/", "Images/").replace("path", '" File_Name "'), "utf-8"),
        (TABLE.replace(",0,", ",No,").replace(",1,", ",yes,"), "utf-8"),
        (TABLE.replace(",0,", ",normal,").replace(",1,", ",ABNORMAL,"), "utf-8"),
        (TABLE.replace(",0,", ",Negative,").replace(",1,", ",positive,"), "utf-8"),
        (TABLE.replace(",0,", ",0.0,").replace(",1,", ",TRUE,"), "utf-8"),
        (TABLE.replace("abnormality", "Label").replace("patient", "Patient ID"), "utf-8"),
    ],
)
def test_tables_as_people_have_them_are_read_alike(own, table, encoding):
    listing = open_source(own(table, encoding=encoding))
    assert listing.rows["path"].tolist() == PATHS
    assert listing.rows["abnormality"].tolist() == ["Normal", "Abnormal"] * 2
    assert listing.rows["patient"].tolist() == ["1", "2", "2", "3"]
    assert kinds(listing).keys() <= {"accepted-variant"}


def test_which_column_is_which_is_said_and_the_exact_name_prevails(own):
    table = with_column("Label", "x", "x", "x", "x").replace("body_part", "Region")
    listing = open_source(own(table.replace("path", "image name")))
    assert listing.notes[0] == (
        "columns of images.csv: path = 'image name', body_part = 'Region', "
        "abnormality = 'abnormality', patient = 'patient'; not used: 'Label'"
    )


def test_paths_with_letters_that_macos_takes_apart_are_found(own):
    listing = open_source(own(TABLE.replace("a.png", "\u00fc.png"), ["images/u\u0308.png"]))
    assert "images/u\u0308.png" in set(listing.rows["path"])
    assert kinds(listing) == {"accepted-variant": 1, "missing-file": 3}


def test_a_missing_image_is_not_taken_from_another_folder(own):
    table = TABLE.replace("images/a", "one/image1").replace("images/b", "two/image1")
    listing = open_source(own(table, ["two/image1.png", "three/image1.png"]))
    assert listing.rows["path"].tolist()[:3] == [PATHS[2], PATHS[3], "one/image1.png"]
    assert kinds(listing) == {"missing-file": 3, "unlisted-file": 1}


# --- patients, studies, splits ------------------------------------------------------------------


def test_without_patients_every_image_is_its_own_or_every_study(own):
    bare = "\n".join(line.rpartition(",")[0] for line in TABLE.splitlines())
    listing = open_source(own(bare))
    assert not listing.has_patients and listing.rows["patient"].tolist() == PATHS
    assert "no patient ids: every image is its own patient and study" in str(listing)
    assert leak_free(listing.rows, listing.has_patients)[0] == (
        "The patients of the 4 images are not known: no split of them can be shown to be free of "
        "leaks."
    )
    listing = open_source(own(TABLE.replace("patient", "Accession")))
    assert listing.rows["patient"].tolist() == ["1", "2", "2", "3"]
    assert "no patient ids: every study is its own patient" in str(listing)


def test_a_study_belongs_to_its_patient_and_to_one_body_part(own):
    listing = open_source(own(with_column("study", "x", "x", "x", "")))
    assert listing.rows["study"].tolist() == ["1/x", "2/x/WRIST", "2/x/LOWER LEG", PATHS[3]]
    (remark,) = listing.remarks.itertuples()
    assert (remark.kind, remark.path) == ("no-id", PATHS[3])


def test_views_are_numbers_or_become_projections(own):
    root = own(with_column("view,study", "2,s", "1,t", ",t", "7,u"))
    assert open_source(root).rows["view"].tolist() == [2, 1, 1, 7]
    assert list(load_attributes("table", root, PATHS)) == []
    root = own(with_column("View Position", "AP", "lateral", "", "AP"))
    assert open_source(root).rows["view"].tolist() == [1, 1, 1, 1]
    assert load_attributes("table", root, PATHS)["projection"].tolist()[:2] == ["AP", "lateral"]


def splittable(test_patient: str) -> str:
    """Four classes with eight patients each; one image of patient 0 is in the split test."""
    lines = ["path,body_part,label,patient,split"]
    for number in range(32):
        name, part = f"images/{number:02d}.png", "HIP" if number % 2 else "KNEE"
        where = ["Training", "val", "train", "test"][number // 8]
        patient = test_patient if number == 24 else number
        lines.append(f"{name},{part},{number // 2 % 2},{patient},{where}")
    return "\n".join(lines)


def test_a_given_split_is_the_official_one_and_its_test_rows_the_test_set(own):
    listing = open_source(own(splittable("24"), ["images/00.png"]))
    assert listing.rows["official_split"].tolist() == ["train"] * 24 + ["valid"] * 8
    said = leak_free(listing.rows, listing.has_patients)
    assert said[1].startswith("Leak-free split: protocol = official-patient, ")
    assert said[2].startswith("Leak-free split: protocol = patient, ")
    assert "official valid is the split test" in str(listing)


def test_a_patient_in_two_splits_is_a_remark_and_what_official_patient_refuses(own):
    listing = open_source(own(splittable("0"), ["images/00.png"]))
    (remark,) = listing.remarks[listing.remarks["kind"] == "patient-in-two-splits"].itertuples()
    assert remark.detail == "patient 0 is in test and in another split"
    with pytest.raises(UserError, match=r"1 patient\(s\) are in the official .* \(0 is the first"):
        split(listing.rows, "official-patient")
    official, patient = leak_free(listing.rows, listing.has_patients)[1:]
    assert official.startswith("Not protocol = official-patient: 1 patient(s)")
    assert patient.startswith("Leak-free split: protocol = patient")
    split(listing.rows, "official-image")


# --- rows and files that do not fit -------------------------------------------------------------


def test_rows_and_files_that_do_not_fit_are_counted(own):
    table = TABLE + "images/e.png,HIP,1,9\n,HIP,1,9\nimages/b.png,N/A,1,2\n"
    table += "images/a.png,WRIST,0,1\nimages/a.png,WRIST,1,1\n"
    root = own(table, [*PATHS[:2], "images/c.PNG", *PATHS[3:], "images/f.jpeg", "notes.txt"])
    listing = open_source(root)
    assert kinds(listing) == {
        "accepted-variant": 1,
        "contradictory-row": 1,
        "malformed-row": 2,
        "missing-file": 1,
        "repeated-row": 1,
        "unlisted-file": 1,
    }
    assert len(listing.rows) == 5
    report = quality_report(listing, scan(listing, progress=False))
    assert report["counts"]["excluded"]["missing"] == 1
    (quoted,) = report["remarks"]["contradictory-row"]
    assert quoted["detail"].startswith("row 10, 'images/a.png,WRIST,1,1': an earlier row says")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            TABLE.replace(",1,2", ",maybe,2"),
            r"images\.csv: row 3: 'abnormality' is 'maybe', ",
        ),
        (
            TABLE.replace(",1,", ",x,"),
            r"row 3: .* is 'x', .*positive \(and 1 more rows",
        ),
        (
            with_column("set", "train", "test", "A", ""),
            r"row 4: 'set' is 'A', expected tr",
        ),
        (TABLE.replace("body_part", "bone"), r"no column for body_part \(or part, bodyregion, "),
        (
            TABLE.replace("abnormality", "result"),
            r"no column for abnormality .*columns are",
        ),
        (
            TABLE.replace("path,", "image,").replace("patient", "file"),
            "'image' and 'file' may",
        ),
        (TABLE.splitlines()[0], "has a header and no rows"),
        (TABLE.splitlines()[0] + "\n,HIP,1,1\n", "none of its 1 rows has a value for all of"),
        (TABLE.replace("images/", "pictures/x"), r"none of the 4 images listed in images\.csv"),
        ("a,b\n1,2\n", "holds no CSV file with the columns path, body_part, abnormality"),
        ("\0" * 40, "holds no CSV file with the columns"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_sentence(own, table, message):
    assert re.search(message, refusal(own(table)))


def test_several_tables_are_named_and_others_do_not_count(own):
    own("patient,age\n1,30\n", name="patients.csv")
    assert len(open_source(own()).rows) == 4
    assert "tables of images (images.csv, more.CSV): leave one" in refusal(own(name="more.CSV"))


def test_a_folder_without_a_table_names_what_it_may_hold(own):
    root = own("a,b\n")
    assert "a CSV file of your own images (docs/your_data.md)" in refusal(root, "auto")
    own()  # a table of images above, such as one in a home folder, is none of its folders' business
    assert "holds no data set that is known here" in refusal(root / "images", "auto")


# --- what else is known -------------------------------------------------------------------------


def test_ages_and_sexes_are_attributes_and_odd_ones_are_unknown(own):
    root = own(with_column("Age,Gender", "12,F", "6M,male", "old,?", "131,other"))
    known = load_attributes("table", root, [*PATHS[::-1], "gone.png"])
    assert known.index.tolist() == [*PATHS[::-1], "gone.png"]
    assert set(known) <= ATTRIBUTES.keys()
    np.testing.assert_array_equal(known["age"], [np.nan, np.nan, 0.5, 12, np.nan])
    assert known["sex"].astype(object).fillna("").tolist() == ["O", "", "M", "F", ""]
    details = open_source(root).remarks.set_index("kind").loc["odd-cell", "detail"].tolist()
    assert details == [
        "'Age' of 2 rows is no age, and counts as unknown: 'old', '131'; the first is row 4",
        "'Gender' of 1 rows is no sex, and counts as unknown: '?'; the first is row 4",
    ]


def test_a_changed_table_is_read_again(own):
    root = own(with_column("age", *"1234"))
    assert load_attributes("table", root, PATHS)["age"].tolist() == [1, 2, 3, 4]
    root = own(with_column("age", "10", "20", "30", "40"))
    assert load_attributes("table", root, PATHS)["age"].tolist() == [10, 20, 30, 40]


def square(root, name: str, size: int = 40, bright: int = 1, suffix="png") -> None:
    """A mask with a bright square of half the side at its left top."""
    mask = np.zeros((size, size), np.uint8)
    mask[: size // 2, : size // 2] = bright
    (root / "masks").mkdir(exist_ok=True)
    Image.fromarray(mask).save(root / "masks" / f"{name}.{suffix}")


def test_masks_are_files_of_any_brightness_or_boxes(own):
    table = with_column(
        "mask,box", "masks/a.png,", "masks/b.jpg,1 1 5 5", ",30 30 20 20; 0 0 2 2", ","
    )
    root = own(table)
    square(root, "a")
    square(root, "b", size=80, bright=255, suffix="jpg")
    corner = np.zeros((40, 40), bool)
    corner[:20, :20] = True
    np.testing.assert_array_equal(load_mask("table", root, PATHS[0]), corner)
    assert (load_mask("table", root, PATHS[1]) == corner).mean() > 0.99, "scaled, from a JPEG"
    boxes = load_mask("table", root, PATHS[2])
    assert boxes.sum() == 100 + 4 and boxes[30:, 30:].all() and boxes[:2, :2].all()
    assert load_mask("table", root, PATHS[3]) is None
    assert kinds(open_source(root)) == {
        "abnormal-without-mask": 1,
        "mask-on-normal": 2,
        "mask-scaled": 1,
    }


def test_masks_that_do_not_fit_are_counted_and_not_used(own):
    table = with_column("mask,box", "gone.png,", "masks/b.png,", "images.csv,", ",no box")
    root = own(table)
    square(root, "b")
    Image.new("L", (40, 20)).save(root / "masks" / "b.png")
    assert load_mask("table", root, PATHS[1]) is None
    assert load_mask("table", root, PATHS[3]) is None
    assert kinds(open_source(root)) == {
        "abnormal-without-mask": 1,
        "mask-on-normal": 1,
        "mask-size-mismatch": 1,
        "mask-unreadable": 1,
        "missing-mask": 1,
        "odd-cell": 1,
    }
    with pytest.raises(UserError, match=r"images\.csv is not a mask that can be read"):
        load_mask("table", root, PATHS[2])


def test_an_image_with_a_row_for_each_box_has_them_all(own):
    root = own(with_column("box", "", "0 0 4 4", "", "") + "images/b.png,WRIST,1,2,20 20 4 4\n")
    mask = load_mask("table", root, PATHS[1])
    assert mask[:4, :4].all() and mask[20:24, 20:24].all() and mask.sum() == 32
    assert kinds(open_source(root)) == {"abnormal-without-mask": 1, "repeated-row": 1}


def test_merged_body_parts_keep_paths_masks_and_attributes(own):
    root = own(with_column("age,box", "1,", "2,0 0 4 4", "3,", "4,0 0 4 4"))
    listing = open_source(root)
    manifest = admit(scan(listing, progress=False), merge={"LIMB": ["LOWER LEG", "WRIST"]})
    assert set(manifest["label"]) == {"Abnormal-LIMB", "Normal-LIMB"}
    assert manifest["path"].tolist() == PATHS
    assert load_attributes("table", root, manifest["path"])["age"].tolist() == [1, 2, 3, 4]
    masks = [load_mask("table", root, path) is not None for path in manifest["path"]]
    assert masks == [False, True, False, True]


def test_thousands_of_rows_from_another_computer_are_found():
    from mura_utils.data.sources.table_files import find_files

    files = pd.Index([f"images/p{n // 4}/IMAGE{n % 4}.png" for n in range(4000)])
    cells = pd.Series([rf"D:\x\p{n // 4}\image{n % 4}.PNG" for n in range(4000)])
    assert find_files(cells, files).tolist() == files.tolist()
