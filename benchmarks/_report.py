"""The report's side: `ImageDataGenerator` from files, and the whole network on its batches."""

from __future__ import annotations

from pathlib import Path

import keras
import pandas as pd
from tensorflow.keras.preprocessing.image import ImageDataGenerator

from mura_utils import report
from mura_utils.experiments import Experiment
from mura_utils.network.build import build_model

SIZE, BATCH = report.IMAGE_SIZE, report.FIG_27["batch_size"]

_AUGMENTATION = {**report.AUGMENTATION, "fill_mode": "nearest"}


def flow(
    root: Path, rows: pd.DataFrame, classes: list[str], training: bool
) -> keras.utils.PyDataset:
    """Batches as the report made them (III.E): one file at a time, RGB, augmented in training."""
    generator = ImageDataGenerator(rescale=1 / 255, **(_AUGMENTATION if training else {}))
    return generator.flow_from_dataframe(
        rows,
        directory=str(root),
        x_col="path",
        y_col="label",
        classes=classes,
        class_mode="categorical",
        target_size=(SIZE, SIZE),
        batch_size=BATCH,
        shuffle=training,
    )


def whole_network(experiment: Experiment, classes: list[str]) -> keras.Model:
    """The experiment's network from (N, S, S, 3) in [0, 1], compiled as in the report's Fig. 27."""
    model = build_model(experiment, classes)
    network = keras.Model(model.get_layer("scaling").output, model.outputs)
    network.compile(
        keras.optimizers.Adam(experiment.learning_rate),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
    )
    return network


def callbacks(experiment: Experiment, model_path: Path) -> list[keras.callbacks.Callback]:
    """The report's callbacks (Fig. 27)."""
    watched = {"monitor": "val_loss", "mode": "min"}
    return [
        keras.callbacks.ModelCheckpoint(model_path, save_best_only=True, **watched),
        keras.callbacks.EarlyStopping(patience=experiment.early_stopping_patience, **watched),
        keras.callbacks.ReduceLROnPlateau(
            factor=experiment.reduce_lr_factor,
            patience=experiment.reduce_lr_patience,
            min_lr=experiment.min_learning_rate,
            **watched,
        ),
    ]
