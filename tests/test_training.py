"""Fitting: what a training gives, and that an interruption changes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from mura_utils import devices, frozen, training
from mura_utils.errors import UserError
from mura_utils.experiments import load_experiment, validate_parameters
from mura_utils.network.build import build_model, load_model
from mura_utils.training import fitting, resume

HERE = Path(__file__).parent
CLASSES = ["Abnormal-HAND", "Normal-HAND"]


def experiment(**changes):
    small = {
        "backbone": "mobilenet", "alpha": 0.25, "weights": "none", "unfreeze": 1,
        "image_size": 32, "head": "dense", "dense_units": [16], "dropout": [0.4], "batch_size": 8,
        "epochs": 4, "learning_rate": 1e-2, "views": 2, "cache_features": "off",
    }  # fmt: skip
    return validate_parameters({**small, **changes}, "test")


def radiographs(train=36, swapped=False):
    """Bright and dark squares, learnt in a few steps; `swapped`: the wrong way round to validate.

    36 images make five steps of eight, the last one half full.
    """
    split = np.repeat(["train", "validation", "test"], [train, 16, 12])
    bright = np.arange(len(split)) % 2
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 60, (len(split), 32, 32)) + 100 * bright[:, None, None]
    labels = np.where((split == "validation") & swapped, 1 - bright, bright)
    manifest = pd.DataFrame(
        {
            "path": [f"{row}.png" for row in range(len(split))],
            "sha256": [f"{row:064x}" for row in range(len(split))],
            "label": np.take(CLASSES, labels),
            "split": split,
        }
    )
    return pixels.astype("uint8"), manifest


def tiny(settings):
    """A network that compiles in a second: a frozen convolution, a trained one, dropout."""
    layers = keras.layers
    keras.utils.set_random_seed(settings.seed)
    x = inputs = keras.Input((32, 32, 1), name="radiograph")
    x = layers.Rescaling(1 / 255, name="scaling")(x)
    x = layers.Conv2D(4, 3, strides=4, trainable=False, name="frozen")(x)
    x = layers.BatchNormalization(trainable=False, name="frozen_bn")(x)
    x = layers.Conv2D(6, 3, strides=2, activation="relu", name="trained")(x)
    if settings.batch_norm_momentum:
        x = layers.BatchNormalization(momentum=settings.batch_norm_momentum, name="trained_bn")(x)
    x = layers.Dropout(settings.dropout[0] / 2, seed=settings.seed, name="dropout_maps")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(settings.dropout[0], seed=settings.seed + 1, name="dropout")(x)
    x = layers.Dense(2, kernel_regularizer=keras.regularizers.L2(settings.l2), name="logits")(x)
    return keras.Model(inputs, layers.Activation("softmax", name="predictions")(x))


@dataclass
class Trained:
    result: training.Training
    model: keras.Model
    task: training.Task
    path: Path

    @property
    def history(self):
        return self.result.history


def prepare(settings, data, model=None):
    """A compiled task; its activations are stored where the experiment says so."""
    pixels, manifest = data
    model = model or tiny(settings)
    chosen = frozen.plan(model, manifest, settings)
    frozen.extract(chosen, pixels, settings, progress=False)
    task = training.make_task(model, pixels, manifest, CLASSES, settings, chosen)
    assert (task.network is model) != chosen.on
    training.compile_task(task, settings)
    return model, task


def train(folder, settings, data=None, model=None):
    model, task = prepare(settings, data or radiographs(), model)
    path = folder / "model.keras"
    return Trained(training.fit(model, task, settings, path, progress=False), model, task, path)


# --- what a training gives ----------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["off", "on"])
def test_the_saved_model_is_the_best_epochs(tmp_path, cache):
    settings = experiment(cache_features=cache, learning_rate=0.1, dropout=[0.0], epochs=5)
    pixels, manifest = radiographs(swapped=True)
    done = train(tmp_path, settings, (pixels, manifest))
    best = done.history.set_index("epoch").loc[done.result.best_epoch]
    assert best["val_loss"] == done.history["val_loss"].min()
    assert done.result.best_epoch < 5, "so that the last weights are not the best ones"
    rows = (manifest["split"] == "validation").to_numpy()
    one_hot = manifest["label"].to_numpy()[rows, None] == np.array(CLASSES)
    for model in (load_model(done.path), done.model):
        probabilities = model.predict(pixels[rows][..., None], verbose=0)
        loss = -np.log(probabilities[one_hot]).mean()
        regularized = loss + settings.l2 * np.square(model.get_layer("logits").kernel).sum()
        assert regularized == pytest.approx(best["val_loss"], rel=2e-3)
        accuracy = (probabilities.argmax(axis=1) == one_hot.argmax(axis=1)).mean()
        assert accuracy == pytest.approx(best["val_accuracy"])
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["model.keras"]


def test_the_same_seed_gives_the_same_history(tmp_path):
    first, second, other = (
        train(tmp_path, experiment(seed=seed, epochs=2, cache_features="on")).history
        for seed in (3, 3, 4)
    )
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    assert not np.allclose(first["loss"], other["loss"])


def test_stored_activations_give_the_history_of_the_whole_network(tmp_path):
    """Of exp4, but at 32 px, and with a rate at which five epochs change something."""
    settings = [
        load_experiment(
            "exp4", weights="none", image_size=32, augment=False, batch_size=16, epochs=5,
            learning_rate=3e-4, batch_norm_momentum=0.5, cache_features=cache,
        )
        for cache in ("off", "on")
    ]  # fmt: skip
    pixels, manifest = data = radiographs(64)
    whole, stored = (train(tmp_path, each, data, build_model(each, CLASSES)) for each in settings)
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(stored.history[name], whole.history[name], rtol=0.01)
    assert whole.history["loss"].iloc[-1] < 0.98 * whole.history["loss"].iloc[0]
    held_out = pixels[(manifest["split"] == "test").to_numpy()][..., None]
    probabilities = [np.asarray(each.model(held_out)) for each in (whole, stored)]
    assert np.ptp(probabilities[0][:, 0]) > 0.1, "something was learnt"
    np.testing.assert_allclose(*probabilities, atol=0.01)


@pytest.mark.parametrize("cache", ["off", "on"])
def test_each_epoch_trains_on_batches_of_its_own(tmp_path, cache):
    settings = experiment(cache_features=cache, epochs=3)
    model, task = prepare(settings, radiographs())
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


def test_hyper_parameters_stand_beside_the_reports():
    table = training.hyper_parameters(load_experiment("exp6"))
    for name in ("learning_rate", "batch_size", "loss", "schedule"):
        assert table.loc[name, "exp6"] == table.loc[name, "report"]
    focal = training.hyper_parameters(load_experiment("exp6", focal_gamma=2.0))
    assert focal.loc["loss", "exp6"] == "focal loss, gamma 2.0"


# --- interruptions ------------------------------------------------------------------------------

PLATEAU = {
    "epochs": 9, "reduce_lr_patience": 3, "early_stopping_patience": 5, "learning_rate": 0.03,
    "batch_norm_momentum": 0.5,
}  # fmt: skip
COSINE = {"schedule": "cosine", "epochs": 4}
RUNS = {
    "stored, plateau": {"cache_features": "on", **PLATEAU},
    "on the fly, plateau": PLATEAU,
    "stored, cosine": {"cache_features": "on", **COSINE},
    "on the fly, cosine": COSINE,
}


resume._CHECKPOINT_SECONDS = 0  # for every epoch here to be written


class InterruptedHere(Exception):
    """Stands for a crash in tests that need no process of their own."""


def crash():
    raise InterruptedHere


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def train_named(folder, run):
    """One of the RUNS; with a plateau, validation gets worse from the first epochs on."""
    return train(folder, experiment(**RUNS[run]), radiographs(swapped="plateau" in run))


def interrupt(patch, moment, stop):
    """Make the next training end at a moment: what happens, and how many times it happened."""
    event, number = moment.rsplit(" ", 1)
    counts = {"seen": 0}

    def now():
        counts["seen"] += 1
        return counts["seen"] == int(number)

    if event == "step":

        def on_train_batch_end(self, batch, logs=None):
            if now():
                stop()

        patch.setattr(fitting._LearningRate, "on_train_batch_end", on_train_batch_end)
    elif event == "begin of epoch":
        begin = fitting._LearningRate.on_epoch_begin

        def on_epoch_begin(self, epoch, logs=None):
            begin(self, epoch, logs)
            if now():
                stop()

        patch.setattr(fitting._LearningRate, "on_epoch_begin", on_epoch_begin)
    elif event == "half of file":
        savez = np.savez

        def half(path, **arrays):
            savez(path, **arrays)
            if now():
                os.truncate(path, path.stat().st_size // 2)
                stop()

        patch.setattr(np, "savez", half)
    elif event == "removal of an older best":
        unlink = Path.unlink

        def unlink_or_stop(path, missing_ok=False):
            if path.name.startswith("best-") and now():
                stop()
            unlink(path, missing_ok)

        patch.setattr(Path, "unlink", unlink_or_stop)
    elif event == "saving":
        save = keras.Model.save

        def save_or_stop(*args, **options):
            if now():
                stop()
            save(*args, **options)

        patch.setattr(keras.Model, "save", save_or_stop)
    else:
        raise ValueError(event)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Each of the RUNS without interruption, trained when first asked for."""
    done = {}

    def get(run):
        if run not in done:
            folder = tmp_path_factory.mktemp("undisturbed")
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("MURA_CACHE_DIR", str(folder / "cache"))
                done[run] = train_named(folder, run)
        return done[run]

    return get


