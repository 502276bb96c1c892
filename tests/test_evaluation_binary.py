"""Binary metrics equal scikit-learn's, whatever the answers and whichever kinds there are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import binary_by_sklearn

from mura_utils.evaluation import evaluate_abnormality
from mura_utils.evaluation.binary import binary_measure

KINDS = np.array(["Normal", "Abnormal"])


def measured(abnormality, p, weights, threshold=0.5) -> dict:
    measure = binary_measure(abnormality, p, threshold)
    return {name: values[0] for name, values in measure(weights[None].astype(float)).items()}


ROWS = st.lists(
    st.tuples(
        st.booleans(),
        st.one_of(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.floats(0, 1, width=32)),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=40,
).filter(lambda rows: any(weight for *_, weight in rows))


@given(ROWS, st.sampled_from([0.0, 0.25, 0.5, 0.9]))
@settings(max_examples=150, deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_weighted_metrics_are_scikit_learns_of_repeated_rows(rows, threshold):
    truth, p, weights = map(np.array, zip(*rows, strict=True))
    abnormality, p = pd.Series(KINDS[truth.astype(int)]), pd.Series(p)
    repeated = np.repeat(np.arange(len(rows)), weights)
    expected = binary_by_sklearn(abnormality[repeated], p[repeated], threshold)
    found = measured(abnormality, p, weights, threshold)
    assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)


def planted(kind: str) -> tuple[pd.Series, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 4000)
    p = {
        "perfect": truth * 0.8 + 0.1,
        "flipped": 0.9 - truth * 0.8,
        "constant": np.full(len(truth), 0.7),
        "random": rng.random(len(truth)),
    }[kind]
    return pd.Series(KINDS[truth]), p


@pytest.mark.parametrize(
    ("kind", "kappa", "auroc", "mcc"),
    [("perfect", 1, 1, 1), ("flipped", -1, 0, -1), ("constant", 0, 0.5, 0), ("random", 0, 0.5, 0)],
)
def test_answers_whose_worth_is_known(kind, kappa, auroc, mcc):
    abnormality, p = planted(kind)
    found = measured(abnormality, pd.Series(p), np.ones(len(p)))
    assert found["kappa"] == pytest.approx(kappa, abs=0.06)
    assert found["auroc"] == pytest.approx(auroc, abs=0.03)
    assert found["mcc"] == pytest.approx(mcc, abs=0.06)
    assert found["partial_auroc"] == pytest.approx({1: 1, 0: 9 / 19}.get(auroc, 0.5), abs=0.03)


def test_sensitivity_at_90_specificity_counts_normal_rows_without_interpolating():
    truth = pd.Series(["Normal"] * 10 + ["Abnormal"] * 2)
    p = pd.Series([*np.linspace(0, 0.8, 9), 0.9, 0.85, 0.75])
    found = measured(truth, p, np.ones(12))["sensitivity_at_90_specificity"]
    assert found == 0.5  # one normal row of ten above 0.85, two above 0.75


def test_any_score_that_grows_with_the_probability_has_the_same_curves():
    abnormality, p = planted("random")
    patients = pd.Series(np.arange(len(p)))
    names = ("auroc", "partial_auroc", "auprc", "sensitivity_at_90_specificity")
    first, second = (
        evaluate_abnormality(abnormality, score, patients, bootstrap=0) for score in (p, 10 * p - 7)
    )
    assert all(first[name] == second[name] for name in names)
