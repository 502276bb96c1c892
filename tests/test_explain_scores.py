import numpy as np
import pytest

from mura_utils.errors import UserError
from mura_utils.explain.scores import energy_in_mask, pointing_game, score_heatmaps

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