def assert_same(resumed, expected):
    pd.testing.assert_frame_equal(resumed.history, expected.history, check_exact=True)
    assert resumed.result.best_epoch == expected.result.best_epoch
    saved = load_model(resumed.path)
    for model in (resumed.model, saved):
        for ours, theirs in zip(model.weights, expected.model.weights, strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)
    assert not (resumed.path.parent / ".checkpoint").exists()


def assert_readable(checkpoint):
    """Whatever bears its final name is whole."""
    for path in checkpoint.glob("*.npz"):
        if not path.name.startswith("."):
            with np.load(path) as stored:
                assert all(stored[name] is not None for name in stored.files)


def test_the_history_has_one_row_an_epoch(undisturbed):
    done = undisturbed("stored, cosine")
    assert list(done.history["epoch"]) == [1, 2, 3, 4]
    assert set(done.history) == {
        "epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"
    }  # fmt: skip
    assert done.history["val_loss"].iloc[-1] < done.history["val_loss"].iloc[0]
    assert done.result.resumed_after == 0
    assert done.result.seconds > 0


def test_the_description_of_a_training_is_what_training_json_holds(undisturbed):
    done = undisturbed("stored, cosine")
    described = training.describe_training(
        done.result, done.model, CLASSES, done.path, frozen.Plan(True, "")
    )
    best = done.history.set_index("epoch").loc[done.result.best_epoch]
    assert json.loads(json.dumps(described)) == described
    assert described["best"]["val_accuracy"] == best["val_accuracy"]
    assert described["epochs"] == 4
    assert described["stored_activations"] is True
    assert described["parameters"]["total"] == done.model.count_params()
    assert described["model_sha256"] == hashlib.sha256(done.path.read_bytes()).hexdigest()


