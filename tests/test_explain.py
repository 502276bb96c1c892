import keras
import numpy as np
import pytest
from keras import layers
from small import experiment, vivid

from mura_utils import explain
from mura_utils.errors import UserError
from mura_utils.explain.methods import differentiation
from mura_utils.explain.methods.common import CHUNK, to_heatmaps
from mura_utils.explain.targets import alone, class_target, contrast_target
from mura_utils.network.heads import FINDING, FINDING_LOGITS

CLASSES = ["Abnormal-ELBOW", "Abnormal-HAND", "Normal-ELBOW", "Normal-HAND"]
SIZE = 32


def start() -> tuple[keras.KerasTensor, keras.KerasTensor]:
    radiograph = keras.Input((SIZE, SIZE, 1), name="radiograph")
    x = layers.Concatenate(name="three_channels")([radiograph] * 3)
    return radiograph, layers.Rescaling(1 / 255, name="scaling")(x)


def finish(radiograph, x, heads: int = 0) -> keras.Model:
    x = layers.Identity(name="features")(x)
    if heads:
        maps = [
            layers.Conv2D(1, 1, activation="sigmoid", name=f"attention_{h}")(x)
            for h in range(heads)
        ]
        x = layers.Concatenate()([layers.Multiply()([x, map_]) for map_ in maps])
    x = layers.Dense(len(CLASSES), name="logits")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(radiograph, layers.Activation("softmax", name="predictions")(x))


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """Two convolutions; like a dense block, the map that the head sees is no convolution."""
    keras.utils.set_random_seed(0)
    radiograph, x = start()
    first = layers.Conv2D(6, 3, strides=4, padding="same", activation="relu", name="conv_1")(x)
    last = layers.Conv2D(2, 3, padding="same", name="conv_2")(first)
    x = layers.Activation("relu", name="relu")(layers.Concatenate()([first, last]))
    return finish(radiograph, x, heads=3)


@pytest.fixture(scope="module")
def brightness() -> keras.Model:
    """Weights by hand; both channels are brightness in cells of 4 x 4 pixels.

    Channel 0 is the finding: it speaks for Abnormal-ELBOW and against Normal-ELBOW. Channel 1 is
    the anatomy: it speaks for both.
    """
    radiograph, x = start()
    x = layers.Conv2D(2, 4, strides=4, activation="relu", name="conv", bias_initializer="zeros")(x)
    model = finish(radiograph, x)
    kernel = np.full((4, 4, 3, 2), 1 / 48, np.float32)
    model.get_layer("conv").set_weights([kernel, np.zeros(2)])
    logits = np.array([[2, 0, -2, 0], [3, 0, 3, 0]], np.float32)
    model.get_layer("logits").set_weights([logits, np.zeros(4)])
    return model


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (5, SIZE, SIZE, 1)).astype(np.float32)


@pytest.fixture
def bright_corner() -> np.ndarray:
    image = np.zeros((1, SIZE, SIZE, 1), np.float32)
    image[0, :8, 24:] = 255
    return image


def check(heatmaps: np.ndarray, count: int, size: int = SIZE) -> None:
    assert heatmaps.shape == (count, size, size)
    assert heatmaps.dtype == np.float32
    assert heatmaps.min(axis=(1, 2)) == pytest.approx(np.zeros(count))
    assert heatmaps.max(axis=(1, 2)) == pytest.approx(np.ones(count))


@pytest.mark.parametrize(
    "method", ["attention_0", "attention_1", "attention_2", "saliency", "smooth_grad"]
)
def test_every_method_gives_maps_in_0_1(model, images, method):
    check(explain.METHODS[method](model, images, class_target([0, 1, 2, 3, 0], CLASSES)), 5)


def test_grad_cam_looks_where_the_evidence_is(brightness, bright_corner):
    heatmap = explain.grad_cam(brightness, bright_corner, class_target([0], CLASSES))[0]
    check(heatmap[None], 1)
    assert heatmap[:8, 24:].min() > 0.35
    assert heatmap[12:, :20].max() == 0


