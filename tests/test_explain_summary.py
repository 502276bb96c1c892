import numpy as np
import pandas as pd
import pytest

from mura_utils.explain.baselines import BASELINES
from mura_utils.explain.ranking import RANDOM_NETWORK, beats, rank
from mura_utils.explain.scores import score_heatmaps
from mura_utils.explain.similarity import agreement, rank_correlation, structural_similarity
from mura_utils.explain.summary import as_text, by_group, mean_intervals, summarize, thirds

RNG = np.random.default_rng(0)


def scores_of(hits: dict[str, list[float]], patients: list[str]) -> pd.DataFrame:
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "path": [f"{row}.png" for row in range(len(patients))],
                    "patient": patients,
                    "method": method,
                    "target": "contrast",
                    "pointing_game": values,
                }
            )
            for method, values in hits.items()
        ],
        ignore_index=True,
    )


def test_images_of_one_patient_are_not_counted_as_independent():
    values = pd.DataFrame({"hit": np.tile([0.0, 1.0], 20)})
    many = mean_intervals(values, pd.Series(range(40)))
    few = mean_intervals(values.sort_values("hit"), pd.Series(np.repeat(range(5), 8)))
    assert many.loc["hit", "value"] == few.loc["hit", "value"] == 0.5
    widths = [(each["high"] - each["low"])["hit"] for each in (many, few)]
    assert widths[1] > 2 * widths[0]


def test_the_difference_to_a_baseline_is_taken_on_the_same_image():
    base = RNG.random(30)
    scores = scores_of({"center": base, "good": base + 0.1}, [str(n) for n in range(30)])
    lead = summarize(scores, ["pointing_game"], bootstrap=200, baseline="center")
    good = lead.loc[("pointing_game", "good", "contrast")]
    assert good[["value", "low", "high"]].tolist() == pytest.approx([0.1] * 3)
    itself = lead.loc[("pointing_game", "center", "contrast")]
    assert itself[["low", "high"]].tolist() == [0, 0]


def test_what_no_image_is_scored_for_is_undefined_and_said_so():
    scores = scores_of({"center": [np.nan] * 3, "good": [1.0, np.nan, 0.0]}, ["1", "2", "3"])
    summary = summarize(scores, ["pointing_game"], bootstrap=100)
    assert summary["images"].tolist() == [0, 2]
    assert summary["value"].isna().tolist() == [True, False]
    assert as_text(summary)["pointing_game"].tolist()[0] == "–"
    nothing = mean_intervals(scores[:0][["pointing_game"]], scores[:0]["patient"])
    assert nothing["images"].tolist() == [0] and nothing["value"].isna().all()


def test_groups_are_averaged_by_themselves_and_empty_ones_left_out():
    scores = pd.DataFrame({"patient": list("abcd"), "hit": [1.0, 1.0, 0.0, np.nan]})
    kind = pd.Series(["fracture", "fracture", "lesion", "hardware"])
    table = by_group(scores, "hit", {"kind": kind, "size": thirds(scores["hit"])}, bootstrap=100)
    assert table.loc["kind", "value"].to_dict() == {"fracture": 1, "lesion": 0}
    assert table.loc["kind", "images"].tolist() == [2, 1]
    assert by_group(scores[3:], "hit", {"kind": kind[3:]}).empty


def test_where_all_are_hits_the_interval_has_a_width_over_patients():
    hits = [1.0] * 9
    scores = scores_of({"good": hits, "center": hits}, [*"aabbccdde"])
    found = summarize(scores, ["pointing_game"], bootstrap=50)
    assert found["high"].tolist() == [1, 1]
    np.testing.assert_allclose(found["low"], 5 / (5 + 1.959964**2))  # Wilson's for 5 of 5
    good = scores[scores["method"] == "good"].reset_index()
    group = by_group(good, "pointing_game", {"all": pd.Series(["all"] * 9)}, bootstrap=50)
    assert group["low"].tolist() == found["low"].tolist()[:1]
    lead = summarize(scores, ["pointing_game"], bootstrap=50, baseline="center")
    assert lead["high"].tolist() == [0, 0], "a difference is no share"


def test_few_patients_have_no_interval_and_beat_nothing():
    scores = scores_of({"good": [1.0, 1.0, 0.0, 1.0], "center": [0.0] * 4}, [*"abcd"])
    summary = summarize(scores, ["pointing_game"], bootstrap=20)
    assert as_text(summary)["pointing_game"].tolist()[0] == "0.75"
    assert beats(scores, "center", bootstrap=20).tolist() == [None, None]
    more = scores_of({"good": [1.0] * 5, "center": [0.0] * 5}, [*"abcde"])
    assert beats(more, "center", bootstrap=20).tolist() == [True, False]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10])
