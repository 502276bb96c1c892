"""What is stored of the frozen part: sets of activations, their digest, their size on disk."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mura_utils import paths
from mura_utils.augmentation import Augmentation
from mura_utils.cache import map_array
from mura_utils.data.close_ups import draw_close_ups, zoom_in
from mura_utils.data.dataset import Images
from mura_utils.data.pixels import CACHE_VERSION, content_keys
from mura_utils.devices import dtype_policy, multiplies_bfloat16
from mura_utils.errors import UserError
from mura_utils.experiments import Experiment
from mura_utils.frozen.encoding import ENCODINGS, Encoding, smallest
from mura_utils.frozen.extractors import library_and_precision, sample
from mura_utils.network.cut import Cut, parents, split_network

_WORTHWHILE = 0.5  # share of multiply-adds that must be frozen for `cache_features: auto`

_ROOM = 0.9  # of the free disk, what `auto` may fill


@dataclass(frozen=True)
class FeatureSet:
    """Activations of some images, one file a variant (an augmented version of every image).

    Attributes:
        folder: ``cache/features-<digest>/``.
        rows: (n,) positions of the images among those of the run.
        shapes: of one image's activations.
        augmentation: None for one variant, the images as they are.
        views: variants that this run needs, as the parameter of that name.
        seed: of the augmentation's draws.
        about: what the folder holds, in words, for `mura cache`.
        encoding: of the rows.
        close_ups: of the variants that show images from nearer, see `data.close_ups`.
    """

    folder: Path
    rows: np.ndarray
    shapes: list[tuple[int, ...]]
    augmentation: Augmentation | None
    views: int
    seed: int
    about: dict[str, object]
    encoding: Encoding = ENCODINGS["float16"]
    close_ups: Mapping[int, np.ndarray] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Numbers of the encoding an image."""
        return self.encoding.width(self.shapes)

    @property
    def row_bytes(self) -> int:
        """Bytes an image."""
        return self.width * np.dtype(self.encoding.dtype).itemsize

    @property
    def bytes_needed(self) -> int:
        """Bytes of all variants, stored or not."""
        return self.views * len(self.rows) * self.row_bytes

    @property
    def bytes_stored(self) -> int:
        """Bytes of the rows stored so far, interrupted variants included."""
        variants = range(self.views)
        files = [file(number) for number in variants for file in (self.path, self.partial)]
        return sum(path.stat().st_size for path in files if path.is_file())

    @property
    def complete(self) -> bool:
        """Whether every variant is stored."""
        return all(self.path(variant).is_file() for variant in range(self.views))

    def path(self, variant: int) -> Path:
        """The file of one variant: (n, width), as `encoding` says, in NumPy's format."""
        return self.folder / f"view-{variant}.npy"

    def partial(self, variant: int) -> Path:
        """The file that a variant grows in until it is whole."""
        return self.folder / f"view-{variant}.partial"

    def load(self) -> list[np.ndarray]:
        """Read-only memory maps (n, width), as `encoding` says, one a variant."""
        return [map_array(self.path(variant)) for variant in range(self.views)]

    def transforms(self, variant: int, size: int) -> np.ndarray:
        """What `generators.augment` takes for a variant's images; (n, 0) for a plain one."""
        if self.augmentation is None:
            return np.empty((len(self.rows), 0), np.float32)
        rng = np.random.default_rng([self.seed, variant])
        drawn = self.augmentation.transforms(len(self.rows), size, rng)
        if variant not in self.close_ups:
            return drawn
        return zoom_in(drawn, self.close_ups[variant], size)


@dataclass(frozen=True)
class Plan:
    """Whether a run trains on stored activations, and why.

    Attributes:
        on: whether it does.
        sentence: the choice, its reason and its size on disk.
        cut: None where nothing is frozen.
        train: the training images' variants; None without a cut.
        held_out: the validation and test images as they are; None without a cut.
    """

    on: bool
    sentence: str
    cut: Cut | None = None
    train: FeatureSet | None = None
    held_out: FeatureSet | None = None


def plan(model: keras.Model, images: Images, experiment: Experiment) -> Plan:
    """Choose whether to store activations, by `cache_features`.

    ``auto`` stores them where at least half of the multiply-adds are frozen and the disk has room.
    A run of fewer epochs than `views` needs no more variants than epochs.

    Args:
        model: as returned by `build.build_model`, with the experiment's weights.
        images: their path, sha256 and split are used.
        experiment: the parameters from cache_features to precision are used.

    Raises:
        UserError: ``on`` where the disk is too small; `mask_supervision` without a mask.
    """
    if experiment.mask_supervision:
        images.require_masks(images.positions("train"))
    choice = experiment.cache_features
    label = f"`cache_features: {choice}`"
    cut = split_network(model)
    if cut is None:
        return Plan(False, f"{label}: off, because nothing is frozen.")
    train, held_out = feature_sets(cut, images, experiment)
    needed = train.bytes_needed + held_out.bytes_needed
    missing = max(0, needed - train.bytes_stored - held_out.bytes_stored)
    folder = paths.cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    share = f"{cut.frozen_share:.1%} of the multiply-adds lie before `{cut.first_trained}`"
    close_ups = f" ({len(train.close_ups)} of them close-ups)" if train.close_ups else ""
    size = (
        f"{train.views} version(s) of {len(train.rows):,} training images{close_ups} and one of "
        f"{len(held_out.rows):,} others: {_size(needed)}, of which {_size(missing)} "
        "are still to be made"
    )
    if train.encoding is not ENCODINGS[experiment.stored_as]:
        size += f" (as float16, because {experiment.stored_as} takes no less here)"

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


