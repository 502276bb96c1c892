"""Fitting: what a training gives, on one device and two, in full and in mixed precision."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from small import (
    CLASSES,
    InterruptedHere,
    assert_same,
    crash,
    experiment,
    interrupt,
    prepare,
    python,
    squares,
    tiny,
    train,
)

from mura_utils import training
from mura_utils.errors import UserError
from mura_utils.experiments import load_experiment
from mura_utils.network.build import build_model, load_model
from mura_utils.training import fitting, resume

# --- what a training gives ------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["off", "on"])
def test_the_saved_model_is_the_kept_epochs(tmp_path, cache):
    settings = experiment(cache_features=cache, learning_rate=0.1, dropout=[0.0], epochs=5)
    images = squares(swapped=True)
    done = train(tmp_path, settings, images)
    best = done.history.set_index("epoch").loc[done.result.kept_epoch]
    assert best["val_loss"] == done.history["val_loss"].min()
    assert done.result.kept_epoch < 5, "so that the last weights are not the best ones"
    rows = images.positions("validation")
    one_hot = images.rows["label"].to_numpy()[rows, None] == np.array(CLASSES)
    for model in (load_model(done.path), done.model):
        probabilities = model.predict(images.pixels[rows][..., None], verbose=0)
        loss = -np.log(probabilities[one_hot]).mean()
        regularized = loss + settings.l2 * np.square(model.get_layer("logits").kernel).sum()
        assert regularized == pytest.approx(best["val_loss"], rel=2e-3)
        accuracy = (probabilities.argmax(axis=1) == one_hot.argmax(axis=1)).mean()
        assert accuracy == pytest.approx(best["val_accuracy"])
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["model.keras"]


def test_the_last_epoch_is_kept_if_so_wished(tmp_path):
    settings = experiment(cache_features="on", learning_rate=0.1, epochs=5, keep_epoch="last")
    images = squares(swapped=True)
    done = train(tmp_path, settings, images)
    assert done.result.kept_epoch == 5
    assert done.history["val_loss"].idxmin() < 4, "so that the last epoch is not the best one"
    rows = images.positions("validation")
    one_hot = images.rows["label"].to_numpy()[rows, None] == np.array(CLASSES)
    predicted = load_model(done.path).predict(images.pixels[rows][..., None], verbose=0)
    accuracy = (predicted.argmax(axis=1) == one_hot.argmax(axis=1)).mean()
    assert accuracy == pytest.approx(done.history["val_accuracy"].iloc[-1])


def test_the_same_seed_gives_the_same_history(tmp_path):
    first, second, other = (
        train(tmp_path, experiment(seed=seed, epochs=2, cache_features="on")).history
        for seed in (3, 3, 4)
    )
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    assert not np.allclose(first["loss"], other["loss"])


def test_stored_activations_give_the_history_of_the_whole_network(tmp_path, monkeypatch):
    """Of exp4, but at 32 px, and with a rate at which five epochs change something."""
    monkeypatch.setattr(resume, "_CHECKPOINT_SECONDS", 1e9)  # 900 weights an epoch
    settings = [
        load_experiment(
            "exp4", weights="none", image_size=32, augment=False, batch_size=16, epochs=5,
            learning_rate=3e-4, batch_norm_momentum=0.5, cache_features=cache,
        )
        for cache in ("off", "on")
    ]  # fmt: skip
    images = squares(64)
    whole, stored = (train(tmp_path, each, images, build_model(each, CLASSES)) for each in settings)
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(stored.history[name], whole.history[name], rtol=0.01)
    assert whole.history["loss"].iloc[-1] < 0.98 * whole.history["loss"].iloc[0]
    held_out = images.pixels[images.positions("test")][..., None]
    probabilities = [np.asarray(each.model(held_out)) for each in (whole, stored)]
    assert np.ptp(probabilities[0][:, 0]) > 0.1, "something was learnt"
    np.testing.assert_allclose(*probabilities, atol=0.01)


@pytest.mark.parametrize("cache", ["off", "on"])
def test_each_epoch_trains_on_batches_of_its_own(tmp_path, cache):
    settings = experiment(cache_features=cache, epochs=3)
    model, task = prepare(settings, squares())
    noted = []

    def total(inputs):
        return tf.reduce_sum(tf.nest.flatten(inputs)[0])

    def note(inputs, labels):
        with tf.control_dependencies([tf.numpy_function(noted.append, [total(inputs)], [])]):
            return inputs, tf.identity(labels)

    noting = replace(task, train=lambda *first: task.train(*first).map(note))
    training.fit(model, noting, settings, tmp_path / "model.keras", progress=False)
    expected = [[total(inputs) for inputs, _ in task.train(epoch)] for epoch in range(3)]
    assert not np.allclose(np.sum(expected[0]), np.sum(expected[1]), rtol=1e-4), "views or warps"
    np.testing.assert_allclose(np.reshape(noted, (3, 5)), expected, rtol=1e-5)


def test_a_training_ends_with_the_epoch_that_diverged_and_keeps_the_best(
    tmp_path, monkeypatch, capsys
):
    end = fitting._LearningRate.on_epoch_end

    def diverge(self, epoch, logs=None):
        end(self, epoch, logs)
        if epoch == 2:
            logs["val_loss"] = float("nan")

    monkeypatch.setattr(fitting._LearningRate, "on_epoch_end", diverge)
    done = train(tmp_path, experiment())
    assert np.isnan(done.history["val_loss"].iloc[2])
    assert len(done.history) == 3, "it ends there"
    assert done.result.kept_epoch == 2
    assert "the loss of epoch 3 is not finite" in capsys.readouterr().out


def test_a_training_that_never_had_a_finite_loss_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"epoch 1 is not finite.*learning_rate \(it is 1e\+30\)"):
        train(tmp_path, experiment().model_copy(update={"learning_rate": 1e30}))
    assert not list(tmp_path.rglob("*.keras")) and not (tmp_path / ".checkpoint").exists()


# --- several devices ------------------------------------------------------------------------------


def train_on_two_devices(folder):
    """In a process of its own, for logical devices come first: histories of one and two devices."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    histories = {}
    for cache in ("off", "on"):
        settings = experiment(
            dropout=[0.0], batch_norm_momentum=0.0, epochs=3, cache_features=cache, views=3, l2=0.01
        )

        def trained(name, scope, settings=settings):
            with scope:
                model = tiny(settings)
            result = train(Path(folder) / name, settings, squares(32), model)
            return {**result.history, "resumed_after": [result.result.resumed_after]}

        def two_devices():
            return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope()

        histories[f"one, {cache}"] = trained("one", tf.distribute.get_strategy().scope())
        if cache == "on":  # and interrupted
            with pytest.MonkeyPatch.context() as patch:
                interrupt(patch, "step 6", crash)
                with pytest.raises(InterruptedHere):
                    trained("two", two_devices())
        histories[f"two, {cache}"] = trained("two", two_devices())
    text = json.dumps({name: {k: [*v] for k, v in h.items()} for name, h in histories.items()})
    print(text)


