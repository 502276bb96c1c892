"""Everything that an Experiment accepts can run: experiments from the schema's edges, on a toy set.

``MURA_FUZZ_EXAMPLES`` draws that many experiments, and 150 times as many values, beside the fixed
ones.
"""

from __future__ import annotations

import itertools
import math
import os
import string
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mura_utils import frozen, training
from mura_utils.augmentation import Augmentation
from mura_utils.backbones import BACKBONES
from mura_utils.data.dataset import Images
from mura_utils.data.manifest import admit
from mura_utils.data.pca import compare_pca, sample_per_class
from mura_utils.data.splits import split
from mura_utils.errors import UserError
from mura_utils.evaluation import choose_operating_point, evaluate, evaluate_abnormality
from mura_utils.evaluation.predictions import predictions_frame
from mura_utils.experiments import (
    Experiment,
    data_root,
    load_experiment,
    parse_assignment,
    read_parameters,
    save_experiment,
    validate_parameters,
)
from mura_utils.generators import augment
from mura_utils.network import build
from mura_utils.network.backbone import convolution_names
from mura_utils.runs.pipeline import discard

EXAMPLES = int(os.environ.get("MURA_FUZZ_EXAMPLES", 2))
FUZZ = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    max_examples=150 * EXAMPLES,
)

# --- the edges ----------------------------------------------------------------------------------

PARTS = ("ELBOW", "WRIST")
SCHEMA = Experiment.model_json_schema()["properties"]

# What the schema does not say, or a test has no time for.
EDGES = {
    "name": ["a", "Z" * 200, "con-1"],
    "data_dir": ["a", "é" * 127, "b/" * 1999, " . "],
    "body_parts": [[], ["elbow"], ["Wrist", "ELBOW"]],
    "exclude": [[], ["Elbow"]],
    "merge": [{}, {"limb": ["Elbow", "wrist"]}, {"Arm": ["WRIST"]}],
    "fractions": [[0.998, 0.001, 0.001], [0.001, 0.998, 0.001], [1 / 3, 1 / 3, 1 / 3]],
    "image_size": [32, 33, 63],  # up to 4096: see below
    "backbone": ["mobilenet"] * 4 + ["densenet121", "efficientnet_lite0", "mobilenetv3small"],
    "weights": ["none", "phantom"],
    "unfreeze": [0, 1, math.inf, "all"],  # infinity: all that the backbone has
    "dense_units": [[], [1] * 5, [8192]],
    "pooling": [["average"], ["lse", "max"], ["attention"], ["max", "attention", "average"]],
    "feature_strides": [[32], [16, 32]],
    "tabular": [[]],  # of data that says them: test_tabular
    "mask_supervision": [0.0],  # of images with masks: test_training_masks
    "second_look": [False],  # needs masks too: test_second_look
    "dropout": [0.0, math.nextafter(0, 1), 0.99],
    "pca_images_per_class": [[1], [1_000_000], list(range(1, 11))],
    "extractor": ["tensorflow"],
    "precision": ["float32", "mixed"],  # int8 needs OpenVINO: test_frozen_extraction
    "bootstrap": [100, 101],  # up to 100,000: see below
    "relabel": ["", "a.csv", " . "],
}


def edges(name: str) -> list:
    """The smallest and the largest value of a parameter, and those beside them."""
    field = SCHEMA[name]
    if name in EDGES:
        return EDGES[name]
    if "enum" in field:
        return field["enum"]
    if field["type"] == "boolean":
        return [False, True]
    low, high = field.get("minimum"), field.get("maximum")
    if field["type"] == "integer":
        return [low, low + 1, high - 1, high]
    low = math.nextafter(field["exclusiveMinimum"], math.inf) if low is None else low
    high = math.nextafter(field["exclusiveMaximum"], -math.inf) if high is None else high
    return [low, math.nextafter(low, math.inf), math.nextafter(high, -math.inf), high]


def settle(values: dict) -> dict:
    """Make values that were drawn one by one fit each other."""
    count = BACKBONES[values["backbone"]].convolutions
    if values["unfreeze"] == math.inf:
        values["unfreeze"] = count
    if values["unfreeze"] in ("all", count) and values["cache_features"] == "on":
        values["cache_features"] = "auto"
    if values["backbone"] != "mobilenet":
        values["alpha"] = 1
    if values["backbone"] != "densenet121":
        values["weights"] = "none"
    if values["image_size"] % 32:
        values["feature_strides"] = [32]
    if values["sampling"] == "balanced":
        values["class_weights"] = False
    if values["schedule"] == "plateau":
        values["warmup_epochs"] = 0
        values["min_learning_rate"] = min(values["min_learning_rate"], values["learning_rate"])
    admitted = {part.upper() for part in values["body_parts"] or PARTS}
    values["exclude"] = [part for part in values["exclude"] if not values["body_parts"]]
    admitted -= {part.upper() for part in values["exclude"]}
    merged = {part.upper() for parts in values["merge"].values() for part in parts}
    values["merge"] = values["merge"] if merged <= admitted else {}
    values["read_pixels"] |= values["exclude_duplicates"]
    values["warmup_epochs"] = min(values["warmup_epochs"], values["epochs"] - 1)
    values["dropout"] = [values["dropout"]] * (5 if values["head"] == "attention" else 1)
    return values


