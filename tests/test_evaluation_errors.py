"""Confused pairs and error rates by group."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mura_utils.evaluation.errors import confused_pairs, error_rates, surest_mistakes

CLASSES = ["Abnormal-HAND", "Abnormal-WRIST", "Normal-HAND", "Normal-WRIST"]


def predictions(pairs: list[tuple[int, int, float]]) -> pd.DataFrame:
    """Rows of a true class, the predicted one, and its probability."""
    rows = pd.DataFrame({"path": [f"{row}.png" for row in range(len(pairs))]})
    rows["label"] = [CLASSES[true] for true, _, _ in pairs]
    rows["predicted"] = [CLASSES[answer] for _, answer, _ in pairs]
    table = np.array([[(1 - p) / 3] * 4 for _, _, p in pairs]).reshape(-1, 4)
    for row, (_, answer, p) in enumerate(pairs):
        table[row, answer] = p
    return rows.join(pd.DataFrame(table, columns=[f"p:{label}" for label in CLASSES]))


def studies(truth, right, patients=None) -> pd.DataFrame:
    truth, right = np.asarray(truth, bool), np.asarray(right, bool)
    names = [f"s{row}" for row in range(len(truth))]
    return pd.DataFrame(
        {
            "study": names,
            "patient": names if patients is None else patients,
            "abnormality": np.where(truth, "Abnormal", "Normal"),
            "p_abnormal": np.where(truth == right, 0.9, 0.1),
        }
    )


def test_pairs_come_by_number_each_with_its_surest_images():
    mistakes = [(0, 2, 0.6), (0, 2, 0.9), (0, 2, 0.7), (3, 1, 0.95), (3, 2, 0.5), (3, 2, 0.4)]
    table = confused_pairs(predictions([*mistakes, (0, 0, 0.99), (3, 3, 0.99)]), 2, 2)
    assert table["path"].tolist() == ["1.png", "2.png", "4.png", "5.png"]
    assert table["images"].tolist() == [3, 3, 2, 2]
    assert table["share"].tolist() == pytest.approx([0.75, 0.75, 0.5, 0.5])
    assert table["probability"].tolist() == pytest.approx([0.9, 0.7, 0.5, 0.4])


def test_without_mistakes_the_tables_are_empty():
    right = predictions([(0, 0, 0.9), (1, 1, 0.9)])
    assert surest_mistakes(right).empty
    assert confused_pairs(right).empty
    assert {"label", "predicted", "images", "path"} <= set(confused_pairs(right))


def test_rates_are_those_of_each_group():
    rng = np.random.default_rng(0)
    table = studies(rng.random(200) < 0.5, rng.random(200) < 0.7)
    groups = pd.DataFrame({"part": rng.choice([*"ab"], 200)}, index=table["study"])
    found = error_rates(table, groups.sample(frac=1, random_state=1), 0.5, bootstrap=300)
    for row in found.itertuples():
        ours = table[groups["part"].to_numpy() == row.group]
        called = ours["p_abnormal"] > 0.5
        abnormal = ours["abnormality"] == "Abnormal"
        assert (row.studies, row.abnormal, row.normal) == (
            len(ours), abnormal.sum(), (~abnormal).sum()
        )  # fmt: skip
        assert row.sensitivity == pytest.approx(called[abnormal].mean())
        assert row.specificity == pytest.approx((~called)[~abnormal].mean())
        assert row.sensitivity_low < row.sensitivity < row.sensitivity_high
        error = np.sqrt(row.sensitivity * (1 - row.sensitivity) / row.abnormal)
        width = row.sensitivity_high - row.sensitivity_low
        assert width == pytest.approx(2 * 1.96 * error, rel=0.2)


def test_a_group_of_fewer_than_five_has_counts_and_no_rate():
    table = studies([1] * 4 + [0] * 5, [1] * 9)
    (row,) = error_rates(table, pd.DataFrame({"x": "a"}, table["study"]), 0.5, 50).itertuples()
    assert (row.abnormal, row.normal) == (4, 5)
    assert np.isnan(row.sensitivity)
    assert np.isnan(row.sensitivity_low)
    assert row.specificity == 1


@pytest.mark.parametrize("right", [0, 1])
def test_where_resampling_cannot_move_the_interval_is_wilsons_over_patients(right):
    table = studies([1] * 20, [right] * 20, patients=[f"p{row // 2}" for row in range(20)])
    (row,) = error_rates(table, pd.DataFrame({"x": "a"}, table["study"]), 0.5, 50).itertuples()
    assert row.sensitivity == right
    width = row.sensitivity_high - row.sensitivity_low
    assert width == pytest.approx(1.96**2 / (10 + 1.96**2), abs=1e-3)


def test_missing_values_are_in_no_group_and_no_attributes_give_no_rows():
    table = studies([1] * 12, [1] * 12)
    half = pd.DataFrame({"kind": ["crack"] * 6 + [None] * 6}, table["study"])
    assert error_rates(table, half, 0.5, 20)["studies"].tolist() == [6]
    nothing = error_rates(table, pd.DataFrame(index=table["study"]), 0.5, 20)
    assert nothing.empty
    assert "specificity_high" in nothing
