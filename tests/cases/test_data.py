"""Data sets as they come: `mura data check`, and the first notebooks of `mura run`."""

from __future__ import annotations

import io
import json
import os
import socket
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from harness import coco_file, noise, write_fracatlas
from mura_tree import tiny_rows, write_tree
from PIL import Image, ImageOps

from mura_utils.data.sources import load_mask


@pytest.fixture
def tree(tmp_path) -> Path:
    """A tiny MURA below ``input/``."""
    return write_tree(tmp_path / "input", tiny_rows())


@pytest.fixture
def fracatlas(tmp_path) -> Path:
    """A tiny FracAtlas below ``input/``."""
    return write_fracatlas(tmp_path / "input" / "FracAtlas")


def tables(tree: Path, change) -> None:
    """Rewrite MURA's four tables line by line; `change` gets a line and its number."""
    for path in tree.glob("*.csv"):
        lines = path.read_text().splitlines()
        path.write_text("\n".join(change(line, row) for row, line in enumerate(lines)) + "\n")


# --- variants that do no harm -------------------------------------------------------------------

VARIANTS = {
    "labels 0.0 and 1.0": lambda line, row: (
        line.replace("/,", "/,") + (".0" if "," in line else "")
    ),
    "an index column first": lambda line, row: f"{row},{line}",
    "backslashes": lambda line, row: line.replace("/", "\\"),
    "./ before the path": lambda line, row: f"./{line}",
    "another machine's prefix": lambda line, row: f"/home/somebody/data/{line}",
    "a drive's prefix": lambda line, row: f"C:\\data\\{line}".replace("/", "\\"),
    ".PNG": lambda line, row: line.replace(".png", ".PNG"),
    "semicolons": lambda line, row: line.replace(",", ";"),
    "quotes": lambda line, row: '"' + line.replace(",", '","') + '"',
    "CRLF": lambda line, row: f"{line}\r",
    "a byte-order mark": lambda line, row: ("" if row else "\ufeff") + line,
}


@pytest.mark.parametrize("name", VARIANTS)
def test_harmless_variants_of_muras_tables_are_read(mura, tree, name):
    tables(tree, VARIANTS[name])
    said = mura("data", "check", tree)
    assert said.status == 0 and "8 images" in said.out


@pytest.mark.parametrize(("yes", "no"), [("Yes", "No"), ("TRUE", "FALSE"), ("1.0", "0.0")])
def test_another_spelling_of_fracatlas_flags_is_read(mura, fracatlas, yes, no):
    table = pd.read_csv(fracatlas / "dataset.csv", dtype=str)
    flags = table.columns[1:]
    table[flags] = table[flags].replace({"1": yes, "0": no})
    table.to_csv(fracatlas / "dataset.csv", index=False)
    said = mura("data", "check", fracatlas)
    assert said.status == 0 and "8 images" in said.out


def test_a_doubled_folder_and_a_parent_are_found(mura, tmp_path):
    write_tree(tmp_path / "input" / "MURA-v1.1", tiny_rows())
    write_fracatlas(tmp_path / "input" / "other" / "FracAtlas")
    assert "8 images" in mura("data", "check", tmp_path / "input" / "MURA-v1.1").out
    assert "8 images" in mura("data", "check", tmp_path / "input" / "other").out


OWN = "image;Region;fracture;pid\r\n" + "".join(
    f"scans\\{n}.png;Knee;{'yes' if n % 2 else 'no'};P{n // 2}\r\n" for n in range(8)
)


def own_table(root: Path, table: str) -> Path:
    """A folder of eight images and a table from Excel."""
    (root / "scans").mkdir(parents=True)
    for number in range(8):
        Image.fromarray(noise(number)).save(root / "scans" / f"{number}.png")
    (root / "list.csv").write_text(table, encoding="utf-8-sig", newline="")
    return root


