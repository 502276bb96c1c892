"""Train, validation and test: the four protocols of the report's section III.D, and their leaks.

The report's text says "stratified 80-10-10"; its printed counts say that MURA's official valid set
was the test set and that MURA's train set was cut 85/15 by image, which puts one patient on both
sides. `official-patient` is the same cut without that leak, and the default.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from mura_utils.errors import UserError

PROTOCOLS = ("official-patient", "official-image", "stratified-80-10-10", "patient")
SPLITS = ("train", "validation", "test")

_LEAVE_OUT = "leave its body part out (body_parts, in notebook 02)"


def split(
    manifest: pd.DataFrame,
    protocol: str = "official-patient",
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> pd.DataFrame:
    """Assign every image of the manifest to train, validation or test, stratified by label.

    - `official-patient`: official train into train/validation 85/15, no patient in both; official
      valid is the test set.
    - `official-image`: the same by image, as the report ran it; it leaks patients and studies.
    - `stratified-80-10-10`: all images 80/10/10 by image, as the report's text says; it leaks too.
    - `patient`: all images by `fractions`, no patient in two splits; for data without official
      lists. Where every image is its own patient this is plain stratification.

    Args:
        manifest: one row an image, with path, official_split, patient and label.
        protocol: one of `PROTOCOLS`.
        fractions: shares of train, validation and test; only `patient` uses them.
        seed: decides between equally good assignments. The result depends on the seed and on what
            the manifest holds, not on the order of its rows.

    Returns:
        Columns path and split, with the order and the index of the manifest.

    Raises:
        UserError: an unknown protocol, fractions that are not three positive shares of 1, an
            official protocol on data without official lists, `official-patient` where these share
            patients, a single class, or a class that cannot be in every split (the sentence names
            it).

    Example:
        >>> images = pd.DataFrame({"path": [*"abcdef"], "patient": [*"abcdef"]})
        >>> images["label"] = ["Normal-HAND", "Abnormal-HAND"] * 3
        >>> sorted(split(images, "patient")["split"])
        ['test', 'test', 'train', 'train', 'validation', 'validation']
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"Unknown split protocol {protocol!r}; use one of {', '.join(PROTOCOLS)}.")
    if len(fractions) != 3 or min(fractions) <= 0 or not np.isclose(sum(fractions), 1):
        raise UserError(
            f"The fractions of train, validation and test are {list(fractions)}; "
            "give three positive numbers that sum to 1."
        )
    classes = manifest["label"].unique()
    if len(classes) < 2:
        raise UserError(
            f"All images are of one class, {classes[0]}, so that there is nothing to tell apart; "
            "add images of another, or admit more body parts (body_parts, in notebook 02)."
        )
    rows = manifest.sort_values("path").set_index("path", drop=False)
    unit = "patient" if protocol in ("official-patient", "patient") else "path"
    if protocol.startswith("official"):
        if set(rows["official_split"]) != {"train", "valid"}:
            raise UserError(
                f"The split protocol {protocol!r} needs every image in an official train or valid "
                "list and both lists filled, which this manifest does not have; "
                "use the protocol 'patient'."
            )
        _refuse_shared_patients(rows, protocol)
        assigned = pd.Series("test", index=rows.index)
        train = rows[rows["official_split"] == "train"]
        assigned[train.index] = _assign(train, unit, {"train": 0.85, "validation": 0.15}, seed)
    else:
        shares = fractions if protocol == "patient" else (0.8, 0.1, 0.1)
        assigned = _assign(rows, unit, dict(zip(SPLITS, shares, strict=True)), seed)
    counts = pd.crosstab(rows["label"], assigned).reindex(columns=SPLITS, fill_value=0)
    for name in SPLITS:
        for label in counts.index[counts[name] == 0]:
            raise UserError(
                f"Class {label} has no image in the {name} split under the protocol {protocol!r}; "
                f"add images of it, {_LEAVE_OUT} or use another protocol."
            )
    return pd.DataFrame({"path": manifest["path"], "split": manifest["path"].map(assigned)})


