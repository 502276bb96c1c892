"""Heat-maps: what they explain, how they are computed, and how they are scored against masks."""

from mura_utils.explain.methods.attention import attention_maps
from mura_utils.explain.methods.class_activation import fine_layer, grad_cam, layer_cam
from mura_utils.explain.methods.common import to_heatmaps
from mura_utils.explain.methods.gradients import saliency
from mura_utils.explain.methods.one_pass import explain
from mura_utils.explain.methods.registry import METHODS, methods_of
from mura_utils.explain.scores import energy_in_mask, pointing_game, score_heatmaps
from mura_utils.explain.targets import Target, class_target, contrast_target

__all__ = [
    "METHODS",
    "Target",
    "attention_maps",
    "class_target",
    "contrast_target",
    "energy_in_mask",
    "explain",
    "fine_layer",
    "grad_cam",
    "layer_cam",
    "methods_of",
    "pointing_game",
    "saliency",
    "score_heatmaps",
    "to_heatmaps",
]
