"""The task: hyper-parameters, the loss and the weights of classes."""

from __future__ import annotations

import numpy as np
import pytest
from small import CLASSES, experiment, prepare, squares, tiny, train

from mura_utils import training
from mura_utils.experiments import load_experiment


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