def _refuse_shared_patients(rows: pd.DataFrame, protocol: str) -> None:
    """Hold `official-patient` to its promise where the official lists share patients."""
    lists = rows.groupby("patient")["official_split"].nunique()
    shared = lists.index[lists > 1]
    if protocol == "official-patient" and len(shared):
        raise UserError(
            f"{len(shared):,} patient(s) are in the official train list and in valid, the test set "
            f"({shared[0]} is the first), which the protocol 'official-patient' rules out; use "
            "'patient', correct the lists, or use 'official-image', which leaks them and counts it."
        )


def leak_free(manifest: pd.DataFrame, has_patients: bool) -> list[str]:
    """Say by which protocol a manifest can be split without a leak, or why by none.

    Args:
        manifest: as `split` takes it.
        has_patients: whether its patients are known, see `Listing.has_patients`.

    Returns:
        Sentences, the first one on patients.

    Example:
        >>> images = pd.DataFrame({"path": [*"abcdef"], "patient": [*"aabbcc"]})
        >>> images = images.assign(official_split="", label=["Normal-HAND", "Abnormal-HAND"] * 3)
        >>> leak_free(images, has_patients=True)[1]
        'Leak-free split: protocol = patient, which keeps all images of a patient together.'
    """
    count = manifest["patient"].nunique()
    sentences = [
        f"{len(manifest):,} images of {count:,} patients can be split."
        if has_patients
        else f"The patients of the {len(manifest):,} images are not known: no split of them can be "
        "shown to be free of leaks."
    ]
    name = "Leak-free split" if has_patients else "Possible split"
    protocols = {
        "official-patient": "whose test set is the official one",
        "patient": "which keeps all images of a patient together",
    }
    official = manifest["official_split"].ne("").any()
    for protocol, why in protocols.items():
        if protocol == "patient" or official:
            try:
                split(manifest, protocol)
                sentences.append(f"{name}: protocol = {protocol}, {why}.")
            except UserError as error:
                sentences.append(f"Not protocol = {protocol}: {error}")
    return sentences


def _assign(rows: pd.DataFrame, unit: str, shares: dict[str, float], seed: int) -> pd.Series:
    """Give each unit (all rows of a patient, or one image) to one split; returns split names.

    First each class, the rarest first, gets one of its smallest units into every split. The others
    follow, largest first, each to the split that keeps Pearson's chi-square of the class counts
    against their targets, the sum of (count - target)^2 / target, smallest.

    scikit-learn's StratifiedGroupKFold makes equal folds only: 85/15 takes 20 of them, 10 s on
    MURA's train list (this takes below 1 s), and it lets a small class miss a split.
    """
    label_codes, labels = pd.factorize(rows["label"], sort=True)
    unit_codes, units = pd.factorize(rows[unit])
    counts = np.zeros((len(units), len(labels)))
    np.add.at(counts, (unit_codes, label_codes), 1)
    units_of_class = (counts > 0).sum(axis=0)
    for label, available in zip(labels, units_of_class, strict=True):
        if available < len(shares):
            raise UserError(
                f"Class {label} is too small to split: it has {available} "
                f"{'patient' if unit == 'patient' else 'image'}(s) for {len(shares)} splits; "
                f"add images of it or {_LEAVE_OUT}."
            )
    targets = np.outer(list(shares.values()), counts.sum(axis=0))
    filled = np.zeros_like(targets)
    choice = np.full(len(units), -1)

    def give(index: int, place: int) -> None:
        choice[index] = place
        filled[place] += counts[index]

    order = np.random.default_rng(seed).permutation(len(units))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    for code in np.argsort(units_of_class, kind="stable"):
        for place in range(len(shares)):
            free = order[(choice[order] < 0) & (counts[order, code] > 0)]
            if filled[place, code] == 0 and len(free):
                give(free[-1], place)
    for index in order[choice[order] < 0]:
        present = np.flatnonzero(counts[index])
        added = counts[index, present]
        # Half the growth of chi-square, less what is the same for every split.
        cost = ((filled[:, present] + added / 2) * added / targets[:, present]).sum(axis=1)
        give(index, cost.argmin())
    return pd.Series(np.array(list(shares))[choice[unit_codes]], index=rows.index)


