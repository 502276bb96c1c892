"""Runs as notebooks 01 to 06 leave them, without a network: members of ensembles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from mura_utils.evaluation import predictions_frame
from mura_utils.experiments import save_experiment, validate_parameters
from mura_utils.paths import runs_dir, write_csv, write_json
from mura_utils.runs.record import write_completed
from mura_utils.runs.stages import NOTEBOOKS

CLASSES = ["Abnormal-HAND", "Normal-HAND"]
SPLITS = ["train"] * 4 + ["validation"] * 8 + ["test"] * 8


def images() -> pd.DataFrame:
    """The content of manifest.csv: twenty images of ten patients."""
    numbers = np.arange(len(SPLITS))
    labels = np.take(CLASSES, numbers % 2)
    return pd.DataFrame(
        {
            "path": [f"{number}.png" for number in numbers],
            "source": "phantom",
            "patient": [f"{number // 2:05d}" for number in numbers],
            "study": [f"{number // 2:05d}/study{number % 2 + 1}" for number in numbers],
            "body_part": "HAND",
            "abnormality": [label.partition("-")[0] for label in labels],
            "label": labels,
            "sha256": "",
        }
    )


def answers(seed: int) -> np.ndarray:
    """Probabilities of the images that are not trained on, as a network gives them."""
    p = np.random.default_rng(seed).random(SPLITS.count("validation") + SPLITS.count("test"))
    return np.stack([p, 1 - p], axis=1).astype(np.float32)


def member(name: str, seed: int = 0, **parameters) -> Path:
    """A run that is trained and tested on `images`, and has answered `answers(seed)`."""
    folder = runs_dir() / name
    small = {"bootstrap": 100, "data_dir": "bones", "seed": seed, "name": name}
    save_experiment(
        validate_parameters({**small, **parameters}, "test"), folder / "experiment.yaml"
    )
    manifest = images()
    splits = pd.DataFrame({"path": manifest["path"], "split": SPLITS})
    write_csv(folder / "manifest.csv", manifest)
    write_csv(folder / "splits.csv", splits)
    best = {"loss": 0.1, "accuracy": 0.9, "val_loss": 0.5, "val_accuracy": 0.6 + seed / 10}
    training = {"classes": CLASSES, "best": best, "epochs": 3, "seconds": 10.0 + seed}
    write_json(folder / "training.json", {**training, "model_sha256": f"{name} {seed}"})
    held_out = manifest.merge(splits).query("split != 'train'")
    write_csv(folder / "predictions.csv", predictions_frame(held_out, CLASSES, answers(seed)))
    level = {key: {"value": 0.5} for key in ("accuracy", "kappa", "auroc")}
    levels = dict.fromkeys(("image", "binary_image", "binary_study"), level)
    write_json(folder / "metrics.json", {"source": "phantom", **levels})
    write_completed(folder, list(NOTEBOOKS[:6]))
    return folder


def change(path: Path, row: int, column: str, value: object) -> None:
    """Change one value of a CSV file."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame.loc[row, column] = value
    write_csv(path, frame)
