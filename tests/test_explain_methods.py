"""Heat-map methods: where each looks, and the formulas of those that the report has not."""

import keras
import numpy as np
import pytest
from keras import layers
from small import CLASSES as HANDS
from small import experiment, vivid
from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
from tf_keras_vis.scorecam import Scorecam

from mura_utils.errors import UserError
from mura_utils.explain import METHODS, class_target, contrast_target, methods_of, pointing_game
from mura_utils.explain.methods import common, rise
from mura_utils.explain.methods.grad_cam_plus_plus import grad_cam_plus_plus
from mura_utils.explain.methods.integrated_gradients import attributions, integrated_gradients
from mura_utils.explain.methods.occlusion import occlusion
from mura_utils.explain.methods.score_cam import score_cam

SIZE = 32
CLASSES = ["Abnormal-ELBOW", "Abnormal-HAND", "Normal-ELBOW", "Normal-HAND"]
TOP, LEFT, SIDE = 4, 20, 8
WITHOUT_HEADS = [name for name in METHODS if not name.startswith("attention_")]
REPORTED = ("saliency", "smooth_grad", "grad_cam", "layer_cam")
NEW = [name for name in WITHOUT_HEADS if name not in REPORTED]


def require(method: str) -> None:
    if method in ("lime", "shap"):
        pytest.importorskip(method)


def network(*, looks_at_patch: bool = False) -> keras.Model:
    """One convolution with cells of 4 x 4 pixels; what lies outside the patch may be cut away."""
    keras.utils.set_random_seed(0)
    radiograph = keras.Input((SIZE, SIZE, 1), name="radiograph")
    x = layers.Rescaling(1 / 255, name="scaling")(radiograph)
    if looks_at_patch:
        margins = ((TOP, SIZE - TOP - SIDE), (LEFT, SIZE - LEFT - SIDE))
        x = layers.ZeroPadding2D(margins)(layers.Cropping2D(margins)(x))
    x = layers.Conv2D(3, 4, strides=4, activation="relu", name="conv")(x)
    x = layers.Identity(name="features")(x)
    x = layers.Dense(len(CLASSES), name="logits")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(radiograph, layers.Activation("softmax", name="predictions")(x))


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return network()


@pytest.fixture(scope="module")
def looking() -> keras.Model:
    """Sees the patch alone: light there speaks for Abnormal-ELBOW and against Normal-ELBOW."""
    made = network(looks_at_patch=True)
    made.get_layer("conv").set_weights([np.full((4, 4, 1, 3), 1 / 16), np.zeros(3)])
    logits = np.zeros((3, 4), np.float32)
    logits[:, 0], logits[:, 2] = 20, -20
    made.get_layer("logits").set_weights([logits, np.zeros(4)])
    return made


@pytest.fixture(scope="module")
def patch() -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[TOP : TOP + SIDE, LEFT : LEFT + SIDE] = True
    return mask


@pytest.fixture(scope="module")
def radiograph(patch) -> np.ndarray:
    """Bright in the patch, and as bright in a decoy that the network does not see."""
    image = np.tile(np.linspace(20, 60, SIZE), (SIZE, 1)).astype(np.float32)
    image[patch] = image[patch.T[::-1]] = 220
    image[20:28, 4:12] = 220
    return image[None, ..., None]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (3, SIZE, SIZE, 1)).astype(np.float32)


@pytest.mark.parametrize("target", [class_target, contrast_target])
@pytest.mark.parametrize("method", WITHOUT_HEADS)
def test_the_hottest_point_is_where_the_network_looks(looking, radiograph, patch, method, target):
    require(method)
    (heat,) = METHODS[method](looking, radiograph, target([0], CLASSES))
    assert pointing_game(heat, patch)
    assert heat[patch].mean() > 4 * heat[~patch].mean()


@pytest.mark.parametrize("method", WITHOUT_HEADS)
def test_where_nothing_can_change_the_map_is_zeros(model, method):
    """On a black image covering changes nothing; the biases keep the score from being 0."""
    require(method)
    biased = keras.models.clone_model(model)
    kernel, _ = biased.get_layer("logits").get_weights()
    biased.get_layer("logits").set_weights([kernel, np.array([0.1, 0.7, -0.3, 0.2])])
    black = np.zeros((2, SIZE, SIZE, 1), np.float32)
    if method not in ("saliency", "smooth_grad"):  # a gradient is there without any light
        assert not METHODS[method](biased, black, class_target([0, 1], CLASSES)).any()


