"""What an extraction computes, and that an interruption changes nothing of it."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from small import frozen_experiment, network, noise, one_sentence, python, stored, vivid

from mura_utils import frozen
from mura_utils.augmentation import Augmentation
from mura_utils.errors import UserError
from mura_utils.experiments import INT8_PACKAGES
from mura_utils.frozen import extraction, extractors
from mura_utils.generators import augment
from mura_utils.network.build import build_model

HALF = 2.0**-11  # float16's relative rounding error


# --- views ----------------------------------------------------------------------------------------


def test_each_view_is_the_prefix_over_the_images_warped_by_its_matrices():
    settings = frozen_experiment(view_seed=4)
    images = noise()
    chosen = stored(settings, images)
    views = chosen.train.load()
    augmentation = Augmentation.of(settings)
    train, held_out = images.positions("train"), images.positions("validation", "test")
    assert [view.shape for view in views] == [(20, 2 * 2 * 128)] * 3
    assert views[0].dtype == np.float16
    for number, view in enumerate(views):
        drawn = augmentation.draw(20, 32, np.random.default_rng([4, number]))
        warped = augment(images.pixels[train][..., None], augmentation.matrices(drawn, 32))
        expected = np.asarray(chosen.cut.prefix([warped])).reshape(20, -1)
        assert expected.max() > 0.1
        np.testing.assert_allclose(view, expected, rtol=2 * HALF, atol=1e-4)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(views[one].astype("f4") - views[other]).max() > 0.1
    (plain,) = chosen.held_out.load()
    expected = np.asarray(chosen.cut.prefix([images.pixels[held_out][..., None].astype("f4")]))
    np.testing.assert_allclose(plain, expected.reshape(12, -1), rtol=2 * HALF, atol=1e-4)


def test_several_activations_lie_side_by_side_and_come_back_in_their_shapes(tmp_path):
    inputs = keras.Input((32, 32, 1))
    coarse = keras.layers.Conv2D(3, 8, strides=8, trainable=False, name="coarse")(inputs)
    fine = keras.layers.Conv2D(2, 4, strides=4, trainable=False, name="fine")(inputs)
    pools = [keras.layers.Conv2D(2, 1, name=f"to_{n}")(x) for n, x in enumerate((coarse, fine))]
    pools = [keras.layers.GlobalAveragePooling2D()(x) for x in pools]
    model = keras.Model(inputs, keras.layers.Softmax()(keras.layers.Add()(pools)))
    images = noise()
    chosen = stored(frozen_experiment(augment=False), images, model)
    assert sorted(chosen.cut.shapes) == [(4, 4, 3), (8, 8, 2)]
    dataset = frozen.make_dataset(chosen.train, np.arange(20), np.eye(20), 8)
    batches, labels = zip(*dataset, strict=True)
    rows = chosen.train.rows
    expected = chosen.cut.prefix([images.pixels[rows][..., None].astype("float32")])
    for index, tensor in enumerate(expected):
        read = np.concatenate([batch[index] for batch in batches])
        np.testing.assert_allclose(read, tensor, rtol=2 * HALF, atol=1e-3)
    np.testing.assert_array_equal(np.concatenate(labels), np.eye(20))


def test_no_more_views_are_stored_than_epochs_use():
    settings = frozen_experiment(epochs=2)
    chosen = stored(settings, noise())
    assert sorted(path.name for path in chosen.train.folder.glob("view-*")) == [
        "view-0.npy", "view-1.npy"
    ]  # fmt: skip
    assert [path.name for path in chosen.held_out.folder.glob("view-*")] == ["view-0.npy"]
    longer = frozen_experiment(epochs=3)
    more = frozen.plan(vivid(longer), noise(), longer)
    assert more.train.folder == chosen.train.folder
    assert not more.train.complete
    extracted = frozen.extract(more, noise(), longer, progress=False)
    assert (extracted.computed, extracted.stored) == (20, 40 + 12)


# --- interruptions --------------------------------------------------------------------------------


MANY = {"train": 5 * extraction._BATCH + 9, "validation": 20, "test": 20}


def extract_slowly(seconds):
    """In a process of its own: the extraction of `undisturbed`, with a pause before each batch."""
    extractor = extraction.extractor

    def slow_extractor(*args):
        run, *others = extractor(*args)

        def after_a_pause(images):
            time.sleep(float(seconds))
            return run(images)

        return after_a_pause, *others

    extraction.extractor = slow_extractor
    settings = frozen_experiment(views=2)
    images = noise(**MANY)
    chosen = frozen.plan(vivid(settings), images, settings)
    print(frozen.extract(chosen, images, settings, progress=False).computed, flush=True)


def extract_slowly_in_two_processes(seconds):
    """Forked before TensorFlow has computed anything, to import it once."""
    child = os.fork()
    extract_slowly(seconds)
    if child:
        assert os.waitpid(child, 0)[1] == 0


def contents(cache):
    return {
        str(path.relative_to(cache)): path.read_bytes()
        for path in sorted(cache.rglob("*"))
        if path.suffix in (".npy", ".partial", ".json")
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Bytes of the files that an extraction without interruption writes, by name."""
    cache = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MURA_CACHE_DIR", str(cache))
        chosen = stored(frozen_experiment(views=2), noise(**MANY))
    assert np.ptp(chosen.train.load()[1], axis=0).max() > 1, "activations differ between images"
    return contents(cache)