def feature_sets(cut: Cut, images: Images, experiment: Experiment) -> tuple[FeatureSet, FeatureSet]:
    """The sets that an experiment trains on and is judged by; nothing is computed."""
    network = _fingerprint(cut.prefix)
    stored_as = smallest(experiment.stored_as, cut.shapes)
    keys = content_keys(images.root, images.rows)
    library, precision = library_and_precision(experiment)
    augmentation = Augmentation.of(experiment) if experiment.augment else None
    # Not the network's own: a saved one is in float32, whatever it was trained in.
    computed_in = dtype_policy(experiment)
    if library == "openvino":
        computed_in = "mixed_bfloat16" if multiplies_bfloat16() else "float32"

    def feature_set(rows: np.ndarray, augmentation: Augmentation | None) -> FeatureSet:
        # Without augmentation the seed has no influence; it must not keep runs from sharing it.
        seed = experiment.view_seed if augmentation else 0
        description = {
            "network": f"{experiment.backbone} before {cut.first_trained}",
            "images": len(rows),
            "image_size": experiment.image_size,
            "resize": images.resize,
            "augmentation": asdict(augmentation) if augmentation else None,
            "view_seed": seed,
            "computed_by": f"{library}, {precision}",
        }
        if precision == "int8":
            calibrated = json.dumps([keys[row] for row in sample(images)])
            description["calibration"] = hashlib.sha256(calibrated.encode()).hexdigest()[:16]
        # What "mixed" is depends on the machine; folders of earlier versions do not name it.
        if precision != "float32" and computed_in != "mixed_bfloat16":
            description["computed_in"] = computed_in
        if stored_as != "float16":  # which folders of earlier versions do not name
            description["stored_as"] = stored_as
        views = min(experiment.views, experiment.epochs) if augmentation else 1
        close_ups = {}
        if augmentation and experiment.second_look:
            masks = images.masks(rows)
            findings = hashlib.sha256(np.ascontiguousarray(masks.maps))
            findings.update(masks.places[rows].tobytes())
            description["close_ups"] = findings.hexdigest()[:16]
            for variant in range(1, views, 2):
                rng = np.random.default_rng([seed, variant, 1])
                close_ups[variant] = draw_close_ups(masks, images.rows.iloc[rows], rng)
        contents = [keys[row] for row in rows]
        key = json.dumps([CACHE_VERSION, network, description, contents], sort_keys=True)
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        return FeatureSet(
            folder=paths.cache_dir() / f"features-{digest}",
            rows=rows,
            shapes=cut.shapes,
            augmentation=augmentation,
            views=views,
            seed=seed,
            about=description,
            encoding=ENCODINGS[stored_as],
            close_ups=close_ups,
        )

    return (
        feature_set(images.positions("train"), augmentation),
        feature_set(images.positions("validation", "test"), None),
    )


def _fingerprint(prefix: keras.Model) -> str:
    """Digest of a network's layers, their wiring, their weights, and which of them it gives.

    Layers count by position: Keras numbers some names differently each time a network is built.
    """
    digest = hashlib.sha256()
    operations = prefix.operations
    positions = {operation.name: position for position, operation in enumerate(operations)}
    for operation in operations:
        read = [positions[parent.name] for parent in parents(operation)]
        described = [type(operation).__name__, read, _settings(operation)]
        digest.update(json.dumps(described, sort_keys=True, default=str).encode())
        for weights in operation.get_weights() if isinstance(operation, keras.Layer) else ():
            digest.update(np.ascontiguousarray(weights).tobytes())
    given = [positions[output._keras_history.operation.name] for output in prefix.outputs]
    digest.update(json.dumps(given).encode())
    return digest.hexdigest()


def _settings(operation: keras.Operation) -> dict[str, Any]:
    """What changes its result besides weights: of ``x + 3``, which is no layer, the 3."""
    if isinstance(operation, keras.Layer):
        config = operation.get_config()
        return {name: config.get(name) for name in ("scale", "offset")}
    arguments = operation._inbound_nodes[0].arguments
    flat = keras.tree.flatten((arguments.args, arguments.kwargs))
    return {"constants": [value for value in flat if not isinstance(value, keras.KerasTensor)]}


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