@pytest.mark.parametrize("head", ["dense", "attention", "pooled"])
def test_every_head_can_be_explained(head):
    settings = experiment(head=head, dropout=[0.0] * (5 if head.startswith("attention") else 1))
    flat = vivid(settings)
    images = np.random.default_rng(0).uniform(0, 255, (2, SIZE, SIZE, 1)).astype(np.float32)
    for name in methods_of(flat):
        heat = METHODS[name](flat, images, contrast_target([0, 0], HANDS))
        assert heat.shape == (2, SIZE, SIZE) and heat.dtype == np.float32, name
        assert np.isfinite(heat).all() and heat.min() >= 0 and heat.max() <= 1, name


@pytest.mark.parametrize("method", NEW)
def test_the_same_call_gives_the_same_map_whatever_is_beside_it(model, images, method):
    require(method)
    together = METHODS[method](model, images, class_target([0, 1, 2], CLASSES))
    alone = METHODS[method](model, images[1:2], class_target([1], CLASSES))
    np.testing.assert_allclose(together[1], alone[0], atol=1e-4)
    again = METHODS[method](model, images, class_target([0, 1, 2], CLASSES))
    np.testing.assert_allclose(together, again, rtol=0, atol=1e-6)  # threads add up in any order


# --- formulas -----------------------------------------------------------------------------------


def score(model, batch, target) -> np.ndarray:
    logits = keras.Model(model.input, model.get_layer("logits").output)
    return (np.asarray(logits(np.float32(batch))) * target.weights).sum(axis=-1)


def scaled(heat: np.ndarray) -> np.ndarray:
    heat = np.maximum(heat, 0)
    return (heat - heat.min()) / np.ptp(heat)


def test_integrated_gradients_add_up_to_the_difference_of_the_scores(images):
    """Completeness, on a network whose gradient changes along the path."""
    model = network()
    model.get_layer("conv").bias.assign([-0.05, 0.02, 0.05])
    target = contrast_target([0, 1, 0], CLASSES)
    expected = score(model, images, target) - score(model, np.zeros_like(images), target)
    gaps = [
        np.abs(attributions(model, images, target, steps).sum(axis=(1, 2)) - expected).max()
        for steps in (2, 64)
    ]
    assert gaps[1] < 0.01 * np.abs(expected).max()
    assert gaps[1] < 0.5 * gaps[0]
    heat = integrated_gradients(model, images, target)
    assert heat[0] == pytest.approx(scaled(attributions(model, images, target)[0]), abs=1e-5)


def test_occlusion_equals_a_loop_over_patches(model, images):
    target = class_target([0], CLASSES)
    image, size, stride = images[0], 10, 6
    drops, times = np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE))
    for top in (0, 6, 12, 18, 22):  # the last one ends at the border
        for left in (0, 6, 12, 18, 22):
            covered = image.copy()
            covered[top : top + size, left : left + size] = image.mean()
            drop = score(model, image[None], target) - score(model, covered[None], target)
            drops[top : top + size, left : left + size] += drop
            times[top : top + size, left : left + size] += 1
    (heat,) = occlusion(model, images[:1], target, size, stride)
    np.testing.assert_allclose(heat, scaled(drops / times), atol=1e-3)


@pytest.mark.parametrize(("size", "stride"), [(0, 1), (33, 4), (8, 0), (4, 8)])
def test_a_patch_that_does_not_cover_the_image_is_refused(model, images, size, stride):
    with pytest.raises(UserError, match="does not cover an image of 32"):
        occlusion(model, images, class_target([0, 1, 2], CLASSES), size, stride)


def test_rise_equals_a_loop_over_masks(model, images):
    target = class_target([2], CLASSES)
    rng = np.random.default_rng(7)
    grids = rng.integers(0, 2, (40, 7, 7)).astype(np.float32)
    masks = rise._masks(grids, rng.integers(0, 5, (40, 2)), SIZE)
    scores = [score(model, images[:1] * mask[..., None], target)[0] for mask in masks]
    heat = np.zeros((SIZE, SIZE))
    for mask, each in zip(masks, scores, strict=True):
        heat += (each - np.mean(scores)) * mask
    (found,) = rise.rise(model, images[:1], target, samples=40, seed=7)
    np.testing.assert_allclose(found, scaled(heat), atol=1e-3)
    other = rise.rise(model, images[:1], target, samples=40, seed=8)
    assert not np.allclose(found, other[0], atol=0.1)


