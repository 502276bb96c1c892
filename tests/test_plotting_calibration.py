"""The figures of calibration, and of risk against coverage."""

from __future__ import annotations

import numpy as np
import pytest
from figures import texts
from planted import both_splits, planted

from mura_utils import plotting
from mura_utils.evaluation import calibration_record, fit_temperature, risk_coverage


def test_reliability_has_a_dot_a_bin_and_says_what_a_calibrated_model_would_show():
    validation, test = both_splits(2.0, images=300)
    record = calibration_record(test, fit_temperature(validation), bootstrap=20)
    fig = plotting.reliability_diagram(record)
    assert len(fig.axes) == 4
    bins = record["after"]["abnormal"]["bins"]
    dots = fig.axes[1].lines[-1]
    np.testing.assert_allclose(dots.get_xdata(), [row["p"] for row in bins])
    np.testing.assert_allclose(dots.get_ydata(), [row["value"] for row in bins])
    first = fig.axes[1].lines[1]
    assert first.get_ydata()[:] == pytest.approx([bins[0]["low"], bins[0]["high"]])
    ece = record["after"]["abnormal"]["ece"]["value"]
    calibrated = record["after"]["abnormal"]["ece_if_calibrated"]["mean"]
    assert f"after: ECE {ece:.3f} (calibrated: {calibrated:.3f})" in texts(fig)
    assert f"P(abnormal) after {ece:.3f}" in plotting.alt_text(fig)


def test_reliability_is_drawn_without_intervals():
    test = planted(30)
    record = calibration_record(test, fit_temperature(test), bootstrap=0)
    fig = plotting.reliability_diagram(record)
    assert [len(ax.lines) for ax in fig.axes] == [2] * 4


def test_risk_coverage_marks_the_shares_of_the_table():
    record = risk_coverage(planted(300), bootstrap=20)
    fig = plotting.risk_coverage(record)
    dots = fig.axes[0].lines[-2]
    assert dots.get_xdata().tolist() == [1, 0.9, 0.8, 0.5]
    np.testing.assert_allclose(dots.get_ydata(), [row["value"] for row in record["shares"]])
    assert f"50% {record['shares'][-1]['value']:.1%}" in plotting.alt_text(fig)
    top = max(row["high"] for row in record["shares"])
    assert fig.axes[0].get_ylim()[1] > top


def test_risk_coverage_is_drawn_for_a_model_without_errors():
    rows = planted(30)
    fig = plotting.risk_coverage(risk_coverage(rows.assign(predicted=rows["label"]), bootstrap=0))
    assert fig.axes[0].get_ylim()[1] > 0
