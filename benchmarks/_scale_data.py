"""Stages of `scale.py` that need no network: a tree in MURA's shape, and notebooks 01 to 04.

TensorFlow is not imported here, so that the memory of these stages is their own.
"""

from __future__ import annotations

import dataclasses
import runpy
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mura_utils import evaluation
from mura_utils.data.dataset import Images, load_images
from mura_utils.data.manifest import admit, quality_report, scan
from mura_utils.data.pca import compare_pca, sample_per_class
from mura_utils.data.pixels import load_pixels
from mura_utils.data.sources import open_source
from mura_utils.data.splits import compare_protocols, split
from mura_utils.data.squares import resize
from mura_utils.errors import UserError
from mura_utils.experiments import Experiment, load_experiment
from mura_utils.labels import ABNORMAL
from mura_utils.locks import waiting
from mura_utils.paths import REPOSITORY, read_json, read_table, write_csv, write_json
from mura_utils.phantoms.dataset import TREE, draw_phantoms

_TREE = runpy.run_path(str(REPOSITORY / "tests" / "mura_tree.py"))
_THUMBNAIL = 32  # pixels, as in notebook 06


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        images: of the tree, about.
        phantom_patients: whose images are the pool.
        part: training images of what is measured in parts.
        epochs: measured on the part, after one step that traces.
        bootstrap: resamples of the evaluation.
        explained: test images.
        changes: of exp6's parameters.
    """

    images: int
    phantom_patients: int
    part: int
    epochs: int
    bootstrap: int
    explained: int
    changes: dict[str, Any]


@dataclass(frozen=True)
class Work:
    """A folder that stages leave files in for the next ones.

    Attributes:
        folder: it holds ``size.json``, the tree, tables, ``cache/`` and ``results/``.
        size: how much is measured.
    """

    folder: Path
    size: Size

    @classmethod
    def open(cls, folder: Path) -> Work:
        """The work that `scale.py` began in a folder."""
        return cls(folder, Size(**read_json(folder / "size.json")))

    @property
    def tree(self) -> Path:
        """The data set's folder."""
        return self.folder / TREE

    @property
    def cache(self) -> Path:
        """What MURA_CACHE_DIR is for every stage."""
        return self.folder / "cache"

    def result(self, stage: str) -> Path:
        """The file of what a stage measured."""
        return self.folder / "results" / f"{stage}.json"

    def experiment(self, **changes: object) -> Experiment:
        """exp6 on the tree."""
        own = {"source": "mura", "data_dir": str(self.tree), "bootstrap": self.size.bootstrap}
        return load_experiment("exp6", **own, **(self.size.changes | changes))

    def rows(self) -> pd.DataFrame:
        """The manifest with the column split."""
        manifest = read_table(self.folder / "manifest.csv")
        return manifest.merge(read_table(self.folder / "splits.csv"), on="path")

    def images(self, part: bool = False) -> Images:
        """The images as a run has them, from the pixel cache.

        Args:
            part: leave a sample of the training images, as many of validation as belong to them,
                and all test images; the others are in no split.
        """
        rows = self.rows()
        experiment = self.experiment()
        images = load_images(self.tree, rows, experiment.image_size, progress=False)
        if not part:
            return images
        share = min(1.0, self.size.part / len(images.positions("train")))
        rng = np.random.default_rng(0)
        kept = [images.positions("test")]
        for name in ("train", "validation"):
            positions = images.positions(name)
            kept.append(rng.permutation(positions)[: max(1, round(share * len(positions)))])
        chosen = rows["split"].where(np.isin(np.arange(len(rows)), np.concatenate(kept)), "")
        return dataclasses.replace(images, rows=rows.assign(split=chosen))


@dataclass(frozen=True)
class Measured:
    """What a stage took.

    Attributes:
        done: images that it was measured on; passes over an image count each.
        needed: the same for a run of exp6 on the whole tree.
        seconds: for `done`.
        bytes_written: that stay on disk.
        note: what else to say.
        counted: whether it is part of a run.
        once: of the seconds, those that a run spends once, whatever its images.
    """

    done: int
    needed: int
    seconds: float
    bytes_written: int = 0
    note: str = ""
    counted: bool = True
    once: float = 0.0


def perform(stages: Mapping[str, Callable[[Work], Any]], stage: str, folder: Path) -> None:
    """Do one stage and write what it returns, a dataclass or a dictionary, to its file."""
    work = Work.open(folder)
    # One that a killed `scale.py` left behind is waited for.
    with waiting(folder / ".lock", "measures in the same folder"):
        found = stages[stage](work)
    content = found if isinstance(found, dict) else dataclasses.asdict(found)
    write_json(work.result(stage).with_suffix(".part"), content)


def main(stages: Mapping[str, Callable[[Work], Any]]) -> None:
    """Do the stage and use the folder that the command line names."""
    try:
        perform(stages, sys.argv[1], Path(sys.argv[2]))
    except UserError as error:
        sys.exit(str(error))


def tree_rows(size: Size) -> pd.DataFrame:
    """MURA's rows, as of ``tests/mura_tree.py``, or those of some of its patients."""
    rows = _TREE["real_rows"]()
    if size.images >= len(rows):
        return rows
    drawn = np.random.default_rng(0).random(rows["patient"].max() + 1) < size.images / len(rows)
    return rows[drawn[rows["patient"]]].reset_index(drop=True)


