"""Splits: what each protocol promises, and the leaks that are counted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mura_utils.data.splits import (
    PROTOCOLS,
    compare_protocols,
    leak_free,
    leakage,
    leakage_table,
    split,
)
from mura_utils.errors import UserError

LABELS = ["Abnormal-ELBOW", "Abnormal-WRIST", "Normal-ELBOW", "Normal-WRIST"]


def make_manifest(patients: int = 400, valid_patients: int = 60, seed: int = 0) -> pd.DataFrame:
    """Patients with one to nine images; some in several classes, as in MURA."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(patients + valid_patients):
        for study in range(rng.integers(1, 4)):
            label = LABELS[rng.choice(4, p=[0.15, 0.2, 0.25, 0.4])]
            folder = "train" if number < patients else "valid"
            name = f"{folder}/patient{number:05d}/study{study}"
            for view in range(rng.integers(1, 4)):
                rows.append(
                    (f"{name}/image{view}.png", folder, f"patient{number:05d}", name, label)
                )
    columns = ["path", "official_split", "patient", "study", "label"]
    manifest = pd.DataFrame(rows, columns=columns)
    return manifest.assign(sha256=[f"{row:064x}" for row in range(len(manifest))])


def shares(manifest: pd.DataFrame, splits: pd.DataFrame) -> pd.DataFrame:
    return pd.crosstab(manifest["label"], splits["split"], normalize="index")


def test_official_patient_is_grouped_stratified_and_keeps_the_official_test_set():
    manifest = make_manifest()
    splits = split(manifest, "official-patient")
    assert ((splits["split"] == "test") == (manifest["official_split"] == "valid")).all()
    assert manifest.groupby("patient")["path"].size().max() > 5  # grouping is not trivial
    assert splits["split"].groupby(manifest["patient"]).nunique().max() == 1
    train = manifest["official_split"] == "train"
    by_class = shares(manifest[train], splits[train])
    assert by_class["validation"].between(0.14, 0.16).all()


def test_official_image_leaks_patients_and_official_patient_does_not():
    manifest = make_manifest()
    grouped = leakage(manifest, split(manifest, "official-patient"))
    by_image = leakage(manifest, split(manifest, "official-image"))
    assert grouped["pairs"]["train-validation"] == {
        "patients": 0,
        "studies": 0,
        "duplicate_images": 0,
    }
    assert grouped["splits"]["validation"]["images_with_patient_in_train"] == 0
    assert by_image["pairs"]["train-validation"]["patients"] > 50
    assert by_image["splits"]["validation"]["images_with_patient_in_train"] > 0.8
    assert by_image["splits"]["test"]["images_with_patient_in_train"] == 0


@pytest.mark.parametrize(
    ("protocol", "fractions", "expected"),
    [
        ("stratified-80-10-10", (0.8, 0.1, 0.1), (0.8, 0.1, 0.1)),
        ("patient", (0.8, 0.1, 0.1), (0.8, 0.1, 0.1)),
        ("patient", (0.6, 0.1, 0.3), (0.6, 0.1, 0.3)),
        ("patient", (1 / 3, 1 / 3, 1 / 3), (1 / 3, 1 / 3, 1 / 3)),
    ],
)
def test_classes_keep_their_shares(protocol, fractions, expected):
    manifest = make_manifest()
    splits = split(manifest, protocol, fractions)
    by_class = shares(manifest, splits)[["train", "validation", "test"]]
    np.testing.assert_allclose(by_class, np.tile(expected, (4, 1)), atol=0.015)
    if protocol == "patient":
        assert splits["split"].groupby(manifest["patient"]).nunique().max() == 1


def test_patient_protocol_without_groups_is_plain_stratification():
    manifest = make_manifest().assign(official_split="")
    manifest["patient"] = manifest["path"]
    splits = split(manifest, "patient", (0.6, 0.1, 0.3))
    counts = pd.crosstab(manifest["label"], splits["split"])[["train", "validation", "test"]]
    targets = np.outer(counts.sum(axis=1), (0.6, 0.1, 0.3))
    assert np.abs(counts - targets).to_numpy().max() <= 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_seed_decides_and_row_order_does_not(protocol):
    manifest = make_manifest()
    shuffled = manifest.sample(frac=1, random_state=3)  # keeps its index: order and index differ
    first = split(manifest, protocol, seed=1)
    again = split(shuffled, protocol, seed=1)
    assert again["path"].tolist() == shuffled["path"].tolist()
    pd.testing.assert_frame_equal(first, again.sort_index())
    assert (first["split"] != split(manifest, protocol, seed=2)["split"]).any()


def test_a_class_with_three_patients_is_in_every_split():
    manifest = make_manifest()
    rare = manifest["patient"].drop_duplicates().iloc[:3]
    manifest.loc[manifest["patient"].isin(rare), "label"] = "Normal-HIP"
    splits = split(manifest, "patient")
    assert set(splits.loc[manifest["label"] == "Normal-HIP", "split"]) == set(splits["split"])


@pytest.mark.parametrize("protocol", ["patient", "official-patient"])
def test_a_class_too_small_is_named(protocol):
    manifest = make_manifest()
    manifest.loc[manifest["patient"] == "patient00000", "label"] = "Normal-HIP"
    with pytest.raises(UserError, match=r"HIP is too small to split: it has 1 patient.*body_parts"):
        split(manifest, protocol)