def test_the_interrupted_trainings_reduce_the_rate_and_stop_early(undisturbed):
    """Otherwise the tests below would not show that callbacks remember."""
    for run in ("stored, plateau", "on the fly, plateau"):
        done = undisturbed(run)
        assert len(done.history) < 9
        assert done.result.best_epoch <= 2
        rates = done.history["learning_rate"]
        assert rates.nunique() == 2
        assert rates.diff().lt(0).idxmax() >= 3, "after the interruption, by epochs before it"
    for run in ("stored, cosine", "on the fly, cosine"):
        assert undisturbed(run).result.best_epoch >= 3


@pytest.mark.parametrize(
    ("run", "moment", "completed"),
    [
        ("stored, plateau", "step 13", 2),
        ("on the fly, plateau", "begin of epoch 4", 3),
        ("stored, cosine", "half of file 3", 1),
        ("stored, cosine", "removal of an older best 1", 2),
        ("on the fly, cosine", "step 3", 0),
    ],
)
def test_a_training_that_crashed_goes_on_as_if_nothing_had_happened(
    tmp_path, undisturbed, run, moment, completed
):
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, moment, crash)
        with pytest.raises(InterruptedHere):
            train_named(tmp_path, run)
    assert_readable(tmp_path / ".checkpoint")
    assert not (tmp_path / "model.keras").exists()
    resumed = train_named(tmp_path, run)
    assert resumed.result.resumed_after == completed
    assert_same(resumed, undisturbed(run))


def test_a_training_can_be_interrupted_again_and_again(tmp_path, undisturbed):
    run = "stored, plateau"
    for moment in ("step 7", "step 6"):
        with pytest.MonkeyPatch.context() as patch:
            interrupt(patch, moment, crash)
            with pytest.raises(InterruptedHere):
                train_named(tmp_path, run)
    resumed = train_named(tmp_path, run)
    assert resumed.result.resumed_after == 2
    assert_same(resumed, undisturbed(run))


