"""Age and sex beside the radiograph: encoding, the branch, training, answers, explanations."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from small import (
    CLASSES,
    InterruptedHere,
    assert_same,
    crash,
    experiment,
    interrupt,
    noise,
    one_sentence,
    stored,
    train,
)
from test_training_masks import spots

from mura_utils import explain, frozen
from mura_utils.data.tabular import HIDDEN, Tabular, encode, load_tabular, missing_values
from mura_utils.errors import UserError
from mura_utils.experiments import save_experiment, validate_parameters
from mura_utils.explain.browser import Cases
from mura_utils.explain.faithfulness import answer_of
from mura_utils.explain.shortcuts import abnormal_probability
from mura_utils.explain.targets import contrast_target
from mura_utils.export.writing import export_run
from mura_utils.external.subject import Subject
from mura_utils.labels import probability_columns
from mura_utils.network.build import build_model, head_summary, load_model
from mura_utils.network.tabular import at_values, attach_tabular, with_nothing_known
from mura_utils.paths import runs_dir, write_json
from mura_utils.prediction import predict_images
from mura_utils.prediction_commands import predict
from mura_utils.runs.ensemble import Networks
from mura_utils.runs.record import write_completed
from mura_utils.runs.stages import NOTEBOOKS
from mura_utils.training import make_task

BOTH = {"tabular": ["age", "sex"]}


def aged(seed=0, **counts):
    """Noise, of old patients where it is abnormal and of young ones where it is normal."""
    images = noise(**counts)
    rng = np.random.default_rng(seed)
    old = (images.rows["label"] == CLASSES[0]).to_numpy()
    people = pd.DataFrame({"age": rng.uniform(10, 40, len(old)) + 45 * old})
    people["sex"] = rng.choice(["F", "M", None], len(old))
    return replace(images, tabular=encode(["age", "sex"], people))


def tiny(settings):
    """A frozen convolution, a trained one, and the branch."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = radiograph = keras.Input((32, 32, 1), name="radiograph")
    x = layers.Rescaling(1 / 255, name="scaling")(x)
    x = layers.Conv2D(4, 3, strides=4, trainable=False, activation="relu", name="frozen")(x)
    x = layers.Conv2D(6, 3, strides=2, activation="relu", name="trained")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(layers.Identity(name="features")(x))
    x, besides = attach_tabular(x, settings)
    x = layers.Activation("softmax", name="predictions")(layers.Dense(2, name="logits")(x))
    return keras.Model([radiograph, *besides], x, name="tiny")


@pytest.fixture(scope="module")
def network():
    """An untrained network that reads both, and its images."""
    return tiny(experiment(**BOTH)), aged()


# --- encoding -----------------------------------------------------------------------------------


def test_whatever_is_no_age_and_no_sex_is_missing():
    people = pd.DataFrame({"age": [0, 130, -1, 131, np.inf], "sex": ["O", "M", "female", "", None]})
    said = encode(["age", "sex"], people).numbers
    assert said[:, 1].tolist() == [0, 0, 1, 1, 1]
    assert said[:, 5].tolist() == [0, 0, 1, 1, 1]
    assert said[:, 2:5].tolist() == [[0, 0, 1], [0, 1, 0], *[[0, 0, 0]] * 3]
    nothing = pd.DataFrame(index=range(2))
    assert (encode(["sex"], nothing).numbers == missing_values(["sex"])).all()


def test_in_training_each_attribute_is_hidden_now_and_then_and_alone():
    people = pd.DataFrame({"age": np.full(4000, 75.0), "sex": "F"})
    said = encode(["age", "sex"], people)
    seen = said.hiding(np.arange(4000), np.random.default_rng(0))
    age, sex = seen[:, 1] == 1, seen[:, 5] == 1
    assert [age.mean(), sex.mean()] == pytest.approx([HIDDEN, HIDDEN], abs=0.02)
    assert (age & sex).mean() == pytest.approx(HIDDEN**2, abs=0.02)
    missing = missing_values(said.names)
    assert (seen[age, :2] == missing[:2]).all() and (seen[~age, :2] == said.numbers[0, :2]).all()
    assert not said.numbers[:, [1, 5]].any(), "what is known stays known"


