"""The parameters of one experiment: checked, documented, and read from a YAML file.

A file in ``experiments/`` is a flat mapping that ``mura run`` and ``papermill -f`` both take. The
parameter cells of the notebooks hold the same names with the defaults below, which are the phantom
demo.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from mura_utils.errors import UserError
from mura_utils.paths import REPOSITORY, data_dir, expand, require_repository, write_text

EXPERIMENTS = REPOSITORY / "experiments"

PHANTOM_WEIGHTS = Path(__file__).parent / "weights" / "densenet121_phantom.npz"
"""What `mura pretrain` learned from phantoms, with its card; ``weights: phantom`` names it."""


def _parameter(default: Any, notebook: str, description: str, **constraints: Any) -> Any:
    """A field that belongs to the first notebook that reads it (its two digits)."""
    return Field(
        default, description=description, json_schema_extra={"notebook": notebook}, **constraints
    )


class Experiment(BaseModel):
    """Every value that decides what a run does.

    Unknown names and wrong types are errors (`UserError` through `validate_parameters`). Each field
    belongs to the first notebook that uses it, see `owner`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = _parameter("demo", "01", "the run's name: its folder in runs/")

    source: Literal["auto", "mura", "fracatlas", "phantom"] = _parameter(
        "phantom", "01", "what the data folder holds; auto recognises it from its content"
    )
    data_dir: str = _parameter("phantom", "01", "the data set's folder: absolute, or in data/")
    phantom_patients: int = _parameter(
        480, "01", "patients to draw when the source is phantom", ge=30
    )
    phantom_seed: int = _parameter(0, "01", "seed of the phantoms", ge=0)
    read_pixels: bool = _parameter(True, "01", "open every file; false lists the files only")

    exclude_duplicates: bool = _parameter(
        False, "02", "admit one of several byte-identical files; false admits and counts them all"
    )

    protocol: Literal["official-patient", "official-image", "stratified-80-10-10", "patient"] = (
        _parameter("official-patient", "03", "how images are split")
    )
    fractions: list[float] = _parameter(
        [0.8, 0.1, 0.1], "03", "train, validation, test shares of the protocol patient"
    )
    split_seed: int = _parameter(0, "03", "seed of the split", ge=0)

    image_size: int = _parameter(224, "04", "side of the model's square input, pixels", ge=32)
    rotation_range: float = _parameter(10.0, "04", "largest rotation, degrees", ge=0)
    width_shift_range: float = _parameter(0.05, "04", "largest shift, share of the width", ge=0)
    height_shift_range: float = _parameter(0.05, "04", "largest shift, share of the height", ge=0)
    shear_range: float = _parameter(0.2, "04", "largest shear, degrees", ge=0)
    zoom_range: float = _parameter(0.1, "04", "largest zoom per axis, share", ge=0, lt=1)
    horizontal_flip: bool = _parameter(True, "04", "mirror half of the training images")
    pca_image_size: int = _parameter(64, "04", "side of the images given to PCA, pixels", ge=8)
    pca_images_per_class: list[int] = _parameter(
        [10, 1000], "04", "training images a class for PCA (as many as there are)"
    )

    seed: int = _parameter(0, "05", "seed of initialisation, order and augmentation", ge=0)
    backbone: Literal["densenet121", "densenet169", "mobilenet"] = _parameter(
        "densenet121", "05", "network of keras.applications without its top"
    )
    alpha: float = _parameter(1.0, "05", "width multiplier of mobilenet", gt=0)
    weights: str = _parameter(
        "phantom", "05", "phantom, imagenet, none, or the path of a weights file"
    )
    scaling: Literal["unit", "backbone"] = _parameter(
        "backbone", "05", "unit: [0, 1] as in the report; backbone: as its weights expect"
    )
    unfreeze: int | Literal["all"] = _parameter(
        5, "05", "trainable convolutions of the backbone, counted from its end, or all"
    )
    head: Literal["dense", "attention"] = _parameter("attention", "05", "exp1-4, or exp5-6")
    squeeze_excite: bool = _parameter(True, "05", "channel attention before the attention heads")
    dense_units: list[int] = _parameter([1024], "05", "dense layers of the head dense")
    dropout: list[float] = _parameter(
        [0.2, 0.4, 0.4, 0.4, 0.4], "05", "rates: one for the head dense, five for attention"
    )
    l1: float = _parameter(0.0, "05", "L1 factor on dense kernels", ge=0)
    l2: float = _parameter(0.0001, "05", "L2 factor on dense kernels", ge=0)
    batch_norm_momentum: float = _parameter(
        0.9, "05", "of moving statistics; Keras's 0.99 lags behind in short runs", ge=0, lt=1
    )
    augment: bool = _parameter(True, "05", "augment the training images")
    batch_size: int = _parameter(32, "05", "images a step", ge=1)
    epochs: int = _parameter(20, "05", "epochs at most", ge=1)
    learning_rate: float = _parameter(3e-4, "05", "Adam's initial learning rate", gt=0)
    early_stopping_patience: int = _parameter(
        10, "05", "epochs without a better validation loss before training stops", ge=1
    )
    reduce_lr_patience: int = _parameter(
        4, "05", "epochs without a better validation loss before the rate is reduced", ge=1
    )
    reduce_lr_factor: float = _parameter(0.2, "05", "factor of that reduction", gt=0, lt=1)
    min_learning_rate: float = _parameter(1e-7, "05", "floor of the learning rate", ge=0)
    schedule: Literal["plateau", "cosine"] = _parameter(
        "plateau", "05", "plateau: the rate falls as above; cosine: falls to 0 over all epochs"
    )
    label_smoothing: float = _parameter(
        0.0, "05", "probability that a label gives away to all classes", ge=0, lt=1
    )
    class_weights: bool = _parameter(
        False, "05", "weigh training images by the rarity of their class"
    )
    focal_gamma: float = _parameter(
        0.0, "05", "focal loss's exponent; 0 is plain cross-entropy", ge=0
    )
    cache_features: Literal["auto", "on", "off"] = _parameter(
        "auto", "05", "compute the frozen part once and train on its stored activations"
    )
    views: int = _parameter(2, "05", "augmented views of a training image to store", ge=1)
    view_seed: int = _parameter(0, "05", "seed of those views; runs of all seeds share them", ge=0)
    extractor: Literal["tensorflow", "openvino"] = _parameter(
        "tensorflow", "05", "what computes the activations to store"
    )
    precision: Literal["float32", "mixed"] = _parameter(
        "float32", "05", "mixed: float16 on a GPU, bfloat16 in OpenVINO"
    )
    deterministic: bool = _parameter(
        True, "05", "same seed, same history also on a GPU; false lets XLA compile there"
    )
    steps_per_execution: int = _parameter(1, "05", "steps a call; more keep a GPU busier", ge=1)

    threshold: float = _parameter(
        0.5, "06", "a study is abnormal above this probability", ge=0, le=1
    )
    bootstrap: int = _parameter(1000, "06", "patient-level resamples behind the intervals", ge=100)

    scored_images: int = _parameter(
        48, "07", "abnormal test images whose heat-maps are scored against their masks", ge=2
    )

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError("use letters, digits, '.', '_' and '-' only")
        return name

    @field_validator("fractions")
    @classmethod
    def _sum_to_one(cls, fractions: list[float]) -> list[float]:
        if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
            raise ValueError("give three positive shares that sum to 1")
        return fractions

    @field_validator("unfreeze")
    @classmethod
    def _is_a_count(cls, unfreeze: int | str) -> int | str:
        if isinstance(unfreeze, int) and unfreeze < 0:
            raise ValueError("give a number of convolutions from 0 up, or all")
        return unfreeze

    @model_validator(mode="after")
    def _rates_fit_the_head(self) -> Experiment:
        expected = 1 if self.head == "dense" else 5
        if len(self.dropout) != expected or not all(0 <= rate < 1 for rate in self.dropout):
            raise ValueError(
                f"the head {self.head} takes {expected} dropout rate(s) from 0 to below 1, "
                f"not {self.dropout}"
            )
        return self

    @model_validator(mode="after")
    def _weights_fit_the_backbone(self) -> Experiment:
        if self.weights == "phantom" and self.backbone != "densenet121":
            raise ValueError(
                "the weights phantom are densenet121's: with the backbone "
                f"{self.backbone} give weights imagenet, none, or a file of `mura pretrain`"
            )
        return self