def test_a_class_absent_from_the_official_valid_set_is_named():
    manifest = make_manifest()
    manifest.loc[manifest["patient"].isin({"patient00000", "patient00001"}), "label"] = "Normal-HIP"
    with pytest.raises(UserError, match=r"Normal-HIP has no image in the test split.*body_parts"):
        split(manifest, "official-patient")


def test_a_single_class_is_nothing_to_tell_apart():
    with pytest.raises(UserError, match=r"of one class, Normal-WRIST, .*body parts \(body_parts"):
        split(make_manifest().assign(label="Normal-WRIST"))


def test_official_protocol_without_official_lists_says_what_to_use():
    with pytest.raises(UserError, match="use the protocol 'patient'"):
        split(make_manifest().assign(official_split=""), "official-patient")


def test_official_lists_that_share_a_patient_are_refused_by_patient_and_counted_by_image():
    manifest = make_manifest()
    manifest.loc[manifest["patient"] == "patient00400", "patient"] = "patient00007"
    with pytest.raises(UserError, match=r"^1 patient.* \(patient00007 is the first\).*'patient'"):
        split(manifest, "official-patient")
    leaks = leakage(manifest, split(manifest, "official-image"))["pairs"]
    assert leaks["train-test"]["patients"] + leaks["validation-test"]["patients"] > 0


def test_leak_free_protocols_are_named_and_others_say_why_not():
    official = leak_free(make_manifest(), has_patients=True)
    assert official[0].endswith("images of 460 patients can be split.")
    assert [line.split(",")[0] for line in official[1:]] == [
        "Leak-free split: protocol = official-patient",
        "Leak-free split: protocol = patient",
    ]
    unknown, possible = leak_free(make_manifest().assign(official_split=""), has_patients=False)
    assert unknown.endswith("no split of them can be shown to be free of leaks.")
    assert possible.startswith("Possible split: protocol = patient")
    few = leak_free(make_manifest(patients=1, valid_patients=0), has_patients=True)
    assert few[-1].startswith("Not protocol = patient: ")


@pytest.mark.parametrize(
    "fractions", [(0.8, 0.1), (0.8, 0.1, 0.2), (1.0, 0.0, 0.0), (1.2, -0.1, -0.1)]
)
def test_fractions_are_checked(fractions):
    with pytest.raises(UserError, match="three positive numbers that sum to 1"):
        split(make_manifest(), "patient", fractions)


def test_unknown_protocol_lists_the_known_ones():
    with pytest.raises(UserError, match="official-patient, official-image"):
        split(make_manifest(), "random")


def test_leakage_counts_by_hand():
    manifest = pd.DataFrame(
        {
            "path": list("abcdef"),
            "patient": ["p1", "p1", "p1", "p2", "p3", "p2"],
            "study": ["s1", "s1", "s2", "s3", "s4", "s3"],
            "sha256": ["x", "y", "x", "z", "y", "w"],
        }
    )
    names = ["train", "validation", "validation", "train", "test", "test"]
    splits = pd.DataFrame({"path": list("abcdef"), "split": names}).iloc[::-1]
    found = leakage(manifest, splits)
    assert found["pairs"] == {
        "train-validation": {"patients": 1, "studies": 1, "duplicate_images": 1},
        "train-test": {"patients": 1, "studies": 1, "duplicate_images": 0},
        "validation-test": {"patients": 0, "studies": 0, "duplicate_images": 1},
    }
    assert found["splits"]["train"] == {"images": 2, "patients": 2, "studies": 2}
    assert found["splits"]["validation"] == {
        "images": 2,
        "patients": 1,
        "studies": 2,
        "images_with_patient_in_train": 1.0,
        "images_with_study_in_train": 0.5,
        "images_with_duplicate_in_train": 0.5,
    }
    unread = leakage(manifest.assign(sha256=np.nan), splits)
    assert unread["pairs"]["train-validation"]["duplicate_images"] is None
    assert unread["splits"]["test"]["images_with_duplicate_in_train"] is None


def test_leakage_refuses_splits_of_another_manifest():
    manifest = make_manifest()
    with pytest.raises(UserError, match="make the splits again"):
        leakage(manifest, split(manifest).iloc[1:])


def test_protocols_are_compared_and_a_refused_one_says_why():
    manifest = make_manifest()
    compared = compare_protocols(manifest, seed=3)
    assert tuple(compared) == PROTOCOLS
    assert compared["patient"] == leakage(manifest, split(manifest, "patient", seed=3))
    compared = compare_protocols(manifest.assign(official_split=""))
    refused = {name for name, counts in compared.items() if "refused" in counts}
    assert refused == {"official-patient", "official-image"}
    assert "use the protocol 'patient'" in compared["official-image"]["refused"]


def test_leakage_table_holds_a_share_for_each_protocol_that_was_not_refused():
    unread = make_manifest().assign(official_split="", sha256="")
    compared = compare_protocols(unread)
    table = leakage_table(compared)
    assert list(table["protocol"].unique()) == ["stratified-80-10-10", "patient"]
    by_image = table.set_index(["protocol", "split", "what"])["share"]["stratified-80-10-10"]
    counted = compared["stratified-80-10-10"]["splits"]["validation"]
    assert by_image["validation", "patient"] == counted["images_with_patient_in_train"] > 0.5
    assert by_image["validation"].isna().to_dict() == {
        "patient": False,
        "study": False,
        "duplicate": True,
    }
