import os
import shutil

import numpy as np
import pandas as pd
import pytest
from graz_tree import BOXES, HEADER, HEIGHT, ROWS, WIDTH, write_graz, write_image
from mura_tree import remarks

from mura_utils.data.attributes import ATTRIBUTES
from mura_utils.data.images import read_image
from mura_utils.data.manifest import admit, scan
from mura_utils.data.sources import LISTING_COLUMNS, load_attributes, load_mask, open_source
from mura_utils.data.splits import split
from mura_utils.errors import UserError

STEMS = [row.split(",")[0] for row in ROWS]
LABELS = "folder_structure/yolov5/labels"
CLEAN = {"other-finding-on-normal": 1, "uncertain-diagnosis": 1}


@pytest.fixture
def root(tmp_path):
    """Six images of four patients; two show a fracture, and one has metal and no fracture."""
    return write_graz(tmp_path / "GRAZPEDWRI-DX")


def edit(root, old, new):
    table = root / "dataset.csv"
    assert old in table.read_text()
    table.write_text(table.read_text().replace(old, new))


def image(root, number):
    (path,) = root.rglob(f"{STEMS[number]}.png")
    return path


def boxes(root, number):
    return root / LABELS / f"{STEMS[number]}.txt"


def detail(listing, kind):
    return listing.remarks.set_index("kind")["detail"][[kind]].tolist()


def test_rows(root):
    listing = open_source(root)
    assert listing.source == "grazpedwri"
    assert tuple(listing.rows.columns) == LISTING_COLUMNS
    assert listing.has_patients
    assert listing.rows.iloc[1].to_dict() == {
        "path": f"images_part1/{STEMS[1]}.png",
        "source": "grazpedwri",
        "official_split": "",
        "patient": "0001",
        "study": "0001-01",
        "view": 2,
        "body_part": "WRIST",
        "abnormality": "Abnormal",
        "label": "Abnormal-WRIST",
    }
    assert listing.rows["abnormality"].tolist() == ["Normal", *["Abnormal"] * 2, *["Normal"] * 3]
    assert listing.rows["study"].tolist()[2:4] == ["0002-01", "0002-02"]
    assert remarks(listing) == CLEAN
    assert detail(listing, "other-finding-on-normal") == ["metal"]


def test_sixteen_bits_are_read_and_admitted(root):
    inventory = scan(open_source(root), progress=False)
    assert set(inventory["mode"]) == {"I;16"}
    assert admit(inventory)["width"].tolist() == [WIDTH] * 6


def test_a_mask_is_the_boxes_of_fractures_alone(root):
    path = image(root, 2).relative_to(root)
    mask = load_mask("grazpedwri", root, str(path))
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[24:36, 16:24] = True
    expected[39:45, 26:30] = True
    assert mask.shape == read_image(root / path).shape
    np.testing.assert_array_equal(mask, expected)
    for number in (0, 3, 5):
        assert load_mask("grazpedwri", root, str(image(root, number).relative_to(root))) is None


def test_no_patient_is_in_two_splits(tmp_path):
    rows = [
        f"{patient:04d}_{view:010d}_01_WRI-L{view}_M009,{patient},1,{view},M,9,L,{view},1,,,,,"
        f"{'1' if view == 2 and patient % 2 else ''},,0.144,Siemens"
        for patient in range(1, 25)
        for view in (1, 2)
    ]
    stems = [row.split(",")[0] for row in rows]
    listing = open_source(write_graz(tmp_path / "graz", rows, dict.fromkeys(stems, ())))
    parts = split(listing.rows, "patient", (0.5, 0.25, 0.25))["split"]
    assert listing.rows["patient"].nunique() == 24
    assert parts.groupby(listing.rows["patient"]).nunique().eq(1).all()


