"""Activations of the frozen part: computed once, kept on disk, trained on many times.

With the last five convolutions of DenseNet121 trainable, 99 % of the multiply-adds lie in layers
that compute the same activations in every epoch. `split_network` cuts a network before its first
trainable layer; `extract` runs the part before the cut once over every image, and over several
augmented views of the training images; `make_dataset` feeds the part after the cut.

A `FeatureSet` is one folder ``cache/features-<digest>/``. The digest covers everything that
determines its content, so that experiments which share a frozen part share its activations.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from tqdm.auto import tqdm

from mura_utils import paths
from mura_utils.cache import map_array
from mura_utils.errors import UserError
from mura_utils.experiments import Experiment
from mura_utils.generators import (
    CACHE_VERSION,
    Augmentation,
    augment,
    content_keys,
    stream,
)
from mura_utils.locks import waiting
from mura_utils.notebook import data_root
from mura_utils.terminal import hide_bars, to_the_terminal

_BATCH = 64  # images a step of the extraction; also the unit of going on after an interruption
_COMPARED = 32  # images that `predict` also runs through the whole network
_WORTHWHILE = 0.5  # share of multiply-adds that must be frozen for `cache_features: auto`
_ROOM = 0.9  # of the free disk, what `auto` may fill
_LARGEST = float(np.finfo(np.float16).max)


# --- the cut ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """A network in two parts that share its layers.

    Attributes:
        prefix: from radiographs (N, S, S, 1) in 0-255 to a list of activations. Frozen.
        tail: from those activations to probabilities. Training it trains the whole network.
        first_trained: name of the first trainable layer.
        frozen_share: of the network's multiply-adds, the prefix's share, 0 to 1.
    """

    prefix: keras.Model
    tail: keras.Model
    first_trained: str
    frozen_share: float

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of one image's activations."""
        return [tuple(tensor.shape[1:]) for tensor in self.prefix.outputs]

    @property
    def width(self) -> int:
        """Values an image."""
        return sum(_widths(self.shapes))


def split_network(model: keras.Model) -> Cut | None:
    """Cut a flat network before its first trainable layer.

    The prefix holds every layer that neither learns nor draws random numbers and depends on no
    layer that does. Where a cheap layer would only repeat what is stored already (a pooled copy of
    a stored map), it goes to the tail.

    Args:
        model: a functional model without nested models, see `models.build_model`.

    Returns:
        None where nothing that has weights is frozen.
    """
    frozen: dict[str, keras.Layer] = {}
    first_trained = ""
    for layer in model.layers:
        if _is_constant(layer) and all(parent.name in frozen for parent in _parents(layer)):
            frozen[layer.name] = layer
        elif not first_trained and layer.trainable_weights:
            first_trained = layer.name
    if not any(layer.weights for layer in frozen.values()):
        return None
    boundary = _boundary(model, frozen)
    while repeated := [
        layer
        for layer in boundary
        if not layer.weights and {parent.name for parent in _parents(layer)} <= _names(boundary)
    ]:
        for layer in repeated:
            del frozen[layer.name]
        boundary = _boundary(model, frozen)
    tensors = [layer.output for layer in boundary]
    with model.distribute_strategy.scope():
        prefix = keras.Model(model.inputs, tensors, name="prefix")
        tail = keras.Model(tensors, model.outputs, name="tail")
    costs = multiply_adds(model)
    share = sum(costs[name] for name in frozen if name in costs) / sum(costs.values())
    return Cut(prefix, tail, first_trained, share)


