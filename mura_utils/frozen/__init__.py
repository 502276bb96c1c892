"""The frozen part of a network: cut off, computed once, kept on disk, trained on many times."""

from mura_utils.frozen.extraction import Extraction, extract
from mura_utils.frozen.extractors import extractor
from mura_utils.frozen.pooled import pooled_features, pooled_layers, with_pooled
from mura_utils.frozen.store import FeatureSet, Plan, feature_sets, plan
from mura_utils.frozen.use import (
    backbone_features,
    largest_difference,
    make_dataset,
    predict,
    variant_targets,
)
from mura_utils.network.cut import Cut, describe_cuts, multiply_adds, split_network

__all__ = [
    "Cut",
    "Extraction",
    "FeatureSet",
    "Plan",
    "backbone_features",
    "describe_cuts",
    "extract",
    "extractor",
    "feature_sets",
    "largest_difference",
    "make_dataset",
    "multiply_adds",
    "plan",
    "pooled_features",
    "pooled_layers",
    "predict",
    "split_network",
    "variant_targets",
    "with_pooled",
]
