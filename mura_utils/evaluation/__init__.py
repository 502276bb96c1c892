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
from mura_utils.evaluation.calibration import (
    GivenProbabilities,
    at_temperature,
    calibration_record,
    calibration_table,
    fit_temperature,
)
from mura_utils.evaluation.clinical import (
    clinical_use,
    net_benefit,
)
from mura_utils.evaluation.conformal import (
    conformal_record,
    conformal_table,
    one_image_a_patient,
    prediction_sets,
    set_kinds,
)
from mura_utils.evaluation.errors import (
    confused_pairs,
    error_rates,
    surest_mistakes,
)
from mura_utils.evaluation.familiarity import (
    FAMILIARITY,
    fit_familiarity,
    read_familiarity,
    write_familiarity,
)
from mura_utils.evaluation.metrics import (
    LEVELS,
    describe_counts,
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
from mura_utils.evaluation.selective import (
    risk_coverage,
)
from mura_utils.evaluation.tables import (
    body_part_table,
    classification_report,
    interval_table,
    kappa_table,
    metric_text,
    metrics_table,
    relabel_table,
    side_by_side,
)
from mura_utils.evaluation.worklist import (
    simulate_worklist,
    waiting_times,
)

__all__ = [
    "FAMILIARITY",
    "LEVELS",
    "PREDICTION_COLUMNS",
    "STUDY_RULES",
    "GivenProbabilities",
    "at_temperature",
    "baseline_metrics",
    "baselines_table",
    "body_part_table",
    "calibration_record",
    "calibration_table",
    "choose_operating_point",
    "classification_report",
    "clinical_use",
    "conformal_record",
    "conformal_table",
    "confused_pairs",
    "constant_answer",
    "describe_counts",
    "error_rates",
    "evaluate",
    "evaluate_abnormality",
    "fit_familiarity",
    "fit_temperature",
    "interval_table",
    "judge_operating_point",
    "kappa_table",
    "logistic_regression",
    "majority_class",
    "metric_text",
    "metrics_record",
    "metrics_table",
    "net_benefit",
    "one_image_a_patient",
    "operating_point",
    "p_abnormal_given_part",
    "p_body_part",
    "prediction_sets",
    "predictions_frame",
    "read_familiarity",
    "relabel_table",
    "risk_coverage",
    "set_kinds",
    "side_by_side",
    "simulate_worklist",
    "study_predictions",
    "surest_mistakes",
    "waiting_times",
    "write_familiarity",
]
