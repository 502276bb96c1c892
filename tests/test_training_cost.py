"""What a training cost: multiply-adds with and without stored activations."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import small

from mura_utils import frozen, training

EVERY, COMPUTED = (
    "10⁹ multiply-adds, every layer in every epoch",
    "10⁹ multiply-adds, as computed",
)


def test_stored_activations_cost_their_frozen_part_once(monkeypatch):
    settings = small.experiment(cache_features="on", views=2)
    images, model = small.squares(), small.tiny(settings)
    plan = frozen.plan(model, images, settings)
    fitted = training.Training(pd.DataFrame({"epoch": range(1, 1001)}), 1, 12.0)
    monkeypatch.setattr("mura_utils.training.cost._billions", float)
    extracted = frozen.Extraction(computed=100, stored=0, seconds=34.0, computed_by="TensorFlow")
    table = training.describe_cost(model, images, fitted, plan, extracted, model)
    each, share = sum(frozen.multiply_adds(model).values()), plan.cut.frozen_share
    assert table.loc[EVERY, "this run"] == each * 1000 * (36 + 16)
    once = 2 * 36 + (16 + 12)
    expected = each * (share * once + (1 - share) * 1000 * (36 + 16))
    assert table.loc[COMPUTED, "this run"] == expected
    off = training.describe_cost(model, images, fitted, replace(plan, on=False), extracted, model)
    assert off.loc[COMPUTED, "this run"] == off.loc[EVERY, "this run"]
    assert table["this run"].tolist()[-2:] == ["34", "12"]
    assert table.loc["device", "the report, exp6"] == "one RTX 4090"
    assert table.loc["cores", "the report, exp6"] == "–"