def test_a_table_of_ones_own_is_understood_and_can_be_split(mura, tmp_path):
    said = mura("data", "check", own_table(tmp_path / "input" / "own", OWN))
    assert "path = 'image', body_part = 'Region', abnormality = 'fracture'" in said.out
    assert said.out.splitlines()[-2:] == [
        "8 images of 4 patients can be split.",
        "Leak-free split: protocol = patient, which keeps all images of a patient together.",
    ]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("6.png;Knee;no", "6.png;Knee;healed"), "row 8: 'fracture' is 'healed', expected 0 or 1"),
        (("Region", "Where"), "has no column for body_part"),
        ((".png", "-left.png"), "holds none of the 8 images listed in list.csv"),
    ],
)
def test_a_table_of_ones_own_that_is_wrong_is_one_sentence(mura, tmp_path, change, sentence):
    root = own_table(tmp_path / "input" / "own", OWN.replace(*change))
    assert sentence in mura("data", "check", root).sentence


# --- one sentence -------------------------------------------------------------------------------


def nonsense(tree: Path) -> None:
    (tree / "train_labeled_studies.csv").write_text("what,ever\nthis,is\n")


def no_images(tree: Path) -> None:
    for path in tree.rglob("*.png"):
        path.unlink()


def pipe_for_a_table(tree: Path) -> None:
    (tree / "train_image_paths.csv").unlink()
    os.mkfifo(tree / "train_image_paths.csv")


def folder_for_a_table(tree: Path) -> None:
    (tree / "valid_labeled_studies.csv").unlink()
    (tree / "valid_labeled_studies.csv").mkdir()


def only_train(tree: Path) -> None:
    for path in sorted(tree.rglob("*valid*"), reverse=True):
        if path.is_file():
            path.unlink()
    for path in sorted((tree / "valid").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (tree / "valid").rmdir()


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (nonsense, "train_labeled_studies.csv"),
        (no_images, "train"),
        (pipe_for_a_table, "train_image_paths.csv"),
        (folder_for_a_table, "valid_labeled_studies.csv"),
        (only_train, "valid"),
    ],
)
def test_a_mura_that_cannot_be_read_is_one_sentence_with_its_place(mura, tree, spoil, where):
    spoil(tree)
    assert where in mura("data", "check", tree).sentence


def test_a_fracatlas_without_its_images_is_refused(mura, fracatlas):
    for path in fracatlas.rglob("*.jpg"):
        path.unlink()
    assert "IMG0000000.jpg" in mura("data", "check", fracatlas).sentence


@pytest.mark.parametrize("coco", ["[]", "{", '{"images": 3, "annotations": []}', ""])
def test_annotations_that_are_no_coco_file_are_one_sentence(mura, tmp_path, coco):
    root = write_fracatlas(tmp_path / "input" / "FracAtlas", coco=coco or " ")
    assert "COCO_fracture_masks.json" in mura("data", "check", root).sentence


def test_a_link_loop_is_no_data_set(mura, tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert str(tmp_path / "a") in mura("data", "check", tmp_path / "a").sentence


# --- what is left out, with its reason ----------------------------------------------------------


def spoil_one(tree: Path, content) -> Path:
    """Replace one image by bytes, by pixels, or by what a function makes of its path."""
    path = sorted(tree.rglob("image1.png"))[0]
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, np.ndarray):
        Image.fromarray(content).save(path)
    else:
        content(path)
    return path


def alpha_only(path: Path) -> None:
    picture = np.zeros((60, 40, 4), np.uint8)
    picture[..., 3] = noise()
    Image.fromarray(picture).save(path)


def open_socket(path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path is short
    listener.bind(path.name)
    os.chdir(here)
    listener.close()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "zero-byte"),
        (b"GIF89a", "wrong-format"),
        (np.full((60, 40), 77, np.uint8), "uniform"),
        (np.full((60, 40), 700, np.uint16), "uniform"),
        (alpha_only, "uniform"),
        (os.mkfifo, ""),
        (Path.mkdir, ""),
        (open_socket, ""),
        (lambda path: path.symlink_to(path), ""),
    ],
)
def test_one_bad_image_is_named_and_the_set_goes_on(mura, tree, content, fault):
    path = spoil_one(tree, content)
    said = mura("data", "check", tree)
    assert said.status == 0 and str(path.relative_to(tree)) in said.out
    assert fault in said.out


