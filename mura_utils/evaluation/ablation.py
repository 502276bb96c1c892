"""What each part of a recipe is worth: metrics without it, over several splits and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mura_utils.evaluation.binary import binary_measure
from mura_utils.evaluation.confusion import ratio
from mura_utils.evaluation.intervals import draw_patients
from mura_utils.evaluation.metrics import class_measure
from mura_utils.labels import classes_of, p_abnormal, probabilities_of

COLUMNS = (
    *("change", "metric", "seed", "value", "low", "high"),
    *("difference", "difference_low", "difference_high"),
)
"""Of ``benchmarks/ablation.csv``: `seed` is a number or ``mean``; only means have a difference."""


def metric_samples(test: pd.DataFrame, threshold: float, bootstrap: int) -> pd.DataFrame:
    """Metrics of one run, as they are (row 0) and in resamples of the patients (the others).

    Two runs on the same test images are resampled alike, so that their rows can be subtracted.

    Args:
        test: rows of predictions.csv; a column `hit` besides says whether the hottest pixel of an
            attention map lies in the finding, and is empty where there is no map or no mask.
        threshold: abnormal is P(abnormal) above it.
        bootstrap: resamples.
    """
    patients, draws = draw_patients(test["patient"], bootstrap, seed=0)
    drawn = draws[:, patients.get_indexer(test["patient"])]
    weights = np.vstack([np.ones((1, len(test))), drawn])
    classes = pd.Index(classes_of(test))
    image = class_measure(
        classes.get_indexer(test["label"]),
        classes.get_indexer(test["predicted"]),
        probabilities_of(test).to_numpy(),
    )(weights)
    binary = binary_measure(test["abnormality"], p_abnormal(test), threshold)(weights)
    metrics = {
        "AUROC of abnormal": binary["auroc"],
        "sensitivity": binary["sensitivity"],
        "specificity": binary["specificity"],
        "kappa, all classes": image["kappa"],
    }
    if "hit" in test:
        known = test["hit"].notna().to_numpy()
        metrics["hits"] = ratio(weights[:, known] @ test["hit"][known], weights[:, known].sum(1))
    return pd.DataFrame(metrics)


def summarize(samples: Mapping[str, Mapping[int, pd.DataFrame]]) -> pd.DataFrame:
    """One row for each change, metric and seed, and one for their mean: `COLUMNS`.

    Intervals (95%) of a seed are over its patients; those of a mean over patients and seeds: each
    resample draws the seeds with replacement, and the patients of each.

    Args:
        samples: by change, then by seed, as returned by `metric_samples`. The first change is the
            whole recipe, from which the others differ; all have its seeds.
    """
    first, whole = next(iter(samples.items()))
    rows = []
    for change, by_seed in samples.items():
        for metric in next(iter(by_seed.values())):
            for seed, table in by_seed.items():
                value, low, high = over_seeds([table[metric]])
                rows.append((change, metric, str(seed), value, low, high))
            mean = over_seeds([table[metric] for table in by_seed.values()])
            lost: tuple[float, ...] = ()
            if change != first:
                pairs = [table[metric] - whole[seed][metric] for seed, table in by_seed.items()]
                lost = over_seeds(pairs)
            rows.append((change, metric, "mean", *mean, *lost))
    return pd.DataFrame([dict(zip(COLUMNS, row, strict=False)) for row in rows], columns=COLUMNS)


def over_seeds(samples: Sequence[pd.Series]) -> tuple[float, float, float]:
    """Mean over seeds, and its 95% interval over seeds and patients.

    Args:
        samples: of each seed: the value, then its resamples; NaN where there is none.

    Example:
        >>> over_seeds([pd.Series([0.5, 0.4, 0.6]), pd.Series([0.7, 0.7, 0.7])])[0]
        0.6
    """
    table = np.stack(samples)
    if np.isnan(table).all():
        return np.nan, np.nan, np.nan
    seeds, resamples = len(table), table.shape[1] - 1
    drawn = np.random.default_rng(0).integers(seeds, size=(resamples, seeds))
    means = table[drawn, np.arange(1, resamples + 1)[:, None]].mean(axis=1)
    low, high = np.nanquantile(means, [0.025, 0.975])
    return float(table[:, 0].mean()), float(low), float(high)


def read_ablation(path: Path) -> pd.DataFrame:
    """The table that ``benchmarks/ablation.py`` wrote; without rows where there is none."""
    if not path.is_file():
        return pd.DataFrame(columns=COLUMNS)
    return pd.read_csv(path, dtype={"seed": str})


def ablation_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Means with their intervals as text: one row a change, one column a metric.

    Example:
        >>> row = ["no masks", "kappa", "mean", 0.8, 0.7, 0.9, -0.1, -0.2, 0.0]
        >>> ablation_table(pd.DataFrame([row], columns=COLUMNS)).loc["no masks", "kappa"]
        '0.800 [0.700, 0.900]'
    """
    means = frame[frame["seed"] == "mean"]
    texts = [
        f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]" if pd.notna(row.value) else "–"
        for row in means.itertuples()
    ]
    table = means.assign(text=texts).pivot(index="change", columns="metric", values="text")
    order = [list(dict.fromkeys(means[column])) for column in ("change", "metric")]
    return table.reindex(index=order[0], columns=order[1])
