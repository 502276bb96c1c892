"""What a backbone's features know before any training: a linear probe (Alain and Bengio 2016)."""

from __future__ import annotations

import keras
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mura_utils.data.dataset import Images
from mura_utils.evaluation import evaluate_abnormality
from mura_utils.generators import make_dataset
from mura_utils.labels import ABNORMAL
from mura_utils.network.backbone import build_backbone
from mura_utils.sections import Network
from mura_utils.terminal import to_the_terminal

_FOLDS = 4


def probe_images(images: Images, count: int, seed: int = 0) -> np.ndarray:
    """Positions of at most `count` training images, drawn at random, in order.

    Example:
        >>> from pathlib import Path
        >>> rows = pd.DataFrame({"split": ["train", "test", "train", "train"]})
        >>> images = Images(Path("MURA-v1.1"), rows, np.zeros((4, 32, 32), np.uint8))
        >>> probe_images(images, count=3).tolist()
        [0, 2, 3]
    """
    drawn = np.random.default_rng(seed).permutation(images.positions("train"))[:count]
    return np.sort(drawn)


@to_the_terminal()
def untrained_features(
    network: Network, images: Images, rows: np.ndarray, maximum: bool = False
) -> np.ndarray:
    """The backbone's last feature map, averaged over its positions: (len(rows), C) float32.

    Args:
        network: its backbone, weights and scaling are used.
        images: their pixels are used.
        rows: positions of some of them.
        maximum: whether each channel's maximum follows: (len(rows), 2 C).
    """
    keras.utils.set_random_seed(network.seed)
    radiograph, backbone = build_backbone(network, size=images.size)
    pooled = keras.layers.GlobalAveragePooling2D()(backbone.output)
    if maximum:
        highest = keras.layers.GlobalMaxPooling2D()(backbone.output)
        pooled = keras.layers.Concatenate()([pooled, highest])
    batches = make_dataset(images.pixels, rows, np.zeros((len(images), 1), np.float32), 32)
    return keras.Model(radiograph, pooled).predict(batches, verbose=0)


def linear_probe(features: np.ndarray, manifest: pd.DataFrame, bootstrap: int = 1000) -> dict:
    """AUROC of a logistic regression of abnormal against normal, over four folds by patient.

    Args:
        features: (N, C).
        manifest: row for row with `features`; its abnormality and patient are used.
        bootstrap: patient-level resamples behind the interval. They resample the images, not the
            training: with fewer images the regression itself would be worse.

    Returns:
        As each metric of `evaluation.evaluate`; all None where fewer than four patients have, or
        have no, abnormal images.
    """
    patients = manifest.groupby("abnormality")["patient"].nunique()
    if len(patients) < 2 or patients.min() < _FOLDS:
        return {"value": None, "low": None, "high": None, "undefined": bootstrap}
    abnormal = (manifest["abnormality"] == ABNORMAL).to_numpy()
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0)
    scores = cross_val_predict(
        regression, features, abnormal, groups=manifest["patient"], cv=folds,
        method="predict_proba",
    )  # fmt: skip
    metrics = evaluate_abnormality(
        manifest["abnormality"], scores[:, 1], manifest["patient"], bootstrap=bootstrap
    )
    return metrics["auroc"]
