"""Every figure of the series: a function takes data and returns a Figure with alt text."""

from mura_utils.plotting.calibration import (
    reliability_diagram,
    risk_coverage,
)
from mura_utils.plotting.clinical import (
    decision_curve,
    group_rates,
    worklist_waits,
)
from mura_utils.plotting.data import (
    class_counts,
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
    forest,
    intervals,
    kappa_comparison,
    per_class_f1,
    prediction_grid,
    roc_curves,
    roc_with_thresholds,
)
from mura_utils.plotting.explanations import (
    answer_curves,
    randomization_curves,
    score_intervals,
)
from mura_utils.plotting.familiarity import (
    unfamiliar,
)
from mura_utils.plotting.heatmaps import (
    heatmap_grid,
    heatmap_rows,
    overlay,
)
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
from mura_utils.plotting.transformation import (
    augmentation_preview,
    pca_elbow,
    pca_runtime,
)

__all__ = [
    "ABNORMALITIES",
    "PCA_METHODS",
    "SPLITS",
    "STYLE",
    "ablation",
    "alt_text",
    "answer_curves",
    "architecture",
    "augmentation_preview",
    "class_counts",
    "confusion_matrix",
    "decision_curve",
    "file_sheet",
    "forest",
    "group_rates",
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
    "randomization_curves",
    "reliability_diagram",
    "risk_coverage",
    "roc_curves",
    "roc_with_thresholds",
    "sample_grid",
    "score_intervals",
    "show",
    "split_distributions",
    "to_png",
    "training_curves",
    "unfamiliar",
    "worklist_waits",
]
