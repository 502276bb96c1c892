"""Faithfulness, randomization, stability and shortcuts, on networks whose answer is known."""

from __future__ import annotations

from itertools import pairwise

import keras
import numpy as np
import pandas as pd
import pytest
from keras import layers

from mura_utils.explain import faithfulness, sanity, shortcuts, stability
from mura_utils.explain.baselines import BASELINES
from mura_utils.explain.methods.gradients import saliency
from mura_utils.explain.targets import contrast_target

CLASSES = ["Abnormal-HAND", "Normal-HAND"]
SIZE = 32
RNG = np.random.default_rng(0)


def network(channels: int = 4) -> keras.Model:
    keras.utils.set_random_seed(0)
    radiograph = keras.Input((SIZE, SIZE, 1), name="radiograph")
    x = layers.Rescaling(1 / 255)(radiograph)
    for number, strides in enumerate((2, 1, 2)):
        x = layers.Conv2D(
            channels, 3, strides=strides, padding="same", activation="relu", name=f"conv_{number}"
        )(x)
    x = layers.Dense(len(CLASSES), name="logits")(layers.GlobalMaxPooling2D()(x))
    return keras.Model(radiograph, layers.Activation("softmax", name="predictions")(x))


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return network()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return RNG.uniform(0, 255, (5, SIZE, SIZE, 1)).astype(np.float32)


def maps_of(model, images):
    target = contrast_target([0] * len(images), CLASSES)
    methods = {"saliency": saliency, **BASELINES}
    return {(name, "contrast"): method(model, images, target) for name, method in methods.items()}


# --- faithfulness --------------------------------------------------------------------------------

PATCH = np.zeros((SIZE, SIZE), bool)
PATCH[4:12, 18:26] = True


