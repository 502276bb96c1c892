"""Masks in the frame of the stored image, whatever frame their outlines were drawn in.

EXIF orientation is applied nowhere in this project: an image is used as it is stored. A program
that shows images for annotation may turn them as EXIF says; then its outlines are turned as well.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.path import Path as Outline
from PIL import ExifTags, Image, ImageDraw
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from mura_utils.data.images import MAX_PIXELS
from mura_utils.data.sources.coco import AnnotatedImage, fill_runs
from mura_utils.data.sources.files import is_file, read_bytes
from mura_utils.errors import UserError

SAME_ASPECT = 0.01
"""Two aspect ratios are the same when they differ by no more than this share."""

_CENTER = 0.5 + 1e-6  # pixels; a center on the left or upper border is inside, on others outside


@dataclass(frozen=True)
class Header:
    """What the head of an image file says.

    Attributes:
        width, height: pixels, as stored.
        orientation: of EXIF, 1 to 8.
    """

    width: int
    height: int
    orientation: int = 1

    @property
    def stored(self) -> tuple[int, int]:
        """Width and height of the pixels as they are stored."""
        return self.width, self.height

    @property
    def displayed(self) -> tuple[int, int]:
        """Width and height of the picture that a viewer shows which applies EXIF."""
        return self.stored if self.orientation < 5 else self.stored[::-1]


@dataclass(frozen=True)
class Fit:
    """How outlines come to lie on the stored image.

    Attributes:
        turned: they were drawn on the displayed picture, and are turned back.
        scaled: they were drawn on another size with the same aspect ratio.
        certain: the sizes say whether they were drawn on the stored or the displayed picture.
    """

    turned: bool
    scaled: bool
    certain: bool = True


def read_header(path: Path) -> Header | None:
    """Size and orientation of a PNG or JPEG, without its pixels; None if they cannot be read."""
    if not is_file(path):
        return None
    try:
        with path.open("rb") as file:
            kind = _reader(file.read(2))
            file.seek(0)
            with kind(file) as image:
                width, height = image.size
                try:
                    # Not PngImageFile.getexif, which decodes the pixels to look behind them.
                    orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
                except Exception:  # many kinds; and what cannot be read turns no image
                    orientation = 1
    except Exception:  # as many; `images.read_image` says what is wrong with the file
        return None
    if width * height > MAX_PIXELS:
        return None
    return Header(width, height, orientation if orientation in range(1, 9) else 1)


def fit(drawn: tuple[int, int] | None, image: Header) -> Fit | None:
    """Find the frame that outlines were drawn in.

    Where the sizes cannot tell, because turning leaves the size as it is (orientations 2 to 4, and
    square images), it is taken for the displayed picture: browsers show that one, and in one of
    them FracAtlas was annotated.

    Args:
        drawn: width and height that the outlines were drawn for; None: unknown.
        image: the image's header.

    Returns:
        How to use them, or None: they belong to another picture.
    """
    turnable = image.orientation > 1
    if turnable and drawn is None:
        return Fit(turned=True, scaled=False, certain=False)
    for scaled, same in ((False, tuple.__eq__), (True, _same_aspect)):
        stored = drawn is None or same(drawn, image.stored)
        displayed = turnable and same(drawn, image.displayed)
        if stored or displayed:
            return Fit(displayed, scaled, certain=not (stored and displayed))
    return None


def draw(annotated: AnnotatedImage, image: Header) -> np.ndarray | None:
    """Draw the fractures of an image in its stored frame.

    A pixel belongs to a polygon or box if its center lies inside. One that is too thin for that is
    drawn as a line, so that nothing is lost.

    Returns:
        `(H, W)` bool, or None where the outlines belong to a picture of another shape.
    """
    found = fit(annotated.size, image)
    if found is None:
        return None
    size = image.displayed if found.turned else image.stored
    drawn = annotated.size or size
    across, down = size[0] / drawn[0], size[1] / drawn[1]
    mask = np.zeros(size[::-1], bool)
    for fracture in annotated.fractures:
        outlines = [np.reshape(polygon, (-1, 2)) for polygon in fracture.polygons]
        if fracture.box:
            outlines.append(_corners(*fracture.box))
        for outline in outlines:
            _fill(mask, outline * (across, down))
        if fracture.runs:
            filled = Image.fromarray(fill_runs(fracture.runs, drawn))
            mask |= np.asarray(filled.resize(size, Image.Resampling.NEAREST))
    return turn_back(mask, image.orientation) if found.turned else mask


def _corners(left: float, top: float, width: float, height: float) -> np.ndarray:
    right, bottom = left + width, top + height
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def _fill(mask: np.ndarray, outline: np.ndarray) -> None:
    """Mark what an outline (P, 2) of x and y encloses.

    Example:
        >>> mask = np.zeros((4, 4), bool)
        >>> _fill(mask, _corners(0.6, 1.2, 2.4, 1.5))
        >>> mask.astype(int).tolist()
        [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    left, top = np.floor(outline.min(axis=0)).astype(int).clip(0)
    right, bottom = np.ceil(outline.max(axis=0)).astype(int).clip(0)
    part = mask[top:bottom, left:right]
    rows, columns = np.indices(part.shape)
    centers = np.column_stack([columns.ravel() + left, rows.ravel() + top]) + _CENTER
    inside = Outline(outline).contains_points(centers).reshape(part.shape)
    part |= inside
    if not inside.any():
        height, width = mask.shape
        pixels = np.floor(outline).clip(0, (width - 1, height - 1))
        canvas = Image.new("1", (width, height))
        ImageDraw.Draw(canvas).polygon([tuple(pixel) for pixel in pixels.tolist()], fill=1)
        mask |= np.asarray(canvas)


def turn_back(displayed: np.ndarray, orientation: int) -> np.ndarray:
    """The stored frame `(H, W)` of what a viewer shows for an EXIF orientation of 1 to 8."""
    turns = {
        2: np.fliplr,
        3: lambda mask: np.rot90(mask, 2),
        4: np.flipud,
        5: np.transpose,
        6: np.rot90,
        7: lambda mask: np.rot90(mask, 2).T,
        8: lambda mask: np.rot90(mask, -1),
    }
    return turns[orientation](displayed)


def describe_fit(annotated: AnnotatedImage, image: Header) -> tuple[str, str] | None:
    """Kind and detail of the remark on how outlines were made to fit; None if they simply do."""
    found = fit(annotated.size, image)
    sizes = f"{_pixels(annotated.size)}, while the image has {_pixels(image.stored)}"
    if found is None:
        return "mask-size-mismatch", f"drawn for {sizes}: another picture, the mask is not used"
    if found.turned:
        how = "as the sizes say" if found.certain else "which the sizes cannot tell"
        scaled = f", scaled from {_pixels(annotated.size)}" if found.scaled else ""
        detail = f"drawn on the picture turned by EXIF orientation {image.orientation}, {how}"
        return "mask-turned", f"{detail}; turned back{scaled}"
    if found.scaled:
        return "mask-scaled", f"drawn for {sizes}; scaled"
    return None


def fit_mask(mask: np.ndarray, image: Header) -> np.ndarray | None:
    """A mask (H, W) that was drawn as an image of its own, in the stored frame of its radiograph.

    Returns:
        bool, of the size of the stored image; None where it belongs to a picture of another shape.
    """
    found = fit(mask.shape[::-1], image)
    if found is None:
        return None
    size = image.displayed if found.turned else image.stored
    resized = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    return turn_back(resized, image.orientation) if found.turned else resized


def read_mask(path: Path) -> np.ndarray:
    """Read a mask from a PNG or JPEG: bool (H, W), true above half of its brightest gray level.

    Raises:
        UserError: the file cannot be read or decoded.
    """
    data = read_bytes(path)
    try:
        with _reader(data)(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"it has more than {MAX_PIXELS:,} pixels")
            gray = np.asarray(image if image.mode.startswith("I") else image.convert("L"))
        return gray > gray.max() / 2
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{path} is not a mask that can be read ({reason}).") from error


def _reader(data: bytes) -> type[JpegImageFile | PngImageFile]:
    return JpegImageFile if data.startswith(b"\xff\xd8") else PngImageFile


def _same_aspect(one: tuple[int, int], other: tuple[int, int]) -> bool:
    (width, height), (wide, high) = one, other
    return abs(width * high - wide * height) <= SAME_ASPECT * wide * height


def _pixels(size: tuple[int, int] | None) -> str:
    return "an unknown size" if size is None else f"{size[0]} x {size[1]} pixels"
