"""The parameters of one experiment: checked, documented, and read from a YAML file.

A file in ``experiments/`` is a flat mapping that ``mura run`` and ``papermill -f`` both take. The
parameter cells of the notebooks hold the same names with the defaults below, which are the phantom
demo.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mura_utils.backbones import BACKBONES
from mura_utils.data.sources import SOURCES
from mura_utils.errors import UserError, describe, shown
from mura_utils.parameter_files import parse_value, read_parameters, write_parameters
from mura_utils.parameter_types import (
    WEIGHTS,
    AnyCase,
    BodyParts,
    Convolutions,
    Counts,
    FolderName,
    Fractions,
    Number,
    OnOff,
    PathText,
    Seed,
    Weights,
)
from mura_utils.paths import REPOSITORY, data_dir, expand

EXPERIMENTS = REPOSITORY / "experiments"

PHANTOM_WEIGHTS = Path(__file__).parent / "weights" / "densenet121_phantom.npz"
"""What `mura pretrain` learned from phantoms, with its card; ``weights: phantom`` names it."""


def _parameter(default: Any, notebook: str, description: str, **constraints: Any) -> Any:
    """A field that belongs to the first notebook that reads it (its two digits)."""
    return Field(
        default, description=description, json_schema_extra={"notebook": notebook}, **constraints
    )


class Experiment(BaseModel):
    """Every value that decides what a run does; what is accepted here can run.

    Unknown names and wrong types are errors (`UserError` through `validate_parameters`). Each field
    belongs to the first notebook that uses it, see `owner`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    name: FolderName = _parameter("demo", "01", "the run's name: its folder in runs/")

    source: Annotated[Literal[("auto", *SOURCES)], AnyCase] = _parameter(
        "phantom", "01", "what the data folder holds; auto recognises it from its content"
    )
    data_dir: PathText = _parameter("phantom", "01", "the data set's folder: absolute, or in data/")
    # Of fewer than 80 a class can miss a split; numbers of patients have five digits.
    phantom_patients: int = _parameter(
        480, "01", "patients to draw when the source is phantom", ge=80, le=99_999
    )
    phantom_seed: Seed = _parameter(0, "01", "seed of the phantoms")
    read_pixels: bool = _parameter(True, "01", "open every file; false lists the files only")

    exclude_duplicates: bool = _parameter(
        False, "02", "admit one of several byte-identical files; false admits and counts them all"
    )
    body_parts: BodyParts = _parameter(
        [], "02", "the body parts to admit, such as [ELBOW, WRIST]; without any: all"
    )

    protocol: Annotated[
        Literal["official-patient", "official-image", "stratified-80-10-10", "patient"], AnyCase
    ] = _parameter("official-patient", "03", "how images are split")
    fractions: Fractions = _parameter(
        [0.8, 0.1, 0.1], "03", "train, validation, test shares of the protocol patient"
    )
    split_seed: Seed = _parameter(0, "03", "seed of the split")

    # The backbones take no less, radiographs have no more.
    image_size: int = _parameter(
        224, "04", "side of the model's square input, pixels", ge=32, le=4096
    )
    rotation_range: Number = _parameter(10.0, "04", "largest rotation, degrees", ge=0, le=360)
    width_shift_range: Number = _parameter(
        0.05, "04", "largest shift, share of the width", ge=0, le=1
    )
    height_shift_range: Number = _parameter(
        0.05, "04", "largest shift, share of the height", ge=0, le=1
    )
    shear_range: Number = _parameter(
        0.2, "04", "largest shear, degrees; 90 flattens the image to a line", ge=0, lt=90
    )
    zoom_range: Number = _parameter(0.1, "04", "largest zoom per axis, share", ge=0, lt=1)
    horizontal_flip: bool = _parameter(True, "04", "mirror half of the training images")
    pca_image_size: int = _parameter(
        64, "04", "side of the images given to PCA, pixels; 256 take gigabytes", ge=8, le=256
    )
    pca_images_per_class: Counts = _parameter(
        [10, 1000], "04", "training images a class for PCA (as many as there are)"
    )

    seed: Seed = _parameter(0, "05", "seed of initialisation, order and augmentation")
    backbone: Annotated[Literal[tuple(BACKBONES)], AnyCase] = _parameter(
        "densenet121", "05", "network of keras.applications without its top"
    )
    # MobileNet's first layer has 32 filters, of which one must be left.
    alpha: Number = _parameter(1.0, "05", "width multiplier of mobilenet", ge=1 / 32, le=2)
    weights: Weights = _parameter(
        "phantom", "05", "phantom, imagenet, none, or the path of a weights file"
    )
    scaling: Annotated[Literal["unit", "backbone"], AnyCase] = _parameter(
        "backbone", "05", "unit: [0, 1] as in the report; backbone: as its weights expect"
    )
    unfreeze: Convolutions = _parameter(
        5, "05", "trainable convolutions of the backbone, counted from its end, or all"
    )
    head: Annotated[Literal["dense", "attention"], AnyCase] = _parameter(
        "attention", "05", "exp1-4, or exp5-6"
    )
    squeeze_excite: bool = _parameter(True, "05", "channel attention before the attention heads")
    dense_units: list[Annotated[int, Field(ge=1, le=8192)]] = _parameter(
        [1024], "05", "dense layers of the head dense", max_length=5
    )
    dropout: list[Annotated[Number, Field(ge=0, le=0.99)]] = _parameter(
        [0.2, 0.4, 0.4, 0.4, 0.4], "05", "rates: one for the head dense, five for attention"
    )
    l1: Number = _parameter(0.0, "05", "L1 factor on dense kernels", ge=0, le=1)
    l2: Number = _parameter(0.0001, "05", "L2 factor on dense kernels", ge=0, le=1)
    batch_norm_momentum: Number = _parameter(
        0.9, "05", "of moving statistics; Keras's 0.99 lags behind in short runs", ge=0, lt=1
    )
    augment: bool = _parameter(True, "05", "augment the training images")
    batch_size: int = _parameter(32, "05", "images a step, or all there are", ge=1, le=65_536)
    epochs: int = _parameter(20, "05", "epochs at most", ge=1, le=100_000)
    # Adam changes each weight by about this much in a step.
    learning_rate: Number = _parameter(3e-4, "05", "Adam's initial rate", ge=1e-12, le=1)
    early_stopping_patience: int = _parameter(
        10, "05", "epochs without a better validation loss before training stops", ge=1, le=100_000
    )
    reduce_lr_patience: int = _parameter(
        4, "05", "epochs without one before the learning rate is reduced", ge=1, le=100_000
    )
    reduce_lr_factor: Number = _parameter(0.2, "05", "factor of that reduction", gt=0, lt=1)
    min_learning_rate: Number = _parameter(
        1e-7, "05", "floor of the learning rate with the schedule plateau", ge=0, le=1
    )
    schedule: Annotated[Literal["plateau", "cosine"], AnyCase] = _parameter(
        "plateau", "05", "plateau: the rate falls as above; cosine: falls to 0 over all epochs"
    )
    label_smoothing: Number = _parameter(
        0.0, "05", "probability that a label gives away to all classes", ge=0, lt=1
    )
    class_weights: bool = _parameter(
        False, "05", "weigh training images by the rarity of their class"
    )
    focal_gamma: Number = _parameter(
        0.0, "05", "focal loss's exponent; 0 is plain cross-entropy", ge=0, le=100
    )
    cache_features: Annotated[Literal["auto", "on", "off"], OnOff] = _parameter(
        "auto", "05", "compute the frozen part once and train on its stored activations"
    )
    views: int = _parameter(
        2, "05", "augmented views of a training image to store, an open file each", ge=1, le=100
    )
    view_seed: Seed = _parameter(0, "05", "seed of those views; runs of all seeds share them")
    extractor: Annotated[Literal["tensorflow", "openvino"], AnyCase] = _parameter(
        "tensorflow", "05", "what computes the activations to store"
    )
    precision: Annotated[Literal["float32", "mixed"], AnyCase] = _parameter(
        "float32", "05", "mixed: float16 on a GPU, bfloat16 in OpenVINO"
    )
    kernels: Annotated[Literal["fast", "keras"], AnyCase] = _parameter(
        "fast", "05", "what trains on a CPU: quicker kernels with the same results, or Keras's own"
    )
    deterministic: bool = _parameter(
        True, "05", "same seed, same history also on a GPU; false lets XLA compile there"
    )
    steps_per_execution: int = _parameter(
        1, "05", "steps a call, or all there are; more keep a GPU busier", ge=1, le=10_000
    )

    threshold: Number = _parameter(
        0.5, "06", "a study is abnormal above this probability", ge=0, le=1
    )
    bootstrap: int = _parameter(
        1000, "06", "patient-level resamples behind the intervals, in memory", ge=100, le=100_000
    )

    scored_images: int = _parameter(
        48, "07", "abnormal test images whose heat-maps are scored, in memory", ge=2, le=10_000
    )

    @model_validator(mode="after")
    def _parameters_fit_each_other(self) -> Experiment:
        for fits, sentence in self._conditions():
            if not fits:
                raise ValueError(sentence)
        return self

    def _conditions(self) -> list[tuple[bool, str]]:
        backbone, weights, unfreeze = self.backbone, self.weights, shown(self.unfreeze)
        facts = BACKBONES[backbone]
        rates, count = 1 if self.head == "dense" else 5, facts.convolutions
        return [
            (
                self.read_pixels or not self.exclude_duplicates,
                "exclude_duplicates = True needs read_pixels = True: they are found by content",
            ),
            (
                len(self.dropout) == rates,
                f"the head {self.head} takes {rates} dropout rate(s), not {shown(self.dropout)}",
            ),
            (
                weights != "phantom" or facts.phantom,
                f"the weights phantom are densenet121's: with the backbone {backbone} give "
                "weights imagenet, none, or a file of `mura pretrain`",
            ),
            (
                self.alpha == 1 or bool(facts.alphas),
                f"alpha = {self.alpha}, but the backbone {backbone} has one width: leave it at 1",
            ),
            (
                not facts.alphas or self.alpha in facts.alphas or weights != "imagenet",
                f"alpha = {self.alpha}, but the weights imagenet exist for "
                f"{', '.join(map(str, facts.alphas))}: give one of these, or other weights",
            ),
            (
                self.unfreeze == "all" or self.unfreeze <= count,
                f"unfreeze = {unfreeze}, but {backbone} has {count} convolutions: give a smaller "
                "number, or all",
            ),
            (
                self.cache_features != "on" or self.unfreeze not in ("all", count),
                f"cache_features = on, but unfreeze = {unfreeze} leaves nothing frozen to store: "
                "give auto or off, or a smaller unfreeze",
            ),
            (
                self.schedule != "plateau" or self.min_learning_rate <= self.learning_rate,
                f"min_learning_rate = {self.min_learning_rate} is above learning_rate = "
                f"{self.learning_rate}: lower it",
            ),
        ]