def test_attributes(root):
    paths = [str(image(root, number).relative_to(root)) for number in (3, 2, 5, 0)]
    known = load_attributes("grazpedwri", root, [*paths, "images_part1/0009_1_01_WRI-L1_M001.png"])
    assert known.index.tolist()[:4] == paths
    assert known["age"].dtype == float
    assert known.astype(object).fillna("").to_dict("list") == {
        "age": [12.3, 12, "", 14.1, ""],
        "sex": ["F", "F", "M", "M", ""],
        "projection": ["oblique", "frontal", "lateral", "frontal", ""],
        "hardware": ["yes", "no", "no", "no", ""],
        "cast": ["no", "yes", "no", "no", ""],
        "diagnosis": ["uncertain", "certain", "certain", "certain", ""],
    }
    assert set(known) <= ATTRIBUTES.keys()


def test_a_table_without_these_columns_says_nothing_more(root):
    (root / "dataset.csv").write_text(f"filestem\n{STEMS[0]}\n")
    assert load_attributes("grazpedwri", root, [f"images_part1/{STEMS[0]}.png"]).shape == (1, 0)


# Where the images and the boxes may be.


def merge(root):
    (root / "images").mkdir()
    for path in root.glob("images_part*/*.png"):
        path.rename(root / "images" / path.name)
    for path in root.glob("images_part*"):
        path.rmdir()


def unpack_twice(root):
    """As some programs do: a folder of the archive's name around the one in it."""
    for path in list(root.glob("images_part*")):
        (root / "new").mkdir()
        path.rename(root / "new" / path.name)
        (root / "new").rename(path)


def sort_for_yolo(root):
    for kind, files in (("images", "images_part*/*.png"), ("labels", f"{LABELS}/*.txt")):
        for number, path in enumerate(sorted(root.glob(files))):
            folder = root / kind / ("train", "valid", "test")[number % 3]
            folder.mkdir(parents=True, exist_ok=True)
            path.rename(folder / path.name)
    shutil.rmtree(root / "folder_structure")
    merge(root) if not (root / "images").exists() else None


def convert(root):
    for path in root.glob("images_part*/*.png"):
        path.rename(path.with_suffix(".PNG"))


def leave_litter(root):
    (root / "__MACOSX" / "images_part1").mkdir(parents=True)
    (root / "__MACOSX" / "images_part1" / f"._{STEMS[0]}.png").write_bytes(b"\0\5")
    (root / "runs" / "labels").mkdir(parents=True)
    (root / "runs" / "labels" / f"{STEMS[0]}.txt").write_text("3 0.5 0.5 1 1 0.9")
    (root / "overview.png").touch()


@pytest.mark.parametrize("move", [merge, unpack_twice, sort_for_yolo, convert, leave_litter])
def test_images_and_boxes_are_found_where_people_put_them(root, move):
    expected = open_source(root)
    masks = {name: load_mask("grazpedwri", root, name) for name in expected.rows["path"]}
    move(root)
    listing = open_source(root)
    columns = [name for name in LISTING_COLUMNS if name != "path"]
    names = lambda rows: rows["path"].str.rsplit("/", n=1).str[-1].str.lower()  # noqa: E731
    ours = listing.rows.set_index(names(listing.rows))[columns].sort_index()
    theirs = expected.rows.set_index(names(expected.rows))[columns].sort_index()
    pd.testing.assert_frame_equal(ours, theirs)
    assert remarks(listing) == CLEAN
    assert all((root / path).is_file() for path in listing.rows["path"])
    by_name = {path.rpartition("/")[2].lower(): mask for path, mask in masks.items()}
    for path in listing.rows["path"]:
        mask = load_mask("grazpedwri", root, path)
        np.testing.assert_array_equal(mask, by_name[path.rpartition("/")[2].lower()])


def test_a_folder_above_it_and_a_part_of_it(root):
    listing = open_source(root.parent)
    assert listing.rows["path"].str.startswith("GRAZPEDWRI-DX/images_part").all()
    assert listing.remarks["path"].str.startswith("GRAZPEDWRI-DX/").all()
    path = listing.rows["path"][2]
    assert load_mask("grazpedwri", root.parent, path).sum() > 0
    assert load_attributes("grazpedwri", root.parent, [path])["cast"].tolist() == ["yes"]
    with pytest.raises(UserError, match="images_part1 is a part of the data set in "):
        open_source(root / "images_part1")