def test_data_that_says_nothing_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"tabular = \['age'\].*says the age of none") as caught:
        load_tabular(["age"], "phantom", tmp_path, ["a/b/c/d.png"])
    assert one_sentence(caught)
    for source in ("mura", "MURA"):
        with pytest.raises(UserError, match="the source mura says nothing of its patients"):
            validate_parameters({**BOTH, "source": source}, "test")
    assert validate_parameters({"tabular": ["SEX", "age"]}, "test").tabular == ["age", "sex"]


# --- the branch ---------------------------------------------------------------------------------


def test_the_network_at_fixed_values_is_the_network(network):
    model, images = network
    rows = np.arange(3)
    gray, values = images.inputs(rows)
    answers = np.asarray(model([gray, values]))
    alone = [at_values(model, values[row])(gray[[row]]) for row in rows]
    np.testing.assert_allclose(np.concatenate(alone), answers, atol=1e-6)
    nothing = with_nothing_known(model, experiment(**BOTH))(gray)
    assert np.abs(nothing - answers).max() > 1e-3, "age and sex count"
    with pytest.raises(UserError, match="do not fit each other") as caught:
        at_values(model, None)
    assert one_sentence(caught)


def test_the_branch_is_there_only_where_the_parameter_names_something(tmp_path, capfd):
    joined, plain = (build_model(experiment(**names), CLASSES) for names in (BOTH, {}))
    assert len(plain.inputs) == 1 and at_values(plain, None) is plain
    more = joined.count_params() - plain.count_params()
    assert more == 6 * 32 + 32 + 32 * len(CLASSES)
    assert head_summary(joined).loc["logits", "reads"] == "with_tabular"
    cuts = [frozen.split_network(model) for model in (joined, plain)]
    assert cuts[0].shapes == cuts[1].shapes
    assert cuts[0].first_trained == cuts[1].first_trained
    bare = [frozen.split_network(build_model(experiment(unfreeze=0, dense_units=[], **names), 2))
            for names in (BOTH, {})]  # fmt: skip
    assert [cut.first_trained for cut in bare] == ["logits", "logits"]
    joined.save(tmp_path / "model.keras")
    images = aged(train=4)
    inputs = images.inputs(np.arange(4))
    expected = joined.predict(inputs, verbose=0)
    saved = load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(saved.predict(inputs, verbose=0), expected, atol=1e-6)
    assert "structure of `inputs`" not in capfd.readouterr().err


def test_activations_are_stored_once_with_and_without_the_branch(network):
    model, images = network
    bare = replace(images, tabular=None)
    plain = frozen.plan(tiny(experiment()), bare, experiment())
    assert frozen.plan(model, images, experiment(**BOTH)).train.folder == plain.train.folder


# --- training and answers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cache", "stored_as"), [("off", "float16"), ("on", "float16"), ("on", "uint8")]
)
def test_age_is_learnt_where_the_image_says_nothing(tmp_path, cache, stored_as):
    settings = experiment(**BOTH, cache_features=cache, stored_as=stored_as, epochs=8)
    images = aged(train=48, validation=16)
    trained = train(tmp_path, settings, images, tiny(settings))
    assert trained.history["val_accuracy"].iloc[-1] > 0.9
    model = load_model(trained.path)
    held_out = images.positions("validation", "test")
    answers, how = frozen.predict(model, images, settings)
    np.testing.assert_allclose(
        answers, model.predict(images.inputs(held_out), verbose=0), atol=5e-3
    )
    assert ("from their stored activations" in how) == (cache == "on")
    order = np.random.default_rng(0).permutation(len(images))
    shuffled = replace(images, tabular=Tabular(images.tabular.names, images.tabular.numbers[order]))
    assert np.abs(frozen.predict(model, shuffled, settings)[0] - answers).max() > 0.3


def test_an_interrupted_training_goes_on_with_the_same_hidden_values(tmp_path, monkeypatch):
    settings = experiment(**BOTH, cache_features="on", epochs=4)
    images = aged()
    expected = train(tmp_path / "whole", settings, images, tiny(settings))
    with monkeypatch.context() as patch, pytest.raises(InterruptedHere):
        interrupt(patch, "begin of epoch 3", crash)
        train(tmp_path / "cut", settings, images, tiny(settings))
    resumed = train(tmp_path / "cut", settings, images, tiny(settings))
    assert resumed.result.resumed_after == 2
    assert_same(resumed, expected)


