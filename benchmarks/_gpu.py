"""What gpu.py and gpu_jax.py share: sizes, operations, the command line. Needs no TensorFlow."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import keras

from mura_utils.network.cut import multiply_adds


@dataclass(frozen=True)
class Size:
    """How much is computed at a time.

    Attributes:
        side: of the matrices.
        images: an epoch of the input pipeline.
        changes: of exp6's parameters.
    """

    side: int
    images: int
    changes: dict


FULL = Size(8192, 2048, {})
SMALL = Size(128, 8, {"backbone": "mobilenet", "alpha": 0.25, "image_size": 32, "batch_size": 4})


def forward_operations(network: keras.Model) -> float:
    """Floating-point operations of an image's forward pass."""
    return 2.0 * sum(multiply_adds(network).values())


def command_line(description: str) -> argparse.ArgumentParser:
    """A parser of `seconds` of each measurement, and `size`; `description` is the docstring."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument(
        "--small",
        dest="size",
        action="store_const",
        const=SMALL,
        default=FULL,
        help="a small network and small images, to see that it works; the numbers mean nothing",
    )
    return parser
