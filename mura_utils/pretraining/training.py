"""Weights for radiographs, learned from phantoms alone (``mura pretrain``).

Phantoms are unlimited and free of licenses, so that a backbone can be trained on images that are
never repeated (formula-driven pre-training: Kataoka et al. 2020, "Pre-training without Natural
Images"). It learns several things at once: the body part, the abnormality, and at three depths of
the network where the abnormality is, which makes for features that localize.

Written against Keras 3 and NumPy: it runs on any Keras backend.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers
from tqdm.auto import tqdm

from mura_utils.backbones import BACKBONES
from mura_utils.checkpoints import TrainingState
from mura_utils.errors import UserError
from mura_utils.experiments import Experiment, validate_parameters
from mura_utils.locks import claim
from mura_utils.network.backbone import build_backbone, feature_layers, save_weights
from mura_utils.paths import write_json
from mura_utils.phantoms.anatomy import KINDS
from mura_utils.phantoms.dataset import BODY_PARTS, VERSION
from mura_utils.pretraining.crops import CELL, Crops, draw_crops, end_with_the_parent
from mura_utils.terminal import hide_bars

logger = logging.getLogger(__name__)

STRIDES = (8, 16, 32)
"""Pixels a cell of the maps that learn where the abnormality is."""
_STAGES = ((0.75, 3 / 7), (0.95, 4 / 7), (1.0, 1.0))
"""Small to large: until which share of the images, crops of which share of `image_size`."""
_PLACES_WEIGHT = 10.0  # few cells are abnormal: their mean loss is small
_PERIOD = 100  # steps a row of the curve
_CHECKPOINT_SECONDS = 120
_HELD_OUT = 2**32  # batches from this number on are never trained on
_HELD_OUT_BATCHES = 16


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, on one machine and backend.

    Attributes:
        backbone: as the experiments' parameter.
        alpha: width multiplier of mobilenet.
        images: crops to train on, in all.
        image_size: side of a radiograph where the weights will be used, pixels.
        batch_size: crops a step, a multiple of 4.
        learning_rate: AdamW's highest: it rises for 2 % of the steps and falls to 0 over the last
            half.
        weight_decay: AdamW's.
        seed: of initialization and phantoms.
        phantoms: version of their anatomy and radiography, which cannot be chosen.
    """

    backbone: str = "densenet121"
    alpha: float = 1.0
    images: int = 80_000
    image_size: int = 224
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    seed: int = 0
    phantoms: int = field(default=VERSION, init=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be trained.

        Raises:
            UserError: a value out of range.
        """
        if self.backbone not in BACKBONES:
            raise UserError(
                f"backbone is {self.backbone!r}; give one of: {', '.join(sorted(BACKBONES))}."
            )
        if self.batch_size % 4 or self.batch_size < 4:
            raise UserError(f"batch_size is {self.batch_size}; give a multiple of 4.")
        if self.image_size % 32 or self.image_size < 64:
            raise UserError(f"image_size is {self.image_size}; give a multiple of 32 from 64 up.")
        if self.images < self.batch_size:
            raise UserError(f"images is {self.images}; give at least one batch, {self.batch_size}.")

        _ = self.experiment

    @property
    def experiment(self) -> Experiment:
        """The parameters that an experiment has too, as the models take them."""
        shared = ("backbone", "alpha", "image_size", "batch_size", "seed")
        values = {name: getattr(self, name) for name in shared}
        own = {"weights": "none", "scaling": "backbone"}
        return validate_parameters({**values, **own}, "mura pretrain")

    @property
    def steps(self) -> int:
        """Batches to train on."""
        return self.images // self.batch_size

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        rising, falling = 0.02 * self.steps, 0.5 * self.steps
        return self.learning_rate * min(1.0, (step + 1) / rising, (self.steps - step) / falling)

    def variety(self, step: int) -> float:
        """How varied the crops of a step are: easy to begin with, full in the last third."""
        return min(1.0, 0.2 + 1.2 * step / self.steps)

    def crop_size(self, step: int) -> int:
        """Side of the crops of a step, pixels, a multiple of 32."""
        share = next(share for until, share in _STAGES if step < until * self.steps)
        return max(32, round(share * self.image_size / 32) * 32)


def pretrain(
    recipe: Recipe,
    folder: Path,
    minutes: float | None = None,
    workers: int = 1,
    progress: bool = False,
) -> Path | None:
    """Train a backbone on phantoms, or go on where an earlier call stopped or was killed.

    Writes `folder/checkpoint.npz` every two minutes; at the end `folder/BACKBONE_phantom.npz`
    (float16, by the names of the weights), for the parameter `weights`, and its card
    `BACKBONE_phantom.json`: recipe, sha256, curve, and accuracy on phantoms that were not trained
    on.

    Args:
        recipe: must be that of the checkpoint in `folder`, except that `images` may be larger.
        folder: made if it is absent.
        minutes: stop after so long, with a checkpoint; None trains to the end.
        workers: processes that draw phantoms.
        progress: show a bar, else log a row of the curve now and then.

    Returns:
        The weights file; None if `minutes` were over before the end.

    Raises:
        UserError: the folder cannot be made, or another process trains there; the checkpoint is
            damaged or of another recipe; the training diverged.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"Cannot make the folder {folder} ({error.strerror}): give another path."
        ) from None
    lock = claim(folder / ".lock", f"Another process pre-trains in {folder}: give another folder.")
    try:
        return _pretrain(recipe, folder, minutes, workers, progress)
    except BrokenExecutor:
        raise UserError(
            "A process that draws phantoms was killed, as happens when memory runs out: the same "
            "command goes on; give fewer workers."
        ) from None
    finally:
        lock.release()


