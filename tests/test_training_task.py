"""The task: hyper-parameters, the loss and the weights of classes."""

from __future__ import annotations

import numpy as np
import pytest
from small import CLASSES, experiment, prepare, squares, tiny, train

from mura_utils import training
from mura_utils.data.dataset import Images
from mura_utils.experiments import load_experiment


def test_the_optimizer_and_the_schedule_are_those_that_train():
    table = training.hyper_parameters(load_experiment("best_fracatlas"))["best_fracatlas"]
    assert table["optimizer"] == "AdamW" and table["schedule"] == "cosine"
    assert table["reduce_lr_patience"] == table["min_learning_rate"] == "–"


def test_hyper_parameters_stand_beside_the_reports():
    table = training.hyper_parameters(load_experiment("exp6"))
    for name in ("learning_rate", "batch_size", "loss", "schedule"):
        assert table.loc[name, "exp6"] == table.loc[name, "report"]
    focal = training.hyper_parameters(load_experiment("exp6", focal_gamma=2.0))
    assert focal.loc["loss", "exp6"] == "focal loss, gamma 2.0"


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
    images = squares()
    images.rows.loc[:35, "label"] = np.take(CLASSES, np.arange(36) % 4 != 0)  # 9 of 36 abnormal
    model = tiny(settings)
    kernel = model.get_layer("logits").kernel
    kernel.assign(kernel * 5)
    p = model.predict(images.pixels[:36][..., None], verbose=0).astype(float)
    assert np.ptp(p[:, 0]) > 0.05
    y = (images.rows["label"].to_numpy()[:36, None] == np.array(CLASSES)).astype(float)
    smoothing, gamma = settings.label_smoothing, settings.focal_gamma
    weights = y @ np.array([2.0, 2 / 3]) if settings.class_weights else np.ones(36)
    assert weights.mean() == pytest.approx(1)
    smooth = y * (1 - smoothing) + smoothing / 2
    expected = (weights[:, None] * -smooth * np.log(p) * (1 - p) ** gamma).sum(axis=1).mean()
    history = train(tmp_path, settings, images, model).history
    assert history["loss"][0] == pytest.approx(expected, rel=1e-4)


def test_a_class_without_training_images_weighs_one():
    images = squares()
    images.rows.loc[:35, "label"] = CLASSES[0]
    _, task = prepare(experiment(class_weights=True), images)
    assert task.class_weights == {0: 1.0, 1: 1.0}


@pytest.mark.parametrize("cache", ["off", "on"])
def test_balanced_sampling_draws_each_class_alike_often(cache):
    images = squares(train=60)
    rare = images.rows["label"].where(np.arange(len(images)) % 6 != 0, CLASSES[0])
    rare = rare.where(np.arange(len(images)) % 6 == 0, CLASSES[1])
    images = Images(images.root, images.rows.assign(label=rare), images.pixels)
    settings = experiment(sampling="balanced", cache_features=cache)
    _, task = prepare(settings, images)
    drawn = [np.concatenate([labels for _, labels in task.train(epoch)]) for epoch in range(20)]
    assert {len(labels) for labels in drawn} == {60}, "an epoch is as long as without"
    assert np.concatenate(drawn)[:, 0].mean() == pytest.approx(0.5, abs=0.05)
    natural = np.concatenate([labels for _, labels in prepare(experiment(), images)[1].train(0)])
    assert natural[:, 0].mean() == pytest.approx(1 / 6)