# Faults.


def test_images_without_a_row_and_rows_without_an_image(root):
    image(root, 4).unlink()
    write_image(image(root, 0).parent / "0099_0451485735_01_WRI-L1_F000.png")
    (root / "images").mkdir()
    shutil.copy(image(root, 5), root / "images" / f"{STEMS[5]}.png")
    listing = open_source(root)
    assert remarks(listing) == CLEAN | {"missing-file": 1, "unlisted-file": 2}
    assert sorted(detail(listing, "unlisted-file")) == [
        "not in dataset.csv; left out",
        f"the same name as images/{STEMS[5]}.png; left out",
    ]
    assert f"{STEMS[4]}.png" in listing.rows["path"].tolist()
    assert scan(listing, progress=False)["fault"].tolist().count("missing") == 1


def test_label_and_boxes_that_disagree_are_remarks(root):
    boxes(root, 1).unlink()
    boxes(root, 2).write_text("5 0.5 0.5 0.1 0.1")
    boxes(root, 4).write_text("3 0.5 0.5 0.1 0.1")
    (root / LABELS / "0099_1_01_WRI-L1_M001.txt").write_text("3 0.5 0.5 0.1 0.1")
    listing = open_source(root)
    found = {"abnormal-without-mask": 2, "mask-on-normal": 1, "mask-without-row": 1}
    assert remarks(listing) == CLEAN | found
    assert sorted(detail(listing, "abnormal-without-mask")) == [
        "no box is of a fracture",
        "there is no file of its boxes",
    ]
    assert listing.rows["abnormality"].tolist().count("Abnormal") == 2


@pytest.mark.parametrize(
    "line",
    ["3 0.5 0.5 0.1", "3 0.5 0.5 0.1 0.1 0.9", "fracture 0.5 0.5 0.1 0.1", "9 0.5 0.5 0.1 0.1",
     "3 nan 0.5 0.1 0.1", "3 0.5 0.5 0 0.1", "3 40 30 8 8", "2.5 0.5 0.5 0.1 0.1"],
)  # fmt: skip
def test_a_bad_box_is_left_out_and_the_others_count(root, line):
    boxes(root, 1).write_text(f"{line}\n\n" + "\n".join(BOXES[STEMS[1]]))
    path = image(root, 1).relative_to(root)
    whole = load_mask("grazpedwri", root, str(path))
    listing = open_source(root)
    assert remarks(listing) == CLEAN | {"bad-annotation": 1}
    assert f"line 1, '{line}'" in detail(listing, "bad-annotation")[0]
    boxes(root, 1).write_text("\n".join(BOXES[STEMS[1]]))
    np.testing.assert_array_equal(whole, load_mask("grazpedwri", root, str(path)))


def test_boxes_that_are_no_text_stop_nothing(root):
    boxes(root, 1).write_bytes(b"\xff\xfe\x00")
    found = remarks(open_source(root))
    assert (found["bad-annotation"], found["abnormal-without-mask"]) == (1, 1)
    assert load_mask("grazpedwri", root, str(image(root, 1).relative_to(root))) is None


def test_named_pipes_are_never_opened(root):
    for path in (image(root, 1), boxes(root, 2)):
        path.unlink()
        os.mkfifo(path)
    listing = open_source(root)
    assert remarks(listing)["missing-file"] == 1
    assert detail(listing, "missing-file") == ["listed, but it is a named pipe"]
    assert load_mask("grazpedwri", root, f"images_part1/{STEMS[1]}.png") is None


def test_a_link_to_itself_is_not_followed(root):
    (root / "again").symlink_to(root)
    listing = open_source(root)
    assert remarks(listing) == CLEAN | {"unreadable-folder": 1}
    assert len(listing.rows) == 6


