"""How good a model is: predictions, metrics at four levels, intervals over patients, tables."""

from mura_utils.evaluation.metrics import (
    LEVELS,
    evaluate,
    evaluate_abnormality,
    operating_point,
)
from mura_utils.evaluation.predictions import (
    PREDICTION_COLUMNS,
    p_body_part,
    predictions_frame,
    study_predictions,
)
from mura_utils.evaluation.record import constant_answer, metrics_record
from mura_utils.evaluation.tables import (
    classification_report,
    interval_text,
    kappa_table,
    metrics_table,
)

__all__ = [
    "LEVELS",
    "PREDICTION_COLUMNS",
    "classification_report",
    "constant_answer",
    "evaluate",
    "evaluate_abnormality",
    "interval_text",
    "kappa_table",
    "metrics_record",
    "metrics_table",
    "operating_point",
    "p_body_part",
    "predictions_frame",
    "study_predictions",
]
