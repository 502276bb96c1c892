"""An interruption changes nothing: whatever the moment, a training goes on to the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
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

from mura_utils import frozen, training
from mura_utils.errors import UserError
from mura_utils.network.saved import load_model
from mura_utils.training import fitting, resume

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


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def train_named(folder, run):
    """One of the RUNS; with a plateau, validation gets worse from the first epochs on."""
    return train(folder, experiment(**RUNS[run]), squares(swapped="plateau" in run))


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


def assert_readable(checkpoint):
    """Whatever bears its final name is whole."""
    for path in checkpoint.glob("*.npz"):
        if not path.name.startswith("."):
            with np.load(path) as stored:
                assert all(stored[name] is not None for name in stored.files)


# --- whole trainings ------------------------------------------------------------------------------


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
    described = training.describe_training(done.result, done.model, CLASSES, frozen.Plan(True, ""))
    best = done.history.set_index("epoch").loc[done.result.kept_epoch]
    assert json.loads(json.dumps(described)) == described
    assert described["best"]["val_accuracy"] == best["val_accuracy"]
    assert described["epochs"] == 4
    assert described["stored_activations"] is True
    assert described["parameters"]["total"] == done.model.count_params()


def test_a_model_is_known_by_its_weights_and_not_by_its_file(undisturbed):
    done = undisturbed("stored, cosine")

    def sha256(model):
        stored = frozen.Plan(True, "")
        return training.describe_training(done.result, model, CLASSES, stored)["model_sha256"]

    loaded = load_model(done.path)
    assert sha256(loaded) == sha256(done.model)
    *others, last = loaded.get_weights()
    loaded.set_weights([*others, last + 1])
    assert sha256(loaded) != sha256(done.model)


def test_the_description_says_which_file_the_weights_came_from(tmp_path):
    file = tmp_path / "initial.npz"
    file.write_bytes(b"not read here: the network is another")
    done = train(tmp_path, experiment(epochs=1, weights=str(file)))
    described = training.describe_training(done.result, done.model, CLASSES, frozen.Plan(False, ""))
    assert described["weights_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_interrupted_trainings_reduce_the_rate_and_stop_early(undisturbed):
    """Otherwise the tests below would not show that callbacks remember."""
    for run in ("stored, plateau", "on the fly, plateau"):
        done = undisturbed(run)
        assert len(done.history) < 9
        assert done.result.kept_epoch <= 2
        rates = done.history["learning_rate"]
        assert rates.nunique() == 2
        assert rates.diff().lt(0).idxmax() >= 3, "after the interruption, by epochs before it"
    for run in ("stored, cosine", "on the fly, cosine"):
        assert undisturbed(run).result.kept_epoch >= 3


def test_several_steps_a_call_give_the_same_training(tmp_path, undisturbed):
    run = "on the fly, cosine"
    settings = experiment(**RUNS[run], steps_per_execution=4)  # of five steps an epoch
    done = train(tmp_path, settings)
    assert done.task.network.steps_per_execution == 4
    pd.testing.assert_frame_equal(done.history, undisturbed(run).history, rtol=1e-5)


# --- the rate -------------------------------------------------------------------------------------


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
    assert len(done.history) == done.result.kept_epoch + 5


def test_the_cosine_schedule_falls_to_zero_and_ignores_plateaus(tmp_path, undisturbed):
    settings = experiment(schedule="cosine", epochs=6, reduce_lr_patience=1, learning_rate=0.03)
    history = train(tmp_path, settings, squares(swapped=True)).history
    assert (history["val_loss"].diff() > 0).sum() >= 2, "the rate would be reduced"
    others = undisturbed("stored, cosine").history, undisturbed("on the fly, cosine").history
    for each, first, epochs in ((history, 0.03, 6), *((other, 0.01, 4) for other in others)):
        expected = first * (1 + np.cos(np.pi * np.arange(epochs) / epochs)) / 2
        np.testing.assert_allclose(each["learning_rate"], expected, rtol=1e-5)


# --- interruptions --------------------------------------------------------------------------------


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
    settings, images = experiment(**RUNS[run]), squares(swapped=True)
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

    model, task = prepare(settings, images)
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
            each = Path(folder) / name
            each.mkdir()
            with pytest.MonkeyPatch.context() as patch:
                interrupt(patch, moment, die)
                train_named(each, run)
            os._exit(1)
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status), f"{name} was not killed: {status}"
        assert os.WTERMSIG(status) == signal.SIGKILL


def test_a_training_that_was_killed_goes_on_as_if_nothing_had_happened(tmp_path, undisturbed):
    process = python(train_in_killed_processes, tmp_path)
    process.communicate(timeout=300)
    assert process.returncode == 0
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


# --- the checkpoint -------------------------------------------------------------------------------


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


def test_weights_of_the_kept_epoch_that_are_gone_are_one_sentence(tmp_path, checkpoint):
    shutil.copytree(checkpoint, tmp_path / ".checkpoint")
    for kept in (tmp_path / ".checkpoint").glob("kept-*.npz"):
        kept.unlink()
    settings = experiment(epochs=3)
    _, task = prepare(settings, squares())
    interrupted = resume.Checkpoint(tmp_path / ".checkpoint", [], task, settings)
    assert interrupted.rows
    with pytest.raises(
        UserError, match=r"kept-\d\.npz is damaged .*: remove .*checkpoint to start"
    ):
        interrupted.load_kept()


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
        ("the weights file", False),
        ("the machine's precision", False),
    ],
)
def test_a_checkpoint_belongs_to_its_parameters_and_data(
    tmp_path, checkpoint, change, goes_on, monkeypatch
):
    images = squares()
    rows = images.rows
    settings = experiment(epochs=3)
    if change == "what later notebooks use":
        settings = experiment(epochs=3, name="another", threshold=0.3, bootstrap=200)
    elif change == "stored activations":
        settings = experiment(epochs=3, cache_features="on")
    elif change == "labels":
        rows.loc[[0, 1], "label"] = rows.loc[[1, 0], "label"].to_numpy()
    elif change == "split":
        rows.loc[36, "split"] = "train"
    elif change == "contents":
        rows.loc[0, "sha256"] = "f" * 64
    elif change == "order":
        images = replace(images, rows=rows.iloc[::-1].reset_index(drop=True))
    elif change == "the weights file":
        monkeypatch.setattr(resume, "weights_digest", lambda _: "f" * 64)
    shutil.copytree(checkpoint, tmp_path / ".checkpoint")
    model = None
    if change == "the machine's precision":
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            model = tiny(settings)
        finally:
            keras.config.set_dtype_policy("float32")
    model, task = prepare(settings, images, model)
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
    model, task = prepare(experiment(epochs=3), squares())
    for progress in (False, True):
        with pytest.raises(InterruptedHere):
            training.fit(model, task, experiment(epochs=3), tmp_path / "model.keras", progress)
    assert [options["initial"] for options in made] == [2]
