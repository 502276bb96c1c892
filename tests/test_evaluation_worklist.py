"""The worklist as a queue: what is planted in it comes out, and simulation and formula agree."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mura_utils.evaluation.worklist import (
    REPORT_TIME_CV,
    expected_waits,
    simulate_worklist,
    waiting_times,
)


def studies(count: int = 400, separation: float = 1.5, abnormal: float = 0.4) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    truth = np.arange(count) < abnormal * count
    p = 1 / (1 + np.exp(-rng.normal(separation * truth, 1)))
    names = np.arange(count).astype(str)
    kinds = np.where(truth, "Abnormal", "Normal")
    return pd.DataFrame({"patient": names, "abnormality": kinds, "p_abnormal": p})


def drawn(count: int = 5000, load: float = 0.9):
    rng = np.random.default_rng(1)
    return rng.exponential(1 / load, count).cumsum(), rng.exponential(1, count), rng.random(count)


def waits(table: pd.DataFrame) -> pd.Series:
    return table.set_index(["load", "order", "studies"])["wait"]


def by_formula(*arguments, **options) -> pd.Series:
    table = pd.DataFrame(expected_waits(*arguments, **{"bootstrap": 0, **options}))
    return waits(table).map(lambda interval: interval["value"]).astype(float)


def test_in_the_order_of_arrival_the_waits_are_lindleys():
    arrivals, takes, _ = drawn()
    expected = [0.0]
    for gap, took in zip(np.diff(arrivals), takes, strict=False):
        expected.append(max(0, expected[-1] + took - gap))
    found = waiting_times(arrivals, takes, np.zeros(len(arrivals)))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_no_report_begins_before_its_study_came_or_while_another_is_written():
    arrivals, takes, urgency = drawn()
    begun = arrivals + waiting_times(arrivals, takes, urgency)
    order = np.argsort(begun)
    assert (begun >= arrivals).all()
    assert (begun[order][1:] >= (begun + takes)[order][:-1] - 1e-9).all()


def test_the_reader_takes_the_most_urgent_of_those_who_wait():
    arrivals, takes, urgency = drawn(500)
    begun = arrivals + waiting_times(arrivals, takes, urgency)
    for study, moment in enumerate(begun):
        there = (arrivals <= moment) & (begun > moment)
        assert not there.any() or urgency[study] >= urgency[there].max()


def test_an_order_that_ignores_report_times_moves_no_work():
    arrivals, _, urgency = drawn()
    alike = np.ones(len(arrivals))
    in_order, by_urgency = (waiting_times(arrivals, alike, u) for u in (alike, urgency))
    assert (in_order != by_urgency).any()
    assert in_order.mean() == pytest.approx(by_urgency.mean(), rel=1e-9)


def test_ties_keep_the_order_of_arrival():
    assert waiting_times([0, 1, 2, 3], [9, 1, 1, 1], [0, 5, 7, 7]).tolist() == [0, 10, 7, 7]


def test_littles_law_holds_in_a_simulated_worklist():
    arrivals, takes, urgency = drawn(20_000, load=0.8)
    waited = waiting_times(arrivals, takes, urgency)
    events = np.concatenate([arrivals, arrivals + waited])
    steps = np.repeat([1, -1], len(arrivals))[np.argsort(events, kind="stable")]
    queue = steps.cumsum()[:-1]
    mean_length = (queue * np.diff(np.sort(events))).sum() / events.max()
    rate = len(arrivals) / events.max()
    assert mean_length == pytest.approx(rate * waited.mean(), rel=1e-9)


@pytest.mark.parametrize("load", [0.5, 0.8, 0.9])
def test_arrival_order_is_pollaczek_and_khinchine(load):
    formula = load * (1 + REPORT_TIME_CV**2) / (2 * (1 - load))
    assert by_formula(studies(), [load])[load, "arrival"].tolist() == pytest.approx([formula] * 3)


def test_two_classes_are_cobhams():
    table = by_formula(studies(abnormal=0.25), [0.8])
    residual, urgent = 0.8, 0.8 * 0.25
    assert table[0.8, "perfect", "abnormal"] == pytest.approx(residual / (1 - urgent))
    assert table[0.8, "perfect", "normal"] == pytest.approx(residual / (1 - urgent) / 0.2)


def test_simulation_and_formula_agree_within_the_simulations_error():
    loads = [0.5, 0.8]
    simulated = simulate_worklist(studies(), loads, replications=30, length=4000)
    table = simulated.set_index(["load", "order", "studies"])
    formula = by_formula(studies(), loads)[table.index]
    half = (table["high"] - table["low"]) / 2
    assert (np.abs(table["wait"] - formula) < 2 * half).all()
    assert ((table["low"] < formula) & (formula < table["high"])).mean() > 0.7
    assert (half < 0.15 * formula).all(), "an interval that wide would agree with anything"


def test_a_better_order_helps_abnormal_studies_and_costs_normal_ones_the_same():
    table = by_formula(studies(), [0.8])[0.8]
    assert table["perfect", "abnormal"] < table["model", "abnormal"] < table["arrival", "abnormal"]
    assert table["perfect", "normal"] > table["model", "normal"] > table["arrival", "normal"]
    assert table["model", "all"] == pytest.approx(table["arrival", "all"])


def test_a_random_order_equals_that_of_arrival_in_the_mean():
    table = by_formula(studies(20_000, separation=0), [0.8])[0.8]
    assert table["model"].to_numpy() == pytest.approx(table["arrival"].to_numpy(), rel=0.03)


def test_intervals_are_over_patients():
    (row,) = (
        row
        for row in expected_waits(studies(100), [0.8], bootstrap=300)
        if (row["order"], row["studies"]) == ("model", "abnormal")
    )
    wait = row["wait"]
    assert wait["low"] < wait["value"] < wait["high"]
    table = studies(100)
    one = table.assign(patient=np.repeat(np.arange(25).astype(str), 4))
    clustered = next(
        row["wait"]
        for row in expected_waits(one, [0.8], bootstrap=300)
        if (row["order"], row["studies"]) == ("model", "abnormal")
    )
    assert clustered["high"] - clustered["low"] > wait["high"] - wait["low"]


def test_without_abnormal_studies_their_wait_is_undefined_and_no_warning_is_given():
    normal = studies(abnormal=0)
    found = {(r["order"], r["studies"]): r["wait"] for r in expected_waits(normal, [0.8], 20)}
    assert found["model", "abnormal"]["value"] is None
    assert found["model", "normal"]["value"] == pytest.approx(4)
    simulated = simulate_worklist(normal, [0.5], replications=2, length=40)
    assert simulated.loc[simulated["studies"] == "abnormal", "wait"].isna().all()