def describe_cuts(models: Mapping[str, keras.Model]) -> pd.DataFrame:
    """Where networks are cut, and what storing their activations would take.

    Returns:
        One row a network: first trained layer, frozen share of the multiply-adds, and megabytes of
        float16 activations per 1,000 images.
    """
    rows = {}
    for name, model in models.items():
        cut = split_network(model)
        rows[name] = {
            "first trained layer": cut.first_trained if cut else "the first",
            "frozen multiply-adds": f"{cut.frozen_share if cut else 0:.1%}",
            "MB per 1,000 images": f"{2e-3 * cut.width:,.1f}" if cut else "–",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def multiply_adds(model: keras.Model) -> dict[str, int]:
    """Multiply-adds of one image's forward pass in each layer that has a kernel."""
    costs = {}
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            positions = int(np.prod(layer.output.shape[1:-1]))  # 1 for dense layers
            costs[layer.name] = positions * int(np.prod(layer.kernel.shape))
    return costs


def _is_constant(layer: keras.Layer) -> bool:
    learns = layer.trainable and bool(layer.weights)
    return not learns and not isinstance(layer, keras.layers.Dropout)


def _parents(layer: keras.Layer) -> list[keras.Layer]:
    if isinstance(layer, keras.layers.InputLayer):
        return []
    return [tensor._keras_history.operation for tensor in keras.tree.flatten(layer.input)]


def _boundary(model: keras.Model, frozen: dict[str, keras.Layer]) -> list[keras.Layer]:
    """Frozen layers whose output a layer outside reads, in the graph's order."""
    read = {
        parent.name
        for layer in model.layers
        if layer.name not in frozen
        for parent in _parents(layer)
    }
    return [layer for layer in frozen.values() if layer.name in read]


def _widths(shapes: Sequence[tuple[int, ...]]) -> list[int]:
    return [int(np.prod(shape)) for shape in shapes]


def _names(layers: Sequence[keras.Layer]) -> set[str]:
    return {layer.name for layer in layers}


# --- what is stored -----------------------------------------------------------------------------


@dataclass(frozen=True)
class FeatureSet:
    """Activations of some images, one file a view.

    Attributes:
        folder: ``cache/features-<digest>/``.
        rows: (n,) positions of the images in the manifest.
        shapes: of one image's activations.
        augmentation: None for one plain view.
        views: files that the run at hand needs.
        seed: of the augmentation's draws.
        about: what the folder holds, in words, for `mura cache`.
    """

    folder: Path
    rows: np.ndarray
    shapes: list[tuple[int, ...]]
    augmentation: Augmentation | None
    views: int
    seed: int
    about: dict[str, object]

    @property
    def width(self) -> int:
        """Values an image."""
        return sum(_widths(self.shapes))

    @property
    def bytes_needed(self) -> int:
        """Bytes of all views, stored or not."""
        return self.views * len(self.rows) * self.width * 2

    @property
    def bytes_stored(self) -> int:
        """Bytes of the rows stored so far, interrupted views included."""
        views = range(self.views)
        files = [file(view) for view in views for file in (self.path, self.partial)]
        return sum(path.stat().st_size for path in files if path.is_file())

    @property
    def complete(self) -> bool:
        """Whether every view is stored."""
        return all(self.path(view).is_file() for view in range(self.views))

    def path(self, view: int) -> Path:
        """The file of one view: (n, width) float16 in NumPy's format."""
        return self.folder / f"view-{view}.npy"

    def partial(self, view: int) -> Path:
        """The file that a view grows in until it is whole."""
        return self.folder / f"view-{view}.partial"

    def load(self) -> list[np.ndarray]:
        """Read-only memory maps (n, width) float16, one a view."""
        return [map_array(self.path(view)) for view in range(self.views)]

    def matrices(self, view: int, size: int) -> np.ndarray:
        """(n, 8) float32 augmentation matrices of a view; (n, 0) for a plain one."""
        if self.augmentation is None:
            return np.empty((len(self.rows), 0), np.float32)
        rng = np.random.default_rng([self.seed, view])
        return self.augmentation.matrices(self.augmentation.draw(len(self.rows), size, rng), size)


@dataclass(frozen=True)
class Plan:
    """Whether a run trains on stored activations, and why.

    Attributes:
        on: whether it does.
        sentence: the choice, its reason and its size on disk.
        cut: None where nothing is frozen.
        train: the training images' views; None without a cut.
        held_out: one plain view of the validation and test images; None without a cut.
    """

    on: bool
    sentence: str
    cut: Cut | None = None
    train: FeatureSet | None = None
    held_out: FeatureSet | None = None


def plan(model: keras.Model, manifest: pd.DataFrame, experiment: Experiment) -> Plan:
    """Choose whether to store activations, by `cache_features`.

    ``auto`` stores them where at least half of the multiply-adds are frozen and the disk has room.
    A run of fewer epochs than `views` needs no more views than epochs.

    Args:
        model: of `models.build_model`, with the experiment's weights.
        manifest: one row an image, with path, sha256 and split, in the order of the pixel cache.
        experiment: the data folder and the parameters from cache_features to precision are used.

    Raises:
        UserError: ``on`` where the disk is too small.
    """
    choice = experiment.cache_features
    label = f"`cache_features: {choice}`"
    cut = split_network(model)
    if cut is None:
        return Plan(False, f"{label}: off, because nothing is frozen.")
    train, held_out = feature_sets(cut, manifest, experiment)
    needed = train.bytes_needed + held_out.bytes_needed
    missing = max(0, needed - train.bytes_stored - held_out.bytes_stored)
    folder = paths.cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    share = f"{cut.frozen_share:.1%} of the multiply-adds lie before `{cut.first_trained}`"
    size = (
        f"{train.views} view(s) of {len(train.rows):,} training images and one of "
        f"{len(held_out.rows):,} others: {_size(needed)}, of which {_size(missing)} "
        "are still to be made"
    )

    def decided(on: bool, reason: str) -> Plan:
        return Plan(on, f"{label}: {'on' if on else 'off'}{reason}", cut, train, held_out)

    if choice == "off":
        return decided(False, f", although {share}.")
    if choice == "on":
        if missing > free:
            raise UserError(
                f"The stored activations need {_size(missing)} more and {folder} has "
                f"{_size(free)} free: lower views (now {experiment.views}), give "
                "cache_features = off, or point MURA_CACHE_DIR to a larger disk."
            )
        return decided(True, f". {share}. {size}.")
    if cut.frozen_share < _WORTHWHILE:
        return decided(False, f", because only {share}.")
    if missing > _ROOM * free:
        return decided(
            False,
            f", because of the disk: {size}, and {_size(free)} are free. Lower `views`, or "
            "point MURA_CACHE_DIR to a larger disk.",
        )
    return decided(True, f", because {share}. {size}.")


def feature_sets(
    cut: Cut, manifest: pd.DataFrame, experiment: Experiment
) -> tuple[FeatureSet, FeatureSet]:
    """The sets that an experiment trains on and is judged by; nothing is computed."""
    network = _fingerprint(cut.prefix)
    keys = content_keys(data_root(experiment), manifest)
    augmentation = Augmentation.of(experiment) if experiment.augment else None
    is_training = manifest["split"].to_numpy() == "train"

    def feature_set(rows: np.ndarray, augmentation: Augmentation | None) -> FeatureSet:
        # On a plain view the seed has no influence; it must not keep runs from sharing it.
        seed = experiment.view_seed if augmentation else 0
        description = {
            "network": f"{experiment.backbone} before {cut.first_trained}",
            "images": len(rows),
            "image_size": experiment.image_size,
            "augmentation": asdict(augmentation) if augmentation else None,
            "view_seed": seed,
            "computed_by": f"{experiment.extractor}, {experiment.precision}",
        }
        contents = [keys[row] for row in rows]
        key = json.dumps([CACHE_VERSION, network, description, contents], sort_keys=True)
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        return FeatureSet(
            folder=paths.cache_dir() / f"features-{digest}",
            rows=rows,
            shapes=cut.shapes,
            augmentation=augmentation,
            views=min(experiment.views, experiment.epochs) if augmentation else 1,
            seed=seed,
            about=description,
        )

    return (
        feature_set(np.flatnonzero(is_training), augmentation),
        feature_set(np.flatnonzero(~is_training), None),
    )


def _fingerprint(prefix: keras.Model) -> str:
    """Digest of a network's layers, their wiring and their weights.

    Layers count by position: Keras numbers some names anew each time a network is built.
    """
    digest = hashlib.sha256()
    positions = {layer.name: position for position, layer in enumerate(prefix.layers)}
    for layer in prefix.layers:
        config = layer.get_config()
        settings = {name: config.get(name) for name in ("scale", "offset")}
        parents = [positions[parent.name] for parent in _parents(layer)]
        described = [type(layer).__name__, parents, settings]
        digest.update(json.dumps(described, sort_keys=True, default=str).encode())
        for weights in layer.get_weights():
            digest.update(np.ascontiguousarray(weights).tobytes())
    return digest.hexdigest()


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


# --- computing ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Extraction:
    """What one call of `extract` did.

    Attributes:
        computed: images run through the prefix, each view counted.
        stored: images (views) that were there already.
        seconds: wall-clock time, waiting for another process included.
        computed_by: library and precision that were used.
    """

    computed: int
    stored: int
    seconds: float
    computed_by: str

    @property
    def sentence(self) -> str:
        """What was done, for a reader."""
        if not self.computed_by:
            return "Every batch runs through the whole network."
        if not self.computed:
            return f"All {self.stored:,} activations ({self.computed_by}) were stored already."
        return (
            f"{self.computed:,} activations computed with {self.computed_by} in "
            f"{self.seconds:.0f} s ({self.computed / self.seconds:.0f} a second); "
            f"{self.stored:,} were stored already."
        )


@to_the_terminal()
def extract(
    chosen: Plan, pixels: np.ndarray, experiment: Experiment, progress: bool = True
) -> Extraction:
    """Compute and store what is missing of a plan's sets.

    Rows are appended to a partial file batch by batch; after an interruption the next call goes on
    at the batch that was reached, and gives the same file. One process computes a set at a time,
    others wait for it.

    Args:
        chosen: of `plan`; where it is off, nothing is done.
        pixels: (N, S, S) uint8, of `generators.load_pixels`.
        experiment: extractor, precision and deterministic are used.
        progress: show a bar that counts images.

    Raises:
        UserError: OpenVINO is not installed; an activation is too large for float16.
    """
    if not chosen.on:
        return Extraction(0, 0, 0.0, "")
    sets = (chosen.train, chosen.held_out)
    total = sum(features.views * len(features.rows) for features in sets)
    began = time.perf_counter()
    if all(features.complete for features in sets):
        return Extraction(0, total, 0.0, chosen.train.about["computed_by"])
    computed = 0
    run, computed_by = extractor(chosen.cut, experiment)
    with tqdm(total=total, desc="frozen part", unit="image", disable=hide_bars(progress)) as bar:
        for features in sets:
            features.folder.mkdir(parents=True, exist_ok=True)
            paths.write_json(features.folder / "about.json", features.about)
            with waiting(features.folder / ".lock", "computes the same activations"):
                for view in range(features.views):
                    computed += _store_view(features, view, pixels, run, bar)
    return Extraction(computed, total - computed, time.perf_counter() - began, computed_by)


def _store_view(
    features: FeatureSet,
    view: int,
    pixels: np.ndarray,
    run: Callable[[tf.Tensor], np.ndarray],
    bar: tqdm,
) -> int:
    """Store one view; returns how many of its images were computed now."""
    count = len(features.rows)
    if features.path(view).is_file():
        bar.update(count)
        return 0
    header = _header(count, features.width)
    row_bytes = features.width * 2
    partial = features.partial(view)
    written = partial.stat().st_size - len(header) if partial.is_file() else 0
    done = max(0, written) // (row_bytes * _BATCH) * _BATCH
    bar.update(done)
    matrices = features.matrices(view, pixels.shape[1])
    # Unbuffered: what a batch wrote outlives the process.
    with partial.open("r+b" if partial.is_file() else "xb", buffering=0) as stream:
        _write(stream, header)
        stream.seek(len(header) + done * row_bytes)
        stream.truncate()
        for start in range(done, count, _BATCH):
            batch = slice(start, start + _BATCH)
            images = pixels[features.rows[batch]][..., np.newaxis]
            if features.augmentation:
                images = augment(images, matrices[batch])
            else:
                images = tf.cast(images, tf.float32)
            values = run(images)
            if not np.abs(values).max() <= _LARGEST:
                raise UserError(
                    f"An activation of {features.about['network']} is larger than float16 can "
                    f"hold ({_LARGEST:.0f}): train with cache_features = off."
                )
            _write(stream, values.astype("<f2").tobytes())
            bar.update(len(values))
        os.fsync(stream.fileno())
    partial.replace(features.path(view))
    return count - done


def _write(stream: io.RawIOBase, data: bytes) -> None:
    """Write all of `data`: a raw stream takes less than it is given on a disk that fills up."""
    left = memoryview(data)
    while left:
        left = left[stream.write(left) :]


def _header(rows: int, width: int) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f2", "fortran_order": False, "shape": (rows, width)}
    )
    return stream.getvalue()