def own_file(png: bytes, number: int) -> bytes:
    """The same image as another file: `number` follows its end, which readers ignore.

    Files with the same bytes would be duplicates in the quality report, and hard links would be
    read from disk only once.
    """
    return png + number.to_bytes(8, "big")


def draw_pool(work: Work) -> dict[str, int]:
    """Draw the phantoms; gives their number and their mean size in bytes."""
    root = work.folder / "pool"
    draw_phantoms(root, patients=work.size.phantom_patients)
    listing = open_source(root, "phantom")
    sizes = [(root / path).stat().st_size for path in listing.rows["path"]]
    return {"images": len(sizes), "bytes": round(sum(sizes) / len(sizes))}


def write_tree(work: Work) -> Measured:
    """Write the tree: each image is one of the pool's, of its class."""
    began = time.perf_counter()
    root = work.folder / "pool"
    pool = open_source(root, "phantom").rows
    pool = pool.assign(abnormal=pool["abnormality"] == ABNORMAL)
    files = {
        key: [(root / path).read_bytes() for path in group["path"]]
        for key, group in pool.groupby(["body_part", "abnormal"])
    }
    rows = tree_rows(work.size)
    keys = list(zip(rows["body_part"], rows["abnormal"], strict=True))

    def content(number: int) -> bytes:
        of_class = files[keys[number]]
        return own_file(of_class[number % len(of_class)], number)

    shutil.rmtree(work.tree, ignore_errors=True)
    _TREE["write_tree"](work.folder, rows, content)
    written = sum(path.stat().st_size for path in work.tree.rglob("*.png"))
    took = time.perf_counter() - began
    note = f"{rows['patient'].nunique():,} patients; {len(pool):,} different images"
    return Measured(len(rows), len(rows), took, written, note, counted=False)


def index(work: Work) -> Measured:
    """List the tree, open every file, and report on their quality (notebook 01)."""
    began = time.perf_counter()
    listing = open_source(work.tree, "mura")
    inventory = scan(listing, progress=False)
    opened = time.perf_counter()
    found = quality_report(listing, inventory)
    write_json(work.folder / "quality.json", found)
    reported = time.perf_counter() - opened
    write_csv(work.folder / "inventory.csv", inventory)
    excluded = sum(found["counts"]["excluded"].values())
    note = (
        f"{excluded:,} excluded, {found['duplicates']['files']:,} duplicates; "
        f"the quality report is {reported:.1f} s of it"
    )
    took = _of_all(inventory, began, work.folder / "inventory.csv")
    return dataclasses.replace(took, note=note)


def manifest(work: Work) -> Measured:
    """From the inventory to the manifest (notebook 02)."""
    began = time.perf_counter()
    admitted = admit(read_table(work.folder / "inventory.csv"))
    write_csv(work.folder / "manifest.csv", admitted)
    return _of_all(admitted, began, work.folder / "manifest.csv")


def splits(work: Work) -> Measured:
    """The split, and the leakage of all protocols (notebook 03)."""
    began = time.perf_counter()
    experiment = work.experiment()
    admitted = read_table(work.folder / "manifest.csv")
    settings = experiment.fractions, experiment.split_seed
    found = split(admitted, experiment.protocol, *settings)
    compare_protocols(admitted, *settings)
    write_csv(work.folder / "splits.csv", found)
    counts = found["split"].value_counts()
    note = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    took = _of_all(admitted, began, work.folder / "splits.csv")
    return dataclasses.replace(took, note=note)


def _of_all(rows: pd.DataFrame, began: float, written: Path) -> Measured:
    took = time.perf_counter() - began
    return Measured(len(rows), len(rows), took, written.stat().st_size)


def pixels(work: Work) -> Measured:
    """The pixel cache (notebook 04)."""
    for old in work.cache.glob("pixels-*.npy"):  # of an interrupted measurement
        old.unlink()
    began = time.perf_counter()
    stored = work.images().pixels
    return Measured(len(stored), len(stored), time.perf_counter() - began, stored.nbytes)


def pca(work: Work) -> Measured:
    """PCA and incremental PCA, for which the images are decoded again (notebook 04)."""
    experiment, rows = work.experiment(), work.rows()
    folder = work.folder / "small"
    shutil.rmtree(folder, ignore_errors=True)
    began = time.perf_counter()
    size = experiment.pca_image_size
    stored = load_pixels(work.tree, rows, size, cache_dir=folder, progress=False)
    flat = stored.reshape(len(rows), -1)
    train, validation = (np.flatnonzero(rows["split"] == each) for each in ("train", "validation"))
    for count in experiment.pca_images_per_class:
        chosen = train[sample_per_class(rows["label"].iloc[train], count)]
        compare_pca(flat[chosen], flat[validation])
    return Measured(len(rows), len(rows), time.perf_counter() - began, stored.nbytes)


def thumbnails(work: Work) -> Measured:
    """The logistic regression on small images (notebook 06)."""
    began = time.perf_counter()
    images = work.images()
    small = np.stack([resize(image, _THUMBNAIL) for image in images.pixels])
    evaluation.logistic_regression(small.reshape(len(small), -1), images.rows, images.classes)
    return Measured(len(images), len(images), time.perf_counter() - began)


STAGES = {
    "pool": draw_pool,
    "tree": write_tree,
    "index": index,
    "manifest": manifest,
    "splits": splits,
    "pixels": pixels,
    "pca": pca,
    "thumbnails": thumbnails,
}

if __name__ == "__main__":
    main(STAGES)