def test_a_marker_that_is_saturated_does_not_turn_a_deep_image_black(mura, tree):
    deep = noise(shape=(200, 150)).astype(np.uint16) * 16
    deep[:5, :5] = 65535
    spoil_one(tree, deep)
    said = mura("data", "check", tree)
    assert said.status == 0 and "65,535" in said.out, "what is clipped is said"


def bad_annotations() -> dict:
    coco = coco_file([f"IMG000000{n}.jpg" for n in (1, 3, 5, 7)])
    first, second, third, fourth = coco["annotations"]
    first["segmentation"] = [[10, 10, 20, 10, 20]]
    second["segmentation"] = None
    third["segmentation"] = {"counts": "####", "size": [60, 40]}
    fourth["image_id"] = 12345
    return coco


def test_bad_annotations_are_named_with_their_ids_before_any_training(mura, tmp_path):
    root = write_fracatlas(tmp_path / "input" / "FracAtlas", coco=bad_annotations())
    said = mura("data", "check", root)
    assert said.status == 0
    for number in (100, 102, 103):
        assert str(number) in said.out
    for path in root.rglob("*.jpg"):
        load_mask("fracatlas", root, str(path.relative_to(root)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_drawn_in_a_viewer_lies_on_its_finding(tmp_path, mura, orientation):
    picture = noise(shape=(60, 40)) // 4
    picture[10:20, 5:15] = 255
    found = picture > 200
    exif = Image.Exif()
    exif[0x0112] = orientation
    displayed = np.asarray(ImageOps.exif_transpose(with_tag(found, exif)))
    (top, bottom), (left, right) = (np.flatnonzero(displayed.any(axis))[[0, -1]] for axis in (1, 0))
    coco = coco_file(["IMG0000001.jpg"], size=displayed.shape[::-1])
    right, bottom = right + 1, bottom + 1  # outer corners
    square = [left, top, right, top, right, bottom, left, bottom]
    coco["annotations"][0]["segmentation"] = [[int(value) for value in square]]
    root = write_fracatlas(tmp_path / "input" / "FracAtlas", coco=coco)
    path = "images/Fractured/IMG0000001.jpg"
    Image.fromarray(picture).save(root / path, exif=exif, quality=100)
    mask = load_mask("fracatlas", root, path)
    assert (mask & found).sum() / (mask | found).sum() > 0.95
    said = mura("data", "check", root)
    assert orientation == 1 or ("mask-turned" in said.out and "exif-orientation" in said.out)


def with_tag(found: np.ndarray, exif: Image.Exif) -> Image.Image:
    """An image that a viewer turns as its EXIF orientation says."""
    stream = io.BytesIO()
    Image.fromarray(found.astype(np.uint8)).save(stream, "PNG", exif=exif)
    return Image.open(stream)


# --- the series ---------------------------------------------------------------------------------


def test_the_first_notebooks_admit_what_is_good_and_name_the_rest(mura, tree, tmp_path):
    spoil_one(tree, np.full((60, 40), 700, np.uint16))
    tables(tree, VARIANTS["an index column first"])
    said = mura(
        "run", "demo", "--name", "own", "-p", "source=auto", "-p", f"data_dir={tree}", "--to", "02"
    )
    assert said.status == 0, said
    quality = json.loads((tmp_path / "runs" / "own" / "quality.json").read_text())
    assert quality["counts"]["excluded"]["uniform"] == 1 and quality["counts"]["admitted"] == 7


def test_a_run_on_what_is_no_data_set_is_one_sentence(mura, tree):
    nonsense(tree)
    said = mura("run", "demo", "-p", "source=mura", "-p", f"data_dir={tree}", "--to", "01")
    assert "train_labeled_studies.csv" in said.sentence and "01_data_understanding" in said.sentence
