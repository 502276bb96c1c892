"""Coverage of prediction sets on patients with several images: two ways to calibrate them.

The images of a simulated patient share a label and most of the network's error. Sets at 90% are
calibrated on one image a patient, drawn at random, as notebook 06 does, or on all images as if each
were a patient of its own. Coverage is measured on one image of each of 1,000 new patients. The
standard deviation over simulations stands beside the one that the number of calibration images
promises (Vovk, 2012).
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from _common import machine, options, run, say, say_head, say_row
from scipy.stats import betabinom

from mura_utils.evaluation.conformal import RISK, one_image_a_patient, prediction_sets
from mura_utils.labels import join, probability_columns

_CLASSES = [join(a, part) for a in ("Abnormal", "Normal") for part in ("ELBOW", "HAND", "WRIST")]
_CALIBRATION, _NEW = 100, 1000  # patients
_ONE, _ALL = "one image a patient", "all images"


def draw(rng: np.random.Generator, patients: int, hard_have_more: bool) -> pd.DataFrame:
    """Rows of predictions.csv: patient, label and probabilities.

    Args:
        rng: source of randomness.
        patients: how many.
        hard_have_more: a patient whom the network gets wrong more often has more images.
    """
    hard = rng.random(patients) < 0.3
    more = hard if hard_have_more else rng.permutation(hard)
    patient = np.repeat(np.arange(patients), np.where(more, 8, 2))
    label = rng.integers(len(_CLASSES), size=patients)
    own = rng.normal(size=(patients, len(_CLASSES))) * np.where(hard, 2.0, 0.7)[:, None]
    logits = 3 * np.eye(len(_CLASSES))[label] + own
    noisy = logits[patient] + rng.normal(0, 0.5, size=(len(patient), len(_CLASSES)))
    shares = np.exp(noisy) / np.exp(noisy).sum(axis=1, keepdims=True)
    rows = pd.DataFrame({"patient": patient, "label": np.take(_CLASSES, label[patient])})
    return pd.concat([rows, pd.DataFrame(shares, columns=probability_columns(_CLASSES))], axis=1)


def simulate(simulations: int, hard_have_more: bool) -> pd.DataFrame:
    """Coverage, and the promised standard deviation: one row a simulation and way to calibrate."""
    rows = []
    for seed in range(simulations):
        rng = np.random.default_rng(seed)
        images = draw(rng, _CALIBRATION, hard_have_more)
        new = one_image_a_patient(draw(rng, _NEW, hard_have_more), seed)
        for way, chosen in ((_ONE, one_image_a_patient(images, seed)), (_ALL, images)):
            sets = prediction_sets(chosen, new)
            true = sets.columns.get_indexer(new["label"])
            rank = np.ceil((len(chosen) + 1) * (1 - RISK))
            rows.append(
                {
                    "way": way,
                    "coverage": sets.to_numpy()[np.arange(len(new)), true].mean(),
                    "promised": betabinom.std(_NEW, rank, len(chosen) + 1 - rank) / _NEW,
                }
            )
    return pd.DataFrame(rows)


def measure(arguments: argparse.Namespace) -> None:
    """Print mean coverage and its spread, both ways, with and without informative numbers."""
    simulations = 20 if arguments.quick else arguments.simulations
    say(f"{simulations} simulations, sets at {1 - RISK:.0%} from {_CALIBRATION} patients")
    say_head("calibrated on", "more images", "coverage", "SD", "promised SD")
    for hard_have_more, who in ((True, "the hard patients"), (False, "any patients")):
        for way, found in simulate(simulations, hard_have_more).groupby("way", sort=False):
            say_row(
                str(way),
                who,
                f"{found['coverage'].mean():.3f}",
                f"{found['coverage'].std():.3f}",
                f"{found['promised'].mean():.3f}",
            )
    say(f"\n{machine('mapie', 'scikit-learn', 'numpy')}")


if __name__ == "__main__":
    parser = options(__doc__)
    parser.add_argument("--simulations", type=int, default=500)
    run(parser, measure)
