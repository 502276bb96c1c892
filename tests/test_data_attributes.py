"""What is known of studies, to look for the groups in which a model errs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mura_utils.data.attributes import ATTRIBUTES, study_attributes
from mura_utils.data.dataset import Images
from mura_utils.data.sources import load_attributes
from mura_utils.errors import UserError


def images(source: str, root: Path, paths: list[str], studies: list[str], **columns) -> Images:
    rows = pd.DataFrame({"path": paths, "source": source, "study": studies, "split": "test"})
    rows = rows.assign(body_part="HAND", abnormality="Normal", width=100, height=50)
    rows = rows.assign(**columns)
    return Images(root, rows, np.zeros((len(rows), 32, 32), np.uint8))


def phantom(root: Path) -> Images:
    paths = [f"MURA-v1.1/valid/XR_HAND/p/{name}.png" for name in "abcd"]
    kinds = ["lesion", "fracture", "fracture"]
    table = pd.DataFrame({"path": paths[:3], "kind": kinds, "severity": "subtle"})
    table.to_csv(root / "abnormalities.csv", index=False)
    for path, side in zip(paths[:3], (0, 4, 8), strict=True):
        mask = np.zeros((16, 16), np.uint8)
        mask[:side, :side] = 255
        for folder, pixels in (("masks", mask), ("MURA-v1.1", np.zeros((16, 16), np.uint8))):
            file = root / folder / path.removeprefix("MURA-v1.1/")
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    kinds = ["Abnormal"] * 3 + ["Normal"]
    return images("phantom", root, paths, [*"xxyz"], abnormality=kinds)


def test_a_study_gets_what_its_images_share(tmp_path):
    table = study_attributes(phantom(tmp_path), np.arange(4))
    columns = ["body_part", "views", "megapixels", "finding", "severity", "finding_size"]
    assert list(table) == columns
    assert table["views"].tolist() == ["2", "1", "1"]
    assert table["finding"].tolist()[:2] == ["several", "fracture"]
    assert table["severity"].tolist()[:2] == ["subtle"] * 2
    assert table.loc["z", ["finding", "severity", "finding_size"]].isna().all()
    assert table["finding_size"].tolist()[:2] == ["0.0625", "0.25"]
    assert table["megapixels"].unique().tolist() == ["0.005"]


def test_what_looks_like_a_finding_is_known_of_phantoms(tmp_path):
    images = phantom(tmp_path)
    paths = images.rows["path"]
    alike = ["cast", "cast", "growth plate;cast"]
    table = pd.DataFrame({"path": paths[:3], "lookalikes": alike})
    table.to_csv(tmp_path / "lookalikes.csv", index=False)
    found = study_attributes(images, np.arange(4))["lookalike"]
    assert found.to_dict() == {"x": "cast", "y": "several", "z": "none"}


def test_only_the_studies_that_are_meant_are_looked_at(tmp_path):
    assert study_attributes(phantom(tmp_path), np.array([3])).index.tolist() == ["z"]


def test_mura_knows_only_what_every_data_set_does(tmp_path):
    known = study_attributes(images("mura", tmp_path, ["a.png"], ["a"], width=0), [0])
    assert list(known) == ["body_part", "views"], "sizes of files that were not read are unknown"


def test_without_the_data_folder_the_manifest_is_all_that_is_known(tmp_path):
    gone = images("fracatlas", tmp_path / "gone", ["a.png"], ["a"], abnormality="Abnormal")
    assert list(study_attributes(gone, [0])) == ["body_part", "views", "megapixels"]


def test_ages_are_cut_into_bands_and_a_study_without_one_is_unknown(tmp_path):
    images = phantom(tmp_path)
    paths = images.rows["path"].str.replace("/p/", "/patient1/study/")
    rows = images.rows.assign(path=[f"{path}" for path in paths])
    rows.loc[2:, "path"] = rows["path"][2:].str.replace("patient1", "patient2")
    (tmp_path / "patients.csv").write_text("patient,age,sex\npatient1,17,F\npatient2,,M\n")
    table = study_attributes(Images(tmp_path, rows, images.pixels), np.arange(4))
    assert table["age"].tolist() == ["0-17 years", "unknown", "unknown"]
    assert table["sex"].tolist() == ["F", "M", "M"]
    (tmp_path / "patients.csv").write_text("patient,age,sex\npatient1,old,F\n")
    with pytest.raises(UserError, match=r"patients\.csv is damaged .*: draw the phantoms again"):
        load_attributes("phantom", tmp_path, list(rows["path"]))


def test_many_values_of_a_number_are_cut_in_three(tmp_path):
    names = [f"{row}.png" for row in range(30)]
    wide = images("mura", tmp_path, names, names, width=np.arange(1000, 31_000, 1000), height=1000)
    groups = study_attributes(wide, np.arange(30))["megapixels"].value_counts()
    assert sorted(groups.index) == ["1: up to 10.7", "2: up to 20.3", "3: above 20.3"]
    assert set(groups) == {10}


TABLE = """image_id,hand,hardware,fractured,fracture_count,frontal,lateral,oblique
IMG1.jpg,1,0,0,0,1,1,0
IMG2.jpg,1,1,1,2,0,0,1
IMG3.jpg,1,x,1,,0,0,0
"""


@pytest.mark.parametrize("table", [TABLE, "\ufeff" + TABLE.replace("\n", "\r\n")])
def test_fracatlas_says_metal_projections_and_fractures(tmp_path, table):
    (tmp_path / "dataset.csv").write_text(table, encoding="utf-8", newline="")
    paths = [f"images/Fractured/{name}.jpg" for name in ("IMG3", "img2", "IMG1", "IMG9")]
    known = load_attributes("fracatlas", tmp_path, paths)
    assert known.index.tolist() == paths
    assert known.astype(object).fillna("").to_dict("list") == {
        "hardware": ["", "yes", "no", ""],
        "projection": ["", "oblique", "frontal, lateral", ""],
        "fractures": ["", 2, "", ""],
    }
    assert set(known) <= ATTRIBUTES.keys()


def test_a_table_without_those_columns_says_nothing(tmp_path):
    (tmp_path / "dataset.csv").write_text("image_id,hand\nIMG1.jpg,1\n")
    assert load_attributes("fracatlas", tmp_path, ["images/Fractured/IMG1.jpg"]).shape == (1, 0)


def test_a_damaged_table_of_phantoms_is_named(tmp_path):
    (tmp_path / "abnormalities.csv").write_text("path\na.png\n")
    with pytest.raises(UserError, match=r"abnormalities\.csv is damaged .*: draw the phantoms"):
        load_attributes("phantom", tmp_path, ["a.png"])