def test_two_devices_give_the_history_of_one(tmp_path):
    process = python(train_on_two_devices, tmp_path)
    out = process.communicate(timeout=300)[0]
    assert process.returncode == 0
    histories = json.loads(out.splitlines()[-1])
    for cache, resumed_after in (("off", 0), ("on", 1)):
        one, two = histories[f"one, {cache}"], histories[f"two, {cache}"]
        assert two["resumed_after"] == [resumed_after]
        assert len(set(one["loss"])) == 3
        for name in ("loss", "val_loss", "accuracy", "learning_rate"):
            np.testing.assert_allclose(two[name], one[name], atol=1e-4)


# --- precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cache", "dtype"), [("off", "float16"), ("on", "float16"), ("on", "bfloat16")]
)
def test_mixed_precision_trains_and_saves_a_float32_network(tmp_path, cache, dtype):
    settings = experiment(unfreeze=0, precision="mixed", cache_features=cache, epochs=2)
    done = train(tmp_path, settings, model=build_model(settings, CLASSES, f"mixed_{dtype}"))
    assert done.model.get_layer("conv_pw_13").compute_dtype == dtype
    assert np.isfinite(done.history).all(axis=None)
    saved = load_model(done.path)
    assert {layer.compute_dtype for layer in saved.layers} == {"float32"}
    for ours, theirs in zip(saved.weights, done.model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    optimizer = done.task.network.optimizer
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (dtype == "float16"), "whose gradients underflow"


def test_mixed_precision_goes_on_with_the_scale_of_its_loss(tmp_path):
    settings = experiment(precision="mixed", epochs=3)

    def trained(folder):
        keras.config.set_dtype_policy("mixed_float16")
        try:
            return train(folder, settings)
        finally:
            keras.config.set_dtype_policy("float32")

    expected = trained(tmp_path / "undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, "step 7", crash)
        with pytest.raises(InterruptedHere):
            trained(tmp_path)
    resumed = trained(tmp_path)
    assert resumed.result.resumed_after == 1
    assert_same(resumed, expected)
    assert expected.task.network.optimizer.variables[2].path.endswith("step_counter")
    counters = [each.task.network.optimizer.variables[2].numpy() for each in (resumed, expected)]
    assert counters[0] == counters[1] > 10
