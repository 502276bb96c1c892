"""The table of usable images, and the report on what was left out and why."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from mura_utils.data.dicom import remark_body_part
from mura_utils.data.images import FAULTS, ImageFault, inspect_image
from mura_utils.data.sources.listing import Listing
from mura_utils.errors import UserError, shown
from mura_utils.labels import join
from mura_utils.terminal import hide_bars

_UNREAD = {
    "width": 0,
    "height": 0,
    "mode": "",
    "sha256": "",
    "mean": float("nan"),
    "std": float("nan"),
    "fault": "",
    "detail": "",
    "remarks": "",
}
_REMARKED_FAULTS = {"missing-file": "missing", "zero-byte-file": "zero-byte"}


def scan(
    listing: Listing, read_pixels: bool = True, workers: int | None = None, progress: bool = True
) -> pd.DataFrame:
    """Open every listed file once, in parallel: hash, decode, measure.

    Threads are enough, because PIL and hashlib release the interpreter's lock while they work.

    Args:
        listing: what `sources.open_source` gives.
        read_pixels: False opens no file and trusts the listing on what is missing or empty; then
            width and height are 0, mode and sha256 are "", mean and std are NaN.
        workers: threads; None for a few more than there are cores.
        progress: whether to show a progress bar.

    Returns:
        The inventory: the listing's rows and width, height (pixels), mode (PIL's, as stored),
        sha256, mean, std (of the gray image, 0 to 255), fault ("" or one of `images.FAULTS`),
        detail (of the fault), and remarks (what is odd about a usable file: "", or JSON from kind
        to detail). Faulty rows have no measurements.
    """
    rows = listing.rows
    if not read_pixels:
        known = listing.remarks[listing.remarks["kind"].isin(_REMARKED_FAULTS)].set_index("path")
        known = known.reindex(rows["path"], fill_value="")
        return rows.assign(
            **_UNREAD
            | {
                "fault": known["kind"].replace(_REMARKED_FAULTS).to_numpy(),
                "detail": known["detail"].to_numpy(),
            }
        )
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(partial(_measure, listing.root), rows["path"], rows["body_part"])
        bar = tqdm(
            found, desc="Reading images", total=len(rows), unit="image", disable=hide_bars(progress)
        )
        measured = pd.DataFrame(list(bar), columns=list(_UNREAD), index=rows.index)
    return pd.concat([rows, measured], axis=1)


def admit(
    inventory: pd.DataFrame,
    exclude_duplicates: bool = False,
    body_parts: Sequence[str] = (),
    exclude: Sequence[str] = (),
    merge: Mapping[str, Sequence[str]] | None = None,
) -> pd.DataFrame:
    """Take the usable rows of an inventory: the manifest.

    Args:
        inventory: what `scan` gives.
        exclude_duplicates: of identical files keep only the first, official valid before train, so
            that the test set loses no image to the train list; keep none if their labels differ.
        body_parts: the ones to keep, in any case; without any, all.
        exclude: the ones to leave out.
        merge: new names, each with those of the others that become one body part under it.

    Raises:
        UserError: nothing is usable, there is no image of a body part that is named, a new name is
            one that the data set has, or duplicates are to be left out but no file was read.

    Example:
        >>> faults = {"path": ["a.png", "b.png"], "fault": ["", "truncated"]}
        >>> admit(pd.DataFrame(faults))["path"].tolist()
        ['a.png']
    """
    listed = _of_body_parts(inventory, body_parts, exclude, merge or {})
    admitted = listed[listed["fault"] == ""]
    if admitted.empty:
        which = f" of {', '.join(body_parts)}" if body_parts else ""
        raise UserError(
            f"None of the {len(listed):,} listed images{which} can be used "
            f"({_count(listed['fault'])}); check the data folder."
        )
    admitted = merge_body_parts(admitted, merge or {})
    if exclude_duplicates:
        if not _pixels_read(listed):
            raise UserError("Duplicates are found by content; scan with read_pixels=True.")
        admitted = _without_duplicates(admitted)
    judged = ["fault", "detail", "remarks"]
    return admitted.drop(columns=judged, errors="ignore").reset_index(drop=True)


def _without_duplicates(admitted: pd.DataFrame) -> pd.DataFrame:
    labels = admitted.groupby("sha256")["label"].transform("nunique")
    agreeing = admitted[labels == 1]
    test_first = agreeing["official_split"].ne("valid").sort_values(kind="stable").index
    return agreeing.loc[test_first].drop_duplicates("sha256").sort_index()


def part_with_both_labels(images: pd.DataFrame, first_choice: str) -> str:
    """A body part that has normal and abnormal images: `first_choice`, or the first by name.

    Args:
        images: with body_part and abnormality.
        first_choice: a body part, which need not be among them.

    Raises:
        UserError: no body part has both, so that there is nothing to tell apart.

    Example:
        >>> rows = [("HAND", "Normal"), ("WRIST", "Normal"), ("WRIST", "Abnormal")]
        >>> part_with_both_labels(pd.DataFrame(rows, columns=["body_part", "abnormality"]), "HAND")
        'WRIST'
    """
    labels = images.groupby("body_part")["abnormality"].nunique()
    both = sorted(labels.index[labels == 2])
    if not both:
        raise UserError(
            "No body part has normal and abnormal images that can be used, so that there is "
            "nothing to tell apart: look at the counts above, and add what is missing."
        )
    return first_choice if first_choice in both else both[0]


def merge_body_parts(images: pd.DataFrame, merge: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Give images of several body parts one new body part, in the columns body_part and label.

    Example:
        >>> images = pd.DataFrame({"body_part": ["HAND", "HUMERUS"], "abnormality": "Normal"})
        >>> merge_body_parts(images, {"ARM": ["HUMERUS", "FOREARM"]})["label"].tolist()
        ['Normal-HAND', 'Normal-ARM']
    """
    if not merge:
        return images
    names = {part.upper(): name for name, parts in merge.items() for part in parts}
    body_part = images["body_part"].str.upper().map(names).fillna(images["body_part"])
    label = [*map(join, images["abnormality"], body_part)]
    return images.assign(body_part=body_part, label=label)