def test_batches_that_fail_interrupt_a_training_that_goes_on(tmp_path, undisturbed, monkeypatch):
    run = "on the fly, plateau"
    settings, data = experiment(**RUNS[run]), radiographs(swapped=True)
    served = []

    def fail_at_the_13th(images, labels):
        def count():
            served.append(1)
            if len(served) == 13:
                crash()
            return np.int64(0)

        zero = tf.cast(tf.numpy_function(count, [], tf.int64), tf.float32)
        shaped = tf.ensure_shape(images + zero, images.shape)
        return shaped, labels

    model, task = prepare(settings, data)
    failing = replace(task, train=lambda *first: task.train(*first).map(fail_at_the_13th))
    path = tmp_path / "model.keras"
    with pytest.raises(tf.errors.UnknownError, match="InterruptedHere"):
        training.fit(model, failing, settings, path, progress=False)
    resumed = train_named(tmp_path, run)
    assert resumed.result.resumed_after in (1, 2)
    assert_same(resumed, undisturbed(run))


def test_a_training_that_only_was_not_saved_is_only_saved(tmp_path, undisturbed, monkeypatch):
    run = "stored, plateau"
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, "saving 1", crash)
        with pytest.raises(InterruptedHere):
            train_named(tmp_path, run)
    assert_readable(tmp_path / ".checkpoint")
    monkeypatch.setattr(keras.Model, "fit", lambda *_, **__: pytest.fail("trained again"))
    resumed = train_named(tmp_path, run)
    assert resumed.result.resumed_after == len(resumed.history)
    assert resumed.result.seconds > 0
    assert_same(resumed, undisturbed(run))


KILLS = {
    "in an epoch": ("on the fly, plateau", "step 13", 2),
    "in a file": ("stored, plateau", "half of file 4", 2),
    "between epochs": ("on the fly, cosine", "begin of epoch 3", 2),
}


def train_in_killed_processes(folder):
    """In a process of its own: fork one for each of KILLS, before TensorFlow computes anything."""
    for name, (run, moment, _) in KILLS.items():
        child = os.fork()
        if not child:
            (folder / name).mkdir()
            with pytest.MonkeyPatch.context() as patch:
                interrupt(patch, moment, die)
                train_named(folder / name, run)
            os._exit(1)
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status), f"{name} was not killed: {status}"
        assert os.WTERMSIG(status) == signal.SIGKILL


def python(code):
    command = [sys.executable, "-c", f"import test_training as t; from pathlib import Path; {code}"]
    return subprocess.run(command, cwd=HERE, stdout=subprocess.PIPE, text=True, timeout=300)


def test_a_training_that_was_killed_goes_on_as_if_nothing_had_happened(tmp_path, undisturbed):
    assert python(f"t.train_in_killed_processes(Path({str(tmp_path)!r}))").returncode == 0
    for name, (run, moment, completed) in KILLS.items():
        assert_readable(tmp_path / name / ".checkpoint")
        assert not (tmp_path / name / "model.keras").exists()
        resumed = train_named(tmp_path / name, run)
        assert resumed.result.resumed_after == completed, moment
        assert_same(resumed, undisturbed(run))


def test_short_epochs_that_were_not_written_are_trained_again(tmp_path, undisturbed, monkeypatch):
    monkeypatch.setattr(resume, "_CHECKPOINT_SECONDS", 1e9)
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, "begin of epoch 3", crash)
        with pytest.raises(InterruptedHere):
            train_named(tmp_path, "on the fly, plateau")
    assert not list((tmp_path / ".checkpoint").iterdir())
    again = train_named(tmp_path, "on the fly, plateau")
    assert again.result.resumed_after == 0
    assert_same(again, undisturbed("on the fly, plateau"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """What is left of a training with `experiment(epochs=3)` that ended in its third epoch."""
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, "step 11", crash)
        with pytest.raises(InterruptedHere):
            train(folder, experiment(epochs=3))
    return folder / ".checkpoint"


def test_a_checkpoint_of_other_parameters_is_discarded_with_a_word(tmp_path, checkpoint, capsys):
    shutil.copytree(checkpoint, tmp_path / ".checkpoint")
    again = train(tmp_path, experiment(epochs=3, learning_rate=0.02))
    said = capsys.readouterr().out
    assert f"{tmp_path}/.checkpoint/state.npz belongs to other parameters or data" in said
    assert "training starts again" in said
    assert again.result.resumed_after == 0
    fresh = train(tmp_path / "fresh", experiment(epochs=3, learning_rate=0.02))
    assert capsys.readouterr().out == ""
    assert_same(again, fresh)


def test_a_damaged_checkpoint_is_one_sentence(tmp_path, checkpoint):
    shutil.copytree(checkpoint, tmp_path / ".checkpoint")
    path = tmp_path / ".checkpoint" / "state.npz"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"state\.npz is damaged .* remove it to start again"):
        train(tmp_path, experiment(epochs=3))