def owner(parameter: str) -> str:
    """The two digits of the first notebook that reads `parameter`."""
    return Experiment.model_fields[parameter].json_schema_extra["notebook"]


def validate_parameters(parameters: Mapping[str, Any], where: str) -> Experiment:
    """Turn a mapping into an `Experiment`.

    Args:
        parameters: names and values; missing ones take their defaults.
        where: where the values stand, for the message.

    Raises:
        UserError: one line on the first parameter that is unknown, ill-typed or out of range, or
            does not fit another: its name, its value and what it can be.
    """
    try:
        return Experiment.model_validate(dict(parameters))
    except ValidationError as error:
        sentence = _sentence(error.errors(include_url=False)[0])
    raise UserError(f"{where}: {sentence}")


def _sentence(problem: Mapping[str, Any]) -> str:
    reason = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return f"{reason}."
    name, *places = problem["loc"]
    if name not in Experiment.model_fields:
        return f"unknown parameter {shown(name)}; {_closest(str(name)[:80])}"
    place = "".join(f"[{place}]" for place in places)
    if problem["type"] != "value_error":
        description = Experiment.model_fields[name].description
        reason = f"{reason[0].lower()}{reason[1:]} ({description})"
    return f"{name}{place} = {shown(problem['input'])}: {reason}."


