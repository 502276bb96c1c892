"""What scikit-learn computes of a binary answer."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn import metrics as sk


def binary_by_sklearn(abnormality: pd.Series, p: pd.Series, threshold: float = 0.5) -> dict:
    """The binary metrics; NaN where rows of a kind are missing that a metric needs."""
    true, p = (abnormality == "Abnormal").to_numpy(), np.asarray(p, float)
    predicted = p > threshold
    both = true.any() and not true.all()
    undefined = {"zero_division": np.nan}
    fpr, tpr, _ = sk.roc_curve(true, p, drop_intermediate=False) if both else (np.nan,) * 3
    return {
        "accuracy": sk.accuracy_score(true, predicted),
        "kappa": sk.cohen_kappa_score(true, predicted) if len({*true, *predicted}) > 1 else np.nan,
        "balanced_accuracy": sk.balanced_accuracy_score(true, predicted) if both else np.nan,
        "sensitivity": sk.recall_score(true, predicted, **undefined),
        "specificity": sk.recall_score(~true, ~predicted, **undefined),
        "ppv": sk.precision_score(true, predicted, **undefined),
        "npv": sk.precision_score(~true, ~predicted, **undefined),
        "f1": sk.f1_score(true, predicted, **undefined),
        "mcc": sk.matthews_corrcoef(true, predicted) if both else np.nan,
        "auroc": sk.roc_auc_score(true, p) if both else np.nan,
        "partial_auroc": sk.roc_auc_score(true, p, max_fpr=0.1) if both else np.nan,
        "auprc": sk.average_precision_score(true, p) if true.any() else np.nan,
        "sensitivity_at_90_specificity": tpr[fpr <= 0.1 + 1e-12].max() if both else np.nan,
    }