def cams_by_hand(model, images, layer, weigh) -> np.ndarray:
    """Class activation maps of the logit of class 1, enlarged; the softmax must not take part."""
    import tensorflow as tf

    both = keras.Model(
        model.input, [model.get_layer(layer).output, model.get_layer("logits").output]
    )
    with tf.GradientTape() as tape:
        features, logits = both(images)
        score = logits[:, 1]
    weights = weigh(tape.gradient(score, features).numpy())
    cam = tf.nn.relu(tf.reduce_sum(weights * features, axis=-1))
    return tf.image.resize(cam[..., None], (SIZE, SIZE))[..., 0].numpy()


def test_grad_cam_equals_its_formula_at_the_logits(model, images):
    """Selvaraju et al. 2017, equations 1 and 2, by hand."""
    cam = cams_by_hand(model, images, "features", lambda g: g.mean(axis=(1, 2), keepdims=True))
    heatmaps = explain.grad_cam(model, images, class_target([1] * 5, CLASSES))
    assert cam.max() > 0
    for one, expected in zip(heatmaps, cam, strict=True):
        span = max(np.ptp(expected), 1e-12)
        assert one == pytest.approx((expected - expected.min()) / span, abs=1e-4)


def test_grad_cam_stays_at_the_layer_it_was_given(model, images):
    """tf-keras-vis would walk back from the features to the last convolution."""
    target = class_target([0] * 5, CLASSES)
    default = explain.grad_cam(model, images, target)
    assert np.array_equal(default, explain.grad_cam(model, images, target, layer="relu"))
    assert not np.allclose(default, explain.grad_cam(model, images, target, layer="conv_2"))


def test_layer_cam_weighs_each_position_by_its_own_gradient(model, images):
    """Jiang et al. 2021, by hand."""
    cam = cams_by_hand(model, images, "conv_1", lambda g: np.maximum(g, 0))
    heatmaps = explain.layer_cam(model, images, class_target([1] * 5, CLASSES), "conv_1")
    for one, expected in zip(heatmaps, cam, strict=True):
        assert expected.max() > 0
        expected = (expected - expected.min()) / np.ptp(expected)
        assert one == pytest.approx(expected, abs=1e-4)
    grad_cams = explain.grad_cam(model, images, class_target([1] * 5, CLASSES), "conv_1")
    assert not np.allclose(heatmaps, grad_cams)


@pytest.mark.parametrize(
    ("build", "size", "layer", "cells"),
    [
        (keras.applications.DenseNet121, 96, "pool3_relu", 12),
        (keras.applications.DenseNet121, 60, "pool3_relu", 7),
        (keras.applications.MobileNet, 96, "conv_pw_5_relu", 12),
    ],
)
def test_the_fine_layer_is_the_last_relu_of_cells_of_8_pixels(build, size, layer, cells):
    radiograph = keras.Input((size, size, 1))
    x = layers.Concatenate()([radiograph] * 3)
    base = build(weights=None, include_top=False, input_tensor=x)
    network = finish(radiograph, base.output)
    assert explain.fine_layer(network) == layer
    assert network.get_layer(layer).output.shape[1:3] == (cells, cells)


def test_the_fine_layer_of_a_small_network_is_its_last_relu(model):
    assert explain.fine_layer(model) == "relu"