def test_the_masks_of_rise_are_shifted_and_half_open():
    rng = np.random.default_rng(0)
    shifts = rng.integers(0, rise._cell(50), (400, 2))
    masks = rise._masks(rng.integers(0, 2, (400, 7, 7)).astype(np.float32), shifts, 50)
    assert masks.shape == (400, 50, 50)
    assert masks.min() == 0 and masks.max() == 1
    assert masks.mean() == pytest.approx(0.5, abs=0.02)
    assert np.abs(masks.mean(axis=0) - 0.5).max() < 0.1
    one = np.eye(7, dtype=np.float32)[None]
    moved = rise._masks(np.repeat(one, 2, axis=0), np.array([[0, 0], [3, 2]]), 50)
    assert np.array_equal(moved[0, 3:, 2:], moved[1, :-3, :-2])


def test_grad_cam_plus_plus_is_that_of_tf_keras_vis(model, images):
    library = GradcamPlusPlus(keras.Model(model.inputs, model.get_layer("logits").output))
    raw = library(
        lambda logits: logits[:, 1],
        images,
        penultimate_layer="features",
        seek_penultimate_conv_layer=False,
        expand_cam=False,
        normalize_cam=False,
    )
    found = grad_cam_plus_plus(model, images, class_target([1] * 3, CLASSES))
    np.testing.assert_allclose(found, common.to_heatmaps(raw, SIZE), atol=1e-4)


def test_grad_cam_plus_plus_bears_large_logits(model, images):
    large = keras.models.clone_model(model)
    large.set_weights(model.get_weights())
    kernel, bias = large.get_layer("logits").get_weights()
    large.get_layer("logits").set_weights([kernel, bias + 1000])  # exp(1000) is no float
    target = class_target([0, 1, 2], CLASSES)
    expected = grad_cam_plus_plus(model, images, target)
    assert expected.any()
    np.testing.assert_allclose(grad_cam_plus_plus(large, images, target), expected, atol=1e-4)


def test_score_cam_is_that_of_tf_keras_vis_above_a_black_image(model, images, capsys):
    library = Scorecam(keras.Model(model.inputs, model.get_layer("logits").output))
    black = model.predict(np.zeros_like(images[:1]), verbose=0)
    for row, index in enumerate((1, 0, 2)):
        raw = library(
            lambda p, index=index: p[:, index] - black[0, index],
            images[row : row + 1],
            penultimate_layer="features",
            seek_penultimate_conv_layer=False,
            expand_cam=False,
            normalize_cam=False,
        )
        capsys.readouterr()
        found = score_cam(model, images, class_target([1, 0, 2], CLASSES))
        assert capsys.readouterr().out == ""
        np.testing.assert_allclose(found[row], common.to_heatmaps(raw, SIZE)[0], atol=1e-4)


def test_score_cam_takes_the_channels_that_vary_most(model, images):
    target = class_target([0, 1, 2], CLASSES)
    features = keras.Model(model.input, model.get_layer("features").output)(images).numpy()
    least = features.std(axis=(1, 2)).argmin(axis=1)
    assert np.array_equal(
        score_cam(model, images, target), score_cam(model, images, target, channels=99)
    )
    fewer = score_cam(model, images, target, channels=2)
    assert least.shape == (3,) and not np.allclose(fewer, score_cam(model, images, target))


@pytest.mark.parametrize("method", [grad_cam_plus_plus, score_cam])
def test_a_layer_without_a_feature_map_is_refused_by_wrappers_too(model, images, method):
    with pytest.raises(UserError, match="no layer 'logits' with an output"):
        method(model, images, class_target([0, 1, 2], CLASSES), layer="logits")


@pytest.mark.parametrize("method", ["lime", "shap"])
def test_a_library_that_is_not_installed_is_named(model, images, method, monkeypatch):
    monkeypatch.setattr(common, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"The method {method} needs the library") as error:
        METHODS[method](model, images, class_target([0, 1, 2], CLASSES))
    assert "[explainers]" in str(error.value)


def test_what_is_built_for_a_model_ends_with_it():
    import gc
    import weakref

    made = network()
    first = common.logit_function(made)
    assert common.logit_function(made) is first
    gone = weakref.ref(made)
    del made, first
    gc.collect()
    assert gone() is None