def _of_body_parts(
    inventory: pd.DataFrame,
    body_parts: Sequence[str],
    exclude: Sequence[str],
    merge: Mapping[str, Sequence[str]],
) -> pd.DataFrame:
    """The rows of the wanted body parts, all of which the data set has."""
    if not (body_parts or exclude or merge):
        return inventory
    held = inventory["body_part"].str.upper()
    merged = [part for parts in merge.values() for part in parts]
    named = {"body_parts": body_parts, "exclude": exclude, "merge": merged}
    for parameter, parts in named.items():
        if unknown := sorted({part.upper() for part in parts} - set(held)):
            raise UserError(
                f"{parameter}: no image is of {shown(', '.join(unknown))}; this data set has "
                f"{', '.join(sorted(set(held)))}."
            )
    for name, parts in merge.items():
        if name.upper() in set(held) - {part.upper() for part in parts}:
            raise UserError(
                f"merge: {name} is a body part of this data set: list it among those that become "
                f"{name}, or give another name."
            )
    kept = held.isin([part.upper() for part in body_parts]) if body_parts else held.notna()
    kept &= ~held.isin([part.upper() for part in exclude])
    if not kept.any():
        raise UserError("exclude: it leaves no body part of this data set: take one out of it.")
    return inventory[kept]


def quality_report(listing: Listing, inventory: pd.DataFrame) -> dict[str, Any]:
    """Report what is on disk, what is excluded and why; for `quality.json`.

    Returns:
        source; read_pixels; counts (listed, admitted, excluded by fault, remarks by kind); excluded
        (path, fault, detail); remarks by kind (path, detail), complete, those of the listing and
        those of the images (`images.Inspection`); modes (admitted images by
        stored mode) and converted (how many of them were not 8-bit gray); duplicates (the number of
        groups of identical files, of files in them, of groups that cross patients, studies,
        official splits or labels, and the groups themselves).
    """
    bad = inventory[inventory["fault"] != ""]
    good = inventory[inventory["fault"] == ""]
    read_pixels = _pixels_read(inventory)
    columns = ["path", "kind", "detail"]
    odd = [
        (row.path, kind, detail)
        for row in good[good["remarks"] != ""].itertuples()
        for kind, detail in json.loads(row.remarks).items()
    ]
    remarks = pd.concat([listing.remarks[columns], pd.DataFrame(odd, columns=columns)])
    modes = good["mode"].value_counts().to_dict() if read_pixels else {}
    return {
        "source": listing.source,
        "read_pixels": read_pixels,
        "counts": {
            "listed": len(inventory),
            "admitted": len(good),
            "excluded": {kind: int((bad["fault"] == kind).sum()) for kind in FAULTS},
            "remarks": remarks["kind"].value_counts().to_dict(),
        },
        "excluded": bad[["path", "fault", "detail"]].to_dict("records"),
        "remarks": {
            kind: group[["path", "detail"]].to_dict("records")
            for kind, group in remarks.groupby("kind")
        },
        "modes": modes,
        "converted": sum(count for mode, count in modes.items() if mode != "L"),
        "duplicates": _duplicates(good),
    }