@pytest.mark.parametrize("activation", ["silu", "gelu", "hard_silu", "relu"])
def test_the_fine_layer_is_no_gate_and_may_be_a_smooth_relu(activation):
    """As in MobileNetV3 and EfficientNetV2."""
    radiograph, x = start()
    x = layers.Conv2D(2, 3, activation=activation, name="fine")(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(2, 1, activation="relu", name="gate")(gate)
    assert explain.fine_layer(finish(radiograph, layers.Multiply()([x, gate]))) == "fine"


def test_a_network_without_relu_has_no_fine_layer():
    radiograph, x = start()
    with pytest.raises(UserError, match="has no ReLU with cells of at most 8 pixels: name a layer"):
        explain.fine_layer(finish(radiograph, layers.Conv2D(2, 3)(x)))


@pytest.mark.parametrize("target", [class_target, contrast_target])
def test_a_label_that_the_model_was_not_trained_on_is_refused(target):
    with pytest.raises(UserError, match="Class index -1 is out of range: the model has 4"):
        target([0, -1], CLASSES)


def test_contrast_is_abnormal_minus_normal_of_the_same_part():
    assert class_target([2], CLASSES).weights.tolist() == [[0, 0, 1, 0]]
    weights = contrast_target([2, 1, 0], CLASSES).weights
    assert weights.tolist() == [[1, 0, -1, 0], [0, 1, 0, -1], [1, 0, -1, 0]]


@pytest.mark.parametrize(("channel", "seen"), [("finding", True), ("anatomy", False)])
def test_contrast_cancels_the_anatomy(brightness, bright_corner, channel, seen):
    """With one channel alone: abnormal - normal sees the finding's, a class sees both."""
    model = keras.models.clone_model(brightness)
    model.set_weights(brightness.get_weights())
    kernel, bias = model.get_layer("conv").get_weights()
    kernel[..., 1 if channel == "finding" else 0] = 0
    model.get_layer("conv").set_weights([kernel, bias])
    assert explain.grad_cam(model, bright_corner, class_target([0], CLASSES)).any()
    contrast = explain.grad_cam(model, bright_corner, contrast_target([2], CLASSES))
    assert contrast.any() == seen


def test_the_contrast_of_a_part_with_one_class_is_its_logit():
    classes = ["Abnormal-ELBOW", "Abnormal-HAND", "Normal-HAND", "Normal-HIP"]
    weights = contrast_target([0, 1, 3], classes).weights
    assert weights.tolist() == [[1, 0, 0, 0], [0, 1, -1, 0], [0, 0, 0, -1]]
    assert [alone(label, classes) for label in classes] == [True, False, False, True]


def test_saliency_sees_a_gradient_without_any_evidence(brightness, bright_corner):
    """A gradient says where a change would matter, here only where the relu is open."""
    heatmap = explain.saliency(brightness, bright_corner, class_target([0], CLASSES))[0]
    assert heatmap[:8, 24:].min() == pytest.approx(1)
    assert heatmap[8:].max() == 0


def test_many_images_get_the_gradients_that_the_library_gives_to_few(model, images):
    many, options = np.repeat(images, 4, axis=0), {"smooth_samples": 3}
    target = class_target([1] * 20, CLASSES)
    few = class_target([1] * 5, CLASSES)
    for given in ({}, options):
        alone = explain.saliency(model, images, few, **given)
        together = explain.saliency(model, many, target, **given)
        assert together == pytest.approx(np.repeat(alone, 4, axis=0), abs=1e-4)


def test_smooth_grad_depends_on_the_seed_only(model, images):
    target = class_target([0] * 5, CLASSES)
    options = {"smooth_samples": 3, "seed": 1}
    maps = explain.saliency(model, images, target, **options)
    alone = explain.saliency(model, images[3:4], class_target([0], CLASSES), **options)
    assert alone[0] == pytest.approx(maps[3], abs=1e-5)
    other = explain.saliency(model, images, target, smooth_samples=3, seed=2)
    assert not np.allclose(maps, other)
    assert not np.allclose(maps, explain.saliency(model, images, target))


def test_images_are_explained_independently_across_chunks(model, images):
    many = np.concatenate([images] * 4)
    targets = class_target([0, 1, 2, 3, 0] * 4, CLASSES)
    for name in explain.methods_of(model):
        heat = explain.METHODS[name](model, many, targets)
        alone = explain.METHODS[name](model, images, class_target([0, 1, 2, 3, 0], CLASSES))
        assert heat[:5] == pytest.approx(alone, abs=1e-4), name
        assert len(many) == len(heat) > CHUNK
        assert heat[15:] == pytest.approx(heat[:5], abs=1e-4), name


def test_attention_maps_are_the_heads_own(model, images):
    maps = explain.attention_maps(model, images)
    assert maps.shape == (5, 3, SIZE, SIZE)
    head = keras.Model(model.input, model.get_layer("attention_2").output)(images)
    heat, raw = maps[1, 2, 2::4, 2::4], head[1, ..., 0].numpy()
    assert np.corrcoef(heat.ravel(), raw.ravel())[0, 1] > 0.95
    with_target = explain.METHODS["attention_2"](model, images, class_target([0] * 5, CLASSES))
    assert np.array_equal(with_target, maps[:, 2])
    mean = explain.METHODS["attention_mean"](model, images, class_target([0] * 5, CLASSES))
    low, high = maps.mean(axis=1).min(axis=(1, 2)), maps.mean(axis=1).max(axis=(1, 2))
    expected = (maps.mean(axis=1) - low[:, None, None]) / (high - low)[:, None, None]
    np.testing.assert_allclose(mean, expected, atol=1e-5)


def test_the_map_of_a_pooled_head_is_the_softmax_that_it_averages_with(images):
    """By hand from the logits: exp(logit) over the sum of all cells', then over the largest."""
    pooled = vivid(experiment(head="pooled", dropout=[0.0], mask_supervision=1.0))
    shown = explain.attention_maps(pooled, images)
    assert shown.shape == (5, 1, SIZE, SIZE)
    raw = [pooled.get_layer(name).output for name in (FINDING_LOGITS, FINDING)]
    logits, sigmoid = keras.Model(pooled.input, raw).predict(images, verbose=0)
    shares = np.exp(logits) / np.exp(logits).sum(axis=(1, 2), keepdims=True)
    enlarged = keras.ops.image.resize(shares, (SIZE, SIZE)).numpy()[..., 0]
    expected = enlarged / enlarged.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(shown[:, 0], expected, atol=1e-5)
    assert shown.min() > 0, "the minimum is not subtracted"
    warm = to_heatmaps(sigmoid[..., 0], SIZE)
    assert np.abs(shown[:, 0] - warm).max() > 0.05, "the test could not fail"
    found = explain.METHODS["attention_0"](pooled, images, class_target([0] * 5, CLASSES[:2]))
    assert np.array_equal(found, shown[:, 0])


def test_a_model_without_heads_has_no_attention_methods(brightness, images):
    names = explain.methods_of(brightness)
    assert "saliency" in names and "rise" in names
    assert not [name for name in names if name.startswith("attention")]
    with pytest.raises(UserError, match="no attention heads"):
        explain.attention_maps(brightness, images)


def untraced(model):
    """The same network without a graph, which rounds in another way."""
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    return twin


def test_explain_makes_what_each_method_makes(model, images):
    model = untraced(model)
    target = class_target([0, 1, 2, 3, 0], CLASSES)
    maps = explain.explain(model, images, {"class": target}, layer="conv_2")
    assert list(maps) == [
        *((f"attention_{head}", "no target") for head in range(3)),
        ("saliency", "class"), ("grad_cam at features", "class"), ("grad_cam at conv_2", "class"),
        ("grad_cam at relu", "class"), ("layer_cam at features", "class"),
        ("layer_cam at relu", "class"),
    ]  # fmt: skip
    alone = explain.grad_cam(model, images, target, layer="conv_2")
    assert maps["grad_cam at conv_2", "class"] == pytest.approx(alone)
    fine = explain.layer_cam(model, images, target, layer="relu")
    assert maps["layer_cam at relu", "class"] == pytest.approx(fine)
    assert maps["saliency", "class"] == pytest.approx(
        explain.saliency(model, images, target), abs=1e-5
    )
    assert maps["attention_1", "no target"] == pytest.approx(
        explain.attention_maps(model, images)[:, 1]
    )


def test_explain_of_many_images_is_compiled_and_keeps_targets_apart(model):
    many = np.random.default_rng(1).uniform(0, 255, (20, SIZE, SIZE, 1)).astype(np.float32)
    targets = {
        "class": class_target([1] * 20, CLASSES),
        "contrast": contrast_target([0] * 20, CLASSES),
    }
    maps = explain.explain(model, many, targets, layer="conv_2")
    for name, target in targets.items():
        alone = explain.layer_cam(model, many, target, layer="relu")
        assert maps["layer_cam at relu", name] == pytest.approx(alone, abs=1e-5)
        gradient = explain.saliency(model, many, target)
        assert maps["saliency", name] == pytest.approx(gradient, abs=1e-4)


def test_a_network_is_traced_once_and_its_graph_follows_the_weights(model, images, monkeypatch):
    twin = keras.models.clone_model(model)
    many, target = np.repeat(images, 4, axis=0), {"class": class_target([1] * 20, CLASSES)}
    explain.explain(twin, many, target, layer="conv_2")
    twin.set_weights([0.5 * weights for weights in model.get_weights()])
    monkeypatch.setattr(differentiation, "traced", None)  # what is traced is there
    few = {"class": class_target([1] * 5, CLASSES)}
    maps = explain.explain(twin, images, few, layer="conv_2")
    alone = explain.layer_cam(twin, images, few["class"], layer="relu")
    assert maps["layer_cam at relu", "class"] == pytest.approx(alone, abs=1e-5)


def test_explain_without_heads_has_no_attention(brightness, bright_corner):
    target = class_target([0], CLASSES)
    maps = explain.explain(brightness, bright_corner, {"class": target}, layer="conv")
    assert {method for method, _ in maps} == {
        "saliency", "grad_cam at features", "grad_cam at conv", "layer_cam at features",
        "layer_cam at conv",
    }  # fmt: skip


def test_a_constant_map_is_zeros_and_never_nan(model):
    black = np.zeros((2, SIZE, SIZE, 1), np.float32)
    # biases are zero, so a black image gives constant activations and a constant attention
    maps = explain.attention_maps(model, black)
    cams = explain.grad_cam(model, black, class_target([0, 1], CLASSES))
    assert not maps.any()
    assert not cams.any()


def test_a_diverged_model_is_named_as_such(brightness, bright_corner):
    broken = keras.models.clone_model(brightness)
    broken.get_layer("logits").set_weights([np.full((2, 4), np.nan), np.zeros(4)])
    with pytest.raises(UserError, match="diverged"):
        explain.saliency(broken, bright_corner, class_target([0], CLASSES))


@pytest.mark.parametrize("layer", ["no_such_layer", "logits"])
def test_a_layer_without_a_feature_map_is_refused(model, images, layer):
    with pytest.raises(UserError, match=layer):
        explain.grad_cam(model, images, class_target([0] * 5, CLASSES), layer=layer)


def test_images_and_targets_must_fit_the_model(model, images):
    with pytest.raises(UserError, match="do not fit"):
        explain.saliency(model, images[:, :16], class_target([0] * 5, CLASSES))
    with pytest.raises(UserError, match="does not fit 5 images"):
        explain.grad_cam(model, images, class_target([0], CLASSES))


def test_explaining_leaves_the_model_as_it_was(model, images):
    before = model.predict(images, verbose=0)
    weights = [weight.copy() for weight in model.get_weights()]
    for name in explain.methods_of(model):
        explain.METHODS[name](model, images, contrast_target([0] * 5, CLASSES))
    assert model.layers[-1].activation is keras.activations.softmax
    assert np.array_equal(before, model.predict(images, verbose=0))
    assert all(map(np.array_equal, weights, model.get_weights()))


def test_a_mobilenet_of_keras_applications_saved_and_loaded(tmp_path):
    keras.utils.set_random_seed(0)
    radiograph = keras.Input((64, 64, 1))
    x = layers.Rescaling(1 / 255)(layers.Concatenate()([radiograph] * 3))
    base = keras.applications.MobileNet(alpha=0.25, weights=None, include_top=False, input_tensor=x)
    finish(radiograph, base.output, heads=3).save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 1)).astype(np.float32)
    for name in explain.methods_of(model):
        heatmaps = explain.METHODS[name](model, images, class_target([0, 3], CLASSES))
        assert heatmaps.shape == (2, 64, 64), name
        assert np.isfinite(heatmaps).all(), name
    check(explain.saliency(model, images, class_target([0, 3], CLASSES)), 2, size=64)
