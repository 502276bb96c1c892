"""What the report prints, one constant a figure, and no number of it anywhere else in the code.

"MURA Multiclass Classification with Transfer Learning and Explainability Maps", by Thota, Dumpala,
Kasarla and Shaik. docs/report.md explains the figures, and what we decided where they contradict
the text.

The last section holds what the report leaves out: MURA's own counts, from its tables, and what
other networks reach on it.

Example:
    >>> print(FIG_28.loc["exp6", "val_accuracy"])
    0.81
"""

from __future__ import annotations

import pandas as pd

from mura_utils.labels import ABNORMAL, NORMAL, join

# --- the report: data and transformation (III) --------------------------------------------------

MURA_LISTS = pd.DataFrame(
    {
        "patients": [11_184, 783, 206],
        "studies": [13_457, 1_199, 207],
        "images": [36_808, 3_197, 556],
    },
    index=["train", "valid", "test"],
)
"""III.A: MURA's official lists; its authors never published the test list."""

MURA_IMAGES = int(MURA_LISTS.loc[["train", "valid"], "images"].sum())
"""The images of MURA that can be downloaded."""

FIG_7_ROWS = 31_281
"""Rows of the table of images, printed after the split: 85% of MURA's train list."""

DATA_COUNTS = pd.Series(
    {
        "classes": 14,
        "body parts": 7,
        "images": MURA_IMAGES,
        "official train list": MURA_LISTS.loc["train", "images"],
        "85% of that list": FIG_7_ROWS,
    }
)
"""III.A to III.C: the data in numbers."""

SPLIT_IMAGES = pd.Series(
    {
        "train": FIG_7_ROWS,
        "validation": MURA_LISTS.loc["train", "images"] - FIG_7_ROWS,
        "test": MURA_LISTS.loc["valid", "images"],
    }
)
"""Images of each split, by what Fig. 7 and 30 print; III.D says 80-10-10."""

AUGMENTATION = {
    "rotation_range": 40.0,
    "width_shift_range": 0.2,
    "height_shift_range": 0.2,
    "shear_range": 0.2,
    "zoom_range": 0.2,
    "horizontal_flip": True,
}
"""III.E: arguments of `augmentation.Augmentation` and of Keras's `ImageDataGenerator`.

The latter was also given ``rescale=1 / 255`` and ``fill_mode="nearest"``.
"""

IMAGE_SIZE = 224
"""III.E: side of the network's square input, pixels."""

FIG_10 = pd.DataFrame(
    [
        (10, "pca", 8, 6),
        (10, "ipca", 11, 3.6),
        (1000, "pca", 43, 36),
        (1000, "ipca", 19, 9),
    ],
    columns=["images_per_class", "method", "components", "seconds"],
)
"""Components that hold 95% of the variance, and how long PCA and incremental PCA took."""

# --- the report: model and training (III.F, IV) -------------------------------------------------

FIG_15 = {"total": 8_101_454, "trainable": 1_063_950, "non-trainable": 7_037_504}
"""Parameters of exp1."""

FIG_16 = {"total": 10_722_705, "trainable": 10_635_985, "non-trainable": 86_720}
"""Parameters of exp6; they hold with every layer trainable, which its text does not say."""

FIG_27 = {
    "optimizer": "Adam",
    "loss": "categorical cross-entropy",
    "label_smoothing": "not mentioned",
    "class_weights": "not mentioned",
    "learning_rate": 1e-5,
    "schedule": "plateau",
    "batch_size": 64,
    "epochs": 150,
    "early_stopping_patience": 10,
    "reduce_lr_factor": 0.2,
    "reduce_lr_patience": 5,
    "min_learning_rate": 1e-7,
    "l1": "not printed",
    "l2": "not printed",
}
"""Hyper-parameters, under the names of `Experiment`."""

EARLY_STOPPING_IN_TEXT = 5
"""IV: the patience that the text gives where Fig. 27 has 10."""

GPU = "one RTX 4090"
"""Of the hardware (Fig. 17 and 18), what `docs/report.md` carries."""

FIG_28 = pd.DataFrame(
    [
        ("exp1", "nothing unfrozen", 0.72, 0.71, 0.72, 0.70),
        ("exp2", "last layer unfrozen", 0.68, 0.72, 0.69, 0.72),
        ("exp3", "last 4, strong L1 and L2", 0.25, 0.91, 0.64, 0.80),
        ("exp4", "last 5, L1 and L2", 0.41, 0.82, 0.55, 0.81),
        ("exp5", "last 5, 3 attention heads, strong L1 and L2", 0.61, 0.84, 0.79, 0.77),
        ("exp6", "exp5 with squeeze-and-excite", 0.37, 0.88, 0.59, 0.81),
    ],
    columns=["run", "model", "loss", "accuracy", "val_loss", "val_accuracy"],
).set_index("run")
"""The six experiments on MURA, validated on an image-level split."""

