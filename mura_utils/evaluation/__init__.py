"""How good a model is: predictions, metrics at four levels, intervals over patients, tables."""

from mura_utils.evaluation.clinical import clinical_use, net_benefit
from mura_utils.evaluation.errors import confused_pairs, error_rates, surest_mistakes
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
    kappa_table,
    metrics_table,
    relabel_table,
)
from mura_utils.evaluation.worklist import simulate_worklist, waiting_times

__all__ = [
    "LEVELS",
    "PREDICTION_COLUMNS",
    "classification_report",
    "clinical_use",
    "confused_pairs",
    "constant_answer",
    "error_rates",
    "evaluate",
    "evaluate_abnormality",
    "kappa_table",
    "metrics_record",
    "metrics_table",
    "net_benefit",
    "operating_point",
    "p_body_part",
    "predictions_frame",
    "relabel_table",
    "simulate_worklist",
    "study_predictions",
    "surest_mistakes",
    "waiting_times",
]
