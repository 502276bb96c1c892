"""Time to index and to split a data set, as it grows: 10,000, 40,000 and 400,000 images.

The trees have MURA's layout and proportions (patients, studies, classes), with files of one byte:
no file is opened, but each is looked at. Beside `splits.split`, 85/15 by patient, stands
scikit-learn's StratifiedGroupKFold with 20 folds, where that takes less than a minute.
"""

from __future__ import annotations

import runpy
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from _common import alternate, machine, options, say, say_head, say_row
from sklearn.model_selection import StratifiedGroupKFold

from mura_utils.data.manifest import admit, scan
from mura_utils.data.sources import open_source
from mura_utils.data.splits import split
from mura_utils.paths import REPOSITORY

_INDEX, _SPLIT, _FOLDS = "list, scan, admit", "split", "StratifiedGroupKFold"
_PATIENCE = 60.0  # seconds
_TREE = runpy.run_path(str(REPOSITORY / "tests" / "mura_tree.py"))


def rows_of(images: int) -> pd.DataFrame:
    """About `images` rows: MURA's, repeated with new patients, or those of some of its patients."""
    once = _TREE["real_rows"]()
    patients = once["patient"].max()
    copies = -(-images // len(once))
    rows = pd.concat(
        [once.assign(patient=once["patient"] + copy * patients) for copy in range(copies)],
        ignore_index=True,
    )
    chosen = np.random.default_rng(0).random(copies * patients + 1) < images / len(rows)
    return rows[chosen[rows["patient"]]].reset_index(drop=True)


def index(root: Path) -> pd.DataFrame:
    """From a folder to the manifest, without opening an image."""
    return admit(scan(open_source(root), read_pixels=False, progress=False))


def folds(train: pd.DataFrame) -> list[tuple[np.ndarray, np.ndarray]]:
    """Three folds of 20, which are 15 %."""
    splitter = StratifiedGroupKFold(20, shuffle=True, random_state=0)
    return list(islice(splitter.split(train["path"], train["label"], train["patient"]), 3))


def exponent(seconds: dict[int, float]) -> str:
    """The power of the number of images that the time grows with."""
    if len(seconds) < 2:
        return "–"
    slope, _ = np.polyfit(np.log(list(seconds)), np.log(list(seconds.values())), 1)
    return f"{slope:.2f}"


def main() -> None:
    """Measure each size and print times, times an image, and exponents of growth."""
    parser = options(__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 40_000, 400_000])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    sizes, rounds = sorted(arguments.images), arguments.rounds
    if arguments.quick:
        sizes, rounds = [4_000, 16_000], 1

    measured: dict[str, dict[int, float]] = {_INDEX: {}, _SPLIT: {}, _FOLDS: {}}
    for size in sizes:
        rows = rows_of(size)
        with TemporaryDirectory(prefix="mura-benchmark-") as name:
            root = Path(name)
            _TREE["write_tree"](root, rows, content=lambda _: b"\0")
            manifest = index(root)
            train = manifest[manifest["official_split"] == "train"]
            say(f"{len(manifest):,} images, {manifest['patient'].nunique():,} patients")
            sides = {
                _INDEX: lambda root=root: index(root),
                _SPLIT: lambda manifest=manifest: split(manifest),
            }
            expected = max((t / n * size for n, t in measured[_FOLDS].items()), default=0.0)
            if expected < _PATIENCE:
                sides[_FOLDS] = lambda train=train: folds(train)
            else:
                say(f"{_FOLDS} would take about {expected:.0f} s and is left out")
            for side, seconds in alternate(sides, rounds).items():
                measured[side][len(manifest)] = seconds

    counts = list(measured[_INDEX])
    say_head("seconds (µs an image)", *(f"{count:,} images" for count in counts), "exponent")
    for side, seconds in measured.items():
        cells = [
            f"{seconds[n]:.2f} ({seconds[n] / n * 1e6:.0f})" if n in seconds else "–"
            for n in counts
        ]
        say_row(side, *cells, exponent(seconds))
    ratios = [
        f"{measured[_FOLDS][n] / measured[_SPLIT][n]:.1f}" if n in measured[_FOLDS] else "–"
        for n in counts
    ]
    say_row(f"times that {_FOLDS} takes", *ratios, "")
    say(f"\n{machine('numpy', 'pandas', 'scikit-learn')}")


if __name__ == "__main__":
    main()
