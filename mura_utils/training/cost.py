"""What a training computed, and on what, next to the report's (Fig. 17 and 18)."""

from __future__ import annotations

import keras
import pandas as pd

from mura_utils import frozen, report
from mura_utils.data.dataset import Images
from mura_utils.devices import describe_machine
from mura_utils.runs.record import versions
from mura_utils.training.fitting import Training


def describe_cost(
    model: keras.Model,
    images: Images,
    fitted: Training,
    stored: frozen.Plan,
    extracted: frozen.Extraction,
    exp6: keras.Model,
) -> pd.DataFrame:
    """Hardware, software and cost of a run and of the report's exp6, as text; "–" is not known.

    The multiply-adds are an estimate: those of the layers that have a kernel, forward only, over
    all epochs of training and validation images. A trained layer takes about three times as much.

    Args:
        model: what was trained, as returned by `build.build_model`.
        images: what it was trained on.
        fitted: the training.
        stored: whether the frozen part was computed once.
        extracted: that computation; its seconds are those of this call of `frozen.extract`.
        exp6: the report's network.
    """
    epochs, seen = len(fitted.history), len(images.positions("train", "validation"))
    each = sum(frozen.multiply_adds(model).values())
    ours = {
        **describe_machine(),
        **{name: versions()[name] for name in ("python", "tensorflow", "keras")},
        "training images": f"{len(images.positions('train')):,}",
        "epochs": f"{epochs:,}",
        "10⁹ multiply-adds, every layer in every epoch": _billions(each * seen * epochs),
        "10⁹ multiply-adds, as computed": _billions(each * _passes(seen * epochs, stored)),
        "seconds of computing the frozen part": f"{extracted.seconds:,.0f}",
        "seconds of training": f"{fitted.seconds:,.0f}",
    }
    theirs_seen = report.SPLIT_IMAGES["train"] + report.SPLIT_IMAGES["validation"]
    theirs = sum(frozen.multiply_adds(exp6).values()) * theirs_seen * report.FIG_27["epochs"]
    printed = {
        "device": report.GPU,
        "training images": f"{report.SPLIT_IMAGES['train']:,}",
        "epochs": str(report.FIG_27["epochs"]),
        **dict.fromkeys([name for name in ours if name.startswith("10⁹")], _billions(theirs)),
    }
    table = pd.DataFrame({"this run": ours, "the report, exp6": printed}).reindex(list(ours))
    return table.fillna("–")


def _passes(seen: int, stored: frozen.Plan) -> float:
    """Passes through the whole network; a part of it counts as its share of the multiply-adds."""
    if not stored.on:
        return seen
    once = stored.train.views * len(stored.train.rows) + len(stored.held_out.rows)
    return stored.cut.frozen_share * once + (1 - stored.cut.frozen_share) * seen


def _billions(multiply_adds: float) -> str:
    return f"{multiply_adds / 1e9:,.0f}"
