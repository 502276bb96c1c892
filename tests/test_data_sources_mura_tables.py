"""MURA's tables: variants that are read, rows that are left out, and what is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from mura_tree import edit, png, remarks, tiny_rows, write_tree

from mura_utils.data.sources import open_source
from mura_utils.errors import UserError

LABELS, IMAGES = "train_labeled_studies.csv", "train_image_paths.csv"


# --- the rows -------------------------------------------------------------------------------------


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


def test_order_of_the_csv_rows_does_not_matter(tmp_path, tree):
    before = open_source(tmp_path).rows
    edit(tree / "train_image_paths.csv", lambda lines: lines[::-1])
    pd.testing.assert_frame_equal(open_source(tmp_path).rows, before)


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


def test_images_of_an_unlabeled_study_are_left_out(tmp_path, tree):
    edit(
        tree / "train_labeled_studies.csv",
        lambda lines: [line for line in lines if "patient00003" not in line],
    )
    listing = open_source(tmp_path)
    assert (len(listing.rows), remarks(listing)) == (6, {"unlabeled-study": 2})


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


# --- variants -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"\n \n", "only blank lines; expected rows like 'MURA-v1.1/train/XR_WRIST"),
        (b",,\n,,\n", "only separators"),
        (b"one column\nonly\n", "no column holds labels: row 2, 'only'; expected rows like"),
        (b"path,label\n", "no column holds paths of MURA: row 1, 'path,label'; expected"),
        (b"a/b,1\n1,2,3\n", "no column holds paths of MURA: row 1, 'a/b,1'; expected"),
        (b"train/XR_A/b,1\n", "none of its 1 rows can be understood: row 1, 'train/XR_A/b,1'"),
        (b'"train/XR_A/b,1\n', "is not a CSV file: .*EOF inside string"),
        (b"train/XR_A/b" + b",1" * 300, "row 1 has 301 cells"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\0\xff", "is not text"),
    ],
)
def test_wrong_table_is_one_sentence(tmp_path, tree, content, sentence):
    (tree / LABELS).write_bytes(content)
    with pytest.raises(UserError, match=rf"{LABELS}:? .*{sentence}") as caught:
        open_source(tmp_path)
    assert "\n" not in str(caught.value)
    assert "copy" not in str(caught.value)


def each(change):
    return lambda lines: [change(line) for line in lines]


def split_label(line):
    return line.rsplit(",", 1)


# Each changes the lines of one of train's tables to a form that occurs in practice.
VARIANTS = {
    "labels as floats": (LABELS, each(lambda line: line + ".0")),
    "labels as words": (
        LABELS,
        each(lambda line: line.replace(",1", ",positive").replace(",0", ",Negative")),
    ),
    "labels as other words": (
        LABELS,
        each(lambda line: line.replace(",1", ",Abnormal").replace(",0", ",normal")),
    ),
    "labels as truth values": (
        LABELS,
        each(lambda line: line.replace(",1", ",TRUE").replace(",0", ",False")),
    ),
    "an index before the path": (
        LABELS,
        lambda lines: [f"{number},{line}" for number, line in enumerate(lines)],
    ),
    "an index with pandas' header": (
        LABELS,
        lambda lines: [",path,label", *(f"{i},{line}" for i, line in enumerate(lines))],
    ),
    "an index before the images": (
        IMAGES,
        lambda lines: [",0", *(f"{number},{line}" for number, line in enumerate(lines))],
    ),
    "columns swapped": (
        LABELS,
        lambda lines: ["Diagnosis,Study", *(",".join(split_label(line)[::-1]) for line in lines)],
    ),
    "a column of notes": (
        LABELS,
        lambda lines: ["study,count,label", *(line.replace(",", ",1,") for line in lines)],
    ),
    "backslashes": (IMAGES, each(lambda line: line.replace("/", "\\"))),
    "backslashes and labels": (LABELS, each(lambda line: line.replace("/", "\\"))),
    "./": (IMAGES, each(lambda line: "./" + line)),
    "double slashes": (IMAGES, each(lambda line: line.replace("/study", "//study"))),
    "a foreign folder": (IMAGES, each(lambda line: "/home/train/XR_X/data/" + line)),
    "a foreign drive": (
        IMAGES,
        each(lambda line: "C:\\Röntgen\\" + line.replace("/", "\\")),
    ),
    "another suffix": (IMAGES, each(lambda line: line.replace(".png", ".PNG"))),
    "upper case": (LABELS, each(str.upper)),
    "a trailing comma": (IMAGES, each(lambda line: line + ",")),
    "semicolons": (LABELS, each(lambda line: line.replace(",", ";"))),
    "tabs": (LABELS, each(lambda line: line.replace(",", "\t"))),
    "single quotes": (IMAGES, each(lambda line: f"'{line}'")),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_harmless_variants_give_the_same_rows_and_one_remark(tmp_path, tree, variant):
    expected = open_source(tmp_path)
    assert expected.remarks.empty
    table, change = VARIANTS[variant]
    edit(tree / table, change)
    listing = open_source(tmp_path)
    pd.testing.assert_frame_equal(listing.rows, expected.rows)
    assert set(remarks(listing)) == {"accepted-variant"}
    assert set(listing.remarks["path"]) == {f"MURA-v1.1/{table}"}
    assert listing.remarks["detail"].is_unique


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_other_encodings_are_read_with_a_remark(tmp_path, tree, encoding):
    expected = open_source(tmp_path).rows
    for table in (LABELS, IMAGES):
        (tree / table).write_text((tree / table).read_text(), encoding=encoding)
    listing = open_source(tmp_path)
    pd.testing.assert_frame_equal(listing.rows, expected)
    assert remarks(listing) == {"accepted-variant": 2}


def test_latin_1_is_read_with_a_remark(tmp_path, tree):
    edit(tree / IMAGES, each(lambda line: f"D:/Röntgen/{line}"))
    (tree / IMAGES).write_text((tree / IMAGES).read_text(), encoding="latin-1")
    listing = open_source(tmp_path)
    assert (len(listing.rows), remarks(listing)) == (8, {"accepted-variant": 2})


def test_quoted_cells_and_old_line_ends_are_csv(tmp_path, tree):
    edit(tree / LABELS, each(lambda line: '"{}","{}"'.format(*split_label(line))))
    (tree / IMAGES).write_bytes((tree / IMAGES).read_bytes().replace(b"\n", b"\r"))
    listing = open_source(tmp_path)
    assert (len(listing.rows), remarks(listing)) == (8, {})


def test_variants_are_counted_and_quote_their_first_row(tmp_path, tree):
    edit(tree / IMAGES, lambda lines: [*lines[:2], *("./" + line for line in lines[2:])])
    (detail,) = open_source(tmp_path).remarks["detail"]
    assert detail.startswith("paths have './' or '//' in them (4 rows, the first is row 3, './MURA")


def test_several_columns_that_may_be_the_label_are_one_sentence(tmp_path, tree):
    edit(tree / LABELS, each(lambda line: line + ",1"))
    with pytest.raises(UserError, match=rf"{LABELS}: several columns may be the label; .*: row 1"):
        open_source(tmp_path)


def test_no_label_that_is_known_quotes_the_first_row(tmp_path, tree):
    edit(tree / LABELS, each(lambda line: split_label(line)[0] + ",maybe"))
    with pytest.raises(
        UserError, match=rf"{LABELS}: no column holds labels: row 1, '.*,maybe'; ex"
    ):
        open_source(tmp_path)


def test_malformed_rows_are_quoted_with_what_was_expected(tmp_path, tree):
    edit(tree / IMAGES, lambda lines: [*lines, "MURA-v1.1/train/notes/readme.png"])
    (row,) = open_source(tmp_path).remarks.itertuples(index=False)
    assert (row.path, row.kind) == (f"MURA-v1.1/{IMAGES}", "malformed-row")
    assert row.detail.startswith("row 7, 'MURA-v1.1/train/notes/readme.png': expected rows like")


@pytest.mark.parametrize("name", ["image" + "9" * 30 + ".png", "image\u0661.png", "image1.png.png"])
def test_views_that_no_image_has_are_malformed(tmp_path, tree, name):
    edit(tree / IMAGES, lambda lines: [*lines, lines[0].replace("image1.png", name)])
    (tree / "train/XR_WRIST/patient00001/study1_positive" / name).write_bytes(png())
    listing = open_source(tmp_path)
    assert (len(listing.rows), remarks(listing)) == (8, {"malformed-row": 1, "stray-file": 1})


def test_rows_of_the_other_split_are_left_out(tmp_path, tree):
    other = (tree / "valid_image_paths.csv").read_text().splitlines()[0]
    edit(tree / IMAGES, lambda lines: [*lines, other])
    listing = open_source(tmp_path)
    assert (len(listing.rows), remarks(listing)) == (8, {"other-split": 1})
    assert listing.remarks["detail"][0].endswith("it belongs to valid; left out")


def test_tables_of_the_other_split_are_one_sentence(tmp_path, tree):
    shutil.copy(tree / "valid_image_paths.csv", tree / IMAGES)
    with pytest.raises(
        UserError, match=r"row 1, 'MURA-v1.1/valid/.*; expected rows like 'MURA-v1.1/t"
    ):
        open_source(tmp_path)


def test_a_study_with_both_labels_is_a_remark(tmp_path, tree):
    edit(tree / LABELS, lambda lines: [*lines, split_label(lines[0])[0] + ",0", lines[1]])
    listing = open_source(tmp_path)
    assert remarks(listing) == {"contradictory-row": 1, "repeated-row": 1}
    contradictory = listing.remarks[listing.remarks["kind"] == "contradictory-row"]
    assert contradictory["detail"].str.startswith("row 5, 'MURA").all()
    assert (listing.rows["abnormality"] == "Abnormal").sum() == 5


def test_a_row_repeated_in_another_case_is_repeated(tmp_path, tree):
    edit(tree / IMAGES, lambda lines: [*lines, lines[0].replace(".png", ".PNG")])
    listing = open_source(tmp_path)
    assert (len(listing.rows), remarks(listing)) == (8, {"accepted-variant": 1, "repeated-row": 1})


# --- what cannot be read --------------------------------------------------------------------------


@pytest.mark.parametrize("table", [LABELS, IMAGES])
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkfifo, "it is a named pipe, not a file"),
        (os.mkdir, "it is a folder, not a file"),
        (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
        (lambda path: path.symlink_to("nowhere.csv"), "a link to one that is gone"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_sentence(tmp_path, tree, table, make, reason):
    (tree / table).unlink()
    make(tree / table)
    with pytest.raises(UserError, match=rf"{table} cannot be read: .*{reason}"):
        open_source(tmp_path)


def test_a_table_that_may_not_be_read_is_one_sentence(tmp_path, tree, monkeypatch):
    def read_bytes(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.raises(UserError, match=rf"{LABELS} cannot be read: Permission denied\."):
        open_source(tmp_path)
