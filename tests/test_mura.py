import shutil

import numpy as np
import pandas as pd
import pytest
from mura_tree import image_paths, png, real_rows, tiny_rows, write_tree

from mura_utils.errors import UserError
from mura_utils.manifest import admit, quality_report, scan
from mura_utils.sources import LISTING_COLUMNS, load_mask, open_source
from mura_utils.sources.mura import list_mura


@pytest.fixture
def tree(tmp_path):
    """A faultless tiny MURA of eight images."""
    return write_tree(tmp_path, tiny_rows())


def remarks(listing):
    return listing.remarks["kind"].value_counts().to_dict()


def edit(table, change):
    """Rewrite the lines of a CSV file."""
    lines = table.read_text().splitlines()
    table.write_text("\n".join(change(lines)) + "\n")


def test_rows_of_a_faultless_tree(tmp_path, tree):
    listing = open_source(tmp_path)
    rows = listing.rows
    assert tuple(rows.columns) == LISTING_COLUMNS
    assert listing.source == "mura"
    assert sorted(rows["path"]) == sorted("MURA-v1.1/" + image_paths(tiny_rows()))
    assert all((tmp_path / path).is_file() for path in rows["path"])
    first = rows[rows["path"].str.endswith("XR_WRIST/patient00001/study1_positive/image2.png")]
    assert first.drop(columns="path").iloc[0].to_dict() == {
        "source": "mura",
        "official_split": "train",
        "patient": "patient00001",
        "study": "train/XR_WRIST/patient00001/study1_positive",
        "view": 2,
        "body_part": "WRIST",
        "abnormality": "Abnormal",
        "label": "Abnormal-WRIST",
    }
    assert rows["study"].nunique() == 6
    assert rows["patient"].nunique() == 5
    assert listing.remarks.empty
    assert list(listing.remarks.columns) == ["path", "kind", "detail"]


def test_root_may_be_the_tree_itself(tmp_path, tree):
    outside, inside = open_source(tmp_path), open_source(tree)
    assert inside.rows["path"].tolist() == [
        path.removeprefix("MURA-v1.1/") for path in outside.rows["path"]
    ]
    pd.testing.assert_frame_equal(
        inside.rows.drop(columns="path"), outside.rows.drop(columns="path")
    )


@pytest.mark.parametrize("prefix", ["MURA-v1.1/", ""])
@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("slash", ["/", ""])
def test_forms_of_the_csv_files_give_the_same_rows(tmp_path, prefix, header, newline, slash):
    form = {"prefix": prefix, "header": header, "newline": newline, "slash": slash}
    write_tree(tmp_path / "official", tiny_rows())
    write_tree(tmp_path / "copy", tiny_rows(), **form)
    copy = open_source(tmp_path / "copy")
    pd.testing.assert_frame_equal(copy.rows, open_source(tmp_path / "official").rows)
    assert copy.remarks.empty


def test_byte_order_mark_is_no_part_of_the_path(tmp_path, tree):
    table = tree / "train_image_paths.csv"
    table.write_text(table.read_text(), encoding="utf-8-sig")
    assert len(open_source(tmp_path).rows) == 8


def test_order_of_the_csv_rows_does_not_matter(tmp_path, tree):
    before = open_source(tmp_path).rows
    edit(tree / "train_image_paths.csv", lambda lines: lines[::-1])
    pd.testing.assert_frame_equal(open_source(tmp_path).rows, before)


def test_strays_are_counted_and_left_out(tmp_path, tree):
    study = tree / "train/XR_WRIST/patient00001/study1_positive"
    (study / "._image1.png").write_bytes(b"Mac OS X")
    (tree / "train/.DS_Store").write_bytes(b"Mac OS X")
    listing = open_source(tmp_path)
    assert len(listing.rows) == 8
    assert remarks(listing) == {"stray-file": 2}
    assert listing.remarks["path"].str.startswith("MURA-v1.1/train/").all()


def test_row_without_a_file_is_kept_for_quality(tmp_path, tree):
    lost = tree / "train/XR_HAND/patient00003/study1_positive/image2.png"
    lost.unlink()
    listing = open_source(tmp_path)
    assert len(listing.rows) == 8
    assert remarks(listing) == {"missing-file": 1}
    assert tmp_path / listing.remarks["path"][0] == lost