@pytest.mark.parametrize(
    ("change", "goes_on"),
    [
        ("nothing", True),
        ("what later notebooks use", True),
        ("stored activations", False),
        ("labels", False),
        ("split", False),
        ("contents", False),
        ("order", False),
    ],
)
def test_a_checkpoint_belongs_to_its_parameters_and_data(
    tmp_path, checkpoint, change, goes_on, monkeypatch
):
    pixels, manifest = radiographs()
    settings = experiment(epochs=3)
    if change == "what later notebooks use":
        settings = experiment(epochs=3, name="another", threshold=0.3, bootstrap=200)
    elif change == "stored activations":
        settings = experiment(epochs=3, cache_features="on")
    elif change == "labels":
        manifest.loc[[0, 1], "label"] = manifest.loc[[1, 0], "label"].to_numpy()
    elif change == "split":
        manifest.loc[36, "split"] = "train"
    elif change == "contents":
        manifest.loc[0, "sha256"] = "f" * 64
    elif change == "order":
        manifest = manifest.iloc[::-1].reset_index(drop=True)
    shutil.copytree(checkpoint, tmp_path / ".checkpoint")
    model, task = prepare(settings, (pixels, manifest))
    given = []
    monkeypatch.setattr(
        keras.Model, "fit", lambda *_, initial_epoch, **__: given.append(initial_epoch) or crash()
    )
    with pytest.raises(InterruptedHere):
        training.fit(model, task, settings, tmp_path / "model.keras", progress=False)
    assert given == [2 if goes_on else 0]
    assert (tmp_path / ".checkpoint" / "state.npz").exists() == goes_on


def test_a_bar_counts_on_after_an_interruption(tmp_path, checkpoint, monkeypatch):
    made = []

    def bar(**options):
        made.append(options)
        return keras.callbacks.Callback()

    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(fitting, "TqdmCallback", bar)
    monkeypatch.setattr(keras.Model, "fit", lambda *_, **__: crash())
    shutil.copytree(checkpoint, tmp_path / ".checkpoint")
    model, task = prepare(experiment(epochs=3), radiographs())
    for progress in (False, True):
        with pytest.raises(InterruptedHere):
            training.fit(model, task, experiment(epochs=3), tmp_path / "model.keras", progress)
    assert [options["initial"] for options in made] == [2]


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
    assert done.result.best_epoch == 2
    assert "the loss of epoch 3 is not finite" in capsys.readouterr().out


def test_a_training_that_never_had_a_finite_loss_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"epoch 1 is not finite.*learning_rate \(it is 1e\+30\)"):
        train(tmp_path, experiment().model_copy(update={"learning_rate": 1e30}))
    assert not list(tmp_path.rglob("*.keras")) and not (tmp_path / ".checkpoint").exists()


def test_several_steps_a_call_give_the_same_training(tmp_path, undisturbed):
    run = "on the fly, cosine"
    settings = experiment(**RUNS[run], steps_per_execution=4)  # of five steps an epoch
    done = train(tmp_path, settings)
    assert done.task.network.steps_per_execution == 4
    pd.testing.assert_frame_equal(done.history, undisturbed(run).history, rtol=1e-5)


# --- the rate -----------------------------------------------------------------------------------


def test_the_history_records_the_rate_that_an_epoch_was_trained_with(undisturbed):
    history = undisturbed("on the fly, plateau").history
    best, patience = history["val_loss"].cummin(), 3
    expected, waited = [0.03], 0
    for epoch in range(1, len(history)):
        # ReduceLROnPlateau's own threshold of what is better: 1e-4.
        better = epoch == 1 or history["val_loss"][epoch - 1] < best[epoch - 2] - 1e-4
        waited = 0 if better else waited + 1
        expected.append(expected[-1] * (0.2 if waited == patience else 1))
        waited %= patience
    np.testing.assert_allclose(history["learning_rate"], expected, rtol=1e-6)


def test_early_stopping_counts_epochs_without_a_better_validation_loss(undisturbed):
    done = undisturbed("on the fly, plateau")
    assert len(done.history) == done.result.best_epoch + 5