def owner(parameter: str) -> str:
    """The two digits of the first notebook that reads `parameter`."""
    return Experiment.model_fields[parameter].json_schema_extra["notebook"]


def validate_parameters(parameters: Mapping[str, Any], where: str) -> Experiment:
    """Turn a mapping into an `Experiment`.

    Args:
        parameters: names and values; missing ones take their defaults.
        where: where the values stand, for the message.

    Raises:
        UserError: names the first parameter that is unknown, ill-typed or out of range.
    """
    try:
        return Experiment(**parameters)
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0]) if problem["loc"] else ""
        if problem["type"] == "extra_forbidden":
            raise UserError(f"{where}: unknown parameter {name!r}; {_closest(name)}") from None
        reason = problem["msg"].removeprefix("Value error, ")
        reason = reason[0].lower() + reason[1:]
        given = f" = {problem['input']!r}" if name else ""
        raise UserError(f"{where}: {name}{given}: {reason}.".replace(": :", ":")) from None


def _closest(name: str) -> str:
    close = get_close_matches(name, Experiment.model_fields, n=1)
    known = ", ".join(Experiment.model_fields)
    return f"did you mean {close[0]!r}?" if close else f"known are {known}."


def weights_file(weights: str) -> Path | None:
    """The file that the parameter names; None for ``imagenet`` and ``none``, which name none.

    Args:
        weights: ``phantom``, or a path, which may start in the data folder.

    Raises:
        UserError: there is no such file.
    """
    if weights in ("imagenet", "none"):
        return None
    if weights == "phantom":
        return PHANTOM_WEIGHTS
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
        if candidate.is_file():
            return candidate
    require_repository()
    known = ", ".join(sorted(path.stem for path in EXPERIMENTS.glob("*.yaml")))
    raise UserError(f"There is no experiment {str(name)!r}; give a YAML file or one of: {known}.")


def read_parameters(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, unchecked.

    Raises:
        UserError: the file is not a YAML mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not YAML: {reason}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold one 'parameter: value' a line.")
    return content


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
    write_text(path, yaml.safe_dump(experiment.model_dump(), sort_keys=False, allow_unicode=True))


def parse_assignment(assignment: str) -> tuple[str, Any]:
    """Split ``key=value`` as typed on a command line; the value is read as YAML.

    Raises:
        UserError: there is no ``=``, or the value is not YAML.
    """
    key, equals, value = assignment.partition("=")
    if not equals or not key:
        raise UserError(f"-p {assignment!r}: write it as key=value.")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"-p {assignment!r}: {value!r} is not a YAML value.") from None
    annotation = Experiment.model_fields.get(key)
    if annotation is not None and annotation.annotation is str:
        parsed = value
    if annotation is not None and annotation.annotation is float and isinstance(parsed, str):
        # YAML 1.1 reads 1e-5 (no dot) as text.
        with contextlib.suppress(ValueError):
            parsed = float(parsed)
    return key, parsed
