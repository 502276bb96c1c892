"""What helps against rare classes: class weights, focal loss, balanced sampling, SMOTE, or nothing.

One small head on the frozen features of one backbone (average and maximum of its last map,
standardized by the training images), trained with each remedy for as many steps from the same
initial weights, on several patient splits with several seeds. The recipe is fixed: nothing is
chosen on any image, the validation images are not used, and each test split is read once.

SMOTE (Chawla et al. 2002) draws images between neighbors of a class, here between their features,
until all classes are as large as the largest. It comes with imbalanced-learn:

    pip install -e .[imagenet,imbalance]
    python benchmarks/imbalance.py --data data/FracAtlas
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from _common import machine, options, run, say, say_head, say_row, workspace
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight

from mura_utils.data.dataset import load_images
from mura_utils.data.manifest import admit, scan
from mura_utils.data.sources import open_source
from mura_utils.data.splits import split
from mura_utils.errors import UserError
from mura_utils.evaluation.binary import binary_measure
from mura_utils.evaluation.intervals import Measure, Weights, draw_patients, resampled
from mura_utils.evaluation.metrics import class_measure
from mura_utils.evaluation.predictions import predictions_frame
from mura_utils.labels import p_abnormal
from mura_utils.network.probing import untrained_features
from mura_utils.sections import Network

NATURAL = "natural"
REMEDIES = (NATURAL, "class weights", "focal loss", "balanced sampling", "SMOTE")
METRICS = ("AUROC of abnormal", "balanced accuracy", "kappa", "recall of rare classes")

_UNITS, _DROPOUT, _RATE, _BATCH, _EPOCHS = 64, 0.5, 1e-3, 32, 30
_GAMMA = 2.0  # the focal loss's own (Lin et al. 2017)
_NEIGHBORS = 5  # SMOTE's own
_RARE = 0.5  # of the mean size of a class


@dataclass(frozen=True)
class Features:
    """Training images, or what stands for them: (n, D) standardized float32, (n,) class numbers."""

    pooled: np.ndarray
    classes: np.ndarray


def neighbors_of(classes: np.ndarray) -> dict[int, int]:
    """SMOTE's neighbors in each class: five, or all others of a class that has fewer.

    Raises:
        UserError: a class has a single image.
    """
    counts = np.bincount(classes)
    if counts.min() < 2:
        raise UserError("SMOTE needs two training images of each class: use a larger data set.")
    return {number: min(_NEIGHBORS, count - 1) for number, count in enumerate(counts.tolist())}


def with_smote(features: Features, seed: int) -> Features:
    """The features and synthetic ones, by which each class is as large as the largest."""
    from imblearn.over_sampling import SMOTE

    known, largest = len(features.classes), np.bincount(features.classes).max()
    pooled, classes = [features.pooled], [features.classes]
    for number, neighbors in neighbors_of(features.classes).items():
        smote = SMOTE(sampling_strategy={number: largest}, k_neighbors=neighbors, random_state=seed)
        grown, labels = smote.fit_resample(features.pooled, features.classes)
        pooled.append(grown[known:])
        classes.append(labels[known:])
    return Features(np.concatenate(pooled), np.concatenate(classes))


def train_head(
    features: Features, classes: int, remedy: str, seed: int, epochs: int
) -> keras.Model:
    """Train the head; an epoch has the steps that it has without a remedy."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    head = keras.Sequential(
        [
            keras.Input((features.pooled.shape[1],)),
            keras.layers.Dense(_UNITS, activation="relu"),
            keras.layers.Dropout(_DROPOUT, seed=seed),
            keras.layers.Dense(classes, activation="softmax"),
        ]
    )
    drawn = epochs * len(features.classes)
    known = np.arange(classes)
    balance = compute_class_weight("balanced", classes=known, y=features.classes)
    weights = np.ones(classes)
    if remedy == "class weights":
        weights = balance
    if remedy == "SMOTE":
        features = with_smote(features, seed)
    if remedy == "balanced sampling":
        shares = balance[features.classes] / len(features.classes)
        order = rng.choice(len(shares), drawn, p=shares / shares.sum())
    else:
        count = len(features.classes)
        order = np.concatenate([rng.permutation(count) for _ in range(-(-drawn // count))])[:drawn]
    values = tf.constant(features.pooled)
    targets = tf.one_hot(features.classes, classes)
    factors = tf.constant(weights[features.classes], tf.float32)

    def gather(rows: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return tf.gather(values, rows), tf.gather(targets, rows), tf.gather(factors, rows)

    loss = keras.losses.CategoricalCrossentropy()
    if remedy == "focal loss":
        loss = keras.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=_GAMMA)
    head.compile(keras.optimizers.Adam(_RATE), loss, steps_per_execution=20)
    head.fit(
        tf.data.Dataset.from_tensor_slices(order).batch(_BATCH).map(gather),
        shuffle=False,
        verbose=0,
    )
    return head


def rare_classes(labels: pd.Series) -> list[str]:
    """The classes of less than half the mean size.

    Raises:
        UserError: there are none.
    """
    counts = labels.value_counts()
    rare = sorted(counts.index[counts < _RARE * counts.mean()])
    if not rare:
        raise UserError("No class has less than half the mean size: there is nothing to correct.")
    return rare


def judge(rows: pd.DataFrame, positions: np.ndarray, answers: pd.DataFrame) -> Measure:
    """The metrics of one head's test images, from the weights of all images."""
    classes = pd.Index(sorted(rows["label"].unique()))
    true, predicted = (classes.get_indexer(answers[name]) for name in ("label", "predicted"))
    rare = np.isin(true, classes.get_indexer(rare_classes(rows["label"])))
    no_probabilities = np.ones((len(answers), len(classes)))  # only the log loss takes them
    overall = class_measure(true, predicted, no_probabilities)
    of_rare = class_measure(true[rare], predicted[rare], no_probabilities[rare])
    binary = binary_measure(answers["abnormality"], p_abnormal(answers), threshold=0.5)

    def measure(weights: Weights) -> dict[str, np.ndarray]:
        weights = weights[:, positions]
        found = overall(weights)
        values = (
            binary(weights)["auroc"],
            found["balanced_accuracy"],
            found["kappa"],
            of_rare(weights[:, rare])["balanced_accuracy"],
        )
        return dict(zip(METRICS, values, strict=True))

    return measure


def compare(measures: Mapping[str, Sequence[Measure]]) -> Measure:
    """Each remedy's means over its heads, and what they are above those of none."""

    def measure(weights: Weights) -> dict[tuple[str, str], np.ndarray]:
        means = {}
        for remedy, heads in measures.items():
            found = [head(weights) for head in heads]
            for metric in METRICS:
                means[remedy, metric] = np.mean([each[metric] for each in found], axis=0)
        less = {
            (f"{remedy} less {NATURAL}", metric): values - means[NATURAL, metric]
            for (remedy, metric), values in means.items()
            if remedy != NATURAL
        }
        return means | less

    return measure


def measure(arguments: argparse.Namespace) -> None:
    """Extract once, train every head, and print the table."""
    if importlib.util.find_spec("imblearn") is None:
        raise UserError("SMOTE comes with imbalanced-learn: pip install -e .[imbalance].")
    size, splits, seeds, epochs = arguments.image_size, arguments.splits, arguments.seeds, _EPOCHS
    if arguments.quick:
        size, splits, seeds, epochs = 64, splits[:1], seeds[:1], 2
    with workspace():
        rows = admit(scan(open_source(arguments.data), progress=False))
        rare = rare_classes(rows["label"])
        counts = rows["label"].value_counts()
        say(", ".join(f"{label} {count}" for label, count in counts.items()))
        say(f"Rare: {', '.join(rare)}.")
        network = Network(
            backbone=arguments.backbone, weights=arguments.weights, unfreeze=0, image_size=size
        )
        images = load_images(arguments.data, rows, size, resize="pad", progress=False)
        features = untrained_features(network, images, np.arange(len(rows)), maximum=True)
    numbers = images.one_hot.argmax(axis=1)
    measures: dict[str, list[Measure]] = {remedy: [] for remedy in REMEDIES}
    for number in splits:
        part = rows.merge(split(rows, "patient", [0.6, 0.1, 0.3], number), on="path")
        training, test = (np.flatnonzero(part["split"] == name) for name in ("train", "test"))
        scaler = StandardScaler().fit(features[training])
        known = Features(scaler.transform(features[training]), numbers[training])
        fewer = [
            f"{images.classes[k]} {count}"
            for k, count in neighbors_of(known.classes).items()
            if count < _NEIGHBORS
        ]
        say(
            f"Split {number}: {len(training)} training and {len(test)} test images; SMOTE has "
            f"{_NEIGHBORS} neighbors, but {', '.join(fewer) or 'nowhere fewer'}."
        )
        for remedy in REMEDIES:
            for seed in seeds:
                head = train_head(known, len(images.classes), remedy, seed, epochs)
                answered = head.predict(scaler.transform(features[test]), verbose=0)
                answers = predictions_frame(part.iloc[test], images.classes, answered)
                measures[remedy].append(judge(rows, test, answers))
    patients, draws = draw_patients(rows["patient"], 100 if arguments.quick else 1000, seed=0)
    result = resampled(compare(measures), draws, patients.get_indexer(rows["patient"]))
    say_head(f"mean of {len(splits)} splits × {len(seeds)} seeds", *METRICS)
    for name in dict.fromkeys(name for name, _ in result):
        sign = "" if name in REMEDIES else "+"
        found = [[result[name, m][part] for part in ("value", "low", "high")] for m in METRICS]
        texts = [[format(number, f"{sign}.3f") for number in numbers] for numbers in found]
        say_row(name, *(f"{value} [{low}, {high}]" for value, low, high in texts))
    say(f"\n{machine('tensorflow', 'keras', 'scikit-learn', 'imbalanced-learn')}")


def main() -> None:
    """Read the command line."""
    parser = options(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a data set's folder")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--splits", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    run(parser, measure)


if __name__ == "__main__":
    main()
