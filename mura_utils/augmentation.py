"""What augmentation draws: a matrix and gray levels for each image, with NumPy alone."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from mura_utils import sections


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the augmentation, with the draws of Keras's `ImageDataGenerator`.

    ``Augmentation(**report.AUGMENTATION)`` is the report's (III.E); 0 or False turns a part off.

    Attributes:
        rotation_range: degrees to either side.
        width_shift_range: share of the side, to either side.
        height_shift_range: share of the side, to either side.
        shear_range: degrees (not radians, and not a share) to either side, as Keras reads it.
        zoom_range: zoom factors are drawn from [1 - zoom_range, 1 + zoom_range], per axis.
        horizontal_flip: mirror left-right half of the images.
        grey_range: r. Gray values, 0 to 1, are raised to exp(-r) to exp(r), their distance from 0.5
            is multiplied by 1 - r to 1 + r, and -r / 2 to r / 2 is added.
    """

    rotation_range: float
    width_shift_range: float
    height_shift_range: float
    shear_range: float
    zoom_range: float
    horizontal_flip: bool
    grey_range: float = 0.0

    @classmethod
    def of(cls, ranges: sections.Augmentation) -> Augmentation:
        """The augmentation that an experiment describes.

        Example:
            >>> Augmentation.of(sections.Augmentation(rotation_range=15)).rotation_range
            15.0
        """
        return cls(**{field.name: getattr(ranges, field.name) for field in fields(cls)})

    def draw(self, count: int, size: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draw the parameters of `count` images of `size` x `size` pixels.

        Returns:
            Arrays (count,) under the names that `ImageDataGenerator.apply_transform` takes: theta
            and shear in degrees, tx and ty in pixels, zx and zy as factors, flip_horizontal bool.

        Example:
            >>> from mura_utils import report
            >>> augmentation = Augmentation(**report.AUGMENTATION)
            >>> drawn = augmentation.draw(3, size=224, rng=np.random.default_rng(0))
            >>> drawn["theta"].round(1).tolist()  # degrees
            [11.0, -18.4, -36.7]
        """

        def uniform(limit: float) -> np.ndarray:
            return rng.uniform(-limit, limit, count)

        return {
            "theta": uniform(self.rotation_range),
            "tx": uniform(self.height_shift_range) * size,
            "ty": uniform(self.width_shift_range) * size,
            "shear": uniform(self.shear_range),
            "zx": 1 + uniform(self.zoom_range),
            "zy": 1 + uniform(self.zoom_range),
            "flip_horizontal": (rng.random(count) < 0.5) & self.horizontal_flip,
        }

    @cached_property
    def columns(self) -> int:
        """Numbers that describe a transform: 8, or 11 with a `grey_range`.

        Asked once, as TensorFlow's threads take the smallest numbers for 0.
        """
        return 11 if self.grey_range else 8

    def transforms(self, count: int, size: int, rng: np.random.Generator) -> np.ndarray:
        """Draw what `augment` takes for `count` images of `size` x `size` pixels.

        Returns:
            (count, 8) float32 matrices; with a `grey_range` (count, 11), gamma, contrast and
            brightness after them.
        """
        matrices = self.matrices(self.draw(count, size, rng), size)
        if self.columns == 8:
            return matrices
        drawn = rng.uniform(-self.grey_range, self.grey_range, (count, 3)).astype(np.float32)
        return np.hstack([matrices, drawn])

    @staticmethod
    def matrices(parameters: dict[str, np.ndarray], size: int) -> np.ndarray:
        """Compose the parameters of each image into one matrix from output to input pixels.

        Keras composes rotation · shift · shear · zoom about the image's center and then mirrors the
        result, which about that center is one more factor diag(-1, 1) on the right. x is the column
        and y the row. As in Keras 3, tx moves along x although it is drawn from
        `height_shift_range`; with equal ranges, as in the report, that makes no difference.

        Args:
            parameters: what `draw` returned.
            size: side of the square images, in pixels.

        Returns:
            (N, 8) float32 for `tf.raw_ops.ImageProjectiveTransformV3`.

        Example:
            >>> still = Augmentation(0, 0, 0, 0, 0, horizontal_flip=False)
            >>> drawn = still.draw(1, size=224, rng=np.random.default_rng(0))
            >>> Augmentation.matrices(drawn, size=224).tolist()  # the identity
            [[1.0, -0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]]
        """
        theta = np.deg2rad(parameters["theta"])
        sheared = theta + np.deg2rad(parameters["shear"])
        mirror = np.where(parameters["flip_horizontal"], -1.0, 1.0)
        xx = np.cos(theta) * parameters["zx"] * mirror
        xy = -np.sin(sheared) * parameters["zy"]
        yx = np.sin(theta) * parameters["zx"] * mirror
        yy = np.cos(sheared) * parameters["zy"]
        tx, ty = parameters["tx"], parameters["ty"]
        center = (size - 1) / 2
        x0 = center * (1 - xx - xy) + np.cos(theta) * tx - np.sin(theta) * ty
        y0 = center * (1 - yx - yy) + np.sin(theta) * tx + np.cos(theta) * ty
        zero = np.zeros_like(xx)
        return np.stack([xx, xy, x0, yx, yy, y0, zero, zero], axis=1).astype(np.float32)