def test_empty_file_is_a_remark(tmp_path, tree):
    (tree / "train/XR_HAND/patient00003/study1_positive/image2.png").write_bytes(b"")
    listing = open_source(tmp_path)
    assert (len(listing.rows), remarks(listing)) == (8, {"zero-byte-file": 1})


def test_file_without_a_row_is_left_out(tmp_path, tree):
    (tree / "train/XR_HAND/patient00003/study1_positive/image3.png").write_bytes(png())
    listing = open_source(tmp_path)
    assert (len(listing.rows), remarks(listing)) == (8, {"unlisted-file": 1})


def test_csv_wins_over_the_folder_name(tmp_path, tree):
    edit(
        tree / "train_labeled_studies.csv",
        lambda lines: [line.replace("study1_positive/,1", "study1_positive/,0") for line in lines],
    )
    listing = open_source(tmp_path)
    train = listing.rows[listing.rows["official_split"] == "train"]
    assert set(train["abnormality"]) == {"Normal"}
    assert remarks(listing) == {"label-contradiction": 2}  # studies, of two images each
    assert listing.remarks["detail"].str.contains("says Normal").all()


def test_images_of_an_unlabelled_study_are_left_out(tmp_path, tree):
    edit(
        tree / "train_labeled_studies.csv",
        lambda lines: [line for line in lines if "patient00003" not in line],
    )
    listing = open_source(tmp_path)
    assert (len(listing.rows), remarks(listing)) == (6, {"unlabelled-study": 2})


def test_study_without_images_is_a_remark(tmp_path, tree):
    extra = "MURA-v1.1/train/XR_HAND/patient00009/study1_negative/,0"
    edit(tree / "train_labeled_studies.csv", lambda lines: [*lines, extra])
    assert remarks(open_source(tmp_path)) == {"study-without-images": 1}


def test_malformed_and_repeated_rows_are_counted(tmp_path, tree):
    edit(
        tree / "train_image_paths.csv",
        lambda lines: [*lines, lines[0], "MURA-v1.1/train/notes/readme.png", ""],
    )
    edit(
        tree / "train_labeled_studies.csv",
        lambda lines: [*lines, "MURA-v1.1/train/XR_HAND/patient00009/study1_negative/,maybe"],
    )
    listing = open_source(tmp_path)
    assert (len(listing.rows), remarks(listing)) == (8, {"malformed-row": 2, "repeated-row": 1})


def test_without_image_paths_the_files_are_the_list(tmp_path, tree):
    before = open_source(tmp_path).rows
    (tree / "train_image_paths.csv").unlink()
    unlabelled = tree / "train/XR_HAND/patient00009/study1_positive"
    unlabelled.mkdir(parents=True)
    (unlabelled / "image1.png").write_bytes(png())
    listing = open_source(tmp_path)
    pd.testing.assert_frame_equal(listing.rows, before)
    assert remarks(listing) == {"rebuilt-image-paths": 1, "unlisted-file": 1}


@pytest.mark.parametrize(
    ("lost", "sentence"),
    [
        (["train"], "train/ missing"),
        (["train", "valid"], "train/, valid/ missing"),
        (["valid_labeled_studies.csv"], "valid_labeled_studies.csv missing"),
        (["valid", "valid_labeled_studies.csv", "valid_image_paths.csv"], "valid/, valid_labeled"),
    ],
)
def test_half_copied_is_one_sentence(tmp_path, tree, lost, sentence):
    for name in lost:
        path = tree / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for root in (tmp_path, tree):
        with pytest.raises(UserError, match=f"only part of MURA: {sentence}") as caught:
            open_source(root)
        assert "\n" not in str(caught.value)


def test_folders_without_images_are_half_copied(tmp_path, tree):
    shutil.rmtree(tree / "valid")
    (tree / "valid").mkdir()
    with pytest.raises(UserError, match=r"valid holds none of the 2 images listed in valid_image"):
        open_source(tmp_path)


def test_missing_root_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist; give the folder"):
        open_source(tmp_path / "nowhere")


def test_file_as_root_is_one_sentence(tmp_path, tree):
    with pytest.raises(UserError, match="is not a folder"):
        open_source(tree / "train_image_paths.csv")