def _closest(name: str) -> str:
    close = get_close_matches(name, Experiment.model_fields, n=1)
    known = ", ".join(Experiment.model_fields)
    return f"did you mean {close[0]!r}?" if close else f"known are {known}."


def data_root(experiment: Experiment) -> Path:
    """The folder of an experiment's data set: absolute, or relative to the data folder."""
    return data_dir() / expand(experiment.data_dir)


def weights_file(weights: str) -> Path | None:
    """The file that the parameter names; None for ``imagenet`` and ``none``, which name none.

    Args:
        weights: ``phantom``, or a path, which may start in the data folder.

    Raises:
        UserError: there is no such file.
    """
    if weights in WEIGHTS:
        return PHANTOM_WEIGHTS if weights == "phantom" else None
    path = data_dir() / expand(weights)
    if not path.is_file():
        raise UserError(
            f"weights: {path} is no file; give phantom, imagenet, none, or a weights file."
        )
    return path


def experiment_file(name: str | Path) -> Path:
    """The file of an experiment, given by path, or by name in ``experiments/``.

    Raises:
        UserError: there is no such file.
    """
    for candidate in (Path(name), EXPERIMENTS / name, EXPERIMENTS / f"{name}.yaml"):
        try:
            if candidate.is_file():
                return candidate
        except OSError as error:  # of a name that is too long, or a folder that may not be read
            raise UserError(describe(error)) from None
    known = ", ".join(sorted(path.stem for path in EXPERIMENTS.glob("*.yaml")))
    raise UserError(
        f"There is no experiment {shown(str(name))}; give a YAML file or one of: {known}."
    )


def load_experiment(name: str | Path, /, **changes: Any) -> Experiment:
    """Read and check an experiment.

    Args:
        name: ``"exp6"``, a file name in ``experiments/``, or a path.
        **changes: parameters that replace those of the file.

    Raises:
        UserError: no such file, not YAML, or a parameter that is unknown or ill-typed.

    Example:
        >>> load_experiment("exp6", unfreeze="all").unfreeze
        'all'
    """
    path = experiment_file(name)
    return validate_parameters({**read_parameters(path), **changes}, where=path.name)


def save_experiment(experiment: Experiment, path: Path) -> None:
    """Write every value as YAML, atomically."""
    write_parameters(path, experiment.model_dump())


def parse_assignment(assignment: str) -> tuple[str, Any]:
    """Split ``key=value`` as typed on a command line; the value is read as in a YAML file.

    Raises:
        UserError: there is no ``=``, or the value is none that a parameter can have.
    """
    key, equals, value = assignment.partition("=")
    if not equals or not key:
        raise UserError(f"-p {shown(assignment)}: write it as key=value.")
    field = Experiment.model_fields.get(key)
    if field is not None and field.annotation is str:
        return key, value
    try:
        return key, parse_value(value)
    except UserError as error:
        raise UserError(f"-p {shown(assignment)}: {error}.") from None