def test_thirds_hold_every_value_once(count):
    parts = thirds(pd.Series(np.zeros(count)))
    assert len(parts) == count and parts.notna().all()
    assert parts.value_counts().max() <= -(-count // 3) if count else True


def test_rank_correlation_knows_order_only_and_constant_maps_have_none():
    maps = RNG.random((3, 16, 16))
    assert rank_correlation(maps, maps**3) == pytest.approx(np.ones(3))
    assert abs(rank_correlation(maps, RNG.random((3, 16, 16)))).max() < 0.3
    maps[1] = 0
    assert np.isnan(rank_correlation(maps, maps)).tolist() == [False, True, False]


def test_similarity_is_one_for_equal_maps():
    maps = RNG.random((2, 16, 16)).astype(np.float32)
    assert structural_similarity(maps, maps) == pytest.approx(np.ones(2), abs=1e-5)
    assert structural_similarity(maps, 1 - maps).max() < 0
    assert agreement([maps, maps, maps**2]) == pytest.approx(np.ones(2))


def test_edges_are_those_of_each_image_alone():
    images = np.random.default_rng(0).uniform(0, 255, (3, 8, 8, 1)).astype(np.float32)
    together, alone = (BASELINES["edges"](None, each, None) for each in (images, images[1:2]))
    assert together[1] == pytest.approx(alone[0])


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_are_maps(name):
    images = RNG.uniform(0, 255, (3, 32, 32, 1)).astype(np.float32)
    images[2] = 7
    maps = BASELINES[name](None, images, None)
    assert maps.shape == (3, 32, 32) and maps.dtype == np.float32
    assert maps.min() >= 0 and maps.max() <= 1


def test_the_center_is_hottest_in_the_middle_and_edges_at_edges():
    images = np.zeros((1, 33, 33, 1), np.float32)
    images[:, :, 20:] = 100
    center, edges = (BASELINES[name](None, images, None)[0] for name in ("center", "edges"))
    assert np.unravel_index(center.argmax(), center.shape) == (16, 16)
    assert set(np.argwhere(edges == 1)[:, 1]) == {19, 20}


# --- the ranking ---------------------------------------------------------------------------------


def test_the_ranking_says_who_beats_what_and_what_was_not_tested():
    count = 30
    hits = {"poor": [0.0] * count, "good": [1.0] * 27 + [0.0] * 3, "center": [0.5] * count}
    hits[RANDOM_NETWORK.format(method="good")] = [0.0] * count
    scores = scores_of(hits, [str(n) for n in range(count)])
    scores = scores.assign(energy_in_mask=0.5, deletion=np.nan, insertion=0.5, noise=1.0, shift=0.9)
    keys = pd.MultiIndex.from_tuples([("good", "contrast")], names=["method", "target"])
    table = rank(scores, pd.DataFrame({"passes": True}, keys), bootstrap=200)
    assert table.index.get_level_values("method").tolist() == ["good", "poor"]
    verdicts = table[["beats center", "beats random network", "passes randomization"]]
    assert verdicts.to_numpy().tolist() == [[True, True, True], [False, None, None]]
    assert table["hits"].iloc[0].startswith("0.90 [")
    assert table["deletion"].tolist() == ["–", "–"]


def test_a_random_network_is_compared_with_maps_of_its_own_target():
    count = 30
    random = RANDOM_NETWORK.format(method="good")
    both = [
        scores_of({"good": [1.0] * count, random: [0.0] * count}, [*map(str, range(count))]),
        scores_of({"good": [1.0] * count}, [*map(str, range(count))]).assign(target="class"),
    ]
    verdicts = beats(pd.concat(both), RANDOM_NETWORK, bootstrap=100)
    assert verdicts["good"].to_dict() == {"contrast": True, "class": None}


def test_the_ranking_of_data_without_masks_has_its_other_columns():
    maps = {(name, "contrast"): np.ones((5, 8, 8)) for name in ("good", "center")}
    scores = score_heatmaps(maps, [None] * 5)
    scores["path"] = scores["patient"] = scores["image"].map(list("abcde").__getitem__)
    scores = scores.assign(deletion=0.5, insertion=0.5, noise=1.0, shift=0.9)
    keys = pd.MultiIndex.from_tuples([("good", "contrast")], names=["method", "target"])
    table = rank(scores, pd.DataFrame({"passes": True}, keys), bootstrap=200)
    assert table["hits"].tolist() == ["–"] and table["noise"].tolist() == ["1.00 [1.00, 1.00]"]
    assert table[["beats center", "passes randomization"]].to_numpy().tolist() == [[None, True]]