def test_the_cosine_schedule_falls_to_zero_and_ignores_plateaus(tmp_path, undisturbed):
    settings = experiment(schedule="cosine", epochs=6, reduce_lr_patience=1, learning_rate=0.03)
    history = train(tmp_path, settings, radiographs(swapped=True)).history
    assert (history["val_loss"].diff() > 0).sum() >= 2, "the rate would be reduced"
    others = undisturbed("stored, cosine").history, undisturbed("on the fly, cosine").history
    for each, first, epochs in ((history, 0.03, 6), *((other, 0.01, 4) for other in others)):
        expected = first * (1 + np.cos(np.pi * np.arange(epochs) / epochs)) / 2
        np.testing.assert_allclose(each["learning_rate"], expected, rtol=1e-5)


# --- the loss -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"class_weights": True},
        {"label_smoothing": 0.2},
        {"focal_gamma": 2.0},
        {"class_weights": True, "label_smoothing": 0.1, "focal_gamma": 1.5},
    ],
    ids=str,
)
def test_the_first_loss_is_what_the_formula_gives(tmp_path, changes):
    settings = experiment(
        batch_size=40, epochs=1, dropout=[0.0], batch_norm_momentum=0.0, augment=False, l2=0.0,
        **changes,
    )  # fmt: skip
    pixels, manifest = radiographs()
    manifest.loc[:35, "label"] = np.take(CLASSES, np.arange(36) % 4 != 0)  # 9 of 36 abnormal
    model = tiny(settings)
    kernel = model.get_layer("logits").kernel
    kernel.assign(kernel * 5)
    p = model.predict(pixels[:36][..., None], verbose=0).astype(float)
    assert np.ptp(p[:, 0]) > 0.05
    y = (manifest["label"].to_numpy()[:36, None] == np.array(CLASSES)).astype(float)
    smoothing, gamma = settings.label_smoothing, settings.focal_gamma
    weights = y @ np.array([2.0, 2 / 3]) if settings.class_weights else np.ones(36)
    assert weights.mean() == pytest.approx(1)
    smooth = y * (1 - smoothing) + smoothing / 2
    expected = (weights[:, None] * -smooth * np.log(p) * (1 - p) ** gamma).sum(axis=1).mean()
    history = train(tmp_path, settings, (pixels, manifest), model).history
    assert history["loss"][0] == pytest.approx(expected, rel=1e-4)


def test_a_class_without_training_images_weighs_one():
    manifest = radiographs()[1]
    manifest.loc[:35, "label"] = CLASSES[0]
    _, task = prepare(experiment(class_weights=True), (radiographs()[0], manifest))
    assert task.class_weights == {0: 1.0, 1: 1.0}


# --- several devices ----------------------------------------------------------------------------


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
            result = train(folder / name, settings, radiographs(32), model)
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
    process = python(f"t.train_on_two_devices(Path({str(tmp_path)!r}))")
    assert process.returncode == 0
    histories = json.loads(process.stdout.splitlines()[-1])
    for cache, resumed_after in (("off", 0), ("on", 1)):
        one, two = histories[f"one, {cache}"], histories[f"two, {cache}"]
        assert two["resumed_after"] == [resumed_after]
        assert len(set(one["loss"])) == 3
        for name in ("loss", "val_loss", "accuracy", "learning_rate"):
            np.testing.assert_allclose(two[name], one[name], atol=1e-4)


# --- precision ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["off", "on"])
def test_mixed_precision_trains_and_saves_a_float32_network(tmp_path, cache):
    settings = experiment(unfreeze=0, precision="mixed", cache_features=cache, epochs=2)
    done = train(tmp_path, settings, model=build_model(settings, CLASSES, "mixed_float16"))
    assert done.model.get_layer("conv_pw_13").compute_dtype == "float16"
    assert np.isfinite(done.history).all(axis=None)
    saved = load_model(done.path)
    assert {layer.compute_dtype for layer in saved.layers} == {"float32"}
    for ours, theirs in zip(saved.weights, done.model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    optimizer = done.task.network.optimizer
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer), "gradients underflow"


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


def test_mixed_precision_needs_a_gpu(monkeypatch):
    mixed, plain = experiment(precision="mixed"), experiment()
    for gpus, expected in (([], "float32"), (["GPU:0"], "mixed_float16")):
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind, gpus=gpus: gpus)
        assert devices.dtype_policy(mixed) == expected
        assert devices.dtype_policy(plain) == "float32"
