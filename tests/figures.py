"""Tables that figures are drawn of, and how a figure is read."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex
from matplotlib.text import Text

from mura_utils import plotting

FOUR = ["HAND", "HIP", "LEG", "SHOULDER"]
SEVEN = ["ELBOW", "FINGER", "FOREARM", "HAND", "HUMERUS", "SHOULDER", "WRIST"]
ABNORMAL, NORMAL = "#d55e00", "#0072b2"


def classes(parts):
    return [f"{abnormality}-{part}" for abnormality in ("Abnormal", "Normal") for part in parts]


def make_manifest(parts, per_class=3):
    rows = [label.split("-") for label in classes(parts) for _ in range(per_class)]
    frame = pd.DataFrame(rows, columns=["abnormality", "body_part"])
    return frame.assign(path=[f"{n}.png" for n in range(len(frame))])


def make_splits(manifest):
    names = np.resize(["train", "validation", "test"], len(manifest))
    return pd.DataFrame({"path": manifest["path"], "split": names})


def make_history(epochs):
    epoch = np.arange(1, epochs + 1)
    return pd.DataFrame(
        {
            "epoch": epoch,
            "loss": 1 / epoch,
            "accuracy": 1 - 1 / (epoch + 1),
            "val_loss": 0.25 + np.abs(epoch - 7) / 100,
            "val_accuracy": 0.5 + epoch / 1000,
            "learning_rate": 1e-5 * 0.2 ** (epoch // 5),
        }
    )


def draw_heatmap_rows(masks=(None, None)):
    image, maps = np.full((64, 64), 90, np.uint8), np.full((2, 7, 7), 0.5)
    heatmaps = {"saliency": maps, "grad_cam": maps}
    return plotting.heatmap_rows([image] * 2, ["right", "wrong"], heatmaps, masks)


def texts(fig):
    return [text.get_text() for text in fig.findobj(Text) if text.get_text()]


def bar_colors(ax):
    return {to_hex(bar.get_facecolor()) for container in ax.containers for bar in container}


def tick_labels(axis):
    return [text.get_text() for text in axis.get_ticklabels()]