def _pretrain(
    recipe: Recipe,
    folder: Path,
    minutes: float | None,
    workers: int,
    progress: bool,
) -> Path | None:
    began = time.monotonic()
    checkpoint = _Checkpoint(folder / "checkpoint.npz", recipe)
    network, backbone = build_network(recipe)
    checkpoint.restore(network)
    first = checkpoint.record.get("steps", 0)
    if first:
        logger.info(f"{checkpoint.path}: going on after {first * recipe.batch_size:,} crops.")
    bar = tqdm(initial=first, total=recipe.steps, desc="pretraining", disable=hide_bars(progress))
    with bar, _batches(recipe, first, workers) as batches:
        for step in range(first, recipe.steps):
            network.optimizer.learning_rate = recipe.rate(step)
            crops = next(batches)
            checkpoint.count(network.train_on_batch(*_as_targets(crops), return_dict=True))
            bar.update()
            done, spent = step + 1, time.monotonic() - began
            if done % _PERIOD == 0:
                row = checkpoint.add_row(done)
                bar.set_postfix(row)
                if not progress:
                    logger.info(json.dumps(row))
            late = minutes is not None and spent > 60 * minutes and done < recipe.steps
            if checkpoint.due() or late or done == recipe.steps:
                checkpoint.save(recipe=asdict(recipe), steps=done, curve=checkpoint.curve)
            if late:
                logger.info(
                    f"{done * recipe.batch_size:,} of {recipe.images:,} crops: to be continued."
                )
                return None
    return _finish(checkpoint, backbone, folder)