# --- the report: results (V) --------------------------------------------------------------------

_ABNORMAL_AND_NORMAL = {
    "ELBOW": ((0.88, 0.74, 0.80, 230), (0.75, 0.93, 0.83, 235)),
    "FINGER": ((0.88, 0.65, 0.75, 247), (0.69, 0.88, 0.78, 214)),
    "FOREARM": ((0.86, 0.58, 0.70, 151), (0.74, 0.80, 0.77, 150)),
    "HAND": ((0.86, 0.42, 0.56, 189), (0.70, 0.96, 0.81, 271)),
    "HUMERUS": ((0.86, 0.79, 0.83, 140), (0.83, 0.85, 0.84, 148)),
    "SHOULDER": ((0.73, 0.83, 0.78, 278), (0.80, 0.73, 0.76, 285)),
    "WRIST": ((0.91, 0.71, 0.79, 295), (0.78, 0.95, 0.86, 364)),
}

FIG_30 = pd.DataFrame(
    [
        (join(abnormality, part), *pair[column])
        for column, abnormality in enumerate((ABNORMAL, NORMAL))
        for part, pair in _ABNORMAL_AND_NORMAL.items()
    ],
    columns=["label", "precision", "recall", "f1", "support"],
)
"""The classification report: exp6 on MURA's valid list, 14 classes per image."""

FIG_30_AVERAGES = pd.DataFrame(
    {"precision": [0.80, 0.80], "recall": [0.77, 0.79], "f1": [0.78, 0.78]},
    index=["macro average", "weighted average"],
).assign(support=FIG_30["support"].sum())
"""The last rows of Fig. 30."""

ACCURACY = 0.79
"""V: of exp6 on MURA's valid list, 14 classes per image."""

FIG_31 = {"micro": 0.99, "macro": 0.99}
"""Averages of the areas under the ROC curves, one class against the rest."""

FIG_35_LAYER = "conv5_block16_2_conv"
"""The layer at which Grad-CAM is drawn: DenseNet121's last convolution."""

# The levels are worded as in `evaluation.LEVELS`.
_HIDDEN = "binary, per study, MURA hidden test set"
_VALID = "binary, per study, MURA valid set"
_VALID_UNSTATED = "level not stated, MURA valid set"

FIG_36 = pd.DataFrame(
    [
        ("base-comb2-xuan-v3 ensemble", 0.843, _HIDDEN),
        ("base-comb2-xuan", 0.834, _HIDDEN),
        ("muti_type", 0.833, _HIDDEN),
        ("base-comb4", 0.824, _HIDDEN),
        ("base-comb2-jun2", 0.814, _HIDDEN),
        ("best radiologist", 0.778, _HIDDEN),
        # Measured on MURA's valid list, so it cannot be what the leaderboard counts; the report
        # does not say which kappa it is. Over 14 classes its accuracy gives about 0.77.
        ("the report", 0.612, _VALID_UNSTATED),
        ("Bhaukali_v1.0", 0.589, _HIDDEN),
        ("Densenet169-lite", 0.56, _HIDDEN),
        ("ensemble1", 0.534, _HIDDEN),
        ("DenseNet (Zhou)", 0.518, _HIDDEN),
    ],
    columns=["name", "kappa", "level"],
)
"""Cohen's kappa: MURA's leaderboard, and the report. Rows of different levels do not compare."""

# --- MURA itself, and what others report --------------------------------------------------------

MURA_TRAIN_IMAGES = {
    "ELBOW": (2925, 2006), "FINGER": (3138, 1968), "FOREARM": (1164, 661), "HAND": (4059, 1484),
    "HUMERUS": (673, 599), "SHOULDER": (4211, 4168), "WRIST": (5765, 3987),
}  # fmt: skip
"""Images per body part in MURA's train list, (normal, abnormal), from its own tables."""

MURA_VALID_IMAGES = {
    part: (normal[-1], abnormal[-1]) for part, (abnormal, normal) in _ABNORMAL_AND_NORMAL.items()
}
"""The same of its valid list: the support in the report's Fig. 30."""

MURA_VALID_STUDIES = {
    "ELBOW": (92, 66), "FINGER": (92, 83), "FOREARM": (69, 64), "HAND": (101, 66),
    "HUMERUS": (68, 67), "SHOULDER": (99, 95), "WRIST": (140, 97),
}  # fmt: skip
"""Studies per body part in MURA's valid list, (normal, abnormal)."""

PEERS = pd.DataFrame(
    [
        ("DenseNet169", 0.629, _VALID),
        ("DenseNet201", 0.645, _VALID),  # in Keras, with the cleanest protocol
        ("fastai DenseNet169, 320 px", 0.674, _VALID),  # epoch chosen on the same data
        ("seven models, one a body part", 0.656, _VALID_UNSTATED),
    ],
    columns=["name", "kappa", "level"],
)
"""Cohen's kappa of other public work on MURA's valid list."""