def extractor(cut: Cut, experiment: Experiment) -> tuple[Callable[[tf.Tensor], np.ndarray], str]:
    """What computes a prefix's activations: `extractor` and `precision` choose it.

    Returns:
        A function from images (N, S, S, 1) float32 in 0-255 to (N, width) float32, and the library
        and precision that it computes with.

    Raises:
        UserError: OpenVINO is not installed.
    """
    build = {"tensorflow": _tensorflow, "openvino": _openvino}[experiment.extractor]
    network, computed_by = build(cut, experiment)

    def run(images: tf.Tensor) -> np.ndarray:
        outputs = [np.asarray(output) for output in network(images)]
        return np.concatenate([output.reshape(len(output), -1) for output in outputs], axis=1)

    return run, computed_by


def _traced(cut: Cut, size: int, jit_compile: bool) -> Callable:
    signature = [tf.TensorSpec((None, size, size, 1), tf.float32)]

    @tf.function(input_signature=signature, jit_compile=jit_compile)
    def network(images: tf.Tensor) -> list[tf.Tensor]:
        return keras.tree.flatten(cut.prefix(images, training=False))

    return network


def uses_xla(experiment: Experiment) -> bool:
    """Whether XLA compiles an experiment's networks: on a GPU, unless it must be deterministic."""
    return bool(tf.config.list_logical_devices("GPU")) and not experiment.deterministic


