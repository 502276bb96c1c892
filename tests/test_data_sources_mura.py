"""A folder of MURA: what is listed, what is remarked on, and which folders are refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mura_tree import image_paths, png, real_rows, remarks, tiny_rows, write_tree

from mura_utils.data.manifest import admit, quality_report, scan
from mura_utils.data.sources import LISTING_COLUMNS, load_mask, open_source
from mura_utils.data.sources.mura import list_mura
from mura_utils.errors import UserError


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


def test_without_image_paths_the_files_are_the_list(tmp_path, tree):
    before = open_source(tmp_path).rows
    (tree / "train_image_paths.csv").unlink()
    unlabeled = tree / "train/XR_HAND/patient00009/study1_positive"
    unlabeled.mkdir(parents=True)
    (unlabeled / "image1.png").write_bytes(png())
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
        assert ("all of train is there" in str(caught.value)) == (lost[0].startswith("valid"))


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


# --- names on disk --------------------------------------------------------------------------------


def test_names_on_disk_in_another_case_are_found(tmp_path, tree):
    study = tree / "train/XR_WRIST/patient00001/study1_positive"
    (study / "image1.png").rename(study / "IMAGE1.PNG")
    listing = open_source(tmp_path)
    assert (len(listing.rows), remarks(listing)) == (8, {"accepted-variant": 1})
    assert all((tmp_path / path).is_file() for path in listing.rows["path"])
    row = listing.rows[listing.rows["path"].str.endswith("IMAGE1.PNG")].iloc[0]
    assert row["study"] == "train/XR_WRIST/patient00001/study1_positive"
    (tree / "train_image_paths.csv").unlink()
    rebuilt = open_source(tmp_path)
    pd.testing.assert_frame_equal(rebuilt.rows, listing.rows)


def test_of_two_names_that_differ_in_case_the_listed_one_counts(tmp_path, tree):
    study = tree / "train/XR_WRIST/patient00001/study1_positive"
    (study / "image1.PNG").write_bytes(png())
    before = open_source(tmp_path)
    assert (len(before.rows), remarks(before)) == (8, {"unlisted-file": 1})
    (study / "image1.png").rename(study / "Image1.png")  # and neither, where none is listed
    assert remarks(open_source(tmp_path)) == {"missing-file": 1, "unlisted-file": 2}
    (tree / "train_image_paths.csv").unlink()
    assert len(open_source(tmp_path).rows) == 8


def test_a_name_that_is_not_utf_8_is_a_remark(tmp_path, tree):
    study = tree / "train/XR_WRIST/patient00001/study1_positive"
    Path(os.fsdecode(bytes(study) + b"/r\xf6ntgen.png")).write_bytes(png())
    listing = open_source(tmp_path)
    assert remarks(listing) == {"unreadable-name": 1}
    assert listing.remarks["path"][0].encode().endswith(b"r?ntgen.png")


def test_an_unreadable_folder_is_a_remark(tmp_path, tree, monkeypatch):
    real, locked = os.scandir, "XR_WRIST/patient00001"

    def scandir(path):
        if str(path).endswith(locked):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    listing = open_source(tmp_path)
    assert (len(listing.rows), remarks(listing)) == (8, {"missing-file": 2, "unreadable-folder": 1})
    assert listing.remarks["detail"].str.contains("Permission denied").all()
    locked = "MURA-v1.1/train"
    with pytest.raises(UserError, match=r"MURA-v1\.1/train cannot be read: Permission denied"):
        open_source(tmp_path)


def test_links_in_a_circle_are_remarks(tmp_path, tree):
    part = tree / "train/XR_WRIST"
    (part / "again").symlink_to(part)
    (part / "above").symlink_to(tmp_path.parent)
    (part / "self").symlink_to("self")
    (part / "there").symlink_to(tree / "train/XR_HAND/patient00001")
    (tree / "train/XR_HAND/patient00001/back").symlink_to(part)
    listing = open_source(tmp_path)
    found = listing.remarks[listing.remarks["kind"] != "stray-file"]
    assert found["kind"].value_counts().to_dict() == {
        "not-a-regular-file": 2,  # the link to itself, in both ways to it
        "unreadable-folder": 6,
    }
    assert len(listing.rows) == 8


def test_links_to_folders_elsewhere_are_followed(tmp_path, tree):
    (tree / "train").rename(tmp_path / "elsewhere")
    (tree / "train").symlink_to(tmp_path / "elsewhere")
    assert (len(open_source(tmp_path).rows), remarks(open_source(tmp_path))) == (8, {})


def test_what_is_no_regular_file_is_never_opened(tmp_path, tree):
    image = tree / "train/XR_HAND/patient00003/study1_positive/image2.png"
    image.unlink()
    os.mkfifo(image)
    gone = tree / "train/XR_HAND/patient00003/study1_positive/image1.png"
    gone.unlink()
    gone.symlink_to("nowhere.png")
    listing = open_source(tmp_path)
    assert remarks(listing) == {"not-a-regular-file": 2, "missing-file": 2}
    assert set(listing.remarks["detail"]) == {
        "it is a link to a file that is gone",
        "it is a named pipe",
        "listed, but it is a link to a file that is gone",
        "listed, but it is a named pipe",
    }


# --- where the tree lies --------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["MURA-v1.1/MURA-v1.1", "a/MURA-v1.1", "a/b/MURA-v1.1"])
def test_the_tree_is_found_in_folders_around_it(tmp_path, tree, below):
    expected = open_source(tree).rows
    home = tmp_path / "home"
    (home / below).parent.mkdir(parents=True)
    shutil.move(tree, home / below)
    (home / "__MACOSX/MURA-v1.1/train/XR_WRIST").mkdir(parents=True)
    listing = open_source(home)
    assert listing.rows["path"].tolist() == [f"{below}/{path}" for path in expected["path"]]
    assert listing.remarks.to_numpy().tolist() == [[below, "accepted-variant", "MURA is in there"]]


def test_the_insides_of_phantom_sets_are_not_mura(tmp_path, tree):
    shutil.copytree(tree, tmp_path / "home/phantom/MURA-v1.1")
    shutil.copytree(tree, tmp_path / "home/phantom/masks")
    (tmp_path / "home/phantom/phantoms.json").write_text("{}")
    with pytest.raises(UserError, match="holds no data set that is known here"):
        open_source(tmp_path / "home")
    shutil.copytree(tree, tmp_path / "home/real/MURA-v1.1")
    paths = open_source(tmp_path / "home").rows["path"]
    assert paths.str.startswith("real/MURA-v1.1/").all()


def test_several_trees_are_one_sentence(tmp_path, tree):
    shutil.copytree(tree, tmp_path / "copies/one")
    shutil.copytree(tree, tmp_path / "copies/two")
    with pytest.raises(UserError, match=r"holds MURA 2 times \(one, two\); give one of them"):
        open_source(tmp_path / "copies", source="mura")
    assert open_source(tmp_path, source="mura").rows["path"].str.startswith("MURA-v1.1/").all()


def test_a_part_of_the_tree_names_the_whole(tmp_path, tree):
    with pytest.raises(UserError, match=r"train/XR_HAND is a part of the data set in .*MURA-v1.1;"):
        open_source(tree / "train/XR_HAND")


def test_a_root_that_may_not_be_read_is_one_sentence(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(
        UserError, match=r"loop cannot be read \(Too many levels.*; give the folder"
    ):
        open_source(tmp_path / "loop")


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
    assert load_mask("mura", tmp_path, listing.rows["path"][0]) is None


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


def test_a_folder_without_permission_is_said_to_be_that(tree, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\); give the folder"):
        open_source(tree)