def reference(answer, before, after, heatmap, steps):
    """Petsiuk et al. 2018, algorithm 1, written from the paper: pixel by pixel."""
    order = sorted(range(SIZE * SIZE), key=lambda n: (-heatmap.flat[n], n))
    now, values = before.copy(), [answer(before[None], [0])[0]]
    for step in range(1, steps + 1):
        for n in order[: round(step * SIZE * SIZE / steps)]:
            now[n // SIZE, n % SIZE] = after[n // SIZE, n % SIZE]
        values.append(answer(now[None], [0])[0])
    return sum((a + b) / 2 for a, b in pairwise(values)) / steps


def test_the_map_of_what_the_network_looks_at_ranks_first(images):
    maps = {name: method(None, images, None) for name, method in BASELINES.items()}
    maps |= {"patch": np.repeat(PATCH[None].astype(np.float32), len(images), axis=0)}
    maps |= {"complement": 1 - maps["patch"]}
    keyed = {(name, "-"): each for name, each in maps.items()}

    def looks_at_the_patch(now: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """The share of the patch's pixels that are as they were."""
        return (now == images[positions])[:, PATCH].mean(axis=(1, 2))

    curves = faithfulness.hide_and_show(looks_at_the_patch, images, keyed, steps=16)
    scores = faithfulness.score_faithfulness(curves)
    means = scores.groupby("method")[["deletion", "insertion"]].mean()
    assert means["deletion"].idxmin() == means["insertion"].idxmax() == "patch"
    assert means["deletion"].idxmax() == means["insertion"].idxmin() == "complement"
    assert len(scores) == len(images) * len(maps)


def test_areas_agree_with_the_papers_algorithm(images, model):
    answer = faithfulness.answer_of(model, contrast_target([0] * len(images), CLASSES))
    heat = BASELINES["random"](None, images, None)
    black, blur = np.zeros_like(images), faithfulness.blurred(images)
    curves = faithfulness.hide_and_show(answer, images, {("random", "-"): heat}, steps=7)
    scores = faithfulness.score_faithfulness(curves)
    for row in range(2):
        ways = {"deletion": (images[row], black[row]), "insertion": (blur[row], images[row])}
        for name, way in ways.items():
            expected = reference(answer, *way, heat[row], steps=7)
            assert scores[name][row] == pytest.approx(expected, abs=1e-5)


def test_the_answer_is_the_probability_of_abnormal_against_normal(images, model):
    both = contrast_target([0, 0, 0, 1, 1], CLASSES)
    answer = faithfulness.answer_of(model, both)(images, np.arange(5))
    assert answer == pytest.approx(model.predict(images, verbose=0)[:, 0], abs=1e-5)


def test_the_audit_asks_for_the_probability_of_all_abnormal_classes(images, model):
    expected = model.predict(images, verbose=0)[:, 0]
    answer = shortcuts.abnormal_probability(model, CLASSES)(images, np.arange(5))
    assert answer == pytest.approx(expected, abs=1e-5)


# --- randomization -------------------------------------------------------------------------------


def test_the_cascade_goes_down_from_the_classifier_and_the_weights_come_back(model):
    before = {layer.name: layer.get_weights() for layer in model.layers if layer.weights}
    kernels = ["conv_0", "conv_1", "conv_2", "logits"]
    changed = []
    with sanity.weights_kept(model):
        for layer, share in sanity.cascade(model, stages=3):
            same = [
                np.array_equal(before[name][0], model.get_layer(name).get_weights()[0])
                for name in kernels
            ]
            changed.append((layer, share, 4 - sum(same)))
    assert changed == [("logits", 0.25, 1), ("conv_2", 0.5, 2), ("conv_0", 1.0, 4)]
    for name, weights in before.items():
        assert all(map(np.array_equal, weights, model.get_layer(name).get_weights()))


def test_shuffled_weights_keep_their_values_and_are_the_same_each_time(model):
    trained = model.get_weights()
    with sanity.randomized(model):
        random = model.get_weights()
    for ours, theirs in zip(trained, random, strict=True):
        assert np.array_equal(np.sort(ours, axis=None), np.sort(theirs, axis=None))
    with sanity.weights_kept(model):
        assert len([*sanity.cascade(model, stages=3)]) == 3
        assert all(map(np.array_equal, random, model.get_weights()))


def test_weights_come_back_when_maps_fail(images, model):
    before = model.get_weights()
    with pytest.raises(ZeroDivisionError):
        sanity.randomize(model, images, {}, lambda network, images: 1 / 0)
    assert all(map(np.array_equal, before, model.get_weights()))


def test_a_map_that_ignores_the_weights_fails_and_one_that_follows_them_passes(images, model):
    compared = sanity.randomize(model, images, maps_of(model, images), maps_of, stages=3)
    random = compared[compared["share"] == 1]
    alike = random.groupby("method")[["rank_correlation", "ssim"]].mean()
    assert alike.loc["edges"].tolist() == pytest.approx([1, 1], abs=1e-4)
    assert alike.loc["saliency", "rank_correlation"] < 0.7
    summary = sanity.judge(compared, pd.Series(list("abcde")), bootstrap=200)
    assert not summary.loc[("edges", "contrast"), "passes"]
    assert not summary.loc[("center", "contrast"), "passes"]
    assert summary.loc[("saliency", "contrast"), "passes"]
    kept = sanity.last_stage(compared)
    assert len(kept) == 5 * 4
    edges = kept[kept["method"] == "edges"]
    assert edges["randomized"].tolist() == pytest.approx([1] * 5) and edges["unrelated"].max() < 0.5


# --- stability -----------------------------------------------------------------------------------


def test_a_map_that_moves_along_is_stable_and_one_that_stays_is_not(images, model):
    smooth = np.cumsum(np.cumsum(images - 127, axis=1), axis=2)
    smooth = (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)
    scores = (
        stability.score_stability(model, smooth, maps_of(model, smooth), maps_of)
        .groupby("method")[["noise", "shift"]]
        .mean()
    )
    assert scores.loc["center", "noise"] == 1
    assert scores.loc["center", "shift"] < 0.99
    assert scores.loc["edges", "shift"] > 0.99


def test_a_shift_moves_content_right_and_down(images):
    moved = stability.shifted(images, 3)
    assert np.array_equal(moved[:, 3:, 3:], images[:, :-3, :-3])
    assert moved.shape == images.shape


# --- shortcuts -----------------------------------------------------------------------------------

STROKES = [(slice(3, 8), 3), (7, slice(3, 7))]  # an L


def radiographs(count: int, seed: int, cheat: bool) -> tuple[np.ndarray, np.ndarray, list]:
    """Bones with a bright finding or none; with a marker as the label says, or by chance."""
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(60, 100, (count, SIZE, SIZE))
    abnormal = np.arange(count) % 2 == 0
    marked = abnormal if cheat else rng.random(count) < 0.5
    masks = [None] * count
    for n in range(count):
        if marked[n]:
            for stroke in STROKES:
                pixels[n][stroke] = 255
        if abnormal[n]:
            row, column = rng.integers(12, 18, 2)
            masks[n] = np.zeros((SIZE, SIZE), bool)
            masks[n][row : row + 3, column : column + 3] = True
            pixels[n][masks[n]] += 60
    return pixels[..., None].astype(np.float32), abnormal, masks


def trained(cheat: bool) -> keras.Model:
    model = network(channels=8)
    images, abnormal, _ = radiographs(160, seed=1, cheat=cheat)
    model.compile(keras.optimizers.Adam(0.003), "categorical_crossentropy")
    one_hot = np.column_stack([abnormal, ~abnormal]).astype(np.float32)
    model.fit(images, one_hot, epochs=25, batch_size=32, verbose=0)
    return model


@pytest.mark.parametrize("cheat", [True, False])
def test_a_planted_shortcut_is_caught_and_a_clean_network_is_not(cheat):
    model = trained(cheat)
    images, abnormal, masks = radiographs(40, seed=2, cheat=False)

    def p(images, numbers):
        assert len(images) == len(numbers)
        return model.predict(images, verbose=0)[:, 0]

    if not cheat:
        assert ((p(images, range(40)) > 0.5) == abnormal).mean() > 0.9, "it has learned the finding"
    heat = {"saliency": saliency(model, images, contrast_target([0] * 40, CLASSES))}
    measured = shortcuts.measure_regions(p, images, masks, heat)
    verdict = shortcuts.audit(measured, pd.Series([str(n) for n in range(40)]), bootstrap=200)
    assert verdict.loc["markers", "used"] == cheat
    assert not verdict.loc["border", "used"]
    assert (verdict.loc["markers", "change"] < -0.2) == cheat
    assert 0 < verdict.loc["markers", "heat: saliency"] < 1
    assert verdict.loc["finding", "used"] != cheat


def test_markers_are_small_bright_inside_and_near_the_border():
    image = np.full((100, 100), 50, np.float32)
    image[5:12, 80:82] = image[10:12, 80:86] = 250  # an L
    image[50:54, 50:54] = 250  # in the middle
    image[40:90, 5:25] = 250  # a bone
    image[96:, 60:63] = 250  # a bone's end at the border
    image[90, 90] = 255  # a single pixel
    markers = shortcuts.find_markers(image)
    assert np.array_equal(np.argwhere(markers).min(axis=0), [4, 79])
    assert np.array_equal(np.argwhere(markers).max(axis=0), [12, 86])


def test_regions_leave_out_the_finding_and_are_none_where_there_are_none():
    finding = np.zeros((40, 40), bool)
    finding[:3, :10] = True
    regions = shortcuts.find_regions(np.full((40, 40), 50.0), finding)
    assert regions["markers"] is None
    assert not (regions["border"] & finding).any() and not (regions["corners"] & finding).any()
    assert np.array_equal(regions["finding"], finding)
    assert shortcuts.find_regions(np.full((40, 40), 50.0), None)["finding"] is None
