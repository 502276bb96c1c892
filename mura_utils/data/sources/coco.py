"""Outlines of fractures from a COCO file, checked where they are read.

Whatever is wrong with one annotation leaves that one out, with a remark; the rest counts.
The format: https://cocodataset.org/#format-data. Run lengths are column by column, and start with
the run of pixels outside.
"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from mura_utils.data.images import MAX_PIXELS
from mura_utils.data.sources.files import printable, read_bytes
from mura_utils.errors import UserError, shown

_TWICE = "\0twice"  # in an object that held a key twice: that key
_FAR = 1e6  # pixels
_NO = re.compile(r"\b(no|non|not|without)\b|(non|un)$")  # before "fracture"


@dataclass(frozen=True)
class Fracture:
    """One fracture, in pixels of its image's size in the COCO file: one of three forms.

    Attributes:
        polygons: (x, y, x, y, ...) each.
        box: left, top, width, height.
        runs: lengths of runs outside, inside, outside ... down the columns.
    """

    polygons: tuple[tuple[float, ...], ...] = ()
    box: tuple[float, float, float, float] | None = None
    runs: tuple[int, ...] = ()


@dataclass
class AnnotatedImage:
    """An image of the COCO file.

    Attributes:
        name: of the file, without folders.
        size: width and height that the outlines were drawn for; None if the file does not say.
        fractures: the usable ones.
    """

    name: str
    size: tuple[int, int] | None
    fractures: list[Fracture] = field(default_factory=list)


@dataclass(frozen=True)
class Coco:
    """What a COCO file holds.

    Attributes:
        images: those with usable fractures, by file name in lower case.
        remarks: (kind, detail) of what was left out or read in another way.
    """

    images: dict[str, AnnotatedImage]
    remarks: tuple[tuple[str, str], ...]


class _Bad(ValueError):
    """Why an annotation, or a part of it, cannot be used."""


def read_coco(path: Path) -> Coco:
    """Read the fractures in a COCO file; parsed once for a version of the file.

    Only categories whose name says fracture count; without categories everything does.

    Raises:
        UserError: the file cannot be read, is not JSON, or not COCO at all.
    """
    try:
        status = path.stat()
    except (OSError, ValueError):
        return _read(path, 0, 0)
    return _read(path, status.st_mtime_ns, status.st_size)


def decode_runs(text: str) -> list[int]:
    """Run lengths from COCO's compressed form: five bits a character, from "0" (48) on.

    Bit 6 says that the number goes on, and its last character carries the sign. From the fourth
    number on each is the difference to the one two before.

    Raises:
        ValueError: `text` is no such form.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 60:
            raise _Bad(f"{shown(text)} are not compressed run lengths")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise _Bad(f"{shown(text)} ends within a number")
    return runs


def fill_runs(runs: tuple[int, ...], size: tuple[int, int]) -> np.ndarray:
    """The mask of run lengths: bool (H, W), for a size of (width, height)."""
    width, height = size
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


@functools.lru_cache(maxsize=2)
def _read(path: Path, modified: int, size: int) -> Coco:
    data = read_bytes(path)
    try:
        content = json.loads(data, object_pairs_hook=_mark_twice)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {' '.join(str(error).split())}.") from error
    expected = "expected an object with lists 'images' and 'annotations'"
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a COCO file: it holds {shown(content)}; {expected}.")
    if _TWICE in content:
        raise UserError(f"{path} is not a COCO file: it holds {content[_TWICE]!r} twice.")
    for key in ("images", "annotations"):
        if not isinstance(content.get(key), list):
            what = shown(content[key]) if key in content else "missing"
            raise UserError(f"{path} is not a COCO file: {key!r} is {what}; {expected}.")
    remarks: list[tuple[str, str]] = []
    if not data.startswith((b"{", b"\n", b" ", b"\r", b"\t")):
        remarks.append(("accepted-variant", "a byte-order mark comes first, or it is UTF-16"))
    categories = _read_categories(content.get("categories"), remarks)
    images = _read_images(content["images"], remarks)
    _read_annotations(content["annotations"], images, categories, remarks)
    found = {image.name.lower(): image for image in images.values() if image and image.fractures}
    return Coco(found, tuple(remarks))


def _mark_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        content[_TWICE] = counts.most_common(1)[0][0]
    return content


