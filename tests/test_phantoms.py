"""Phantoms: MURA's layout, determinism, refusals, difficulty, and masks that mark the finding."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from mura_utils.data.sources import load_mask, open_source
from mura_utils.data.sources.phantom import phantom_attributes, phantom_mask
from mura_utils.errors import UserError
from mura_utils.paths import read_json, write_json
from mura_utils.phantoms.anatomy import SEVERITIES, WINDOWS, draw_arm, find_bone
from mura_utils.phantoms.dataset import (
    BODY_PARTS,
    CARD,
    KINDS,
    PARTIAL,
    TREE,
    _draw_patient,
    _Order,
    _Plan,
    draw_case,
    draw_phantoms,
)
from mura_utils.phantoms.people import describe_person
from mura_utils.phantoms.radiography import Study, take_radiograph

PATIENTS = 110


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantoms") / "set"
    draw_phantoms(root, patients=PATIENTS, seed=3, workers=2)
    return root


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest set; tests copy it before they change it."""
    root = tmp_path_factory.mktemp("small") / "set"
    draw_phantoms(root, patients=28, seed=7, workers=1)
    return root


@pytest.fixture(scope="module")
def rows(phantoms: Path) -> pd.DataFrame:
    """One row an image, from MURA's own CSV files."""
    frames = []
    for split in ("train", "valid"):
        paths = (phantoms / TREE / f"{split}_image_paths.csv").read_text().splitlines()
        frames.append(pd.DataFrame({"path": paths, "split": split}))
    rows = pd.concat(frames, ignore_index=True)
    pieces = rows.path.str.extract(r"XR_(?P<part>\w+)/(?P<patient>\w+)/study\d_(?P<sign>\w+)/")
    return rows.join(pieces)


