import numpy as np
import pytest

from mura_utils.errors import UserError
from mura_utils.explain.scores import (
    SCORES,
    choose_level,
    energy_in_mask,
    iou,
    pixel_auprc,
    pointing_game,
    score_heatmaps,
)

MASK = np.zeros((8, 10), bool)
MASK[2:4, 5:9] = True


def peak(row: int, column: int) -> np.ndarray:
    heatmap = np.full(MASK.shape, 0.1, np.float32)
    heatmap[row, column] = 1
    return heatmap


def test_pointing_game_asks_where_the_maximum_is():
    assert pointing_game(peak(3, 8), MASK)
    assert not pointing_game(peak(5, 2), MASK)


def test_a_shared_maximum_must_lie_mostly_inside():
    assert pointing_game(np.maximum(MASK.astype(float), peak(0, 0)), MASK)
    assert not pointing_game(np.maximum(peak(0, 0), peak(2, 5)), MASK)


def test_a_map_that_shows_nothing_scores_nothing():
    nothing = np.zeros(MASK.shape)
    everything = np.ones(MASK.shape, bool)
    assert not pointing_game(nothing, everything)
    assert energy_in_mask(nothing, everything) == 0


def test_energy_is_a_share_and_chance_is_the_area():
    assert energy_in_mask(MASK.astype(float), MASK) == 1
    assert energy_in_mask(1 - MASK.astype(float), MASK) == 0
    assert energy_in_mask(np.full(MASK.shape, 0.3, np.float32), MASK) == pytest.approx(MASK.mean())


@pytest.mark.parametrize("score", [pointing_game, energy_in_mask])
@pytest.mark.parametrize(
    ("mask", "words"),
    [(MASK.T, "alike"), (MASK.astype(np.uint8), "bool"), (np.zeros_like(MASK), "empty")],
)
def test_unusable_masks_are_refused(score, mask, words):
    with pytest.raises(UserError, match=words):
        score(peak(0, 0), mask)


def test_score_heatmaps_leaves_images_without_a_mask_unscored():
    maps = np.stack([peak(3, 8), np.zeros(MASK.shape), peak(3, 8), peak(3, 8)])
    masks = [MASK, MASK, None, np.zeros_like(MASK)]
    scores = score_heatmaps({("saliency", "class"): maps}, masks)
    assert list(scores["image"]) == [0, 1, 2, 3]
    assert list(scores["empty"]) == [False, True, False, False]
    assert list(scores["pointing_game"][:2]) == [1, 0]
    assert scores["chance"][:2].tolist() == [0.1, 0.1]
    assert scores["energy_in_mask"][0] == energy_in_mask(maps[0], MASK)
    assert scores.loc[2:, ["pointing_game", "energy_in_mask", "chance"]].isna().all(axis=None)


# --- planted maps: the mask itself, its complement, and nothing in particular --------------------


def test_the_mask_itself_scores_one_its_complement_none_and_a_uniform_map_the_area():
    heat = MASK.astype(float)
    maps = {("itself", "-"): heat, ("complement", "-"): 1 - heat, ("uniform", "-"): heat * 0 + 0.5}
    levels = dict.fromkeys(maps, 0.5)
    scored = score_heatmaps({key: map_[None] for key, map_ in maps.items()}, [MASK], levels)
    itself, complement, uniform = scored[SCORES].to_numpy()
    assert itself.tolist() == [1, 1, 1, 1, 1]
    assert complement[[0, 2, 4]].tolist() == [0, 0, 0]
    assert complement[3] == pytest.approx(MASK.mean())
    assert uniform.tolist() == pytest.approx([0, 0, MASK.mean(), MASK.mean(), MASK.mean()])


def test_a_margin_is_a_share_of_the_longer_side():
    outside = peak(4, 6)  # one pixel below the mask; 10 pixels are the longer side
    assert not pointing_game(outside, MASK)
    assert not pointing_game(outside, MASK, margin=0.09)
    assert pointing_game(outside, MASK, margin=0.1)
    assert not pointing_game(np.zeros(MASK.shape), MASK, margin=1.0)


def test_auprc_needs_no_scale():
    heat = np.random.default_rng(0).random(MASK.shape)
    assert pixel_auprc(heat**4, MASK) == pytest.approx(pixel_auprc(heat, MASK))
    assert pixel_auprc(heat + MASK, MASK) == 1


def test_the_level_is_the_best_on_the_images_it_is_chosen_on():
    heat = np.where(MASK, 0.62, 0.3)[None]
    level = choose_level(heat, [MASK])
    assert 0.3 < level <= 0.62
    assert iou(heat[0], MASK, level) == 1
    assert iou(heat[0], MASK, 0.1) == pytest.approx(MASK.mean())
    assert iou(heat[0], MASK, 0.9) == 0


def test_without_a_level_there_is_no_iou():
    scored = score_heatmaps({("saliency", "class"): peak(3, 8)[None]}, [MASK])
    assert np.isnan(scored["iou"][0]) and scored["auprc"][0] > 0