def test_masks_teach_beside_age_and_sex():
    settings = experiment(
        **BOTH, head="pooled", dropout=[0.1], image_size=64, unfreeze=5, mask_supervision=1.0,
        cache_features="on",
    )  # fmt: skip
    images = spots()
    people = pd.DataFrame({"age": np.arange(len(images)), "sex": "F"})
    images = replace(images, tabular=encode(["age", "sex"], people))
    model = build_model(settings, CLASSES)
    task = make_task(model, images, settings, stored(settings, images, model))
    inputs, (labels, targets) = next(iter(task.train(0)))
    answers, heat = task.network(inputs)
    assert inputs[-1].shape == (8, 6)
    assert answers.shape == labels.shape and heat.shape == targets.shape


# --- explanations ---------------------------------------------------------------------------------


def test_a_map_is_the_same_at_every_age(network):
    model, images = network
    rows = np.arange(3)
    pixels = images.inputs(rows)[0].astype(np.float32)
    target = contrast_target([0] * 3, CLASSES)
    nothing = with_nothing_known(model, experiment(**BOTH))
    for method in ("saliency", "grad_cam", "layer_cam", "occlusion"):
        own = [
            explain.METHODS[method](
                at_values(model, images.tabular.numbers[row]), pixels[[row]],
                contrast_target([0], CLASSES),
            )
            for row in rows
        ]  # fmt: skip
        np.testing.assert_allclose(
            np.concatenate(own), explain.METHODS[method](nothing, pixels, target), atol=1e-3
        )


def test_answers_and_the_browser_are_at_each_images_own_age(network):
    model, images = network
    rows = images.positions("test")[:3]
    values = images.tabular.numbers[rows]
    pixels = images.inputs(rows)[0].astype(np.float32)
    target = contrast_target([0] * 3, CLASSES)
    answers = answer_of(model, target, values)(pixels, np.arange(3))
    p = model.predict(images.inputs(rows), verbose=0)
    np.testing.assert_allclose(answers, p[:, 0] / p.sum(axis=1), atol=1e-5)
    audited = abnormal_probability(model, CLASSES, values)(pixels[[2, 0]], np.array([2, 0]))
    np.testing.assert_allclose(audited, p[[2, 0], 0], atol=1e-5)
    predictions = images.rows.iloc[rows].assign(
        predicted=CLASSES[0],
        abnormality="Abnormal",
        **dict(zip(probability_columns(CLASSES), p.T, strict=True)),
    )
    cases = Cases(model, images, predictions)
    found = cases.heatmaps([1, 2], "score_cam", "abnormal - normal")
    for case, heat in zip([1, 2], found, strict=True):
        alone = at_values(model, images.tabular.numbers[cases.rows["row"].iloc[case]])
        one = cases.radiograph(case)[None, ..., None].astype(np.float32)
        np.testing.assert_array_equal(
            explain.METHODS["score_cam"](alone, one, contrast_target([0], CLASSES))[0], heat
        )


# --- one patient, another data set ----------------------------------------------------------------


@pytest.fixture
def hand(network, tmp_path):
    """A radiograph, and in runs/ the run "both", which reads age and sex, and "none"."""
    gray = tmp_path / "hands" / "hand.png"
    gray.parent.mkdir()
    Image.fromarray(np.tile(network[1].pixels[0], (8, 8))).save(gray)
    for name, names in (("both", ["age", "sex"]), ("none", [])):
        settings = experiment(name=name, tabular=names)
        save_experiment(settings, runs_dir() / name / "experiment.yaml")
        tiny(settings).save(runs_dir() / name / "model.keras")
        write_json(runs_dir() / name / "training.json", {"classes": CLASSES})
        write_completed(runs_dir() / name, list(NOTEBOOKS[:5]))
    return gray