def _tensorflow(cut: Cut, experiment: Experiment) -> tuple[Callable, str]:
    compiled = uses_xla(experiment)
    dtype = cut.prefix.layers[-1].compute_dtype
    words = f"TensorFlow {dtype}" + (" compiled by XLA" if compiled else "")
    return _traced(cut, experiment.image_size, compiled), words


def _openvino(cut: Cut, experiment: Experiment) -> tuple[Callable, str]:
    try:
        import openvino
    except ImportError:
        raise UserError(
            "extractor = openvino needs OpenVINO: pip install -e .[openvino], or give "
            "extractor = tensorflow."
        ) from None
    traced = _traced(cut, experiment.image_size, jit_compile=False).get_concrete_function()
    precision = "bf16" if experiment.precision == "mixed" else "f32"
    # One call at a time on all cores; the throughput hint would leave each call to one core.
    compiled = openvino.Core().compile_model(
        openvino.convert_model(traced),
        "CPU",
        {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"},
    )
    used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()

    def network(images: tf.Tensor) -> list[np.ndarray]:
        result = compiled(images.numpy())
        return [result[output] for output in range(len(cut.shapes))]

    return network, f"OpenVINO {used}"


# --- using --------------------------------------------------------------------------------------


def make_dataset(
    features: FeatureSet,
    positions: np.ndarray,
    labels_onehot: np.ndarray,
    batch_size: int,
    shuffle: bool = False,
    seed: int = 0,
    first_iteration: int | Iterator[int] = 0,
) -> tf.data.Dataset:
    """Batches of stored activations and labels, in the order of `generators.make_dataset`.

    Each image begins at a view of its own and takes the next one in every iteration, so that a
    batch mixes views and `views` iterations show each of them once.

    Args:
        features: a complete set.
        positions: (n,) which of the set's images to use.
        labels_onehot: (len(features.rows), K), image for image.
        batch_size: images a batch.
        shuffle: a new order at each iteration.
        seed: of order and views; not negative.
        first_iteration: epochs that an earlier data set has served; an iterator numbers each pass.

    Returns:
        Data set of known length with elements (activations, labels (B, K) float32); activations
        are a tuple of float32 tensors (B, *shape).
    """
    views = features.load()
    labels = np.asarray(labels_onehot, np.float32)
    offsets = np.random.default_rng([seed, len(views)]).integers(len(views), size=len(labels))
    widths = _widths(features.shapes)

    def take(rows: np.ndarray, _: np.random.Generator, iteration: int) -> tuple[np.ndarray, ...]:
        view = (offsets[rows] + iteration) % len(views)
        values = np.stack([views[v][row] for v, row in zip(view, rows, strict=True)])
        return values, labels[rows]

    def unpack(values: tf.Tensor, labels: tf.Tensor) -> tuple:
        parts = zip(tf.split(values, widths, axis=1), features.shapes, strict=True)
        maps = (tf.reshape(tf.cast(part, tf.float32), (-1, *shape)) for part, shape in parts)
        return tuple(maps), labels

    signature = (
        tf.TensorSpec((None, features.width), tf.float16),
        tf.TensorSpec((None, labels.shape[1]), tf.float32),
    )
    return stream(
        positions,
        batch_size,
        take,
        signature,
        unpack,
        shuffle=shuffle,
        seed=seed,
        first_iteration=first_iteration,
    )


@to_the_terminal()
def predict(
    model: keras.Model, pixels: np.ndarray, manifest: pd.DataFrame, experiment: Experiment
) -> tuple[np.ndarray, str]:
    """Probabilities of the images that are not trained on, from stored activations if there are.

    Args:
        model: a trained network, whole.
        pixels: (N, S, S) uint8, of `generators.load_pixels`.
        manifest: N rows, with path, sha256 and split.
        experiment: of the run that trained the model.

    Returns:
        (n, K) probabilities of the rows whose split is not ``train``, in the manifest's order, and
        a sentence on how they were computed.
    """
    held_out = np.flatnonzero(manifest["split"] != "train")
    cut = split_network(model) if experiment.cache_features != "off" else None
    if cut is not None:
        _, features = feature_sets(cut, manifest, experiment)
        if features.complete:
            labels = np.zeros((len(held_out), 1))
            batches = make_dataset(
                features, np.arange(len(held_out)), labels, experiment.batch_size
            )
            probabilities = cut.tail.predict(batches, verbose=0)
            compared = min(_COMPARED, len(held_out))
            difference = largest_difference(features, cut, model, pixels, compared)
            return probabilities, (
                f"{len(held_out):,} images from their stored activations "
                f"({features.about['computed_by']}). Over {compared} of them run through the whole "
                f"network as well, the largest difference of a probability is {difference:.2g}."
            )
    images = pixels[held_out][..., np.newaxis]
    probabilities = model.predict(images, experiment.batch_size, verbose=0)
    return probabilities, f"{len(held_out):,} images through the whole network."


def largest_difference(
    features: FeatureSet, cut: Cut, model: keras.Model, pixels: np.ndarray, images: int
) -> float:
    """How far stored activations lead away: the largest difference of any probability.

    Compares the whole network in TensorFlow with the tail on what is stored, over a set's first
    `images` images; its first view must be plain.
    """
    positions = np.arange(images)
    labels = np.zeros((len(features.rows), 1))
    stored = cut.tail.predict(make_dataset(features, positions, labels, images), verbose=0)
    whole = model.predict(pixels[features.rows[positions]][..., np.newaxis], verbose=0)
    return float(np.abs(stored - whole).max())
