"""Planted faults: each is found as what it is, nothing else is touched, and labels stay right."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mura_utils.data.images import FAULTS, REMARKS
from mura_utils.data.manifest import admit, quality_report, scan
from mura_utils.data.sources import open_source
from mura_utils.data.splits import leakage, split
from mura_utils.errors import UserError
from mura_utils.paths import read_json
from mura_utils.phantoms import dataset
from mura_utils.phantoms.dataset import CARD, PARTIAL, TREE, draw_phantoms

RECIPE = {"patients": 28, "seed": 7}
# What comes with a fault of a file in the listing's remarks.
WITH = {"missing": "missing-file", "zero-byte": "zero-byte-file"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, Path]:
    """The same people, with faults and without."""
    folder = tmp_path_factory.mktemp("pair")
    for faults in (True, False):
        draw_phantoms(folder / str(faults), **RECIPE, faults=faults, workers=1)
    return folder / "True", folder / "False"


@pytest.fixture(scope="module")
def planted(pair) -> pd.DataFrame:
    return pd.DataFrame(read_json(pair[0] / CARD)["planted"])


@pytest.fixture(scope="module")
def found(pair):
    """Listing, inventory and quality report of the faulty set."""
    listing = open_source(pair[0])
    inventory = scan(listing, progress=False)
    return listing, inventory, quality_report(listing, inventory)


def contents(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_every_kind_that_a_file_or_table_can_have_is_planted(planted):
    kinds = planted.groupby("found_as")["kind"].agg(set)
    assert kinds["fault"] == set(FAULTS)
    assert set(REMARKS) < kinds["remark"]
    assert kinds["mode"] == {"16-bit"} and kinds["duplicate"] == {"duplicate"}
    assert {
        "stray-file", "unlisted-file", "label-contradiction", "unlabeled-study",
        "study-without-images", "repeated-row", "contradictory-row", "malformed-row", "other-split",
        "abnormal-without-mask", "mask-size-mismatch",
    } <= kinds["remark"]  # fmt: skip


def test_what_is_planted_is_found_and_nothing_else(planted, found):
    _, _, report = found
    of = {name: set(zip(part.kind, part.path, strict=True))
          for name, part in planted.groupby("found_as")}  # fmt: skip
    assert {(row["fault"], row["path"]) for row in report["excluded"]} == of["fault"]
    remarks = {(kind, row["path"]) for kind, rows in report["remarks"].items() for row in rows}
    assert remarks == of["remark"] | {
        (WITH[kind], path) for kind, path in of["fault"] if kind in WITH
    }
    assert report["counts"]["listed"] == report["counts"]["admitted"] + len(FAULTS)
    (group,) = report["duplicates"]["files_by_group"]
    (twin,) = planted.loc[planted.kind == "duplicate", ["path", "of"]].to_numpy()
    assert set(group["paths"]) == set(twin)
    assert {"patient", "study", "official_split"} <= set(group["across"])
    assert "label" not in group["across"]


def test_deep_images_are_the_planted_ones(planted, found):
    _, inventory, _ = found
    deep = inventory.loc[inventory["mode"] == "I;16", "path"]
    assert set(deep) == set(planted.path[planted.kind.isin(["16-bit", "clipped"])])


def test_no_other_file_is_touched(pair, planted):
    faulty, clean = map(contents, pair)
    old, new = set(clean) - set(faulty), set(faulty) - set(clean)
    changed = {path for path in set(clean) & set(faulty) if clean[path] != faulty[path]}
    tables = {f"{TREE}/{split}_{name}.csv" for split in ("train", "valid")
              for name in ("image_paths", "labeled_studies")}  # fmt: skip
    tables |= {CARD, "abnormalities.csv", "lookalikes.csv"}

    def bare(path: str) -> str:
        return path.removeprefix(f"{TREE}/").removeprefix("masks/")

    allowed = {bare(path) for path in planted.path}
    (renamed,) = planted.path[planted.kind == "label-contradiction"].map(bare)
    study = renamed.rsplit("_", 1)[0]
    for path in (changed | new | old) - tables:
        assert bare(path) in allowed or bare(path).startswith(study), path
    moved = {path for path in new if bare(path).startswith(renamed)}
    assert {faulty[path] for path in moved} <= {clean[path] for path in old}


def test_the_switch_turns_them_off(pair):
    clean = pair[1]
    assert read_json(clean / CARD)["planted"] == []
    listing = open_source(clean)
    report = quality_report(listing, scan(listing, progress=False))
    assert report["counts"]["remarks"] == {} and report["excluded"] == []
    assert report["duplicates"]["groups"] == 0 and set(report["modes"]) <= {"L", "RGB"}


def test_labels_are_those_of_the_findings(pair, found):
    rows = found[0].rows
    shown = set(pd.read_csv(pair[0] / "abnormalities.csv").path)
    assert set(rows.path[rows.abnormality == "Abnormal"]) == shown & set(rows.path)


def test_an_interrupted_set_with_faults_is_drawn_again(pair):
    root = pair[0]
    before = contents(root)
    (root / CARD).rename(root / PARTIAL)
    draw_phantoms(root, **RECIPE, faults=True, workers=1)
    assert contents(root) == before


# --- without radiographs: quick ------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """Images are small, of random grain, dark at their border."""

    def grain(study, yaw, rng):
        image = rng.integers(0, 60, (64, 48)).astype(np.uint8)
        image[16:48, 12:36] += 150
        return image, image > 100

    monkeypatch.setattr(dataset, "take_radiograph", grain)


@pytest.mark.parametrize("seed", range(5))
def test_even_the_smallest_set_has_room_for_them(quick, tmp_path, seed):
    card = draw_phantoms(tmp_path / "set", 28, seed, faults=True, workers=1)
    kinds = Counter(entry["kind"] for entry in card["planted"])
    assert kinds.pop("unlabeled-study") >= 1
    assert set(kinds.values()) == {1}
    assert set(open_source(tmp_path / "set").rows["label"].unique()) >= {"Normal-WRIST"}


@pytest.mark.parametrize("seed", range(2))
def test_the_admitted_images_split_by_patient_and_share_one_twin(quick, tmp_path, seed):
    draw_phantoms(tmp_path / "set", 80, seed, faults=True, workers=1)
    manifest = admit(scan(open_source(tmp_path / "set"), progress=False))
    splits = split(manifest)
    assert splits["split"].eq("test").equals(manifest["official_split"].eq("valid"))
    pairs = leakage(manifest, splits)["pairs"]
    assert {shared["patients"] for shared in pairs.values()} == {0}
    assert sum(shared["duplicate_images"] for shared in pairs.values()) == 1
    assert pairs["train-validation"]["duplicate_images"] == 0


def test_about_one_file_in_a_hundred_has_one(quick, tmp_path):
    card = draw_phantoms(tmp_path / "set", 480, faults=True, workers=1)
    assert 0.008 < len(card["planted"]) / card["images"] < 0.017
    rows = open_source(tmp_path / "set").rows
    assert rows.query("official_split == 'valid'")["patient"].nunique() >= 150


def test_label_noise_exchanges_labels(quick, tmp_path):
    card = draw_phantoms(tmp_path / "set", 120, 1, label_noise=0.2, workers=1)
    assert 0.14 < len(card["mislabeled"]) / card["studies"] < 0.22
    shown = pd.read_csv(tmp_path / "set" / "abnormalities.csv")
    studies = set(shown.path.str.rsplit("/", n=1).str[0])
    for study in card["mislabeled"]:
        assert study.endswith("_negative") == (study in studies)
        assert not list((tmp_path / "set/masks").glob(f"{study.removeprefix(TREE + '/')}/*"))
    clean = draw_phantoms(tmp_path / "clean", 120, 1, workers=1)
    assert clean["mislabeled"] == []
    labels = [open_source(tmp_path / name).rows.drop_duplicates("study")["label"].value_counts()
              for name in ("set", "clean")]  # fmt: skip
    assert labels[0].to_dict() == labels[1].to_dict()


@pytest.mark.parametrize("noise", [-0.1, 0.6])
def test_impossible_label_noise_is_refused(tmp_path, noise):
    with pytest.raises(UserError, match=r"between 0 and 0\.5"):
        draw_phantoms(tmp_path / "set", label_noise=noise)