def format_report(report: dict[str, Any], most: int) -> str:
    """What a quality report names, one line each, as `mura data check` prints it.

    Args:
        report: what `quality_report` gives.
        most: lines for each fault, each kind of remark and the duplicates, and files for a group of
            duplicates; the others are counted. 0 for all.
    """
    sections: dict[str, list[str]] = {}
    for entry in report["excluded"]:
        line = f"excluded: {entry['path']}: {entry['fault']}: {entry['detail']}"
        sections.setdefault(f"excluded as {entry['fault']}", []).append(line)
    for kind, entries in report["remarks"].items():
        details = (f"{entry['path']}: {entry['detail']}".removesuffix(": ") for entry in entries)
        sections[f"{kind} remarks"] = [f"remark: {kind}: {detail}" for detail in details]
    duplicates = report["duplicates"]
    # Those within one study, which is harmless, come last.
    groups = sorted(duplicates["files_by_group"], key=lambda group: -len(group["across"]))
    sections["groups of duplicates"] = [_format_group(**group, most=most) for group in groups]
    lines = [line for name, section in sections.items() for line in _cut(name, section, most)]
    if report["read_pixels"]:
        across = ", ".join(f"{name} {number:,}" for name, number in duplicates["across"].items())
        lines.append(
            f"{duplicates['files']:,} files are byte-identical to another one, in "
            f"{duplicates['groups']:,} groups; groups that differ in: {across}"
        )
    else:
        lines.append("No file was opened: damaged images and duplicates are not known.")
    return "\n".join(lines)


def _format_group(paths: Sequence[str], across: Sequence[str], most: int) -> str:
    shown = paths[: most or None]
    crossed = f" across {', '.join(across)}" if across else ""
    more = f" and {len(paths) - len(shown):,} more" if len(shown) < len(paths) else ""
    return f"duplicates{crossed}: {' = '.join(shown)}{more}"


def _cut(name: str, lines: Sequence[str], most: int) -> list[str]:
    if not most or len(lines) <= most:
        return list(lines)
    return [*lines[:most], f"and {len(lines) - most:,} more {name} (--show 0 lists all)"]


def _measure(root: Path, path: str, body_part: str) -> dict[str, Any]:
    try:
        found = vars(inspect_image(root / path))
    except ImageFault as fault:
        return _UNREAD | {"fault": fault.kind, "detail": fault.detail}
    remarks = found["remarks"]
    if found["mode"].startswith("DICOM"):
        remarks |= remark_body_part(root / path, body_part)
    return _UNREAD | found | {"remarks": json.dumps(remarks) if remarks else ""}


def _pixels_read(inventory: pd.DataFrame) -> bool:
    return not ((inventory["fault"] == "") & (inventory["sha256"] == "")).any()


def _count(faults: pd.Series) -> str:
    return ", ".join(f"{kind} {count:,}" for kind, count in faults.value_counts().items())


def _duplicates(good: pd.DataFrame) -> dict[str, Any]:
    """Groups of files with the same bytes, and what they cross."""
    crossed = ["patient", "study", "official_split", "label"]
    same = good[(good["sha256"] != "") & good["sha256"].duplicated(keep=False)]
    groups = [
        {
            "paths": group["path"].tolist(),
            "across": [column for column in crossed if len(set(group[column])) > 1],
        }
        for _, group in same.groupby("sha256", sort=False)
    ]
    return {
        "groups": len(groups),
        "files": len(same),
        "across": {
            column: sum(column in group["across"] for group in groups) for column in crossed
        },
        "files_by_group": groups,
    }
