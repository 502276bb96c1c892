"""The radiographs of any folder, in an order that depends on their paths alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mura_utils.data.images import SUFFIXES, is_image
from mura_utils.data.sources.files import walk_files
from mura_utils.errors import UserError, shown

_STRAY = "._"  # begins the names of macOS's second file next to each file, which holds no pixels
_SHOWN = 5


@dataclass(frozen=True)
class Found:
    """What lies in a folder and below it.

    Attributes:
        images: posix paths relative to the folder, in their order as text.
        others: how many files are no images, by ending or, of hidden files, by name.
        left_out: sentences on what was not looked at.
    """

    images: list[str]
    others: Counter[str]
    left_out: list[str]

    @property
    def sentence(self) -> str:
        """How many files there are."""
        counts = ", ".join(f"{name} {count:,}" for name, count in self.others.most_common())
        others = f"; {self.others.total():,} other files ({counts})" if self.others else ""
        return f"{len(self.images):,} images{others}."


def find_images(folder: Path) -> Found:
    """List the images of a folder and of all folders in it; links are followed, but not in circles.

    An image is what has the ending of one, so that damage is noticed, or begins as one does.

    Args:
        folder: may be a link.

    Raises:
        UserError: it cannot be read, or holds no image.
    """
    files = walk_files(folder, "")
    images, others = [], Counter()
    for path in sorted([*files.sizes.index, *files.odd]):
        name = PurePosixPath(path)
        named_so = name.suffix.lower() in SUFFIXES and not name.name.startswith(_STRAY)
        if named_so or (path not in files.odd and is_image(folder / path)):
            images.append(path)
        else:
            others[_kind(name)] += 1
    broken = [path for path in images if _has_line_break(path)]
    images = [path for path in images if not _has_line_break(path)]
    left_out = [
        f"{folder / path} was not read: {why}." for path, why in sorted(files.unreadable.items())
    ]
    left_out += [
        f"{shown(path)} was left out: its name is not UTF-8, or holds line breaks."
        for path in (*files.misnamed, *broken)
    ]
    if len(left_out) > _SHOWN:
        left_out[_SHOWN:] = [f"So were {len(left_out) - _SHOWN:,} others."]
    if not images:
        raise UserError(
            f"{folder} and its folders hold no PNG or JPEG, and no DICOM ({others.total():,} other "
            f"files): give the folder of the images.{''.join(f' {why}' for why in left_out)}"
        )
    return Found(images, others, left_out)


def _has_line_break(path: str) -> bool:
    return path.splitlines() != [path]


def _kind(name: PurePosixPath) -> str:
    if name.name.startswith(_STRAY):
        return f"{_STRAY}*"
    return name.suffix.lower() or (name.name if name.name.startswith(".") else "without ending")
