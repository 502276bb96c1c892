"""How good a model is: predictions, metrics at five levels, intervals over patients, tables."""

from mura_utils.evaluation.baselines import (
    baseline_metrics,
    baselines_table,
    logistic_regression,
    majority_class,
)
from mura_utils.evaluation.binary import (
    evaluate_abnormality,
)
from mura_utils.evaluation.metrics import (
    LEVELS,
    evaluate,
)
from mura_utils.evaluation.operating_points import (
    choose_operating_point,
    judge_operating_point,
    operating_point,
)
from mura_utils.evaluation.predictions import (
    PREDICTION_COLUMNS,
    STUDY_RULES,
    p_abnormal_given_part,
    p_body_part,
    predictions_frame,
    study_predictions,
)
from mura_utils.evaluation.record import (
    constant_answer,
    metrics_record,
)
from mura_utils.evaluation.tables import (
    body_part_table,
    classification_report,
    interval_table,
    interval_text,
    kappa_table,
    metrics_table,
    side_by_side,
)

__all__ = [
    "LEVELS",
    "PREDICTION_COLUMNS",
    "STUDY_RULES",
    "baseline_metrics",
    "baselines_table",
    "body_part_table",
    "choose_operating_point",
    "classification_report",
    "constant_answer",
    "evaluate",
    "evaluate_abnormality",
    "interval_table",
    "interval_text",
    "judge_operating_point",
    "kappa_table",
    "logistic_regression",
    "majority_class",
    "metrics_record",
    "metrics_table",
    "operating_point",
    "p_abnormal_given_part",
    "p_body_part",
    "predictions_frame",
    "side_by_side",
    "study_predictions",
]