def covering() -> list[dict]:
    """Few experiments that have every edge of every parameter among them."""
    drawn = {name: edges(name) for name in SCHEMA}
    rng = np.random.default_rng(1)
    shifts = {name: int(rng.integers(len(values))) for name, values in drawn.items()}
    return [
        settle({n: values[(k + shifts[n]) % len(values)] for n, values in drawn.items()})
        for k in range(max(map(len, drawn.values())))
    ]


COVERING = covering()

SETTLED = {
    *("alpha", "weights", "unfreeze", "dropout", "min_learning_rate", "warmup_epochs"),
    *("class_weights", "feature_strides", "exclude", "merge"),
}


def test_every_edge_is_among_the_fixed_experiments():
    for name in SCHEMA.keys() - SETTLED:
        assert all(value in [e[name] for e in COVERING] for value in edges(name)), name


# --- what is run --------------------------------------------------------------------------------

LABELS = ("Abnormal", "Normal")


def inventory() -> pd.DataFrame:
    """Eight patients a class, one image each, two of them in the official valid list."""
    rows = [
        (f"{split}/{part}/{label}{number}.png", split, f"{part}{label}{number}", part, label)
        for part, label in itertools.product(PARTS, LABELS)
        for split, numbers in (("train", range(6)), ("valid", range(6, 8)))
        for number in numbers
    ]
    columns = ["path", "official_split", "patient", "body_part", "abnormality"]
    frame = pd.DataFrame(rows, columns=columns)
    frame["label"] = frame["abnormality"] + "-" + frame["body_part"]
    digests = [f"{row // 2:064x}" for row in range(len(frame))]
    return frame.assign(study=frame["patient"], sha256=digests, fault="", detail="")


def pixels(rows: pd.DataFrame, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (len(rows), size, size), dtype=np.uint8)


def prepare(experiment: Experiment) -> pd.DataFrame:
    """Notebooks 01 to 04 in small; returns the manifest with its splits."""
    parts = experiment.body_parts, experiment.exclude, experiment.merge
    chosen = admit(inventory(), experiment.exclude_duplicates, *parts)
    chosen = chosen.merge(
        split(chosen, experiment.protocol, experiment.fractions, experiment.split_seed)
    )
    train = np.flatnonzero(chosen["split"] == "train")
    flat = pixels(chosen, experiment.pca_image_size).reshape(len(chosen), -1)
    for count in experiment.pca_images_per_class:
        rows = train[sample_per_class(chosen["label"].iloc[train], count)]
        found = compare_pca(flat[rows], flat[chosen["split"] == "validation"])
        assert found["pca"]["components"]
    size = experiment.image_size
    ranges = Augmentation.of(experiment)
    drawn = ranges.transforms(4, size, np.random.default_rng([experiment.view_seed, 0]))
    warped = augment(pixels(chosen, size)[:4, ..., None], drawn).numpy()
    assert warped.min() >= 0 and warped.max() <= 255
    return chosen


def compile_small(experiment: Experiment, chosen: pd.DataFrame, store: bool) -> tuple:
    """Notebook 05 up to the training; without `store` no activations are computed."""
    images = Images(Path("radiographs"), chosen, pixels(chosen, experiment.image_size))
    model = build.build_model(experiment, images.classes)
    assert len(convolution_names(model)) == BACKBONES[experiment.backbone].convolutions
    plan = frozen.plan(model, images, experiment)
    if plan.train is not None:
        last = plan.train.transforms(plan.train.views - 1, experiment.image_size)
        assert np.isfinite(last).all()
    if store:
        frozen.extract(plan, images, experiment, progress=False)
    task = training.make_task(model, images, experiment, plan if store else None)
    training.compile_task(task, experiment)
    batch, one_hot = next(iter(task.train(0)))
    assert len(one_hot) == min(experiment.batch_size, (chosen["split"] == "train").sum())
    uniform = np.full(one_hot.shape, 1 / len(images.classes), np.float32)
    assert np.isfinite(task.network.compute_loss(batch, one_hot, uniform))
    return model, task


def judge(experiment: Experiment, chosen: pd.DataFrame) -> None:
    """Notebook 06 in small."""
    classes = sorted(set(chosen["label"]))
    test = chosen[chosen["split"] == "test"]
    uniform = np.full((len(test), len(classes)), 1 / len(classes))
    frame = predictions_frame(test, classes, uniform)
    metrics = evaluate(frame, experiment.threshold, experiment.bootstrap)
    assert metrics["bootstrap"]["resamples"] == experiment.bootstrap
    rule, target = experiment.operating_point, experiment.operating_target
    point = choose_operating_point(frame, rule, target, experiment.threshold)
    assert np.isfinite(point["threshold"])


