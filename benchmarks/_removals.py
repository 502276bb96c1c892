"""The parts of a recipe that can be taken away, one at a time."""

from __future__ import annotations

from typing import Any

from mura_utils.experiments import Experiment

WHOLE, BARE = "all together", "none of them"
"""The whole recipe, and what is left without all of its parts: names of changes."""


def removals(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """The parameters that each removal changes; the first one changes nothing.

    Removals that would change nothing of this experiment are left out.

    Example:
        >>> from mura_utils.experiments import load_experiment
        >>> list(removals(load_experiment("best_fracatlas")))[1:4]
        ['random weights', '224 px', 'sides stretched']
    """
    side = round(experiment.image_size * 7 / 12 / 32) * 32
    parts: dict[str, dict[str, Any]] = {
        "random weights": {
            "weights": "none",
            "unfreeze": "all",
            "freeze_batch_norm": False,
            "cache_features": "auto",
            "second_look": False,
        },
        f"{side} px": {"image_size": max(side, 32)},
        "sides stretched": {"resize": "stretch"},
        "average pooling only": {
            "pooling": ["average"],
            "mask_supervision": 0.0,
            "second_look": False,
        },
        "no second look": {"second_look": False},
        "no masks": {"mask_supervision": 0.0, "second_look": False},
        "no augmentation": {"augment": False, "second_look": False},
    }
    parts = {
        name: change
        for name, change in parts.items()
        if experiment.model_copy(update=change) != experiment
    }
    together = {key: value for change in parts.values() for key, value in change.items()}
    return {WHOLE: {}, **parts, BARE: together}
