"""What each part of a recipe is worth: values, intervals and differences."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from mura_utils.evaluation.ablation import (
    COLUMNS,
    ablation_table,
    metric_samples,
    over_seeds,
    read_ablation,
    summarize,
)
from mura_utils.paths import write_csv


def predictions(noise):
    """Forty images of twenty patients, two classes."""
    rng = np.random.default_rng(0)
    abnormal = np.arange(40) % 4 < 2
    p = np.clip(0.3 + 0.4 * abnormal + noise * rng.normal(size=40), 0.01, 0.99)
    labels = np.where(abnormal, "Abnormal-HAND", "Normal-HAND")
    return pd.DataFrame(
        {
            "patient": (np.arange(40) // 2).astype(str),
            "abnormality": np.where(abnormal, "Abnormal", "Normal"),
            "label": labels,
            "predicted": np.where(p > 0.5, "Abnormal-HAND", "Normal-HAND"),
            "p:Abnormal-HAND": p,
            "p:Normal-HAND": 1 - p,
        }
    )


def test_the_first_row_of_samples_is_what_scikit_learn_computes():
    test = predictions(0.4)
    first = metric_samples(test, threshold=0.5, bootstrap=20).iloc[0]
    abnormal, p = test["abnormality"] == "Abnormal", test["p:Abnormal-HAND"]
    assert first["AUROC of abnormal"] == pytest.approx(roc_auc_score(abnormal, p))
    kappa = cohen_kappa_score(test["label"], test["predicted"])
    assert first["kappa, all classes"] == pytest.approx(kappa)
    assert first["sensitivity"] == pytest.approx((p[abnormal] > 0.5).mean())
    assert first["specificity"] == pytest.approx((p[~abnormal] <= 0.5).mean())


def test_hits_count_the_images_that_have_a_mask_and_a_map():
    test = predictions(0.4)
    test["hit"] = np.where(test.index < 2, [1.0, 0.0] * 20, np.nan)
    hits = metric_samples(test, threshold=0.5, bootstrap=20)["hits"]
    assert hits.iloc[0] == 0.5
    assert set(hits.dropna()) <= {0.5}, "both are of one patient: both are drawn or none is"
    assert hits.isna().any()


def test_what_a_change_does_not_have_is_a_dash(recwarn):
    with_maps, without = (predictions(0.4).assign(hit=hit) for hit in (1.0, np.nan))
    samples = {
        name: {seed: metric_samples(table, 0.5, 20) for seed in (0, 1)}
        for name, table in {"all together": with_maps, "no map": without}.items()
    }
    table = ablation_table(summarize(samples))
    assert table["hits"].to_dict() == {"all together": "1.000 [1.000, 1.000]", "no map": "–"}
    assert not recwarn.list


def test_differences_are_paired_and_every_mean_has_its_interval():
    whole = {seed: metric_samples(predictions(0.1), 0.5, 50) for seed in (0, 1)}
    worse = {seed: metric_samples(predictions(0.8), 0.5, 50) for seed in (0, 1)}
    frame = summarize({"all together": whole, "same": whole, "worse": worse})
    assert list(frame) == list(COLUMNS)
    assert len(frame) == 3 * 4 * 3
    assert (frame["low"] <= frame["value"] + 1e-9).all()
    assert (frame["value"] <= frame["high"] + 1e-9).all()
    means = frame[frame["seed"] == "mean"].set_index(["change", "metric"])
    assert means.loc["all together", "difference"].isna().all()
    columns = ["difference", "difference_low", "difference_high"]
    assert (means.loc["same", columns] == 0).all(axis=None), "the same images, resampled alike"
    lost = means.loc[("worse", "AUROC of abnormal")]
    assert lost["difference"] == pytest.approx(
        lost["value"] - means.loc[("all together", "AUROC of abnormal"), "value"]
    )
    assert lost["difference_high"] < 0


def test_an_interval_over_seeds_is_wider_than_that_of_each():
    sure = [pd.Series([value] * 101) for value in (0.7, 0.8, 0.9)]
    assert over_seeds(sure[:1]) == pytest.approx((0.7, 0.7, 0.7))
    value, low, high = over_seeds(sure)
    assert value == pytest.approx(0.8)
    assert low < 0.75 < 0.85 < high


def test_the_table_keeps_the_order_and_comes_back_from_its_file(tmp_path):
    samples = {0: metric_samples(predictions(0.3), 0.5, 20)}
    frame = summarize({"all together": samples, "a part": samples})
    write_csv(tmp_path / "ablation.csv", frame)
    table = ablation_table(read_ablation(tmp_path / "ablation.csv"))
    assert list(table.index) == ["all together", "a part"]
    assert next(iter(table)) == "AUROC of abnormal"
    pd.testing.assert_frame_equal(table, ablation_table(frame))
    absent = read_ablation(tmp_path / "absent.csv")
    assert ablation_table(absent).empty
