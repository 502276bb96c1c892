"""How often a 95% interval holds the truth: resampling patients against resampling images.

Data sets are simulated whose truth is known. A patient has one to six images, all normal or all
abnormal. Their scores share the patient's own deviation, as images of one patient do, so an image
more of the same patient says less than one of another. An honest 95% interval holds the truth in 95
of 100 data sets.

    python benchmarks/interval_coverage.py
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm

from mura_utils.evaluation import evaluate_abnormality

PATIENTS, MOST_IMAGES = 200, 6

SHIFT = 1.2
"""How far abnormal scores lie above normal ones, in standard deviations of a score."""

SHARED = 0.8
"""Standard deviation of what the scores of a patient share; that of a score is 1."""

TRUTH = {"accuracy": float(norm.cdf(SHIFT / 2)), "auroc": float(norm.cdf(SHIFT / 2**0.5))}
"""Of a threshold halfway between the two kinds."""


@dataclass(frozen=True)
class Images:
    """A simulated data set: abnormality, score and patient of each image."""

    abnormality: pd.Series
    scores: np.ndarray
    patients: pd.Series


def simulate(rng: np.random.Generator) -> Images:
    """Draw a data set."""
    patients = np.repeat(np.arange(PATIENTS), rng.integers(1, MOST_IMAGES + 1, PATIENTS))
    abnormal = rng.integers(0, 2, PATIENTS)[patients]
    shared = rng.normal(0, SHARED, PATIENTS)[patients]
    own = rng.normal(0, (1 - SHARED**2) ** 0.5, len(patients))
    kinds = pd.Series(np.array(["Normal", "Abnormal"])[abnormal])
    return Images(kinds, SHIFT * abnormal + shared + own, pd.Series(patients))


def coverage(data_sets: int, resamples: int, seed: int = 0) -> pd.DataFrame:
    """The share of the data sets whose interval holds the truth.

    Args:
        data_sets: how many to simulate.
        resamples: behind each interval.
        seed: of the simulation and of the resampling.

    Returns:
        One row a unit that is resampled (patients, images), one column a metric of `TRUTH`.
    """
    rng = np.random.default_rng(seed)
    held = []
    for _ in range(data_sets):
        images = simulate(rng)
        units = {"patients": images.patients, "images": pd.Series(np.arange(len(images.scores)))}
        for unit, drawn in units.items():
            metrics = evaluate_abnormality(
                images.abnormality, images.scores, drawn, SHIFT / 2, resamples, seed
            )
            holds = {
                name: metrics[name]["low"] <= truth <= metrics[name]["high"]
                for name, truth in TRUTH.items()
            }
            held.append({"resampled": unit, **holds})
    return pd.DataFrame(held).groupby("resampled").mean()


def measure(arguments: argparse.Namespace) -> None:
    """Print the table."""
    from _common import say, say_head, say_row

    data_sets, resamples = (20, 100) if arguments.quick else (500, 1000)
    say(f"{data_sets} data sets of {PATIENTS} patients, {resamples} resamples each")
    table = coverage(data_sets, resamples)
    say_head("resampled", *(f"{name} held" for name in table))
    for unit, row in table[::-1].iterrows():
        say_row(str(unit), *(f"{share:.1%}" for share in row))


def main() -> None:
    """Read the command line."""
    from _common import options, run

    run(options(__doc__), measure)


if __name__ == "__main__":
    main()
