"""Every figure of the series: a function takes data and returns a Figure with alt text."""

from mura_utils.plotting.data import (
    class_counts,
    faults,
    file_sheet,
    image_counts,
    image_sizes,
    leakage,
    pixel_analysis,
    sample_grid,
    split_distributions,
)
from mura_utils.plotting.evaluation import (
    confusion_matrix,
    intervals,
    kappa_comparison,
    per_class_f1,
    prediction_grid,
    roc_curves,
)
from mura_utils.plotting.familiarity import unfamiliar
from mura_utils.plotting.heatmaps import heatmap_grid, heatmap_rows, overlay, score_strip
from mura_utils.plotting.style import (
    ABNORMALITIES,
    PCA_METHODS,
    SPLITS,
    STYLE,
    alt_text,
    show,
    to_png,
)
from mura_utils.plotting.training import (
    ablation,
    architecture,
    learning_rate,
    training_curves,
)
from mura_utils.plotting.transformation import augmentation_preview, pca_elbow, pca_runtime

__all__ = [
    "ABNORMALITIES",
    "PCA_METHODS",
    "SPLITS",
    "STYLE",
    "ablation",
    "alt_text",
    "architecture",
    "augmentation_preview",
    "class_counts",
    "confusion_matrix",
    "faults",
    "file_sheet",
    "heatmap_grid",
    "heatmap_rows",
    "image_counts",
    "image_sizes",
    "intervals",
    "kappa_comparison",
    "leakage",
    "learning_rate",
    "overlay",
    "pca_elbow",
    "pca_runtime",
    "per_class_f1",
    "pixel_analysis",
    "prediction_grid",
    "roc_curves",
    "sample_grid",
    "score_strip",
    "show",
    "split_distributions",
    "to_png",
    "training_curves",
    "unfamiliar",
]