def record(experiment: Experiment, folder) -> None:
    """The run's folder, its names and its record."""
    run = folder / experiment.name
    save_experiment(experiment, run / "experiment.yaml")
    assert load_experiment(run / "experiment.yaml") == experiment
    assert yaml.safe_load((run / "experiment.yaml").read_text()) == experiment.model_dump()
    discard(run)
    assert not data_root(experiment).exists()


@pytest.mark.parametrize("number", range(len(COVERING)))
def test_the_edges_of_the_schema_run(number, tmp_path):
    experiment = validate_parameters(COVERING[number], "edges")
    trained = number in (5, 6)  # a small network with either of two heads
    record(experiment, tmp_path)
    chosen = prepare(experiment)
    model, task = compile_small(experiment, chosen, store=trained)
    if trained:
        briefly = experiment.model_copy(update={"epochs": 1})
        done = training.fit(model, task, briefly, tmp_path / "model.keras", progress=False)
        assert np.isfinite(done.history.to_numpy()).all()
    judge(experiment, chosen)
    keras.backend.clear_session()


@given(st.fixed_dictionaries({name: st.sampled_from(edges(name)) for name in SCHEMA}))
@settings(FUZZ, max_examples=EXAMPLES)
def test_experiments_between_the_edges_run(values):
    experiment = validate_parameters(settle(values), "edges")
    compile_small(experiment, prepare(experiment), store=False)
    keras.backend.clear_session()


def test_the_largest_image_runs():
    size = SCHEMA["image_size"]["maximum"]
    small = {"backbone": "mobilenet", "alpha": 0.25, "weights": "none"}
    experiment = validate_parameters({"image_size": size, **small}, "edges")
    assert build.build_model(experiment, 2).input_shape == (None, size, size, 1)
    pixels = np.full((1, size, size, 1), 255, np.uint8)
    ranges = Augmentation.of(experiment)
    drawn = ranges.draw(1, size, np.random.default_rng(0))
    assert augment(pixels, ranges.matrices(drawn, size)).numpy().min() == 255


def test_the_most_resamples_run():
    count = SCHEMA["bootstrap"]["maximum"]
    rows = inventory()
    auroc = evaluate_abnormality(
        rows["abnormality"], np.linspace(0, 1, len(rows)), rows["patient"], bootstrap=count
    )["auroc"]
    assert auroc["low"] < auroc["value"] < auroc["high"]


# --- what is refused ----------------------------------------------------------------------------

PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**31, 2**32, 10**12, 10**400, -(10**400)])
    | st.floats()
    | st.text(max_size=20)
    | st.text(alphabet="0123456789.eE+-", max_size=8)
    | st.sampled_from(["1e-5", "All", "OFF", "x" * 10**5, "\0", "\ud800", "a\nb", "~nobody/x"])
    | st.binary(max_size=4)
)
ANYTHING = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)
NEAR = st.one_of([st.tuples(st.just(n), st.sampled_from(edges(n))) for n in SCHEMA])
PAIRS = NEAR | st.tuples(st.sampled_from([*SCHEMA]) | PLAIN.filter(lambda k: k == k), ANYTHING)


def refused_in_one_line(error: UserError) -> None:
    sentence = str(error)
    assert sentence.splitlines() == [sentence] and sentence.endswith((".", "?")), sentence
    assert len(sentence) < 2000, "even with the names of all parameters"


@given(st.lists(PAIRS, min_size=1, max_size=4))
@settings(FUZZ)
def test_any_value_is_accepted_and_kept_or_refused_in_one_line(tmp_path_factory, pairs):
    try:
        experiment = validate_parameters(dict(pairs), "fuzz")
    except UserError as error:
        refused_in_one_line(error)
        return
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    save_experiment(experiment, path)
    assert load_experiment(path) == experiment
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == experiment.model_dump()
    again = validate_parameters(experiment.model_dump(), "fuzz")
    assert again == experiment, "one spelling of each value"


TOKENS = [
    *(string.printable + "\x00\x85\ufeff\ud800é😀"),
    *("epochs: ", "- ", "? ", ": ", "\n", "\n  ", "<<: ", "&a ", "*a", "!!int ", "!!timestamp "),
    *("!x ", "%YAML 1.1\n", "---\n", "...", "[" * 400, "'", '"\\U99999999"', '"\\x0', "1e-5"),
    *("12:30:00", "0x1F", "010", "1_0", ".inf", "yes", "~", "{"),
]


@given(st.lists(st.sampled_from(TOKENS), max_size=12).map("".join))
@settings(FUZZ)
def test_any_text_is_a_mapping_of_plain_values_or_refused_in_one_line(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    plain = (str, int, float, bool, type(None))
    try:
        for name, value in read_parameters(path).items():
            assert isinstance(name, str)
            for entry in value.values() if type(value) is dict else [value]:
                assert all(
                    isinstance(v, plain) for v in (entry if type(entry) is list else [entry])
                )
    except UserError as error:
        refused_in_one_line(error)
    for assignment in (text, f"epochs={text}", f"name={text}"):
        try:
            assert isinstance(parse_assignment(assignment), tuple)
        except UserError as error:
            refused_in_one_line(error)
