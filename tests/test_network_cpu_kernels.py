from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from mura_utils.experiments import validate_parameters
from mura_utils.network.cpu_kernels import use_cpu_adam, use_cpu_kernels
from mura_utils.training.task import Task, compile_task

MAPS = np.random.default_rng(0).normal(3, 2, (6, 5, 4, 8)).astype(np.float32)


def step(model, maps=MAPS):
    """Outputs of a training step and gradients of their weighted sum."""
    weights = np.linspace(-1, 1, model.output.shape[-1], dtype=np.float32)
    with tf.GradientTape() as tape:
        inputs = tf.constant(maps)
        tape.watch(inputs)
        outputs = model(inputs, training=True)
        loss = tf.reduce_sum(outputs**2 * weights)
    variables = [variable.value for variable in model.trainable_variables]
    return [outputs, *tape.gradient(loss, [inputs, *variables])]


def pair(*made):
    """The same layers in two models, the second with the quicker kernels."""
    models = []
    for _ in range(2):
        keras.utils.set_random_seed(1)
        inputs = x = keras.Input(MAPS.shape[1:])
        for make in made:
            x = make()(x)
        models.append(keras.Model(inputs, x))
    use_cpu_kernels(models[1])
    return models


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.BatchNormalization(momentum=0.9, epsilon=1e-5),
        lambda: layers.Conv2D(3, 1, activation="sigmoid"),
        lambda: layers.Conv2D(3, 1, use_bias=False),
    ],
)
def test_outputs_gradients_and_statistics_are_keras_own_up_to_rounding(make):
    plain, quick = pair(make)
    assert "cpu_kernels" in type(quick.layers[1].call).__module__
    for expected, value in zip(step(plain), step(quick), strict=True):
        np.testing.assert_allclose(value, expected, rtol=2e-4, atol=2e-4)
    for expected, value in zip(plain.get_weights(), quick.get_weights(), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(quick(MAPS), plain(MAPS), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rate", [0.5, 0.25, 0.7])
def test_dropout_drops_at_its_rate_keeps_the_mean_and_follows_its_seed(rate):
    ones = np.ones((64, 5, 4, 333), np.float32)

    def draw():
        layer = layers.Dropout(rate, seed=3)
        inputs = keras.Input(ones.shape[1:])
        model = keras.Model(inputs, layer(inputs))
        use_cpu_kernels(model)
        return model

    model, again = draw(), draw()
    first, second = np.asarray(model(ones, training=True)), np.asarray(model(ones, training=True))
    assert (first == 0).mean() == pytest.approx(rate, abs=0.005)
    assert first.max() == pytest.approx(1 / (1 - rate))
    # An independent draw drops the same unit with the probability rate * rate.
    assert ((first == 0) & (second == 0)).mean() == pytest.approx(rate**2, abs=0.005)
    assert ((first == 0)[..., 1:] & (first == 0)[..., :-1]).mean() == pytest.approx(
        rate**2, abs=0.005
    )
    np.testing.assert_array_equal(again(ones, training=True), first)
    np.testing.assert_array_equal(model(ones), ones)


def test_frozen_normalization_keeps_its_statistics():
    _, quick = pair(lambda: layers.BatchNormalization(trainable=False))
    before = quick.get_weights()
    quick(MAPS, training=True)
    for expected, value in zip(before, quick.get_weights(), strict=True):
        np.testing.assert_array_equal(value, expected)


def test_adam_takes_keras_own_steps_up_to_rounding():
    trained = []
    for quick in (False, True):
        model, _ = pair(lambda: layers.Conv2D(5, 3), layers.Flatten, lambda: layers.Dense(2))
        optimizer = keras.optimizers.Adam(0.01)
        if quick:
            use_cpu_adam(optimizer)
            assert "cpu_kernels" in type(optimizer.update_step).__module__
        model.compile(optimizer, "mse", jit_compile=False)
        model.fit(MAPS, np.arange(12).reshape(6, 2), batch_size=2, epochs=5, verbose=0)
        trained.append(
            [*model.get_weights(), *(variable.numpy() for variable in optimizer.variables)]
        )
    for expected, value in zip(*trained, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-5)


def test_other_layers_are_left_alone():
    _, quick = pair(
        lambda: layers.Conv2D(8, 3, padding="same"),
        lambda: layers.Conv2D(8, 1, strides=2),
        lambda: layers.BatchNormalization(scale=False),
        layers.GlobalAveragePooling2D,
        layers.BatchNormalization,
    )
    assert all("cpu_kernels" not in type(layer.call).__module__ for layer in quick.layers)


def test_what_is_saved_is_keras_own(tmp_path):
    plain, quick = pair(
        lambda: layers.Conv2D(4, 1), layers.BatchNormalization, lambda: layers.Dropout(0.5)
    )
    quick.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert "cpu_kernels" not in type(loaded.layers[1].call).__module__
    np.testing.assert_allclose(loaded(MAPS), plain(MAPS), rtol=1e-5)


@pytest.mark.parametrize("kernels", ["fast", "keras"])
def test_stock_keras_trains_where_it_is_asked_for(kernels):
    settings = validate_parameters({"kernels": kernels, "epochs": 1}, "test")
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 1)(inputs))
    network = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)))
    compile_task(Task(network, lambda epoch: None, None, None, 1, ""), settings)
    replaced = [layer.name for layer in network.layers if "call" in vars(layer)]
    assert bool(replaced) == (kernels == "fast")
    assert ("update_step" in vars(network.optimizer)) == (kernels == "fast")
