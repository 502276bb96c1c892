"""Cross-validate changes of best_fracatlas on a GPU that has JAX, where a training takes seconds.

The images of training and validation of one run are cut into folds by patient; the test split is
never read. For each change and seed, a network is trained on all folds but one and answers that
one, until every image has an answer. Needs a run that has its split (`mura run … --to 03`), JAX
beside the package's requirements, and no TensorFlow.

    mura run experiments/best_fracatlas.yaml -p data_dir=data/FracAtlas --to 03
    python benchmarks/cross_validation_jax.py best_fracatlas --seeds 4 \\
        "" image_size=448 "image_size=448 views=28" backbone=efficientnet_lite2

It trains as `mura run` does, but computes the frozen part again at each step, and a last batch that
is not full is left out; precision, kernels and early stopping are not used. A change is one
parameter of the experiment, or several with spaces between them.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from functools import partial
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"

try:
    import jax
    import jax.numpy as jnp
except ModuleNotFoundError:
    sys.exit("cross_validation_jax.py needs JAX (pip install jax[cuda13]).")
import keras
import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score, log_loss, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from mura_utils.augmentation import Augmentation
from mura_utils.data.close_ups import FINE, draw_close_ups, zoom_in
from mura_utils.data.dataset import Images, load_images
from mura_utils.errors import UserError
from mura_utils.experiments import Experiment, load_experiment, parse_assignment
from mura_utils.labels import is_abnormal
from mura_utils.network.build import build_model
from mura_utils.network.heads import FINDING
from mura_utils.network.mask_loss import MaskLoss
from mura_utils.network.second_look import fine_side, hottest_corners, look_closer
from mura_utils.runs.record import find_run, images_of, read_record, refuse_changes, require

_AT_ONCE = 128  # images that are answered together
_NEEDED = {
    "second_look": True,
    "schedule": "cosine",
    "keep_epoch": "last",
    "sampling": "natural",
    "class_weights": False,
    "focal_gamma": 0.0,
    "label_smoothing": 0.0,
    "tabular": [],
    "l1": 0.0,
    "l2": 0.0,
}  # what this script trains with, as best_fracatlas does
State = tuple[list, list, list]  # trained, other and the optimizer's variables


def bilinear(image: jax.Array, transform: jax.Array, size: int, outside: str) -> jax.Array:
    """Warp (H, W) to (size, size) as `generators.augment` does; zeros outside, or the edge."""
    height, width = image.shape
    y, x = jnp.mgrid[:size, :size].astype(jnp.float32)
    at_x = transform[0] * x + transform[1] * y + transform[2]
    at_y = transform[3] * x + transform[4] * y + transform[5]
    left, top = jnp.floor(at_x), jnp.floor(at_y)
    right_share, low_share = at_x - left, at_y - top

    def read(row: jax.Array, column: jax.Array) -> jax.Array:
        rows, columns = row.astype(int), column.astype(int)
        found = image[jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1)]
        if outside == "edge":
            return found
        return jnp.where(
            (rows == rows.clip(0, height - 1)) & (columns == columns.clip(0, width - 1)), found, 0.0
        )

    upper = read(top, left) * (1 - right_share) + read(top, left + 1) * right_share
    lower = read(top + 1, left) * (1 - right_share) + read(top + 1, left + 1) * right_share
    return upper * (1 - low_share) + lower * low_share


class Trainer:
    """One network and its compiled training epoch, for all folds and seeds of a change."""

    def __init__(self, images: Images, experiment: Experiment) -> None:
        """Read the pixels, at three sizes, and the masks."""
        self.images, self.experiment = images, experiment
        rows = np.arange(len(images))
        self.masks = images.masks(rows)
        self.larger = images.pixels_at(fine_side(images.size))
        self.pixels = jnp.asarray(images.pixels)
        self.fine = jnp.asarray(images.pixels_at(FINE * images.size))
        blank = np.zeros((1, images.size, images.size), np.uint8)
        self.maps = jnp.asarray(np.concatenate([self.masks.maps, blank]))
        self.places = jnp.asarray(np.maximum(self.masks.places, -1))
        self.known = jnp.asarray(self.masks.places != self.masks.UNKNOWN)
        self.labels = jnp.asarray(images.one_hot)
        self.build(0)
        self.epoch = jax.jit(self._epoch)
        self.ask = jax.jit(partial(self.network.stateless_call, training=False))

    def build(self, seed: int) -> State:
        """A new network's variables."""
        model = build_model(self.experiment.model_copy(update={"seed": seed}), self.images.classes)
        finding = model.get_layer(FINDING).output
        self.grid = finding.shape[1]
        network = keras.Model(model.inputs, [*model.outputs, finding])
        if not hasattr(self, "network"):
            self.network = network
            decay = self.experiment.weight_decay
            self.optimizer = keras.optimizers.AdamW(1.0, weight_decay=decay)
            self.optimizer.build(network.trainable_variables)
            self.fresh = [np.asarray(each) for each in self.optimizer.variables]
        kinds = network.trainable_variables, network.non_trainable_variables
        trained, others = ([jnp.asarray(np.asarray(each)) for each in kind] for kind in kinds)
        return trained, others, [jnp.asarray(each) for each in self.fresh]

    def draw(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(views, n, 12): transforms of the stored versions, and whether each is a close-up."""
        experiment, size = self.experiment, self.images.size
        augmentation, versions = Augmentation.of(experiment), []
        for version in range(min(experiment.views, experiment.epochs)):
            drawn = augmentation.transforms(len(rows), size, rng)
            drawn = np.pad(drawn, ((0, 0), (0, 11 - drawn.shape[1])))
            close = np.zeros((len(rows), 1), np.float32)
            if version % 2:
                chosen = draw_close_ups(self.masks, self.images.rows.iloc[rows], rng)
                drawn, close = zoom_in(drawn, chosen, size), np.ones_like(close)
            versions.append(np.hstack([drawn, close]).astype(np.float32))
        return np.stack(versions)

    def batch(self, rows: jax.Array, drawn: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Radiographs (B, S, S, 1), labels (B, K) and mask targets (B, g, g, 1)."""
        size = self.images.size

        def one(row: jax.Array, transform: jax.Array) -> tuple[jax.Array, jax.Array]:
            whole = bilinear(self.pixels[row].astype(jnp.float32), transform, size, "edge")
            near = self.fine[row].astype(jnp.float32)
            middle = (FINE - 1) / 2
            close = FINE * transform[:6] + jnp.array([0, 0, middle, 0, 0, middle])
            gray = jnp.where(transform[11] > 0, bilinear(near, close, size, "edge"), whole)
            gray = (gray / 255) ** jnp.exp(transform[8])
            gray = (gray - 0.5) * (1 + transform[9]) + 0.5 + transform[10] / 2
            mask = self.maps[self.places[row]].astype(jnp.float32)
            return 255 * jnp.clip(gray, 0, 1), bilinear(mask, transform, size, "zero")

        gray, masks = jax.vmap(one)(rows, drawn)
        cell = -(-size // self.grid)
        more = self.grid * cell - size
        masks = jnp.pad(masks, ((0, 0), (0, more), (0, more)))
        cells = masks.reshape(-1, self.grid, cell, self.grid, cell).max((2, 4))
        targets = jnp.where(self.known[rows, None, None], cells >= 0.5, -1.0)
        return gray[..., None], self.labels[rows], targets[..., None]

    def _epoch(self, state: State, rows: jax.Array, drawn: jax.Array, rates: jax.Array) -> State:
        classes, masks = keras.losses.CategoricalCrossentropy(), MaskLoss()

        def loss(trained: list, others: list, batch: tuple) -> tuple[jax.Array, list]:
            gray, labels, targets = batch
            (answers, finding), others = self.network.stateless_call(
                trained, others, gray, training=True
            )
            taught = self.experiment.mask_supervision * masks(targets, finding)
            return classes(labels, answers) + taught, others

        def step(state: State, given: tuple) -> tuple[State, None]:
            trained, others, moments = state
            rows, drawn, rate = given
            gradient = jax.grad(loss, has_aux=True)
            gradients, others = gradient(trained, others, self.batch(rows, drawn))
            moved, moments = self.optimizer.stateless_apply(moments, gradients, trained)
            moved = [old + rate * (new - old) for old, new in zip(trained, moved, strict=True)]
            return (moved, others, moments), None

        return jax.lax.scan(step, state, (rows, drawn, rates))[0]

    def train(self, rows: np.ndarray, seed: int) -> State:
        """A network trained on some rows."""
        experiment, rng = self.experiment, np.random.default_rng(seed)
        count, epochs, warmup = experiment.batch_size, experiment.epochs, experiment.warmup_epochs
        steps = len(rows) // count
        drawn = self.draw(rows, rng)
        first = rng.integers(len(drawn), size=len(rows))
        state = self.build(seed)
        for epoch in range(epochs):
            order = rng.permutation(len(rows))[: steps * count]
            passed = (epoch * steps + np.arange(steps)) / steps
            falling = (1 + np.cos(np.pi * (passed - warmup) / (epochs - warmup))) / 2
            rates = experiment.learning_rate * np.where(
                passed < warmup, passed / max(warmup, 1), falling
            )
            versions = drawn[(first[order] + epoch) % len(drawn), order]
            state = self.epoch(
                state,
                rows[order].reshape(steps, count),
                versions.reshape(steps, count, -1),
                rates.astype(np.float32),
            )
        return state

    def answer(self, state: State, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Probabilities of the first and of the second look, and whether its hottest cell hits."""
        size = self.images.size
        first, attention = self._ask(state, self.images.pixels[rows])
        closer = look_closer(self.larger[rows], attention, size)
        second, near = self._ask(state, closer)
        corners = hottest_corners(attention, size)
        hottest = near.reshape(len(near), -1).argmax(axis=1)
        cells = np.stack(np.unravel_index(hottest, near.shape[1:3]), axis=1)
        spots = (corners + (cells + 0.5) / self.grid * size) * size / fine_side(size)
        y, x = np.clip(spots, 0, size - 1).astype(int).T
        places = self.masks.places[rows]
        hits = np.full(len(rows), np.nan)
        found = places >= 0
        hits[found] = self.masks.maps[places[found], y[found], x[found]]
        return first, second, hits

    def _ask(self, state: State, pixels: np.ndarray) -> list[np.ndarray]:
        trained, others, _ = state
        more = -len(pixels) % _AT_ONCE
        padded = np.pad(pixels, ((0, more), (0, 0), (0, 0)))[..., None].astype(np.float32)
        starts = range(0, len(padded), _AT_ONCE)
        found = [self.ask(trained, others, padded[at : at + _AT_ONCE])[0] for at in starts]
        return [np.concatenate(each)[: len(pixels)] for each in zip(*found, strict=True)]


def judge(images: Images, probabilities: np.ndarray, first: np.ndarray, hits: np.ndarray) -> dict:
    """Metrics of answers to all images."""
    columns = np.array([is_abnormal(name) for name in images.classes])
    abnormal = images.one_hot[:, columns].any(axis=1)
    p, p_first = (each[:, columns].sum(axis=1).clip(0, 1) for each in (probabilities, first))
    return {
        "AUROC": roc_auc_score(abnormal, p),
        "of one look": roc_auc_score(abnormal, p_first),
        "log loss": log_loss(abnormal, p),
        "kappa": cohen_kappa_score(images.one_hot.argmax(axis=1), probabilities.argmax(axis=1)),
        "hits": np.nanmean(hits),
    }


def changed(folder: Path, change: str) -> Experiment:
    """The run's experiment with a change.

    Raises:
        UserError: it cannot be read, concerns the data, or is not what this script trains with.
    """
    changes = dict(parse_assignment(each) for each in change.split())
    experiment = load_experiment(folder / "experiment.yaml", **changes)
    refuse_changes(experiment.model_dump(), read_record(folder), folder.name, "04")
    for name, needed in _NEEDED.items():
        value = getattr(experiment, name)
        if value != needed:
            raise UserError(f"{name} = {value!r}: this script trains with {needed!r} only.")
    return experiment


def measure(arguments: argparse.Namespace) -> None:
    """Print a row for each change and seed as it comes, and one for the mean of its networks."""
    folder = find_run(arguments.run)
    require(folder, "04_data_transformation")
    experiments = {change: changed(folder, change) for change in arguments.changes}
    rows = images_of(folder)
    rows = rows[rows["split"] != "test"].reset_index(drop=True)
    folds = StratifiedGroupKFold(arguments.folds, shuffle=True, random_state=0)
    parts = [part for _, part in folds.split(rows, rows["label"], rows["patient"])]
    for change, experiment in experiments.items():
        root = Path(experiment.data_dir)
        trainer = Trainer(
            load_images(root, rows, experiment.image_size, experiment.resize), experiment
        )
        together = []
        for seed in range(arguments.seeds):
            began = time.perf_counter()
            answers = [np.empty((len(rows), len(trainer.images.classes))) for _ in range(2)]
            hits = np.empty(len(rows))
            for part in parts:
                state = trainer.train(np.setdiff1d(np.arange(len(rows)), part), seed)
                answers[0][part], answers[1][part], hits[part] = trainer.answer(state, part)
            together.append((sum(answers) / 2, answers[0], hits))
            _say(change or "recipe", f"seed {seed}", judge(trainer.images, *together[-1]), began)
        if len(together) > 1:
            mean = [np.mean(each, axis=0) for each in zip(*together, strict=True)]
            _say(change or "recipe", "mean network", judge(trainer.images, *mean), began)


def _say(change: str, what: str, metrics: dict[str, float], began: float) -> None:
    cells = pd.Series(metrics).map("{:.4f}".format).to_dict()
    print(change, what, cells, f"{time.perf_counter() - began:.0f} s", flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="a run that has completed 03: its name in runs/, or its folder")
    parser.add_argument("changes", nargs="*", default=[""], help='such as image_size=384; "": none')
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--folds", type=int, default=4)
    try:
        measure(parser.parse_args())
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