def _read_categories(
    categories: Any, remarks: list[tuple[str, str]]
) -> dict[str, tuple[str, bool]] | None:
    """Per id: name, and whether it is a fracture. None: there are no categories."""
    entries = categories if isinstance(categories, list) else []
    found = {}
    for entry in entries:
        key = _key(entry.get("id")) if isinstance(entry, dict) else None
        if key is None:
            remarks.append(("bad-annotation", f"the category {shown(entry)} has no id"))
            continue
        name = str(entry.get("name")).lower()
        before, fracture, _ = name.partition("fractur")
        words = re.sub(r"[\W_]+", " ", before).strip()
        found[key] = name, bool(fracture) and not _NO.search(words)
    if found:
        return found
    remarks.append(("accepted-variant", "there are no categories: every annotation is a fracture"))
    return None


def _read_images(entries: list, remarks: list[tuple[str, str]]) -> dict[str, AnnotatedImage | None]:
    """The images by id; None for an id of several images."""
    by_id: dict[str, AnnotatedImage | None] = {}
    by_name: dict[str, AnnotatedImage] = {}
    moved = 0
    for number, entry in enumerate(entries, 1):
        try:
            key, given, size = _read_image(entry)
        except _Bad as reason:
            remarks.append(("bad-annotation", f"image entry {number}: {reason}; left out"))
            continue
        name = printable(PureWindowsPath(given).name)
        moved += name != given
        image = by_name.get(name.lower())
        if image is None:
            image = by_name[name.lower()] = AnnotatedImage(name, size)
            if size is None:
                detail = f"image {name}: width and height are no sizes; the file's own are taken"
                remarks.append(("bad-annotation", detail))
        else:
            other = "" if size == image.size else " with another size; the first counts"
            remarks.append(("bad-annotation", f"image {name} is listed twice{other}"))
        if by_id.setdefault(key, image) is not image:
            by_id[key] = None
            remarks.append(("bad-annotation", f"image id {key} stands for several images"))
    if moved:
        detail = f"{moved:,} file names have folders before them, which are ignored"
        remarks.append(("accepted-variant", detail))
    return by_id


def _read_image(entry: Any) -> tuple[str, str, tuple[int, int] | None]:
    """Id, file name and size of an image entry."""
    _require_object(entry)
    key, name = _key(entry.get("id")), entry.get("file_name")
    if key is None:
        raise _Bad(f"its id is {shown(entry.get('id'))}")
    if not isinstance(name, str) or not PureWindowsPath(name).name:
        raise _Bad(f"its file_name is {shown(name)}")
    size = [entry.get("width"), entry.get("height")]
    if not all(_is_number(side) and side >= 1 and side == int(side) for side in size):
        return key, name, None
    return key, name, (int(size[0]), int(size[1]))


def _read_annotations(
    entries: list,
    images: dict[str, AnnotatedImage | None],
    categories: dict[str, tuple[str, bool]] | None,
    remarks: list[tuple[str, str]],
) -> None:
    """Add the fractures to their images."""
    others: Counter[str] = Counter()
    boxes = 0
    for number, entry in enumerate(entries, 1):
        where = f"annotation entry {number}"
        try:
            _require_object(entry)
            if _key(entry.get("id")) is not None:
                where = f"annotation {_key(entry['id'])}"
            if categories is not None:
                key = _key(entry.get("category_id"))
                if key not in categories:
                    raise _Bad(f"its category_id {shown(entry.get('category_id'))} is not listed")
                name, fractured = categories[key]
                if not fractured:
                    others[name] += 1
                    continue
            image = images.get(_key(entry.get("image_id")) or "")
            if image is None:
                given = shown(entry.get("image_id"))
                raise _Bad(f"no image, or no single one, is listed for its image_id {given}")
            where += f" of {image.name}"
            notes: list[str] = []
            fracture = _read_fracture(entry, image.size, notes)
        except _Bad as reason:
            remarks.append(("bad-annotation", f"{where}: {reason}; left out"))
            continue
        image.fractures.append(fracture)
        boxes += fracture.box is not None and not notes
        if notes:
            remarks.append(("bad-annotation", f"{where}: {'; '.join(notes)}"))
    for name, count in others.items():
        remarks.append(("other-category", f"{count:,} annotations are {shown(name)}: no fractures"))
    if boxes:
        detail = f"{boxes:,} annotations have a box and no outline; the box counts"
        remarks.append(("accepted-variant", detail))


