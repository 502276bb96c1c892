"""The report's numbers: they agree with each other, and stand in report.py and its page alone."""

from __future__ import annotations

import ast
import re

import nbformat
import numpy as np
import pandas as pd
import pytest

from mura_utils import report
from mura_utils.evaluation.metrics import LEVELS
from mura_utils.labels import body_part, is_abnormal
from mura_utils.paths import REPOSITORY

REPORT = REPOSITORY / "mura_utils" / "report.py"
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
MODULES = [
    *sorted({*(REPOSITORY / "mura_utils").rglob("*.py")} - {REPORT}),
    *sorted((REPOSITORY / "benchmarks").glob("*.py")),
]

NOT_FOUND_BY_DIGITS = {report.ACCURACY, report.MURA_IMAGES, report.FIG_35_LAYER}
"""Of fewer than three digits, a sum, or a word, and the report's all the same."""

ANYBODYS = {report.IMAGE_SIZE: "the side at which networks are trained on ImageNet"}
"""Numbers of the report that others have for a reason of their own."""

COINCIDENCES = {
    "anatomy.py": {235},  # millimetres
    "dicom_pixels.py": {207, 247},  # markers of JPEG
}


def constants(tree):
    """The numbers and texts of a syntax tree, without its docstrings."""
    documentation = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in documentation:
            yield node.value


def numbers(text):
    """The numbers in a text, without their thousands separators."""
    found = re.findall(r"(?<![\w.])\d[\d,_]*(?:\.\d+)?(?!\w)|(?<![\w.])\.\d+", text)
    return {float(number.replace(",", "").replace("_", "")) for number in found}


def is_distinctive(value):
    """Whether a number has at least three significant digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    digits = re.sub(r"e.*|\D", "", repr(value)).strip("0")
    return len(digits) >= 3


def strays(source, known):
    """Which of `known` numbers and names a piece of code holds."""
    found = set()
    for value in constants(ast.parse(source)):
        if isinstance(value, str):
            found |= {word for word in known if isinstance(word, str) and word in value}
            found |= numbers(value) & known
        elif not isinstance(value, bool) and isinstance(value, int | float):
            found |= {value} & known
    return found


KNOWN = {v for v in constants(ast.parse(REPORT.read_text())) if is_distinctive(v)}
KNOWN = KNOWN - ANYBODYS.keys() | NOT_FOUND_BY_DIGITS


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_no_other_module_holds_a_number_of_the_report(path):
    assert strays(path.read_text(), KNOWN) == COINCIDENCES.get(path.name, set())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_no_code_cell_holds_a_number_of_the_report(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert not strays(cell.source, KNOWN), cell.id


def test_a_stray_would_be_found():
    source = '"""Of 3,197."""\nn = 31_281\nprint("has 0.79, not 0.612", f"{n} of 40,005")'
    assert strays(source, KNOWN) == {31281, 0.79, 0.612, 40005}
    assert strays('layer = model.get_layer("conv5_block16_2_conv")', KNOWN) == {report.FIG_35_LAYER}
    assert not strays('x = 1.612, "v0.612.1", "a31281"', KNOWN)


def test_the_page_of_facts_holds_every_number():
    page = (REPOSITORY / "docs" / "report.md").read_text()
    missing = {v for v in KNOWN if not isinstance(v, str)} - numbers(page)
    assert not missing
    assert report.FIG_35_LAYER in page


def test_the_classification_report_agrees_with_its_averages():
    table, averages = report.FIG_30, report.FIG_30_AVERAGES
    weights = table["support"]
    for name in ("precision", "recall", "f1"):
        mean, weighted = table[name].mean(), np.average(table[name], weights=weights)
        assert mean == pytest.approx(averages.loc["macro average", name], abs=0.01)
        assert weighted == pytest.approx(averages.loc["weighted average", name], abs=0.01)
    assert np.average(table["recall"], weights=weights) == pytest.approx(report.ACCURACY, abs=0.01)
    assert weights.sum() == report.MURA_LISTS.loc["valid", "images"]


def test_muras_counts_agree_with_each_other():
    train, valid, studies = (
        pd.DataFrame(counts, ["normal", "abnormal"]).T
        for counts in (
            report.MURA_TRAIN_IMAGES,
            report.MURA_VALID_IMAGES,
            report.MURA_VALID_STUDIES,
        )
    )
    assert train.sum().tolist() == [21_935, 14_873]
    assert valid.sum().tolist() == [1_667, 1_530]
    assert studies.sum().tolist() == [661, 538]
    lists = report.MURA_LISTS
    assert lists.sum().tolist() == [12_173, 14_863, 40_561]
    assert lists.loc["train", "images"] == train.to_numpy().sum()
    assert lists.loc["valid"].tolist()[1:] == [studies.to_numpy().sum(), valid.to_numpy().sum()]
    assert report.MURA_IMAGES == 40_005
    by_class = report.FIG_30.set_index("label")["support"]
    for label, count in by_class.items():
        column = "abnormal" if is_abnormal(label) else "normal"
        assert valid.loc[body_part(label), column] == count


def test_parameters_are_trainable_or_not():
    for counts in (report.FIG_15, report.FIG_16):
        assert counts["total"] == counts["trainable"] + counts["non-trainable"]


def test_the_training_rows_are_85_percent_of_muras_train_list():
    assert round(0.85 * report.MURA_LISTS.loc["train", "images"]) in range(
        report.FIG_7_ROWS - 10, report.FIG_7_ROWS + 11
    )


def test_the_leaderboard_sets_the_report_apart():
    levels = report.FIG_36.set_index("name")["level"]
    hidden = levels.drop("the report").unique().tolist()
    assert hidden == [f"{LEVELS['binary_study']}, MURA hidden test set"]
    assert levels["the report"] not in hidden
    assert f"{LEVELS['binary_study']}, MURA valid set" in set(report.PEERS["level"])
