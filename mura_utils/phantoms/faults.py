"""Faults of files and tables as data sets have them, planted in a set of phantoms.

Each kind is planted once for every 2,000 images, in images of its own: all others stay as they are,
and every study but one keeps an image without a fault. The kinds are the words of `quality.json`.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from mura_utils.paths import atomic_write

_IMAGES_A_ROUND = 2000
_SPLITS = ("train", "valid")

# --- What becomes of a file ----------------------------------------------------------------------

_PAGE = (
    b"<!DOCTYPE html><html><head><title>404 Not Found</title></head><body>Not Found</body></html>\n"
)


def _encode(image: Image.Image, format_: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def _half(image: Image.Image) -> bytes:
    whole = _encode(image)
    return whole[: len(whole) // 2]


def _with_bad_header(image: Image.Image) -> bytes:
    data = bytearray(_encode(image))
    data[29] ^= 0xFF  # the checksum of the header
    return bytes(data)


def _tiny(image: Image.Image) -> bytes:
    image.thumbnail((28, 28))
    return _encode(image)


def _deep(image: Image.Image, marker: bool = False) -> bytes:
    """16 bits; with a marker far brighter than all bone, most of them are empty."""
    levels = np.asarray(image).astype(np.uint16) * (16 if marker else 257)
    if marker:
        side = round(0.055 * min(levels.shape))
        levels[side : 2 * side, side : 2 * side] = 65535
    return _encode(Image.fromarray(levels))


def _turned(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return _encode(image, exif=exif)


def _animated(image: Image.Image) -> bytes:
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return _encode(image, save_all=True, append_images=[mirrored])


_FILES: dict[str, tuple[str, Callable[[Image.Image], bytes]]] = {
    "zero-byte": ("fault", lambda image: b""),
    "wrong-format": ("fault", lambda image: _PAGE),
    "unreadable": ("fault", _with_bad_header),
    "truncated": ("fault", _half),
    "too-small": ("fault", _tiny),
    "uniform": ("fault", lambda image: _encode(Image.new("L", image.size))),
    "suffix-mismatch": ("remark", lambda image: _encode(image, "JPEG", quality=92)),
    "exif-orientation": ("remark", _turned),
    "several-frames": ("remark", _animated),
    "clipped": ("remark", lambda image: _deep(image, marker=True)),
    "16-bit": ("mode", _deep),
}
"""What is planted in a file, as what it is found, and the bytes that an image is replaced with."""


def _write(path: Path, data: bytes) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def _read(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("L")


# --- Where faults are planted --------------------------------------------------------------------


class _Planter:
    """Plants faults in one set, and keeps account of them."""

    def __init__(
        self, root: Path, tree: str, tables: dict[str, list[str]], rng: np.random.Generator
    ) -> None:
        self.root, self.tree, self.tables, self.rng = root, tree, tables, rng
        self.planted: list[dict[str, str]] = []
        self.moved: dict[str, str] = {}
        paths = [path for split in _SPLITS for path in tables[f"{split}_image_paths.csv"]]
        self.free = [paths[i] for i in rng.permutation(len(paths))]
        self.intact = Counter(_study(path) for path in paths)

    def note(self, kind: str, path: str, found_as: str, **more: str) -> None:
        self.planted.append({"kind": kind, "path": path, "found_as": found_as, **more})

    def take(self, fits: Callable[[str], bool] = lambda path: True) -> str:
        """An image that nothing was planted in, and that is not the last such one of its study."""
        path = next(p for p in self.free if self.intact[_study(p)] > 1 and fits(p))
        self.free.remove(path)
        self.intact[_study(path)] -= 1
        return path

    def take_study(self) -> str:
        """An untouched study of the class and split of which there are most."""
        classes = Counter(_class(path) for path in self.free)
        common = classes.most_common(1)[0][0]
        study = next(_study(p) for p in self.free if _class(p) == common)
        self.free = [path for path in self.free if _study(path) != study]
        return study

    def table(self, path: str, which: str) -> list[str]:
        return self.tables[f"{path.split('/')[1]}_{which}.csv"]

    def mask(self, path: str) -> Path:
        return self.root / "masks" / path.removeprefix(f"{self.tree}/")


def _study(path: str) -> str:
    return path.rsplit("/", 1)[0]


def _class(path: str) -> tuple[str, str, bool]:
    _, split, part, _, study, _ = path.split("/")
    return split, part, study.endswith("_positive")


def _is_positive(path: str) -> bool:
    return _class(path)[2]


def _in_files(at: _Planter) -> None:
    for kind, (found_as, damage) in _FILES.items():
        # An abnormal image that is too small has a mask of another size as well: a second remark.
        path = at.take(lambda path, kind=kind: kind != "too-small" or not _is_positive(path))
        _write(at.root / path, damage(_read(at.root / path)))
        at.note(kind, path, found_as)
    path = at.take()
    (at.root / path).unlink()
    at.note("missing", path, "fault")
    path = at.take(lambda path: _has_dark_ground(_read(at.root / path)))
    _write(at.root / path, _encode(_read(at.root / path).point(lambda level: 255 - level)))
    at.note("inverted", path, "remark")


def _has_dark_ground(image: Image.Image) -> bool:
    """Whether the image, and its border, are mostly background."""
    gray = np.asarray(image)
    width = round(0.1 * min(gray.shape))
    border = np.ones(gray.shape, bool)
    border[width:-width, width:-width] = False
    low, high = np.percentile(gray, (1, 99))
    limit = low + 0.3 * (high - low)
    return bool(np.median(gray) < limit and np.median(gray[border]) < limit)


def _beside_files(at: _Planter) -> None:
    path = at.take()
    name = path.rsplit("/", 1)[1]
    stray = f"{_study(path)}/._{name}"  # as macOS writes beside the files of other disks
    _write(at.root / stray, b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(4072))
    at.note("stray-file", stray, "remark")
    path = at.take()
    unlisted = f"{_study(path)}/image99.png"
    mirrored = _read(at.root / path).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    _write(at.root / unlisted, _encode(mirrored))
    at.note("unlisted-file", unlisted, "remark")


def _in_masks(at: _Planter) -> None:
    """Of training images, so that all heat-maps of test images can be scored."""

    def fits(path: str) -> bool:
        return _class(path)[0] == "train" and at.mask(path).is_file()

    path = at.take(fits)
    at.mask(path).unlink()
    at.note("abnormal-without-mask", path, "remark")
    path = at.take(fits)
    mask = _read(at.mask(path))
    small = mask.resize((mask.width // 2, mask.height // 2), Image.Resampling.NEAREST)
    _write(at.mask(path), _encode(small))
    at.note("mask-size-mismatch", path, "remark")


def _twins(at: _Planter) -> None:
    """A normal image of the test set that is, byte for byte, one of the training set."""
    normal = (_class(path) for path in at.free if not _is_positive(path))
    parts = Counter(part for split, part, _ in normal if split == "valid")
    part = parts.most_common(1)[0][0]
    first, twin = (at.take(lambda p, s=s: _class(p) == (s, part, False)) for s in _SPLITS)
    _write(at.root / twin, (at.root / first).read_bytes())
    at.note("duplicate", twin, "duplicate", of=first)


def _in_tables(at: _Planter) -> None:
    path = at.take()
    at.table(path, "image_paths").append(path)
    at.note("repeated-row", path, "remark")
    path = at.take()
    at.table(path, "image_paths").append(path.rsplit("_", 1)[0])
    at.note("malformed-row", f"{at.tree}/{path.split('/')[1]}_image_paths.csv", "remark")
    path = at.take(lambda path: _class(path)[0] == "valid")
    at.tables["train_image_paths.csv"].append(path)
    at.note("other-split", f"{at.tree}/train_image_paths.csv", "remark")
    study = _study(at.take())
    label = int(study.endswith("_positive"))
    at.table(study, "labeled_studies").append(f"{study}/,{1 - label}")
    at.note("contradictory-row", study, "remark")
    study = f"{_study(_study(at.take()))}/study9_negative"
    at.table(study, "labeled_studies").append(f"{study}/,0")
    at.note("study-without-images", study, "remark")


def _in_studies(at: _Planter) -> None:
    study = at.take_study()
    images = [path for path in at.table(study, "image_paths") if _study(path) == study]
    labels = at.table(study, "labeled_studies")
    labels[:] = [row for row in labels if not row.startswith(f"{study}/,")]
    for path in images:
        at.note("unlabeled-study", path, "remark")

    study = at.take_study()
    positive = study.endswith("_positive")
    renamed = study.replace("_positive", "_negative") if positive else f"{study[:-8]}positive"
    labels, images = at.table(study, "labeled_studies"), at.table(study, "image_paths")
    labels[labels.index(f"{study}/,{int(positive)}")] = f"{renamed}/,{int(positive)}"
    for index, path in enumerate(images):
        if _study(path) == study:
            images[index] = at.moved[path] = path.replace(study, renamed)
            for old, new in ((at.root / path, at.root / images[index]),
                             (at.mask(path), at.mask(images[index]))):  # fmt: skip
                if old.is_file():
                    new.parent.mkdir(parents=True, exist_ok=True)
                    old.replace(new)
    (at.root / study).rmdir()
    if positive:
        at.mask(study).rmdir()
    at.note("label-contradiction", renamed, "remark")


def plant_faults(
    root: Path, tree: str, tables: dict[str, list[str]], rng: np.random.Generator
) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Damage some files of a drawn set, and some rows of its tables.

    Labels stay right: where a folder's name contradicts the table, the name is the wrong one, and
    the first of two contradictory rows is right.

    Args:
        root: the set's folder, all files of which are as they were drawn.
        tree: the folder of the images in it.
        tables: the lines of MURA's CSV files by name; changed in place.
        rng: the only source of chance.

    Returns:
        What was planted: kind, path, and found_as, which is "fault" or "remark" (of that kind),
        "mode" or "duplicate"; and where images moved to, by their old path.
    """
    at = _Planter(root, tree, tables, rng)
    for _ in range(max(1, round(len(at.free) / _IMAGES_A_ROUND))):
        for plant in (_in_studies, _in_masks, _twins, _in_files, _beside_files, _in_tables):
            plant(at)
    return sorted(at.planted, key=lambda entry: (entry["kind"], entry["path"])), at.moved