def _read_fracture(entry: dict, size: tuple[int, int] | None, notes: list[str]) -> Fracture:
    """The outline of an annotation, or its box; `notes` takes what is wrong on the way."""
    segmentation = entry.get("segmentation")
    if isinstance(segmentation, dict):
        try:
            return Fracture(runs=_read_runs(segmentation, size))
        except _Bad as reason:
            notes.append(str(reason))
    elif isinstance(segmentation, list):
        flat = any(_is_number(value) for value in segmentation)
        polygons = []
        for number, polygon in enumerate([segmentation] if flat else segmentation, 1):
            try:
                polygons.append(_read_polygon(polygon, size, notes))
            except _Bad as reason:
                notes.append(f"polygon {number} {reason}")
        if polygons:
            return Fracture(polygons=tuple(polygons))
    elif segmentation is not None:
        notes.append(f"its segmentation is {shown(segmentation)}")
    try:
        box = _read_box(entry.get("bbox"), size)
    except _Bad as reason:
        raise _Bad("; ".join([*(notes or ["it has no outline"]), str(reason)])) from None
    if notes:
        notes.append("its box counts")
    return Fracture(box=box)


def _read_polygon(
    polygon: Any, size: tuple[int, int] | None, notes: list[str]
) -> tuple[float, ...]:
    if not isinstance(polygon, list):
        raise _Bad(f"is {shown(polygon)}")
    if not all(map(_is_number, polygon)):
        raise _Bad("holds what is no coordinate")
    if len(polygon) % 2:
        raise _Bad(f"has an odd number of coordinates ({len(polygon)})")
    if len(polygon) < 6:
        raise _Bad("has fewer than three points")
    xs, ys = polygon[::2], polygon[1::2]
    if _outside((min(xs), min(ys), max(xs), max(ys)), size):
        notes.append("its outline goes beyond the image, and is cut there")
    return tuple(map(float, polygon))


def _read_box(box: Any, size: tuple[int, int] | None) -> tuple[float, float, float, float]:
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise _Bad(f"its bbox is {shown(box)}")
    left, top, width, height = map(float, box)
    if width <= 0 or height <= 0:
        raise _Bad(f"its bbox {shown(box)} has no area")
    try:
        _outside((left, top, left + width, top + height), size)
    except _Bad as reason:
        raise _Bad(f"its bbox {reason}") from None
    return left, top, width, height


def _outside(extent: tuple[float, float, float, float], size: tuple[int, int] | None) -> bool:
    """Whether a shape (left, top, right, bottom) goes beyond the image by more than a pixel."""
    if size is None:
        return False
    (left, top, right, bottom), (width, height) = extent, size
    if right < 0 or bottom < 0 or left > width or top > height:
        raise _Bad(f"lies outside the image of {width} x {height} pixels")
    return left < -1 or top < -1 or right > width + 1 or bottom > height + 1


def _read_runs(segmentation: dict, size: tuple[int, int] | None) -> tuple[int, ...]:
    sides, runs = segmentation.get("size"), segmentation.get("counts")
    if size is None or sides != [size[1], size[0]]:
        raise _Bad(f"its run lengths are for {shown(sides)}, not height and width of its image")
    if isinstance(runs, str):
        runs = decode_runs(runs)
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        raise _Bad("its run lengths are no whole numbers")
    pixels = size[0] * size[1]
    if pixels > MAX_PIXELS or sum(runs) != pixels:
        raise _Bad(f"its run lengths add up to {sum(runs):,} pixels, of {pixels:,}")
    if not any(runs[1::2]):
        raise _Bad("its run lengths hold no pixel")
    return tuple(runs)


def _require_object(entry: Any) -> None:
    if not isinstance(entry, dict):
        raise _Bad(f"it is {shown(entry)}, not an object")
    if _TWICE in entry:
        raise _Bad(f"it holds {entry[_TWICE]!r} twice")


def _is_number(value: Any) -> bool:
    """Whether a value is a number of a size that pixels can have: not NaN, not infinite."""
    return type(value) in (int, float) and abs(value) <= _FAR


def _key(value: Any) -> str | None:
    """An id as text, so that 1, 1.0 and "1" are the same; None if it is none."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return printable(str(value)).strip() or None if type(value) in (int, str) else None
