"""Training with JAX, without TensorFlow: the steps of a network and its answers to other images."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"

try:
    import jax
    import jax.numpy as jnp
except ModuleNotFoundError:
    sys.exit(f"{Path(sys.argv[0]).name} needs JAX (pip install jax[cuda13]).")
import keras
import numpy as np
import pandas as pd

from mura_utils.augmentation import Augmentation
from mura_utils.data.close_ups import FINE, draw_close_ups, zoom_in
from mura_utils.data.dataset import Images, Masks, load_images
from mura_utils.experiments import Experiment
from mura_utils.network.build import build_model
from mura_utils.network.heads import FINDING
from mura_utils.network.mask_loss import MaskLoss
from mura_utils.network.second_look import fine_side, hottest_corners, look_closer

_AT_ONCE = 128  # images that are answered together
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


@dataclass(frozen=True, eq=False)
class Squares:
    """The images of a run as squares of three sides, and their masks."""

    images: Images
    masks: Masks
    larger: np.ndarray  # what a second look is cut from
    on_device: dict[str, jax.Array]

    @classmethod
    def read(cls, experiment: Experiment, rows: pd.DataFrame) -> Squares:
        """Decode them."""
        root, size = Path(experiment.data_dir), experiment.image_size
        images = load_images(root, rows, size, experiment.resize, progress=False)
        masks = images.masks(np.arange(len(images)))
        on_device = {
            "whole": images.pixels,
            "fine": images.pixels_at(FINE * size),
            "maps": np.concatenate([masks.maps, np.zeros((1, size, size), np.uint8)]),
            "places": np.maximum(masks.places, Masks.EMPTY),
            "known": masks.places != Masks.UNKNOWN,
            "labels": images.one_hot,
        }
        larger = images.pixels_at(fine_side(size))
        return cls(images, masks, larger, {name: jnp.asarray(a) for name, a in on_device.items()})


class Trainer:
    """One network and its compiled training epoch, for all changes that leave it as it is."""

    def __init__(self, experiment: Experiment, classes: list[str]) -> None:
        """Build it."""
        self.experiment, self.classes = experiment, classes
        self.network = self._build(0)
        self.maps = len(self.network.outputs) > 1
        self.grid = self.network.outputs[-1].shape[1] if self.maps else 1
        self.optimizer = keras.optimizers.AdamW(1.0, weight_decay=experiment.weight_decay)
        self.optimizer.build(self.network.trainable_variables)
        self.moments = _values(self.optimizer.variables)
        self.starts = {0: self._variables(self.network)}
        self.epoch = jax.jit(self._epoch)
        self.ask = jax.jit(partial(self.network.stateless_call, training=False))

    def _build(self, seed: int) -> keras.Model:
        model = build_model(self.experiment.model_copy(update={"seed": seed}), self.classes)
        found = [layer.output for layer in model.layers if layer.name == FINDING]
        return keras.Model(model.inputs, [*model.outputs, *found])

    @staticmethod
    def _variables(network: keras.Model) -> tuple[list, list]:
        return _values(network.trainable_variables), _values(network.non_trainable_variables)

    def start(self, seed: int) -> State:
        """A new network's variables."""
        if seed not in self.starts:
            self.starts[seed] = self._variables(self._build(seed))
        return (*self.starts[seed], self.moments)

    def batch(self, data: dict, rows: jax.Array, drawn: jax.Array) -> tuple[jax.Array, ...]:
        """Radiographs (B, S, S, 1), labels (B, K) and mask targets (B, g, g, 1)."""
        size = self.experiment.image_size

        def one(row: jax.Array, transform: jax.Array) -> tuple[jax.Array, jax.Array]:
            whole = bilinear(data["whole"][row].astype(jnp.float32), transform, size, "edge")
            near = data["fine"][row].astype(jnp.float32)
            middle = (FINE - 1) / 2
            close = FINE * transform[:6] + jnp.array([0, 0, middle, 0, 0, middle])
            gray = jnp.where(transform[11] > 0, bilinear(near, close, size, "edge"), whole)
            gray = (gray / 255) ** jnp.exp(transform[8])
            gray = (gray - 0.5) * (1 + transform[9]) + 0.5 + transform[10] / 2
            mask = data["maps"][data["places"][row]].astype(jnp.float32)
            return 255 * jnp.clip(gray, 0, 1), bilinear(mask, transform, size, "zero")

        gray, masks = jax.vmap(one)(rows, drawn)
        cell = -(-size // self.grid)
        more = self.grid * cell - size
        masks = jnp.pad(masks, ((0, 0), (0, more), (0, more)))
        cells = masks.reshape(-1, self.grid, cell, self.grid, cell).max((2, 4))
        targets = jnp.where(data["known"][rows, None, None], cells >= 0.5, -1.0)
        return gray[..., None], data["labels"][rows], targets[..., None]

    def _epoch(
        self,
        state: State,
        data: dict,
        supervision: jax.Array,
        steps: tuple[jax.Array, jax.Array, jax.Array],
    ) -> State:
        classes, masks = keras.losses.CategoricalCrossentropy(), MaskLoss()

        def loss(trained: list, others: list, batch: tuple) -> tuple[jax.Array, list]:
            gray, labels, targets = batch
            outputs, others = self.network.stateless_call(trained, others, gray, training=True)
            answers, *finding = keras.tree.flatten(outputs)
            taught = sum(supervision * masks(targets, each) for each in finding)
            return classes(labels, answers) + taught, others

        def step(state: State, given: tuple) -> tuple[State, None]:
            trained, others, moments = state
            rows, drawn, rate = given
            gradient = jax.grad(loss, has_aux=True)
            gradients, others = gradient(trained, others, self.batch(data, rows, drawn))
            moved, moments = self.optimizer.stateless_apply(moments, gradients, trained)
            moved = [old + rate * (new - old) for old, new in zip(trained, moved, strict=True)]
            return (moved, others, moments), None

        return jax.lax.scan(step, state, steps)[0]

    def train(self, experiment: Experiment, squares: Squares, rows: np.ndarray, seed: int) -> State:
        """A network trained on some rows, with the augmentation and looks of an experiment."""
        rng = np.random.default_rng(seed)
        count, epochs, warmup = experiment.batch_size, experiment.epochs, experiment.warmup_epochs
        steps = len(rows) // count
        drawn = draw(experiment, squares, rows, rng)
        first = rng.integers(len(drawn), size=len(rows))
        state = self.start(seed)
        supervision = jnp.float32(experiment.mask_supervision)
        for epoch in range(epochs):
            order = rng.permutation(len(rows))[: steps * count]
            passed = (epoch * steps + np.arange(steps)) / steps
            falling = (1 + np.cos(np.pi * (passed - warmup) / (epochs - warmup))) / 2
            rates = experiment.learning_rate * np.where(
                passed < warmup, passed / max(warmup, 1), falling
            )
            versions = drawn[(first[order] + epoch) % len(drawn), order]
            given = (
                rows[order].reshape(steps, count),
                versions.reshape(steps, count, -1),
                rates.astype(np.float32),
            )
            state = self.epoch(state, squares.on_device, supervision, given)
        return state

    def answer(
        self, state: State, squares: Squares, rows: np.ndarray, twice: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (n, K), and whether the hottest cell of the last look hits (n,)."""
        size, hits = self.experiment.image_size, np.full(len(rows), np.nan)
        answers, *maps = self._ask(state, squares.images.pixels[rows])
        if not maps:
            return answers, hits
        attention, corners, scale = maps[0], 0, 1.0
        if twice:
            corners, scale = hottest_corners(attention, size), size / fine_side(size)
            closer = look_closer(squares.larger[rows], attention, size)
            second, attention = self._ask(state, closer)
            answers = (answers + second) / 2
        hottest = attention.reshape(len(attention), -1).argmax(axis=1)
        cells = np.stack(np.unravel_index(hottest, attention.shape[1:3]), axis=1)
        spots = (corners + (cells + 0.5) / self.grid * size) * scale
        y, x = np.clip(spots, 0, size - 1).astype(int).T
        places = squares.masks.places[rows]
        found = places >= 0
        hits[found] = squares.masks.maps[places[found], y[found], x[found]]
        return answers, hits

    def _ask(self, state: State, pixels: np.ndarray) -> list[np.ndarray]:
        trained, others, _ = state
        more = -len(pixels) % _AT_ONCE
        padded = np.pad(pixels, ((0, more), (0, 0), (0, 0)))[..., None].astype(np.float32)
        starts = range(0, len(padded), _AT_ONCE)
        found = [self.ask(trained, others, padded[at : at + _AT_ONCE])[0] for at in starts]
        lists = [keras.tree.flatten(each) for each in found]
        return [np.concatenate(each)[: len(pixels)] for each in zip(*lists, strict=True)]


def _values(variables: list) -> list[jax.Array]:
    return [jnp.asarray(np.asarray(each)) for each in variables]


def draw(
    experiment: Experiment, squares: Squares, rows: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """(views, n, 12): transforms of the stored versions, and whether each is a close-up."""
    size = experiment.image_size
    if not experiment.augment:
        still = np.zeros((1, len(rows), 12), np.float32)
        still[:, :, [0, 4]] = 1
        return still
    augmentation, versions = Augmentation.of(experiment), []
    for version in range(min(experiment.views, experiment.epochs)):
        drawn = augmentation.transforms(len(rows), size, rng)
        drawn = np.pad(drawn, ((0, 0), (0, 11 - drawn.shape[1])))
        close = np.zeros((len(rows), 1), np.float32)
        if experiment.second_look and version % 2:
            chosen = draw_close_ups(squares.masks, squares.images.rows.iloc[rows], rng)
            drawn, close = zoom_in(drawn, chosen, size), np.ones_like(close)
        versions.append(np.hstack([drawn, close]).astype(np.float32))
    return np.stack(versions)
