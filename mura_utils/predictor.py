"""The answer of a trained run or ensemble to gray images, by what notebook 06 has chosen for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from mura_utils.data.squares import resize
from mura_utils.data.tabular import encode, require_person
from mura_utils.errors import UserError, shown
from mura_utils.evaluation.calibration import at_temperature
from mura_utils.evaluation.familiarity import FAMILIARITY, Familiarity, read_familiarity
from mura_utils.labels import body_part, p_abnormal, probability_columns
from mura_utils.runs.ensemble import Networks, Rules, networks_of
from mura_utils.runs.record import is_tested

if TYPE_CHECKING:
    import keras

BACKENDS = ("tensorflow", "openvino")
"""What can compute an answer."""

BATCH_SIZE = 32
"""Images that go through a network at a time."""

Inputs = Mapping[tuple[int, str], np.ndarray]
"""What networks take of an image, by side in pixels and the parameter `resize`: (S, S) uint8."""


class Answers(NamedTuple):
    """Of N images: mean probabilities (N, K), float64, and why each is unfamiliar.

    That is "" for an image that is not, and None where nobody knows.
    """

    probabilities: np.ndarray
    unfamiliar: list[str | None]


class View(NamedTuple):
    """A batch as one network takes it: (N, S, S, 1) float32; step -1 where it is mirrored.

    `how` is the parameter `resize` of that network; `fine` is what a second look is cut from,
    (N, F, F) uint8; None without one.
    """

    model: keras.Model
    batch: np.ndarray
    step: int
    fine: np.ndarray | None
    how: str


class _Network(NamedTuple):
    model: keras.Model
    shape: tuple[int, str]
    twice: bool  # whether it looks again, see `network.second_look`
    familiar: Familiarity | None
    # Probabilities; features if `familiar`; the taught attention map if `twice`.
    traced: Callable[[np.ndarray], Sequence[Any]]
    run: Callable[[np.ndarray], Sequence[Any]]  # the same, by the backend
    file: Path


class Predictor:
    """A trained run or ensemble whose networks are loaded.

    An ensemble answers with the mean of its networks' probabilities, over the mirror image as well
    where it was made so. An image is unfamiliar to it where it is to at least half of its networks,
    of those whose runs know what is familiar.

    Attributes:
        networks: whose mean it answers.
        rules: its threshold and temperature.
        computed_by: library and precision.
    """

    def __init__(
        self,
        folder: Path,
        backend: str = "tensorflow",
        padded: bool = False,
        age: float | None = None,
        sex: str | None = None,
    ) -> None:
        """Load the networks.

        Args:
            folder: of the run, as `runs.record.require_trained` gives it.
            backend: one of `BACKENDS`.
            padded: fill every batch up to `BATCH_SIZE`: for thousands of images, as nothing is
                compiled for another size.
            age: of the patient whose images all of them are, years; None where it is unknown.
            sex: F, M or O; None where it is unknown.

        Raises:
            UserError: a model cannot be loaded or has other classes, a file of notebook 06 is
                damaged, or as `require_backend` and `person_values`.
        """
        require_backend(backend)
        self.networks = networks_of(folder)
        self.rules = Rules.of(folder, self.networks)
        self.computed_by = ""
        self._backend, self._padded = backend, padded
        values = person_values(folder, self.networks, age, sex)
        self._loaded = [
            self._load(*each)
            for each in zip(
                range(len(self.networks.files)),
                self.networks.resize,
                self.networks.second_look,
                values,
                strict=True,
            )
        ]

    def _load(self, number: int, how: str, twice: bool, values: np.ndarray | None) -> _Network:
        from mura_utils.frozen import with_pooled
        from mura_utils.network.inference import compile_for_openvino, trace
        from mura_utils.network.second_look import with_finding
        from mura_utils.network.tabular import at_values

        file = self.networks.files[number]
        model, familiar = at_values(load_network(self.networks, number), values), known_by(file)
        whole = with_pooled(model, familiar.layers) if familiar else model
        whole = with_finding(whole) if twice else whole
        run = traced = trace(whole, BATCH_SIZE if self._padded else None)
        self.computed_by = "TensorFlow"
        if self._backend == "openvino":
            run, precision = compile_for_openvino(traced)
            self.computed_by = f"OpenVINO {precision}"
        return _Network(model, (model.input_shape[1], how), twice, familiar, traced, run, file)

    def prepare(self, gray: np.ndarray) -> Inputs:
        """Make of a gray image what the networks take; several threads may.

        Args:
            gray: (H, W) uint8, as `data.images.read_image` gives it.
        """
        shapes = dict.fromkeys(shape for each in self._loaded for shape in self._shapes(each))
        return {(size, how): resize(gray, size, how) for size, how in shapes}

    def _shapes(self, network: _Network) -> list[tuple[int, str]]:
        from mura_utils.network.second_look import fine_side

        size, how = network.shape
        return [(size, how), (fine_side(size), how)] if network.twice else [(size, how)]

    def views(self, inputs: Sequence[Inputs]) -> Iterator[View]:
        """What each network is given, in their order; its mirror images come after the images."""
        for network in self._loaded:
            yield from self._views(network, inputs)

    def _views(self, network: _Network, inputs: Sequence[Inputs]) -> Iterator[View]:
        squares, *finer = (
            np.stack([each[shape] for each in inputs]) for shape in self._shapes(network)
        )
        batch = squares[..., np.newaxis].astype(np.float32)
        for step in (1, -1) if self.networks.flip else (1,):
            fine = finer[0][:, :, ::step] if finer else None
            yield View(network.model, batch[:, :, ::step], step, fine, network.shape[1])

    def answer(self, inputs: Sequence[Inputs]) -> Answers:
        """Classify images, `BATCH_SIZE` at a time.

        Args:
            inputs: what `prepare` gave for each image; one at least.

        Raises:
            UserError: a network gives no finite probabilities.
        """
        from mura_utils.network.second_look import look_closer

        answers, scores, knowing = [], [], []
        for network in self._loaded:
            for view in self._views(network, inputs):
                probabilities, *features = self._run(network, view.batch)
                if network.twice:
                    size, attention = network.shape[0], features.pop()
                    closer = look_closer(view.fine, attention, size)[..., np.newaxis]
                    again, *_ = self._run(network, closer.astype(np.float32))
                    probabilities = (probabilities + again) / 2
                if not np.isfinite(probabilities).all():
                    raise UserError(
                        f"{network.file} gives no finite probabilities: train it again."
                    )
                answers.append(probabilities)
                if network.familiar and view.step == 1:
                    knowing.append(network.familiar)
                    scores.append(network.familiar.scores(features[0]))
        unfamiliar = _unfamiliar(knowing, scores) if knowing else [None] * len(inputs)
        return Answers(np.mean(answers, axis=0, dtype=float), unfamiliar)

    def difference_to_tensorflow(self, inputs: Sequence[Inputs]) -> float:
        """The largest difference of a probability to what TensorFlow computes, 0 to 1."""
        other = copy(self)
        other._loaded = [network._replace(run=network.traced) for network in self._loaded]
        difference = other.answer(inputs).probabilities - self.answer(inputs).probabilities
        return float(np.abs(difference).max())

    def _run(self, network: _Network, images: np.ndarray) -> list[np.ndarray]:
        found = []
        for start in range(0, len(images), BATCH_SIZE):
            batch = images[start : start + BATCH_SIZE]
            missing = BATCH_SIZE - len(batch) if self._padded else 0
            full = np.pad(batch, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else batch
            outputs = network.run(np.ascontiguousarray(full))
            found.append([np.asarray(output)[: len(batch)] for output in outputs])
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]

    def results(
        self, answers: Answers, remarks: Sequence[Mapping[str, str]]
    ) -> list[dict[str, Any]]:
        """What is told of each image, ready for JSON; probabilities have six decimals.

        Args:
            answers: to N images.
            remarks: on each of them, from kind to detail.
        """
        classes, rules = self.networks.classes, self.rules
        labels = [classes[index] for index in answers.probabilities.argmax(axis=1)]
        abnormal = _abnormal(answers.probabilities, classes)
        calibrated: list[float] | None = None
        if rules.temperature is not None:  # temperature scaling, Guo et al. 2017
            scaled = at_temperature(answers.probabilities, rules.temperature)
            calibrated = _abnormal(scaled, classes)
        return [
            {
                "label": labels[n],
                "body_part": body_part(labels[n]),
                "p_abnormal": round(abnormal[n], 6),
                "p_abnormal_calibrated": None if calibrated is None else round(calibrated[n], 6),
                "called": "abnormal" if abnormal[n] > rules.threshold else "normal",
                "threshold": rules.threshold,
                "threshold_from": rules.threshold_from,
                "unfamiliar": None if unlike is None else bool(unlike),
                "probabilities": {
                    name: round(float(p), 6)
                    for name, p in zip(classes, answers.probabilities[n], strict=True)
                },
                "remarks": [
                    {"kind": kind, "detail": detail}
                    for kind, detail in (remarks[n] | _remark_unfamiliar(unlike)).items()
                ],
            }
            for n, unlike in enumerate(answers.unfamiliar)
        ]


def load_network(networks: Networks, number: int) -> keras.Model:
    """Load the model of ``networks.files[number]``.

    Raises:
        UserError: it cannot be loaded, or has other classes.
    """
    from mura_utils.network.saved import load_model

    file = networks.files[number]
    model = load_model(file)
    if model.output_shape[-1] != len(networks.classes):
        raise UserError(
            f"{networks.described_in} names {len(networks.classes)} classes, but {file} has "
            f"{model.output_shape[-1]}: they are not of one training; run 05_modeling again."
        )
    return model


def require_backend(backend: str) -> None:
    """Refuse what is none of `BACKENDS`, or not installed.

    Raises:
        UserError: it is.
    """
    if backend not in BACKENDS:
        raise UserError(f"--backend is {' or '.join(BACKENDS)}, not {shown(backend)}.")
    if backend == "openvino" and find_spec("openvino") is None:
        raise UserError(
            "--backend openvino needs OpenVINO: pip install -e .[openvino], or leave --backend out."
        )


def person_values(
    folder: Path, networks: Networks, age: float | None, sex: str | None
) -> list[np.ndarray | None]:
    """What each network reads of a patient besides the images; None where it reads nothing.

    Args:
        folder: of the run or the ensemble.
        networks: its.
        age: years; None where it is unknown.
        sex: F, M or O; None where it is unknown.

    Raises:
        UserError: no network reads what is given, or it is no age or no sex.
    """
    said = require_person(age, sex)
    for name in said.columns[said.notna().any()]:
        if not any(name in names for names in networks.tabular):
            raise UserError(
                f"The run {folder.name} does not read the patient's {name} (its parameter tabular "
                f"has no {name}): leave out --{name}."
            )
    return [encode(names, said).numbers[0] if names else None for names in networks.tabular]


def missing_of_person(networks: Networks, age: float | None, sex: str | None) -> str:
    """Which of age and sex the networks read and are not given, as a sentence; "" if none."""
    given = {"age": age, "sex": sex}
    read = sorted({name for names in networks.tabular for name in names})
    if not (missing := [name for name in read if given[name] is None]):
        return ""
    names = " and ".join(missing)
    return f"Read by the run but not given, so treated as missing: the patient's {names}."


def known_by(file: Path) -> Familiarity | None:
    """What the run of a model's file knows as familiar; None where 06 has not written it.

    Raises:
        UserError: the file is damaged.
    """
    path = familiarity_file(file)
    return None if path is None else read_familiarity(path)


def familiarity_file(file: Path) -> Path | None:
    """Where the run of a model's file says what is familiar; None where 06 has not written it."""
    path = file.with_name(FAMILIARITY)
    return path if is_tested(file.parent) and path.is_file() else None


def _abnormal(probabilities: np.ndarray, classes: Sequence[str]) -> list[float]:
    return p_abnormal(pd.DataFrame(probabilities, columns=probability_columns(classes))).tolist()


def _unfamiliar(known: Sequence[Familiarity], scores: Sequence[np.ndarray]) -> list[str]:
    """Why each image is unfamiliar to at least half of the networks, else "".

    Args:
        known: what is familiar to each of K networks.
        scores: of N images, for each network.
    """
    above = np.array([s > one.limit for s, one in zip(scores, known, strict=True)])
    found = []
    for image, votes in enumerate(above.T):
        if votes.mean() < 0.5:
            found.append("")
        elif len(known) == 1:
            found.append(f"score {scores[0][image]:.2f}, limit {known[0].limit:.2f}")
        else:
            found.append(f"so find {votes.sum()} of {len(known)} networks")
    return found


def _remark_unfamiliar(why: str | None) -> dict[str, str]:
    if not why:
        return {}
    return {
        "unfamiliar": f"this image is unlike the run's training images ({why}): do not read its "
        "label"
    }