def build_network(recipe: Recipe) -> tuple[keras.Model, keras.Model]:
    """The backbone and what it is trained with: from (N, S, S, 1) in 0-255, for any S.

    Returns:
        A compiled model, and the backbone in it. The model has the outputs `body_part` (N, 7) and
        `finding` (N, 5), probabilities, and `places_8`, `places_16`, `places_32`: (N, S/8, S/8, 4)
        and so on, of each kind.
    """
    keras.utils.set_random_seed(recipe.seed)
    radiograph, backbone = build_backbone(recipe.experiment, size=None)
    maps = {stride: layer.output for layer, stride in feature_layers(backbone)}
    pooled = layers.GlobalAveragePooling2D()(backbone.output)
    outputs = {
        "body_part": layers.Dense(len(BODY_PARTS), "softmax", name="body_part")(pooled),
        "finding": layers.Dense(1 + len(KINDS), "softmax", name="finding")(pooled),
    }
    for stride in STRIDES:
        name = f"places_{stride}"
        outputs[name] = layers.Conv2D(
            len(KINDS),
            1,
            activation="sigmoid",
            bias_initializer=keras.initializers.Constant(-4),  # few cells are abnormal
            name=name,
        )(maps[stride])
    network = keras.Model(radiograph, outputs, name=f"{recipe.backbone}_phantom")
    optimizer = keras.optimizers.AdamW(weight_decay=recipe.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    network.compile(
        optimizer=optimizer,
        loss={
            name: "binary_crossentropy" if "places" in name else "categorical_crossentropy"
            for name in outputs
        },
        loss_weights={name: _PLACES_WEIGHT if "places" in name else 1.0 for name in outputs},
        metrics={"body_part": ["accuracy"], "finding": ["accuracy"]},
        jit_compile=keras.backend.backend() == "jax",  # slower on a CPU under TensorFlow
    )
    if keras.backend.backend() == "tensorflow":
        from mura_utils.network.cpu_kernels import use_cpu_adam, use_cpu_kernels

        use_cpu_kernels(network)
        use_cpu_adam(optimizer)
    return network, backbone


def _as_targets(crops: Crops) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Images, and what the network should say; a cell counts as its most covered part does."""
    targets = {"body_part": crops.body_parts, "finding": crops.findings}
    count, cells, _, kinds = crops.places.shape
    for stride in STRIDES:
        side = stride // CELL
        blocks = crops.places.reshape(count, cells // side, side, cells // side, side, kinds)
        targets[f"places_{stride}"] = np.minimum(2 * blocks.max((2, 4)), 1)
    return crops.images.astype(np.float32), targets


@contextmanager
def _batches(recipe: Recipe, first: int, workers: int) -> Iterator[Iterator[Crops]]:
    """Batches in order from number `first`, drawn ahead by other processes."""

    def orders() -> Iterator[tuple[int, ...]]:
        for step in range(first, recipe.steps):
            size, variety = recipe.crop_size(step), recipe.variety(step)
            yield recipe.seed, step, recipe.batch_size, size, recipe.image_size, variety

    def in_order() -> Iterator[Crops]:
        waiting = deque()
        for order in orders():
            waiting.append(pool.submit(draw_crops, *order))
            if len(waiting) > 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    # Spawned, as a forked TensorFlow or JAX may hang.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=end_with_the_parent)
    try:
        yield in_order()
    finally:
        pool.shutdown(cancel_futures=True)


class _Checkpoint(TrainingState):
    """Its record holds the recipe, the steps that were done and the curve."""

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.recipe = recipe
        super().__init__(path, _CHECKPOINT_SECONDS, self._require_recipe)
        self.curve: list[dict[str, float]] = self.record.get("curve", [])
        self._since_row: list[dict[str, float]] = []

    def _require_recipe(self, record: dict[str, Any]) -> bool:
        asked, given = asdict(self.recipe), record.get("recipe", {})
        for name in asked:
            before = given.get(name, 1)  # checkpoints did not name the first phantoms
            grows = name == "images" and asked[name] >= before
            if asked[name] != before and not grows:
                raise UserError(
                    f"{self.path} was made with {name} = {before}, not {asked[name]}: "
                    "choose another folder, or remove it."
                )
        return True

    def count(self, values: dict[str, Any]) -> None:
        """Take a step's loss and accuracies into the next row's means."""
        row = {name: float(value) for name, value in values.items()}
        if not np.isfinite(list(row.values())).all():
            raise UserError(
                f"The pre-training diverged: its loss is {row['loss']}. The last checkpoint is "
                f"kept in {self.path.parent}; start in another folder with another seed."
            )
        self._since_row.append(row)

    def add_row(self, steps: int) -> dict[str, float]:
        """Add means over the steps since the last row, in this call, to the curve."""
        row = {"images": steps * self.recipe.batch_size, "size": self.recipe.crop_size(steps - 1)}
        row |= _means(self._since_row)
        self._since_row.clear()
        self.curve.append(row)
        return row


def _finish(checkpoint: _Checkpoint, backbone: keras.Model, folder: Path) -> Path:
    """Write the weights as float16, measure what these know, and write the card."""
    recipe, network = checkpoint.recipe, checkpoint.network
    path = folder / f"{recipe.backbone}_phantom.npz"
    save_weights(backbone.weights, path)
    backbone.set_weights([array.astype(np.float16) for array in backbone.get_weights()])
    values, size = [], recipe.image_size
    for number in range(_HELD_OUT_BATCHES):
        crops = draw_crops(recipe.seed, _HELD_OUT + number, recipe.batch_size, size, size)
        values.append(network.test_on_batch(*_as_targets(crops), return_dict=True))
    held_out = {"images": _HELD_OUT_BATCHES * recipe.batch_size} | _means(values)
    card = {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "recipe": asdict(recipe),
        "backend": f"{keras.backend.backend()}, keras {keras.__version__}",
        "minutes": round(checkpoint.seconds / 60, 1),
        "held_out": held_out,
        "curve": checkpoint.curve,
    }
    write_json(path.with_suffix(".json"), card)
    logger.info(f"{path}: {path.stat().st_size / 1e6:.1f} MB; use it with -p weights={path}.")
    logger.info(
        f"On {held_out['images']} new phantoms: body part {held_out['body_part_accuracy']:.3f}, "
        f"normal or kind of abnormality {held_out['finding_accuracy']:.3f}."
    )
    return path


def _means(values: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(float(np.mean([v[name] for v in values])), 4) for name in sorted(values[0])}