def contents(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_layout_is_muras(phantoms: Path, rows: pd.DataFrame) -> None:
    on_disk = {path.relative_to(phantoms).as_posix() for path in (phantoms / TREE).rglob("*.png")}
    assert set(rows.path) == on_disk
    for split in ("train", "valid"):
        text = (phantoms / TREE / f"{split}_labeled_studies.csv").read_bytes().decode()
        assert "\r" not in text
        studies = dict(line.split(",") for line in text.splitlines())
        chosen = rows.path[rows.split == split]
        assert set(studies) == {path.rsplit("/", 1)[0] + "/" for path in chosen}
        for study, label in studies.items():
            assert study.startswith(f"{TREE}/{split}/XR_")
            assert label == ("1" if study.endswith("_positive/") else "0")


def test_every_class_is_in_both_splits_and_no_patient_is(rows: pd.DataFrame) -> None:
    for _, split in rows.groupby("split"):
        assert len(set(zip(split.part, split.sign, strict=True))) == 2 * len(BODY_PARTS)
    split_of = rows.groupby("patient").split.nunique()
    assert len(split_of) == PATIENTS
    assert (split_of == 1).all()
    assert 0.3 < (rows.sign == "positive").mean() < 0.55


def test_patients_vary_as_in_mura(rows: pd.DataFrame) -> None:
    by_patient = rows.groupby("patient")
    assert (by_patient.part.unique().str.len() > 1).any()
    assert (by_patient.sign.unique().str.len() > 1).any()
    views = rows.path.str.rsplit("/", n=1).str[0].value_counts()
    assert views.min() == 1
    assert views.max() >= 4


def test_sizes_and_modes_are_mixed(phantoms: Path, rows: pd.DataFrame) -> None:
    modes, sizes = Counter(), set()
    for path in rows.path:
        with Image.open(phantoms / path) as image:
            modes[image.mode] += 1
            sizes.add(image.size)
            if image.mode == "RGB":
                red, green, blue = np.moveaxis(np.asarray(image), 2, 0)
                assert (red == green).all()
                assert (red == blue).all()
    assert set(modes) == {"L", "RGB"}
    assert modes["L"] > modes["RGB"]
    assert len(sizes) > 50
    assert {max(size) for size in sizes} == {512}


def test_masks_and_kinds_belong_to_abnormal_images_alone(
    phantoms: Path, rows: pd.DataFrame
) -> None:
    shown = pd.read_csv(phantoms / "abnormalities.csv").set_index("path")
    kinds, counts = shown.kind, shown.groupby("kind").severity.value_counts()
    assert set(counts.index) == set(itertools.product(KINDS, SEVERITIES))
    card = read_json(phantoms / CARD)["findings"]
    assert {key: card[key[0]][key[1]] for key in counts.index} == counts.to_dict()
    assert set(kinds.index) == set(rows.path[rows.sign == "positive"])
    for path, sign in zip(rows.path, rows.sign, strict=True):
        mask = phantom_mask(phantoms, path)
        if sign == "negative":
            assert mask is None
            continue
        with Image.open(phantoms / path) as image:
            assert mask.shape == image.size[::-1]
        assert mask.dtype == bool
        assert 0.0005 < mask.mean() < 0.35, path
    inner = phantom_mask(phantoms / TREE, kinds.index[0].removeprefix(f"{TREE}/"))
    assert (inner == phantom_mask(phantoms, kinds.index[0])).all()


def test_masks_that_do_not_fit_are_remarks(small: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(small, root)
    assert open_source(root).remarks.empty
    kinds = pd.read_csv(root / "abnormalities.csv")
    wrong, broken, pipe, gone = kinds.path[:4]
    masks = {path: root / "masks" / path.removeprefix(f"{TREE}/") for path in kinds.path[:4]}
    Image.new("L", (20, 20), 255).save(masks[wrong])
    masks[broken].write_bytes(b"text")
    for path in (pipe, gone):
        masks[path].unlink()
    os.mkfifo(masks[pipe])
    remarks = open_source(root).remarks.set_index("path")
    assert remarks["kind"].to_dict() == {
        wrong: "mask-size-mismatch",
        broken: "mask-unreadable",
        pipe: "mask-unreadable",
        gone: "abnormal-without-mask",
    }
    assert remarks.detail[wrong].startswith("the mask has 20 x 20 pixels, its image ")
    assert load_mask("phantom", root, wrong) is None
    assert load_mask("phantom", root, gone) is None
    with pytest.raises(UserError, match=r"\.png is not a mask that can be read \("):
        load_mask("phantom", root, broken)
    with pytest.raises(UserError, match=r"cannot be read: it is a named pipe"):
        load_mask("phantom", root, pipe)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body_part", BODY_PARTS)
def test_each_finding_is_large_enough_to_be_found(body_part: str, kind: str) -> None:
    for view, yaw in enumerate(WINDOWS[body_part].yaws):
        image, mask = draw_case(np.random.default_rng(view), body_part, kind, True, yaw)
        assert image.dtype == np.uint8
        assert image.shape == mask.shape
        rows, cols = np.nonzero(mask)
        at_224 = 224 / np.array(mask.shape)
        extent = np.array([np.ptp(rows) + 1, np.ptp(cols) + 1]) * at_224
        assert extent.max() >= 10
        assert image[mask].std() > 4  # there is something in it to see


@pytest.mark.parametrize("seed", range(5))
def test_a_nail_along_a_whole_bone_does_not_draw_the_film_away_from_the_wrist(seed: int) -> None:
    center = np.array(WINDOWS["WRIST"].center, float)
    ulna = find_bone(draw_arm(np.random.default_rng(seed)), "ulna")
    ends = {
        name: ulna.start + share * (ulna.end - ulna.start)
        for name, share in (("start", 0.08), ("end", 0.92))
    }
    nail = replace(ulna, shape="rod", role="metal", radius=2.0, **ends)
    up = np.array([0, 6, 0])
    carpal = replace(
        ulna, bone="lunate", shape="ball", radius=6.0, start=center - up, end=center + up
    )
    with_carpal, without = (
        take_radiograph(Study("WRIST", parts, center, False), 0, np.random.default_rng(seed))[0]
        for parts in ([ulna, nail, carpal], [ulna, nail])
    )
    assert (abs(with_carpal.astype(int) - without) > 30).sum() > 500


def test_a_finding_far_from_the_middle_is_in_the_film() -> None:
    for seed in range(150):
        for abnormal in (True, False):
            rng = np.random.default_rng([7, seed])
            _, mask = draw_case(rng, "FINGER", "joint disease", abnormal)
            assert mask.any(), (seed, abnormal)


def test_hardware_is_the_brightest_thing() -> None:
    image, mask = draw_case(np.random.default_rng(5), "FOREARM", "hardware", True)
    assert np.percentile(image[mask], 90) > np.percentile(image[~mask], 97)


def test_same_seed_gives_the_same_bytes_for_any_number_of_workers(
    tmp_path: Path, small: Path
) -> None:
    draw_phantoms(tmp_path / "set", patients=28, seed=7, workers=2)
    assert contents(tmp_path / "set") == contents(small)


def test_ages_go_with_the_finding_as_told_and_change_no_image(tmp_path: Path, small: Path) -> None:
    order = _Order("train", 1, [_Plan("HAND", "fracture"), _Plan("WRIST", None)])
    people = []
    for effect in (0.0, 1.0):
        (tmp_path / f"{effect:g}").mkdir()
        people.append(_draw_patient(tmp_path / f"{effect:g}", order, 0, effect)[0])
    assert contents(tmp_path / "0") == contents(tmp_path / "1") != {}
    assert people[0].patient == people[1].patient and people[0].age < people[1].age
    with pytest.raises(UserError, match="another recipe"):
        draw_phantoms(small, patients=28, seed=7, age_effect=1.0)


def test_a_set_of_a_version_without_ages_is_left_alone(tmp_path: Path, small: Path) -> None:
    root = shutil.copytree(small, tmp_path / "set")
    (root / "patients.csv").unlink()
    card = {key: value for key, value in read_json(root / CARD).items() if key != "age_effect"}
    write_json(root / CARD, card)
    assert draw_phantoms(root, patients=28, seed=7) == card
    assert list(phantom_attributes(root, ["MURA-v1.1/valid/XR_HAND/p/s/a.png"])) == [
        "finding", "severity", "lookalike",
    ]  # fmt: skip


@pytest.mark.parametrize(("effect", "low", "high"), [(0, 0.45, 0.55), (0.5, 0.73, 0.83), (1, 1, 1)])
def test_how_strongly_an_age_tells_the_finding(effect: float, low: float, high: float) -> None:
    people = pd.DataFrame(
        describe_person(number, False, number % 2 == 1, effect, seed=0) for number in range(2000)
    )
    assert [people.age.isna().mean(), people.sex.isna().mean()] == pytest.approx(
        [0.1, 0.05], abs=0.02
    )
    known = people.dropna(subset="age")
    assert low <= roc_auc_score(known.index % 2, known.age.astype(float)) <= high
    assert known.age.between(18, 95).all()
    children = [describe_person(number, True, True, effect, seed=0).age for number in range(100)]
    assert {age for age in children if age is not None} <= set(range(4, 18))


def test_another_seed_draws_other_people(phantoms: Path, small: Path) -> None:
    shared = set(contents(phantoms / TREE).values()) & set(contents(small / TREE).values())
    assert not shared


def test_complete_set_is_left_alone_and_an_interrupted_one_redrawn(
    tmp_path: Path, small: Path
) -> None:
    root = shutil.copytree(small, tmp_path / "set")
    image = next((root / TREE).rglob("*.png"))
    image.write_bytes(b"changed by the user")
    card = draw_phantoms(root, patients=28, seed=7)
    assert card["patients"] == 28
    assert image.read_bytes() == b"changed by the user"

    (root / CARD).rename(root / PARTIAL)  # as if it had not ended
    image.with_name(".image1.0123abcd.tmp.png").write_bytes(b"half")
    assert draw_phantoms(root, patients=28, seed=7) == card
    assert contents(root) == contents(small)


def test_what_is_not_ours_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="no set of phantoms"):
        draw_phantoms(tmp_path, patients=28)
    assert contents(tmp_path).keys() == {"thesis.txt"}

    (tmp_path / "set").mkdir()
    (tmp_path / "set" / PARTIAL).write_text('{"version": 1, "patients": 99, "seed": 0}')
    with pytest.raises(UserError, match="another recipe"):
        draw_phantoms(tmp_path / "set", patients=28)


@pytest.mark.parametrize("wrong", [{"patients": 27}, {"official_valid_fraction": 1.0}])
def test_impossible_orders_are_refused(tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(UserError):
        draw_phantoms(tmp_path / "set", **wrong)
    assert not (tmp_path / "set").exists()


def test_thumbnails_do_not_give_the_answer_away(phantoms: Path, rows: pd.DataFrame) -> None:
    thumbnails = []
    for path in rows.path:
        with Image.open(phantoms / path) as image:
            small = image.convert("L").resize((32, 32), Image.Resampling.BILINEAR)
            thumbnails.append(np.asarray(small, np.float32).ravel())
    pixels = np.array(thumbnails)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, tol=1e-3, max_iter=300))
    folds = {"groups": rows.patient, "cv": GroupKFold(3)}
    labels = rows.part + "-" + rows.sign
    with threadpool_limits(1):  # small products: threads only wait for each other
        found = cross_val_predict(model, pixels, labels, **folds)
        scores = cross_val_predict(model, pixels, rows.sign, method="predict_proba", **folds)
    assert (found == labels).mean() < 0.6
    assert roc_auc_score(rows.sign == "positive", scores[:, 1]) < 0.65
    part = pd.Series(found).str.split("-").str[0]
    assert (part == rows.part).mean() > 0.4  # but they are no riddle either
