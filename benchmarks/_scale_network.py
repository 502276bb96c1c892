"""Stages of `scale.py` with a network: notebooks 05 to 07, and an epoch from a store on disk."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import keras
import numpy as np
from _scale_data import Measured, Work, main, tree_rows

from mura_utils import evaluation, explain, frozen, report, training
from mura_utils.data.dataset import Images
from mura_utils.devices import dtype_policy
from mura_utils.errors import UserError
from mura_utils.experiments import Experiment
from mura_utils.explain.baselines import baseline_maps
from mura_utils.explain.sanity import randomized
from mura_utils.frozen import FeatureSet, Plan
from mura_utils.frozen.encoding import ENCODINGS
from mura_utils.frozen.extractors import sample
from mura_utils.labels import ABNORMAL
from mura_utils.network.backbone import convolution_names
from mura_utils.network.build import build_model, load_model
from mura_utils.paths import read_json, write_csv

_BLOCK = 256  # rows of random numbers, which are written again and again in another order
_TRAIN_SHARE = report.FIG_7_ROWS / report.MURA_LISTS.loc["train", "images"]


def disk(work: Work) -> dict[str, int]:
    """Bytes that each stage leaves on disk, before anything but the pool is there."""
    experiment = work.experiment()
    rows = tree_rows(work.size)
    train = round(_TRAIN_SHARE * (rows["split"] == "train").sum())
    test = int((rows["split"] == "valid").sum())
    others = len(rows) - train
    part = min(train, work.size.part)
    cut = frozen.split_network(build_model(experiment, int(report.DATA_COUNTS["classes"])))
    nowhere = FeatureSet(
        work.folder, np.arange(1), cut.shapes, None, 1, 0, {}, ENCODINGS[experiment.stored_as]
    )
    side, small = experiment.image_size, experiment.pca_image_size
    stored = {
        "extraction": part + test + round(part * (others - test) / train),
        "store": experiment.views * train + others,
    }
    return {
        "tree": read_json(work.result("pool"))["bytes"] * len(rows),
        "pixels": side**2 * len(rows),
        "pca": small**2 * len(rows),
        **{stage: count * nowhere.row_bytes for stage, count in stored.items()},
    }


def extraction(work: Work) -> Measured:
    """The activations of the part: one version of its training images, and the others."""
    whole, needed = _whole_plan(work)
    images, experiment, _, stored = _part(work)
    for features in (stored.train, stored.held_out):  # of an interrupted measurement
        shutil.rmtree(features.folder, ignore_errors=True)
    began = time.perf_counter()
    frozen.extractor(stored.cut, experiment, images.pixels[sample(images)][..., np.newaxis])
    once = time.perf_counter() - began
    done = frozen.extract(stored, images, experiment, progress=False)
    written = stored.train.bytes_stored + stored.held_out.bytes_stored
    note = f"{done.computed_by}, of which {once:.0f} s to start. {whole.sentence}"
    return Measured(done.computed, needed, done.seconds, written, note, once=once)


def _whole_plan(work: Work) -> tuple[Plan, int]:
    """What notebook 05 would plan for the tree, and how many activations that is."""
    images, experiment = work.images(), work.experiment()
    model = build_model(experiment, images.classes, dtype_policy(experiment))
    plan = frozen.plan(model, images, experiment)
    sets = (plan.train, plan.held_out)
    return plan, sum(features.views * len(features.rows) for features in sets)


def _part(work: Work) -> tuple[Images, Experiment, keras.Model, Plan]:
    """The part, with a network and the activations that are stored for it."""
    images = work.images(part=True)
    experiment = work.experiment(views=1, cache_features="on")
    model = build_model(experiment, images.classes, dtype_policy(experiment))
    return images, experiment, model, frozen.plan(model, images, experiment)


def features(work: Work) -> Measured:
    """The logistic regression on what the frozen part gives (notebook 05)."""
    images, experiment, model, stored = _part(work)
    began = time.perf_counter()
    averaged = frozen.backbone_features(stored, model, images, experiment.batch_size)
    kept = np.flatnonzero(images.rows["split"] != "")
    rows = images.rows.iloc[kept].reset_index(drop=True)
    evaluation.logistic_regression(averaged[kept], rows, images.classes)
    return Measured(len(kept), len(images), time.perf_counter() - began)


def train(work: Work) -> Measured:
    """Epochs of the part, with their validation."""
    images, experiment, model, stored = _part(work)
    task = training.make_task(model, images, experiment, stored)
    training.compile_task(task, experiment)
    _trace(task, stored, images, experiment)
    settings = experiment.model_copy(update={"epochs": work.size.epochs})
    path = work.folder / "model.keras"
    shutil.rmtree(path.parent / ".checkpoint", ignore_errors=True)
    fitted = training.fit(model, task, settings, path, progress=False)
    epochs = len(fitted.history)
    policy = model.layers[-2].dtype_policy.name
    note = f"{epochs} epochs in {policy}; {fitted.seconds / epochs:.1f} s each"
    done, needed = epochs * len(stored.train.rows), _all_epochs(work, experiment)
    return Measured(done, needed, fitted.seconds, path.stat().st_size, note)


def _all_epochs(work: Work, experiment: Experiment) -> int:
    return experiment.epochs * int((work.rows()["split"] == "train").sum())


def _trace(task: training.Task, stored: Plan, images: Images, experiment: Experiment) -> None:
    """Train and validate on one batch, so that an epoch does not count the tracing."""

    def first(features: FeatureSet):
        positions = np.arange(min(experiment.batch_size, len(features.rows)))
        labels = images.one_hot[features.rows]
        return frozen.make_dataset(features, positions, labels, experiment.batch_size)

    held_out = first(stored.held_out)
    task.network.fit(first(stored.train), validation_data=held_out, shuffle=False, verbose=0)


def evaluate(work: Work) -> Measured:
    """Predictions and what notebook 06 says of them, but for figures and thumbnails."""
    images, experiment, _, _ = _part(work)
    began = time.perf_counter()
    model = load_model(work.folder / "model.keras")
    probabilities, _ = frozen.predict(model, images, experiment)
    held_out = images.rows.iloc[images.positions("validation", "test")]
    predictions = evaluation.predictions_frame(held_out, images.classes, probabilities)
    validation, test = (
        predictions[predictions["split"] == name] for name in ("validation", "test")
    )
    resamples, threshold = experiment.bootstrap, experiment.threshold
    evaluation.evaluate(test, threshold, resamples)
    evaluation.baseline_metrics({"network": test}, threshold, resamples)
    evaluation.calibration_record(test, evaluation.fit_temperature(validation), resamples)
    evaluation.conformal_record(validation, test, resamples)
    evaluation.risk_coverage(test, resamples)
    rule = experiment.operating_point, experiment.operating_target
    point = evaluation.choose_operating_point(validation, *rule, threshold)
    evaluation.judge_operating_point(test, point, resamples)
    evaluation.clinical_use(predictions, resamples)
    write_csv(work.folder / "predictions.csv", predictions)
    took, written = time.perf_counter() - began, (work.folder / "predictions.csv").stat().st_size
    return Measured(len(test), len(test), took, written, f"{resamples:,} resamples")


def explain_images(work: Work) -> Measured:
    """The quick heat-maps of notebook 07: two targets, a random network, baselines."""
    images = work.images()
    began = time.perf_counter()
    model = load_model(work.folder / "model.keras")
    rows = images.rows
    abnormal = rows[(rows["split"] == "test") & (rows["abnormality"] == ABNORMAL)]
    chosen = abnormal.sample(min(work.size.explained, len(abnormal)), random_state=0)
    true = [images.classes.index(label) for label in chosen["label"]]
    contrast = {"contrast": explain.contrast_target(true, images.classes)}
    targets = {"class": explain.class_target(true, images.classes)} | contrast
    batch = images.pixels[chosen.index][..., np.newaxis].astype(np.float32)
    layer = convolution_names(model)[-1]
    explain.explain(model, batch, targets, layer)
    with randomized(model):
        explain.explain(model, batch, contrast, layer)
    baseline_maps(batch)
    return Measured(len(chosen), len(chosen), time.perf_counter() - began)


def write_store(work: Work) -> Measured:
    """Random numbers instead of the activations of the whole tree, in the files of these."""
    plan, count = _whole_plan(work)
    rng = np.random.default_rng(0)
    began = time.perf_counter()
    for features in (plan.train, plan.held_out):
        features.folder.mkdir(parents=True, exist_ok=True)
        for view in range(features.views):
            write_random(features, view, rng)
    took = time.perf_counter() - began
    written = plan.train.bytes_stored + plan.held_out.bytes_stored
    planned = plan.train.bytes_needed + plan.held_out.bytes_needed
    note = f"planned {planned / 1e9:.2f} GB, on disk {written / 1e9:.2f} GB; random numbers"
    return Measured(count, count, took, written, note, counted=False)


def write_random(features: FeatureSet, view: int, rng: np.random.Generator) -> None:
    """Write a variant of the right shape and size, whose numbers are finite and random."""
    numbers = rng.random((_BLOCK, sum(map(np.prod, features.shapes))), np.float32)
    rows = features.encoding.encode(numbers, features.shapes)
    shape = (len(features.rows), features.width)
    header = {"descr": features.encoding.dtype, "fortran_order": False, "shape": shape}
    with features.partial(view).open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for start in range(0, shape[0], _BLOCK):
            stream.write(rows[rng.permutation(_BLOCK)[: shape[0] - start]].tobytes())
        stream.flush()
        os.fsync(stream.fileno())
    features.partial(view).replace(features.path(view))


def train_from_disk(work: Work) -> Measured:
    """One epoch of all images from the store, with nothing of it in the page cache; ends it."""
    images = work.images()
    experiment = work.experiment(cache_features="on")
    model = build_model(experiment, images.classes, dtype_policy(experiment))
    stored = frozen.plan(model, images, experiment)
    sets = (stored.train, stored.held_out)
    if not all(each.complete for each in sets):
        raise UserError(
            f"The store of random numbers is gone or not whole: remove {work.result('store')} and "
            "measure the stage store again."
        )
    task = training.make_task(model, images, experiment, stored)
    training.compile_task(task, experiment)
    _trace(task, stored, images, experiment)
    for features in sets:
        for view in range(features.views):
            forget(features.path(view))
    settings = experiment.model_copy(update={"epochs": 1})
    folder = work.folder / "from-disk"
    shutil.rmtree(folder, ignore_errors=True)
    before = bytes_read()
    fitted = training.fit(model, task, settings, folder / "model.keras", progress=False)
    read = bytes_read() - before
    validated = len(images.positions("validation"))
    used = len(stored.train.rows) * stored.train.row_bytes + validated * stored.held_out.row_bytes
    size = sum(each.bytes_stored for each in sets)
    for features in sets:
        shutil.rmtree(features.folder)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    note = (
        f"{read / 1e9:.2f} GB read from disk for {used / 1e9:.2f} GB of activations; the store is "
        f"{size / 1e9:.1f} GB, the memory {memory / 1e9:.1f} GB"
    )
    needed = _all_epochs(work, experiment)
    return Measured(len(stored.train.rows), needed, fitted.seconds, 0, note)


def forget(path: Path) -> None:
    """Take a file out of the system's page cache."""
    with path.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bytes_read() -> int:
    """What this process has made the disk read so far."""
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["read_bytes"])


STAGES = {
    "disk": disk,
    "extraction": extraction,
    "features": features,
    "training": train,
    "evaluation": evaluate,
    "explanations": explain_images,
    "store": write_store,
    "epoch": train_from_disk,
}

if __name__ == "__main__":
    main(STAGES)
