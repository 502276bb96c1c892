"""All methods by their names, and which of them a model has."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import keras
import numpy as np

from mura_utils.explain.methods.attention import (
    attention_layers,
    attention_maps,
    attention_mean,
)
from mura_utils.explain.methods.class_activation import (
    grad_cam,
    layer_cam,
)
from mura_utils.explain.methods.grad_cam_plus_plus import grad_cam_plus_plus
from mura_utils.explain.methods.gradients import saliency
from mura_utils.explain.methods.integrated_gradients import integrated_gradients
from mura_utils.explain.methods.lime import lime
from mura_utils.explain.methods.occlusion import occlusion
from mura_utils.explain.methods.rise import rise
from mura_utils.explain.methods.rollout import attention_rollout
from mura_utils.explain.methods.score_cam import score_cam
from mura_utils.explain.methods.shap import shap
from mura_utils.explain.targets import Target
from mura_utils.network.vision_transformer import attention_scores

_EXTRA = ("lime", "shap")  # methods that are named as the library that they need


def _attention(model: keras.Model, images: np.ndarray, target: Target, head: int) -> np.ndarray:
    return attention_maps(model, images)[:, head]


METHODS: dict[str, Callable[[keras.Model, np.ndarray, Target], np.ndarray]] = {
    **{f"attention_{head}": partial(_attention, head=head) for head in range(3)},
    "attention_mean": attention_mean,
    "attention_rollout": attention_rollout,
    "saliency": saliency,
    "smooth_grad": partial(saliency, smooth_samples=16),
    "integrated_gradients": integrated_gradients,
    "grad_cam": grad_cam,
    "grad_cam_plus_plus": grad_cam_plus_plus,
    "layer_cam": layer_cam,
    "score_cam": score_cam,
    "occlusion": occlusion,
    "rise": rise,
    "lime": lime,
    "shap": shap,
}
"""Name -> function (model, images (N, S, S, 1), target) -> (N, S, S) in [0, 1]."""


def methods_of(model: keras.Model) -> list[str]:
    """Names of the `METHODS` that can be used.

    Without attention heads there are no attention maps, and a mean of them only where there are
    several; without a vision transformer there is no rollout, and without the extra `explainers` no
    LIME and no SHAP.
    """
    heads = attention_layers(model)
    missing = {f"attention_{head}" for head in range(3)} - set(heads)
    missing |= {"attention_mean"} if len(heads) < 2 else set()
    missing |= set() if attention_scores(model) else {"attention_rollout"}
    missing |= {name for name in _EXTRA if find_spec(name) is None}
    return [name for name in METHODS if name not in missing]