def test_wrong_folder_is_one_sentence(tmp_path):
    (tmp_path / "train").mkdir()  # as in many data sets, but without XR_*
    with pytest.raises(UserError, match="holds no data set that is known here"):
        open_source(tmp_path)
    with pytest.raises(UserError, match="is not MURA"):
        open_source(tmp_path, source="mura")


def test_unknown_source_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="source 'chexpert' is unknown"):
        open_source(tmp_path, source="chexpert")


@pytest.mark.parametrize(
    "content", [b"", b"one column\nonly\n", b"path,label\n", b"a/b,1\n1,2,3\n"]
)
def test_wrong_table_is_one_sentence(tmp_path, tree, content):
    table = tree / "train_labeled_studies.csv"
    table.write_bytes(content)
    with pytest.raises(UserError, match=r"train_labeled_studies\.csv .*copy it again\.$"):
        open_source(tmp_path)


def test_str_says_what_it_holds(tmp_path, tree):
    (tree / "train/.DS_Store").write_bytes(b"Mac OS X")
    text = str(open_source(tmp_path))
    assert "8 images, 6 studies, 5 patients" in text
    assert "WRIST 4" in text
    assert "official train: 6 images, 4 studies, 3 patients" in text
    assert "official valid: 2 images, 2 studies, 2 patients" in text
    assert "stray-file 1" in text


def test_phantoms_are_a_mura_tree_with_a_card(tmp_path, tree):
    (tmp_path / "phantoms.partial").touch()
    with pytest.raises(UserError, match="no complete set of phantoms"):
        open_source(tmp_path)
    (tmp_path / "phantoms.json").write_text("{}")
    listing = open_source(tmp_path)
    assert listing.source == "phantom"
    assert set(listing.rows["source"]) == {"phantom"}
    with pytest.raises(UserError, match="is the inside of a phantom set; give"):
        open_source(tree)


def test_mura_has_no_masks(tmp_path, tree):
    listing = open_source(tmp_path)
    assert load_mask("mura", tmp_path, listing.rows["path"][0], (8, 8)) is None


def test_masks_of_a_data_set_that_is_gone_are_not_taken_for_none(tmp_path):
    with pytest.raises(UserError, match="gone does not exist"):
        load_mask("phantom", tmp_path / "gone", "MURA-v1.1/valid/image1.png")


def test_mixed_modes_are_admitted_and_counted(tmp_path):
    modes = ["L", "RGB", "L", "RGBA", "P", "L", "L", "L"]
    write_tree(tmp_path, tiny_rows(), content=lambda number: png(number, mode=modes[number]))
    listing = open_source(tmp_path)
    report = quality_report(listing, scan(listing, progress=False))
    assert report["modes"] == {"L": 5, "RGB": 1, "RGBA": 1, "P": 1}
    assert report["converted"] == 3
    assert report["counts"]["admitted"] == 8


@pytest.fixture(scope="module")
def real_shape(tmp_path_factory):
    """MURA's real shape, every file the same few bytes."""
    root = tmp_path_factory.mktemp("mura")
    write_tree(root, real_rows(), content=png())
    yield root
    shutil.rmtree(root)


def test_real_shape_is_listed_and_admitted_whole(real_shape):
    listing = list_mura(real_shape)
    manifest = admit(scan(listing, read_pixels=False))
    assert listing.remarks.empty
    splits = manifest.groupby("official_split")
    assert splits.size().to_dict() == {"train": 36_808, "valid": 3_197}
    assert splits["study"].nunique().to_dict() == {"train": 13_457, "valid": 1_199}
    assert splits["patient"].nunique().to_dict() == {"train": 11_184, "valid": 783}
    assert manifest["patient"].nunique() == 11_184 + 783
    parts = manifest.groupby(["official_split", "patient"])["body_part"].nunique()
    assert (parts > 1).groupby(level=0).sum().to_dict() == {"train": 1_467, "valid": 248}
    train = manifest[manifest["official_split"] == "train"]["label"].value_counts()
    assert (train["Abnormal-HAND"], train["Normal-WRIST"], len(train)) == (1_484, 5_765, 14)
    views = manifest.groupby("study").size()
    assert views.between(1, 11).all()
    assert np.isin(manifest["view"], range(1, 12)).all()