def test_a_killed_extraction_goes_on_and_gives_the_same_bytes(folders, undisturbed):
    settings = frozen_experiment(views=2)
    images = noise(**MANY)
    chosen = frozen.plan(vivid(settings), images, settings)
    partial = chosen.train.partial(1)
    row = chosen.train.width * 2
    process = python(extract_slowly, 0.4)
    deadline = time.monotonic() + 120
    while not partial.exists() or partial.stat().st_size < 2 * extraction._BATCH * row:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()

    assert not chosen.train.complete
    assert chosen.train.path(0).is_file()
    halfway = frozen.plan(vivid(settings), images, settings)
    assert halfway.train.folder == chosen.train.folder, "one key in all processes"
    extracted = frozen.extract(halfway, images, settings, progress=False)
    total = 2 * MANY["train"] + 40
    assert extracted.stored >= MANY["train"] + 2 * extraction._BATCH
    assert extracted.stored % extraction._BATCH == MANY["train"] % extraction._BATCH
    assert extracted.computed == total - extracted.stored > 0
    assert contents(folders / "cache") == undisturbed
    assert str(extracted.stored) in extracted.sentence.replace(",", "")


def test_a_view_torn_at_any_place_is_completed_to_the_same_bytes(folders, undisturbed):
    settings = frozen_experiment(views=2)
    images = noise(**MANY)
    chosen = stored(settings, images)
    whole = chosen.train.path(1).read_bytes()
    header = len(whole) - MANY["train"] * chosen.train.width * 2
    batch = extraction._BATCH * chosen.train.width * 2
    for size, kept in (
        (0, 0),
        (5, 0),
        (header, 0),
        (header + batch - 1, 0),
        (header + batch, 1),
        (header + 3 * batch + 7, 3),
        (len(whole), 5),
    ):
        chosen.train.path(1).unlink()
        chosen.train.partial(1).write_bytes(whole[:size])
        extracted = frozen.extract(chosen, images, settings, progress=False)
        assert extracted.computed == MANY["train"] - kept * extraction._BATCH, size
        assert contents(folders / "cache") == undisturbed, size


def test_what_is_stored_already_is_not_computed_again(monkeypatch):
    settings, images = frozen_experiment(), noise()
    chosen = stored(settings, images)
    monkeypatch.setattr(extraction, "extractor", lambda *_: pytest.fail("computed again"))
    extracted = frozen.extract(chosen, images, settings, progress=False)
    assert (extracted.computed, extracted.stored) == (0, 3 * 20 + 12)


def test_a_plan_that_is_off_stores_nothing(folders):
    settings = frozen_experiment(cache_features="off")
    chosen = frozen.plan(network(settings), noise(), settings)
    extracted = frozen.extract(chosen, noise(), settings, progress=False)
    assert extracted.computed == extracted.stored == 0
    assert not list((folders / "cache").rglob("view*"))


