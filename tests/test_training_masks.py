"""Attention taught by masks: the targets move with their images, and a map learns to follow."""

from dataclasses import dataclass

import keras
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from small import experiment, images_of, network, prepare, train, vivid

from mura_utils import frozen
from mura_utils.augmentation import Augmentation
from mura_utils.data.dataset import Images, Masks
from mura_utils.errors import UserError
from mura_utils.generators import make_dataset
from mura_utils.network.build import load_model
from mura_utils.network.heads import FINDING
from mura_utils.network.mask_loss import MaskLoss

SIZE = 64


@dataclass(frozen=True, eq=False)
class Masked(Images):
    """Images whose finding is their bright square; the last abnormal one has no mask."""

    def mask(self, path):
        position = int(path.removesuffix(".png"))
        bright = self.pixels[position] > 200
        return bright if bright.any() and position < len(self) - 2 else None


class Unmasked(Images):
    """Abnormal images without masks, as MURA's."""

    def mask(self, path):
        return None


def spots(count=48):
    """A bright square of 12 pixels somewhere in every second, abnormal, image."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 60, (count, SIZE, SIZE)).astype(np.uint8)
    for position in range(0, count, 2):
        top, left = rng.integers(0, SIZE - 12, 2)
        pixels[position, top : top + 12, left : left + 12] = 250
    split = np.resize(["train", "train", "validation", "validation", "train", "train"], count)
    plain = images_of(pixels, split, np.arange(count) % 2)
    abnormality = np.where(np.arange(count) % 2, "Normal", "Abnormal")
    return Masked(plain.root, plain.rows.assign(abnormality=abnormality), pixels)


def pooled(**changes):
    small = {
        "image_size": SIZE, "head": "pooled", "dropout": [0.1], "unfreeze": 5,
        "mask_supervision": 10.0, "epochs": 20, "learning_rate": 3e-3,
    }  # fmt: skip
    return experiment(**{**small, **changes})


def test_masks_are_there_empty_or_unknown():
    images = spots()
    masks = images.masks(np.arange(len(images)))
    maps, known = masks.take(np.array([0, 1, len(images) - 2]))
    assert maps.sum(axis=(1, 2)).tolist() == [144, 0, 0]
    assert known.tolist() == [True, True, False]
    assert (
        masks.describe(np.arange(len(images))) == "23 masks, 24 images without a finding, 1 unknown"
    )


@pytest.mark.parametrize("grey_range", [0.0, 0.2])
def test_targets_move_with_their_images(grey_range):
    images = spots()
    masks = images.masks(np.arange(len(images)))
    augmentation = Augmentation(40, 0.2, 0.2, 20, 0.2, True, grey_range)
    rows = np.arange(0, len(images) - 2, 2)
    batches = make_dataset(
        images.pixels, rows, images.one_hot, 8, augmentation, masks=masks, grid=8
    )
    for warped, (_, targets) in batches:
        assert targets.shape[1:] == (8, 8, 1)
        bright = warped.numpy().reshape(-1, 8, 8, 8, 8).max(axis=(2, 4)) > 150
        # Cells that the square barely touches may fall on either side.
        assert np.abs(bright - targets.numpy()[..., 0]).sum(axis=(1, 2)).max() <= 4
        assert (bright & (targets.numpy()[..., 0] == 1)).sum() > 0.7 * bright.sum()


@pytest.mark.parametrize("cache", ["off", "on"])
def test_a_map_learns_where_findings_are(tmp_path, cache):
    settings = pooled(cache_features=cache, feature_strides=[16, 32])
    images = spots()
    trained = train(tmp_path, settings, images, vivid(settings))
    history = trained.history
    assert {"mask_loss", "val_mask_loss"} <= set(history)
    assert history["mask_loss"].iloc[-1] < 0.5 * history["mask_loss"].iloc[0]
    model = load_model(trained.path)
    assert [output.shape[1:] for output in model.outputs] == [(2,)], "the map is no second output"
    rows = np.arange(0, len(images) - 2, 2)
    look = keras.Model(model.inputs, model.get_layer(FINDING).output)
    heat = look.predict(images.pixels[rows][..., None], verbose=0)[..., 0]
    cell = SIZE // heat.shape[1]
    maps = images.masks(rows).maps.reshape(-1, heat.shape[1], cell, heat.shape[2], cell)
    inside = maps.max(axis=(2, 4)).astype(bool)
    assert roc_auc_score(inside.ravel(), heat.ravel()) > 0.8


@pytest.mark.parametrize("supervision", [0.0, 10.0])
def test_the_training_step_is_traced_once(tmp_path, monkeypatch, supervision):
    step, traced = keras.Model.train_step, []
    monkeypatch.setattr(keras.Model, "train_step", lambda *given: traced.append(1) or step(*given))
    train(tmp_path, pooled(epochs=1, mask_supervision=supervision), spots(12), network(pooled()))
    assert len(traced) == 1


def test_the_loss_ignores_what_is_unknown_and_weighs_what_is_rare():
    loss, some = MaskLoss(), np.full((1, 2, 2, 1), 0.5, np.float32)
    empty, unknown = np.zeros_like(some), -np.ones_like(some)
    one = empty.copy()
    one[0, 0, 0] = 1
    assert float(loss(unknown, some)) == 0
    assert float(loss(empty, some)) == pytest.approx(0.25 * np.log(2), rel=1e-5)
    cells = (3 + 20) / 4 * 0.25 * np.log(2)
    assert float(loss(one, some)) == pytest.approx(cells + 0.05 * np.log(4), rel=1e-5)


def test_the_loss_wants_the_attention_inside_the_mask():
    logits = np.random.default_rng(0).normal(size=(1, 4, 4, 1)).astype(np.float32)
    mask = np.zeros_like(logits)
    mask[0, 1, 1:3] = 1
    attention = np.exp(logits) / np.exp(logits).sum()
    p = 1 / (1 + np.exp(-logits))
    focal = np.where(mask > 0, -20 * (1 - p) ** 2 * np.log(p), -(p**2) * np.log(1 - p)).mean()
    expected = focal - 0.05 * np.log(attention[mask > 0].sum())
    assert float(MaskLoss()(mask, p)) == pytest.approx(float(expected), rel=1e-4)


def test_masks_without_any_map_are_taken():
    maps, known = Masks(np.zeros((0, 4, 4), np.uint8), np.full(3, -1)).take(np.arange(2))
    assert maps.shape == (2, 4, 4)
    assert known.all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling": ["average"]}, "the head pooled has no attention map to teach"),
        ({"head": "dense"}, "the head dense has no attention map to teach"),
        ({"image_size": 72}, "image_size = 72, but feature_strides = .* multiple of 32"),
        ({"warmup_epochs": 2}, "warmup_epochs = 2 belongs to the schedule cosine"),
        ({"warmup_epochs": 20, "schedule": "cosine"}, "but there are 20 epochs: leave one"),
        ({"feature_strides": [8]}, r"feature_strides = .* give \[32\] or \[16, 32\]"),
        ({"pooling": ["max", "max"]}, "pooling = .*each once"),
    ],
)
def test_what_does_not_fit_is_one_sentence(changes, message):
    with pytest.raises(UserError, match=message):
        pooled(**changes)


def test_masks_that_are_not_there_teach_nothing_and_are_refused():
    images = spots()
    maskless = Unmasked(images.root, images.rows.assign(source="mura"), images.pixels)
    with pytest.raises(UserError, match="No training image of mura has a mask to learn from"):
        frozen.plan(vivid(pooled()), maskless, pooled())


def test_what_is_taught_is_counted(capsys):
    prepare(pooled(), spots(), vivid(pooled()))
    assert "23 masks, 24 images without a finding, 1 unknown." in capsys.readouterr().out