ROW_FAULTS = {
    "of another patient": ("0003_0451", "0033_0451"),
    "without a patient": (",3,1,451485735", ",,1,451485735"),
    "half a study": (",3,1,451485735", ",3,1.5,451485735"),
    "perhaps a fracture": ("L,1,1,,,,,,,0.144", "L,1,1,,,,,maybe,,0.144"),
}


@pytest.mark.parametrize("fault", ROW_FAULTS)
def test_a_row_that_cannot_be_understood_is_quoted_and_left_out(root, fault):
    edit(root, *ROW_FAULTS[fault])
    listing = open_source(root)
    assert len(listing.rows) == 5
    assert remarks(listing)["malformed-row"] == 1
    assert detail(listing, "malformed-row")[0].startswith("row 6, '00")


def test_repeated_rows_count_once(root):
    again = ROWS[4].replace("L,1,1,,,,,,,", "L,1,1,,,,,1,,")
    (root / "dataset.csv").write_text("\n".join([HEADER, *ROWS, ROWS[5], again]))
    listing = open_source(root)
    assert remarks(listing) == CLEAN | {"repeated-row": 1, "contradictory-row": 1}
    assert listing.rows["abnormality"].tolist().count("Abnormal") == 2


VARIANTS = {
    "flags as floats": lambda text: text.replace(",1,,0.14", ",1.0,,0.14"),
    "ids as floats": lambda text: text.replace(",3,1,4514", ",3.0,1.0,4514"),
    "names with a suffix": lambda text: text.replace("M014,", "M014.png,"),
    "names with a folder": lambda text: text.replace("\n000", "\nimages\\000"),
    "an index": lambda text: "\n".join(f"{n or ''},{x}" for n, x in enumerate(text.splitlines())),
    "a header in capitals": lambda text: text.replace("filestem", "FileStem"),
    "semicolons": lambda text: text.replace("; ", " ").replace(",", ";"),
    "no other columns": lambda text: "\n".join(
        ",".join(line.split(",")[column] for column in (0, 1, 2, 11, 13))
        for line in text.splitlines()
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_harmless_variants_give_the_same_rows(root, variant):
    expected = open_source(root)
    table = root / "dataset.csv"
    table.write_text(VARIANTS[variant](table.read_text()))
    listing = open_source(root)
    pd.testing.assert_frame_equal(listing.rows, expected.rows)
    found = remarks(listing)
    assert found.pop("accepted-variant", 0) <= 1
    assert found == CLEAN


@pytest.mark.parametrize(
    ("lost", "sentence"),
    [
        ("dataset.csv", "not a whole GRAZPEDWRI-DX: dataset.csv missing; "),
        ("folder_structure", f"not a whole GRAZPEDWRI-DX: {LABELS} missing; "),
        ("images_part*", "none of the 6 images listed in dataset.csv: 0001_.*M014.png is the fir"),
    ],
)
def test_half_copied_is_one_sentence(root, lost, sentence):
    for path in list(root.glob(lost)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=sentence) as caught:
        open_source(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (HEADER.replace("patient_id", "patient") + "\n" + ROWS[0], "column patient_id is missing"),
        (HEADER, "a header is its only row"),
        (f"{HEADER}\nx,1,1\n", "none of its 1 rows can be understood: row 2, 'x,1,1'; expected"),
    ],
)
def test_a_wrong_table_is_one_sentence(root, content, sentence):
    (root / "dataset.csv").write_text(content)
    with pytest.raises(UserError, match=sentence) as caught:
        open_source(root)
    assert "\n" not in str(caught.value)


def test_a_table_that_is_gone_is_one_sentence(root):
    path = str(image(root, 1).relative_to(root))
    (root / "dataset.csv").unlink()
    with pytest.raises(UserError, match=r"has dataset\.csv any longer"):
        load_mask("grazpedwri", root, path)