def leakage(manifest: pd.DataFrame, splits: pd.DataFrame) -> dict[str, Any]:
    """Count what the splits share: patients, studies and identical files.

    Args:
        manifest: one row an image, with path, patient, study and sha256.
        splits: what `split` returned (path, split), in any order.

    Returns:
        JSON-able: `pairs`, for "train-validation", "train-test" and "validation-test" the number of
        `patients`, `studies` and `duplicate_images` (distinct file contents) found on both sides;
        `splits`, for each split its `images`, `patients` and `studies`, and for validation and test
        the shares (0 to 1) `images_with_patient_in_train`, `images_with_study_in_train` and
        `images_with_duplicate_in_train`. Duplicates are None when the manifest lacks file hashes
        (its images were not read).

    Raises:
        UserError: the two tables do not list the same images.

    Example:
        >>> images = pd.DataFrame({"path": ["a", "b", "c"], "patient": ["1", "1", "2"]})
        >>> images["study"] = images["patient"] + "/study1"
        >>> parts = images[["path"]].assign(split=["train", "test", "validation"])
        >>> leakage(images, parts)["pairs"]["train-test"]
        {'patients': 1, 'studies': 1, 'duplicate_images': None}
    """
    rows = manifest.merge(splits[["path", "split"]], on="path", validate="one_to_one")
    if not len(rows) == len(manifest) == len(splits):
        raise UserError(
            f"The manifest lists {len(manifest)} images and the splits {len(splits)}, of which "
            f"{len(rows)} are in both; make the splits again from this manifest."
        )
    hashed = "sha256" in rows and bool((rows["sha256"].astype(object).fillna("") != "").all())
    columns = {"patient": "patients", "study": "studies", "sha256": "duplicate_images"}
    parts = {name: rows[rows["split"] == name] for name in SPLITS}
    held = {
        name: {c: set(part[c]) for c in columns if c in part and (c != "sha256" or hashed)}
        for name, part in parts.items()
    }
    pairs = {
        f"{first}-{second}": {
            key: len(held[first][c] & held[second][c]) if c in held[first] else None
            for c, key in columns.items()
        }
        for first, second in combinations(SPLITS, 2)
    }
    per_split: dict[str, dict[str, Any]] = {}
    for name, part in parts.items():
        per_split[name] = {
            "images": len(part),
            "patients": len(held[name]["patient"]),
            "studies": len(held[name]["study"]),
        }
        if name != "train":
            for c, word in {"patient": "patient", "study": "study", "sha256": "duplicate"}.items():
                known = c in held["train"] and len(part) > 0
                per_split[name][f"images_with_{word}_in_train"] = (
                    float(part[c].isin(held["train"][c]).mean()) if known else None
                )
    return {"pairs": pairs, "splits": per_split}


def compare_protocols(
    manifest: pd.DataFrame, fractions: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Split the manifest by every protocol and count what each leaks.

    Returns:
        JSON-able: for each of `PROTOCOLS` what `leakage` gives, or `refused`, the sentence that
        says why this manifest cannot be split so.
    """
    compared: dict[str, dict[str, Any]] = {}
    for protocol in PROTOCOLS:
        try:
            compared[protocol] = leakage(manifest, split(manifest, protocol, fractions, seed))
        except UserError as error:
            compared[protocol] = {"refused": str(error)}
    return compared


def leakage_table(compared: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Tabulate what `compare_protocols` counted.

    Returns:
        protocol, split ("validation" or "test"), what ("patient", "study" or "duplicate") and
        share (0 to 1; NaN: unknown): of that split's images, how many have theirs in training.
        Refused protocols have no rows.

    Example:
        >>> leakage_table({"official-image": {"refused": "this data has no official lists"}}).empty
        True
    """
    rows = [
        (protocol, name, what, counts["splits"][name][f"images_with_{what}_in_train"])
        for protocol, counts in compared.items()
        if "refused" not in counts
        for name in SPLITS[1:]
        for what in ("patient", "study", "duplicate")
    ]
    table = pd.DataFrame(rows, columns=["protocol", "split", "what", "share"])
    return table.astype({"share": float})