def test_predict_reads_the_age_that_is_given_and_refuses_one_that_nobody_reads(hand, tmp_path):
    def p(run, **person):
        return predict_images(run, [hand], tmp_path / "out", **person)[0]["p_abnormal"]

    assert len({p("both"), p("both", age=80), p("both", age=80, sex="f")}) == 3
    assert p("none") == p("none", age=None)
    for run, person, sentence in [
        ("none", {"age": 80}, "does not read the patient's age"),
        ("both", {"age": 131}, "--age 131: give years from 0 to 130"),
        ("both", {"age": np.nan}, "--age nan: give years from 0 to 130"),
        ("both", {"sex": "female"}, "--sex 'female': give F, M, O"),
    ]:
        with pytest.raises(UserError, match=sentence) as caught:
            p(run, **person)
        assert one_sentence(caught)


def test_what_is_not_given_is_told_beside_the_json(hand, tmp_path, capsys):
    for run, person, told in [
        ("both", {}, "treated as missing: the patient's age and sex.\n"),
        ("both", {"age": 80.0}, "treated as missing: the patient's sex.\n"),
        ("both", {"age": 80.0, "sex": "F"}, ""),
        ("none", {}, ""),
    ]:
        predict([hand], run, tmp_path / "out", **person)
        out, err = capsys.readouterr()
        assert json.loads(out)[0]["label"] in CLASSES
        assert told in err and err.count("missing") == bool(told)


def test_in_a_folder_age_and_sex_are_missing(hand, tmp_path, caplog):
    caplog.set_level("INFO")
    with pytest.raises(UserError, match="--age and --sex are of one patient") as caught:
        predict([hand.parent], "both", tmp_path / "p.csv", age=80.0)
    assert one_sentence(caught)
    for run, told in [("both", 1), ("none", 0)]:
        caplog.clear()
        predict([hand.parent], run, tmp_path / f"{run}.csv")
        (single,) = predict_images(run, [hand], tmp_path / "out")
        (p,) = pd.read_csv(tmp_path / f"{run}.csv")["p_abnormal"]
        assert p == pytest.approx(single["p_abnormal"], abs=2e-6)
        assert caplog.text.count("treated as missing: the patient's age and sex.") == told


def test_an_export_of_a_run_that_reads_them_is_refused(hand, tmp_path):
    with pytest.raises(UserError, match="both reads the patient's age and sex") as caught:
        export_run("both", "keras", out=tmp_path / "export")
    assert one_sentence(caught)
    assert not (tmp_path / "export").exists()


def test_another_data_set_is_answered_at_its_own_ages_straight_and_mirrored(network, tmp_path):
    model, images = network
    model.save(tmp_path / "model.keras")
    paths = [f"MURA-v1.1/valid/XR_HAND/patient{row}/study/image1.png" for row in range(3)]
    for path, gray in zip(paths, images.pixels, strict=False):
        (tmp_path / path).parent.mkdir(parents=True)
        Image.fromarray(gray).save(tmp_path / path)
    table = "patient,age,sex\npatient0,80,F\npatient1,,M\npatient2,20,\n"
    (tmp_path / "patients.csv").write_text(table)
    rows = pd.DataFrame({"path": paths, "source": "phantom"})
    rows["sha256"] = [sha256((tmp_path / path).read_bytes()).hexdigest() for path in paths]
    member = SimpleNamespace(experiment=experiment())
    networks = Networks(
        files=[tmp_path / "model.keras"], resize=["stretch"], tabular=[["age", "sex"]],
        second_look=[False], flip=True, taught=False, classes=CLASSES, threshold=0.5,
        described_in=tmp_path,
    )  # fmt: skip
    answers = Subject(tmp_path, networks, (member,)).answer(tmp_path, rows, progress=False)
    people = pd.DataFrame({"age": [80, None, 20], "sex": ["F", "M", None]})
    said = encode(["age", "sex"], people).numbers
    views = [images.pixels[:3, :, ::step, None] for step in (1, -1)]
    expected = np.mean([model([view, said]) for view in views], axis=0)
    np.testing.assert_allclose(answers, expected, atol=1e-5)
    (tmp_path / "patients.csv").unlink()
    with pytest.raises(UserError, match="says the age of none of these images"):
        Subject(tmp_path, networks, (member,)).answer(tmp_path, rows, progress=False)
