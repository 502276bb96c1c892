"""Two runs on the same test images: differences, their intervals, and a permutation test."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest, permutation_test

from mura_utils.errors import UserError
from mura_utils.evaluation.metrics import evaluate
from mura_utils.evaluation.paired import compare_paired, compare_study_rules

CLASSES = ("Abnormal-HAND", "Normal-HAND")
ACCURACY, AUROC, SENSITIVITY = (
    "accuracy, all classes per image",
    "AUROC of abnormal, per study",
    "sensitivity, per study",
)


def truth(patients: int = 40, seed: int = 0) -> pd.DataFrame:
    """Patients with one to three images, which make one study."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), rng.integers(1, 4, patients)).astype(str)
    abnormality = np.where(rng.random(patients) < 0.5, "Abnormal", "Normal")
    abnormality = pd.Series(abnormality, map(str, range(patients))).loc[patient].to_numpy()
    rows = pd.DataFrame({"patient": patient, "study": patient, "abnormality": abnormality})
    rows["path"] = [f"{row}.png" for row in range(len(rows))]
    return rows.assign(body_part="HAND", split="test", label=rows["abnormality"] + "-HAND")


def answers(rows: pd.DataFrame, skill: float, seed: int) -> pd.DataFrame:
    """A run whose scores of one patient's images resemble each other."""
    rng = np.random.default_rng(seed)
    of_patient = pd.Series(rng.normal(size=len(rows)), rows["patient"]).groupby(level=0).first()
    score = of_patient.loc[rows["patient"]].to_numpy() + 0.5 * rng.normal(size=len(rows))
    score += skill * np.where(rows["abnormality"] == "Abnormal", 1, -1)
    p = 1 / (1 + np.exp(-score))
    predicted = np.where(p > 0.5, *CLASSES)
    return rows.assign(predicted=predicted, **{"p:Abnormal-HAND": p, "p:Normal-HAND": 1 - p})


def test_a_run_does_not_differ_from_itself():
    run = answers(truth(), 1, seed=1)
    compared = compare_paired(run, run.sample(frac=1, random_state=0), resamples=99)
    assert (compared[["difference", "low", "high"]] == 0).all(axis=None)
    assert (compared["p"] == 1).all()
    assert (compared["first"] == compared["second"]).all()


def test_another_scale_of_the_scores_changes_no_auroc():
    run = answers(truth(), 1, seed=1)
    cubes = run.assign(**{"p:Abnormal-HAND": run["p:Abnormal-HAND"] ** 3})
    single = run.drop_duplicates("study"), cubes.drop_duplicates("study")
    assert compare_paired(*single, resamples=99).loc[AUROC, ["difference", "p"]].tolist() == [0, 1]
    assert compare_paired(*single, resamples=99).loc[SENSITIVITY, "difference"] < 0


def test_a_real_difference_is_found():
    rows = truth(150)
    compared = compare_paired(answers(rows, 0.3, 1), answers(rows, 2, 2), resamples=999)
    assert (compared["low"] > 0).all() and (compared["p"] < 0.01).all()
    back = compare_paired(answers(rows, 2, 2), answers(rows, 0.3, 1), resamples=999)
    np.testing.assert_allclose(back["difference"], -compared["difference"])


def test_each_run_is_judged_at_its_own_threshold():
    rows = truth(60)
    first, second = answers(rows, 1, 1), answers(rows, 1, 2)
    at_half = compare_paired(first, second, resamples=9)
    lower = compare_paired(first, second, (0.5, 0.2), resamples=9)
    changed = (at_half != lower)[["first", "second"]].any()
    assert changed.tolist() == [False, True]
    assert lower.loc[SENSITIVITY, "second"] > at_half.loc[SENSITIVITY, "second"]


def test_the_p_value_is_scipys():
    """Differences of a patient's right answers, all 2^9 permutations."""
    rows = truth(9)
    first, second = answers(rows, 1, 1), answers(rows, 0, 3)
    right = [
        (run["label"] == run["predicted"]).groupby(run["patient"]).sum() for run in (first, second)
    ]
    expected = permutation_test(
        right, lambda a, b: b.sum() - a.sum(), permutation_type="samples", n_resamples=1000
    )
    found = compare_paired(first, second, resamples=1000).loc[ACCURACY]
    assert 0 < expected.pvalue < 1
    assert found["p"] == pytest.approx(expected.pvalue)
    assert found["difference"] == pytest.approx(expected.statistic / len(rows))


def test_p_is_uniform_where_the_runs_are_equally_good():
    found = []
    for seed in range(40):
        rows = truth(30, seed)
        runs = answers(rows, 0.7, 2 * seed + 1000), answers(rows, 0.7, 2 * seed + 1001)
        found.append(compare_paired(*runs, resamples=49).loc[AUROC, "p"])
    assert kstest(found, "uniform").pvalue > 0.01
    assert 0.3 < np.mean(found) < 0.7


def test_what_does_not_exist_has_no_number():
    rows = truth()
    rows = rows[rows["abnormality"] == "Normal"].reset_index(drop=True)
    compared = compare_paired(answers(rows, 1, 1), answers(rows, 1, 2), resamples=19)
    assert compared.loc[[AUROC, SENSITIVITY]].isna().all(axis=None)
    assert compared.loc[ACCURACY].notna().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: run.iloc[1:], r"different images \(0\.png is in one test split only\)"),
        (lambda run: run.assign(patient="x"), r"patient of 0\.png is not the same in both"),
    ],
)
def test_other_images_are_one_sentence(change, message):
    run = answers(truth(), 1, 1)
    with pytest.raises(UserError, match=message):
        compare_paired(run, change(run))


def test_rules_of_a_study_are_compared_on_the_same_patients():
    predictions = answers(truth(), skill=0.5, seed=1)
    found = compare_study_rules(predictions, resamples=300)
    rules = evaluate(predictions, bootstrap=0)["study_rules"]
    of_mean = rules.pop("mean")["auroc"]["value"]
    assert found["auroc"].to_dict() == pytest.approx(
        {k: v["auroc"]["value"] for k, v in rules.items()}
    )
    assert found["difference"].to_dict() == pytest.approx((found["auroc"] - of_mean).to_dict())
    assert (found["low"] <= found["difference"]).all() and (
        found["difference"] <= found["high"]
    ).all()
    one_image_each = predictions.drop_duplicates("study")
    assert (compare_study_rules(one_image_each, 50)[["difference", "low", "high"]] == 0).all(
        axis=None
    )
    assert (
        compare_study_rules(predictions.query("abnormality == 'Normal'"), 5).isna().all(axis=None)
    )