def test_two_processes_share_the_work_of_one_set(folders, undisturbed):
    process = python(extract_slowly_in_two_processes, 0.1)
    lines = process.communicate(timeout=120)[0].splitlines()
    printed = [int(line) for line in lines if line.isdigit()]  # beside remarks on waiting
    assert process.returncode == 0
    assert len(printed) == 2
    assert sum(printed) == 2 * MANY["train"] + 40
    assert contents(folders / "cache") == undisturbed


def test_a_disk_that_fills_up_leaves_no_view_that_looks_whole():
    settings, images = frozen_experiment(views=1), noise()
    chosen = frozen.plan(network(settings), images, settings)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (chosen.train.bytes_needed - 100, limits[1]))
    try:
        with pytest.raises(OSError):
            frozen.extract(chosen, images, settings, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not chosen.train.complete
    frozen.extract(chosen, images, settings, progress=False)
    assert chosen.train.load()[0].shape == (20, chosen.train.width)


# --- what computes --------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1e6, np.nan])
def test_an_activation_beyond_float16_is_one_sentence(factor):
    settings, images = frozen_experiment(unfreeze=0), noise()
    model = vivid(settings)
    model.get_layer("conv_pw_13_relu").max_value = None  # MobileNet's activations end at 6
    gamma = model.get_layer("conv_pw_13_bn").gamma
    gamma.assign(gamma * factor)
    chosen = frozen.plan(model, images, settings)
    with pytest.raises(UserError, match=r"larger than float16 can hold \(65504\)") as error:
        frozen.extract(chosen, images, settings, progress=False)
    assert one_sentence(error)
    assert not list(chosen.train.folder.glob("*.npy"))


def test_openvino_that_is_not_installed_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    settings, images = frozen_experiment(extractor="openvino"), noise()
    chosen = frozen.plan(network(settings), images, settings)
    with pytest.raises(UserError, match=r"needs OpenVINO: pip install") as error:
        frozen.extract(chosen, images, settings, progress=False)
    assert "extractor = tensorflow" in str(error.value)


def test_int8_that_is_not_installed_or_not_possible_is_one_sentence(monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    settings, images = frozen_experiment(extractor="openvino", precision="int8"), noise()
    chosen = frozen.plan(network(settings), images, settings)
    with pytest.raises(UserError, match=r"int8 needs .*onnxruntime.*: pip install") as error:
        frozen.extract(chosen, images, settings, progress=False)
    assert one_sentence(error)
    with pytest.raises(UserError, match="give extractor = auto"):
        frozen_experiment(extractor="tensorflow", precision="int8")


@pytest.mark.parametrize(
    ("has", "precision", "expected"),
    [
        ("nothing", "float32", ("tensorflow", "float32")),
        ("nothing", "int8", ("openvino", "int8")),  # which then is refused
        ("OpenVINO", "float32", ("openvino", "float32")),
        ("OpenVINO", "mixed", ("openvino", "mixed")),
        ("OpenVINO", "int8", ("openvino", "int8")),
        ("OpenVINO, GPU", "mixed", ("tensorflow", "mixed")),
    ],
)
def test_auto_takes_openvino_where_it_is_and_no_gpu(monkeypatch, has, precision, expected):
    spec = True if "OpenVINO" in has else None
    monkeypatch.setattr(extractors, "find_spec", lambda name: spec)
    monkeypatch.setattr(
        extractors.tf.config, "list_physical_devices", lambda kind: ["one"] * (kind in has)
    )
    settings = frozen_experiment(extractor="auto", precision=precision)
    assert extractors.library_and_precision(settings) == expected
    asked = frozen_experiment(extractor="tensorflow")
    assert extractors.library_and_precision(asked) == ("tensorflow", "float32")


def test_int8_is_calibrated_on_training_images_and_says_what_it_changes():
    for package in INT8_PACKAGES:
        pytest.importorskip(package)
    images, model = noise(train=40), vivid(frozen_experiment())
    settings = frozen_experiment(extractor="auto", precision="int8", views=1)
    chosen = frozen.plan(model, images, settings)
    extracted = frozen.extract(chosen, images, settings, progress=False)
    assert extracted.computed_by == "OpenVINO int8"
    ours, theirs = (
        each.held_out.load()[0].astype("f4")
        for each in (stored(frozen_experiment(), images, model), chosen)
    )
    processor = Path("/proc/cpuinfo")
    exact = processor.is_file() and "vnni" in processor.read_text()
    # Without VNNI, sums of two products of 8-bit integers may exceed the 16 bits they have.
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > (0.99 if exact else 0.9)
    assert 0.5 < np.abs(theirs - ours).mean() / ours.std() / extracted.difference < 2
    assert f"{extracted.difference:.2g} of their standard deviation" in extracted.sentence

    def held_out(images, **changes):
        changed = settings.model_copy(update=changes)
        return frozen.feature_sets(chosen.cut, images, changed)[1].folder

    assert held_out(images, seed=1) == chosen.held_out.folder
    others = replace(images, rows=images.rows.copy())
    others.rows.loc[extractors.sample(images)[0], "sha256"] = "f" * 64
    assert held_out(others) != chosen.held_out.folder, "it was calibrated on another image"


def test_openvino_gives_the_activations_of_tensorflow():
    pytest.importorskip("openvino")
    images = noise(train=70)
    model = vivid(frozen_experiment())
    sets, predictions, words = [], [], []
    for extractor in ("tensorflow", "openvino"):
        settings = frozen_experiment(extractor=extractor)
        chosen = frozen.plan(model, images, settings)
        words.append(frozen.extract(chosen, images, settings, progress=False).computed_by)
        sets.append([*chosen.train.load(), *chosen.held_out.load()])
        predictions.append(frozen.predict(model, images, settings)[0])
    assert words == ["TensorFlow float32", "OpenVINO f32"]
    for ours, theirs in zip(*sets, strict=True):
        np.testing.assert_allclose(theirs, ours.astype("f4"), rtol=4 * HALF, atol=1e-3)
    assert np.ptp(predictions[0][:, 0]) > 0.01
    np.testing.assert_allclose(*predictions, atol=1e-3)
    held_out = images.pixels[images.positions("validation", "test")]
    whole = model.predict(held_out[..., None], verbose=0)
    np.testing.assert_allclose(predictions[1], whole, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"extractor": "tensorflow", "precision": "mixed"}, "TensorFlow bfloat16"),
        ({"extractor": "openvino"}, "OpenVINO f32"),
        ({"precision": "int8", "extractor": "auto"}, "OpenVINO int8"),
    ],
)
def test_a_network_that_trains_in_bfloat16_is_extracted_as_asked(changes, words):
    if "OpenVINO" in words:
        for package in INT8_PACKAGES:
            pytest.importorskip(package)
    images, settings = noise(), frozen_experiment(views=1, **changes)
    plain = vivid(frozen_experiment())
    mixed = build_model(settings, plain.output_shape[1], "mixed_bfloat16")
    mixed.set_weights(plain.get_weights())
    chosen = frozen.plan(mixed, images, settings)
    extracted = frozen.extract(chosen, images, settings, progress=False)
    assert extracted.computed_by == words
    ours = stored(frozen_experiment(views=1), images, plain).held_out.load()[0].astype("f4")
    error = np.abs(chosen.held_out.load()[0] - ours).mean() / ours.std()
    assert error == pytest.approx(extracted.difference, rel=0.5, abs=1e-4)
    assert error < (1e-3 if words == "OpenVINO f32" else 0.3)


def test_openvino_computes_in_bfloat16_where_the_processor_can():
    openvino = pytest.importorskip("openvino")
    has_it = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    images = noise()
    settings = frozen_experiment(extractor="openvino", precision="mixed", views=1)
    model = vivid(settings)
    chosen = frozen.plan(model, images, settings)
    extracted = frozen.extract(chosen, images, settings, progress=False)
    assert extracted.computed_by == ("OpenVINO bf16" if has_it else "OpenVINO f32")
    plain = stored(frozen_experiment(), images, model)
    ours, theirs = (s.held_out.load()[0].astype("f4") for s in (plain, chosen))
    error = np.abs(theirs - ours).mean() / ours.mean()
    assert 1e-3 < error < 0.3 if has_it else error < 1e-3
