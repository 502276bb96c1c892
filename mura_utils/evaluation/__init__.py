"""How good a model is: predictions, metrics at four levels, intervals over patients, tables."""

from mura_utils.evaluation.calibration import (
    GivenProbabilities,
    at_temperature,
    calibration_record,
    calibration_table,
    fit_temperature,
)
from mura_utils.evaluation.conformal import (
    conformal_record,
    conformal_table,
    one_image_a_patient,
    prediction_sets,
    set_kinds,
)
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
from mura_utils.evaluation.selective import risk_coverage
from mura_utils.evaluation.tables import classification_report, kappa_table, metrics_table

__all__ = [
    "LEVELS",
    "PREDICTION_COLUMNS",
    "GivenProbabilities",
    "at_temperature",
    "calibration_record",
    "calibration_table",
    "classification_report",
    "conformal_record",
    "conformal_table",
    "constant_answer",
    "evaluate",
    "evaluate_abnormality",
    "fit_temperature",
    "kappa_table",
    "metrics_record",
    "metrics_table",
    "one_image_a_patient",
    "operating_point",
    "p_body_part",
    "prediction_sets",
    "predictions_frame",
    "risk_coverage",
    "set_kinds",
    "study_predictions",
]
