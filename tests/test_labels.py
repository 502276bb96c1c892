from __future__ import annotations

import ast
import doctest
import re

import nbformat
import numpy as np
import pandas as pd
import pytest

from mura_utils import labels
from mura_utils.paths import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
SOURCES = [
    *sorted((REPOSITORY / "mura_utils").rglob("*.py")),
    *sorted((REPOSITORY / "benchmarks").glob("*.py")),
    REPOSITORY / "tools" / "refresh_notebooks.py",
    *NOTEBOOKS,
]


def trees(path):
    """The syntax trees of a module, or of a notebook's code cells."""
    if path.suffix == ".py":
        return [ast.parse(path.read_text())]
    cells = nbformat.read(path, as_version=4).cells
    return [ast.parse(cell.source) for cell in cells if cell.cell_type == "code"]


def own_grammar(tree):
    """Where a tree takes labels apart, or puts them together, by itself."""
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
        if documented and ast.get_docstring(node, clean=False):
            node.body = node.body[1:]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.match(r"(Abnormal|Normal)-|p:", node.value):
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            cut = node.func.attr in ("partition", "rpartition", "split", "rsplit")
            if cut and [ast.unparse(argument) for argument in node.args[:1]] == ["'-'"]:
                yield ast.unparse(node)


def test_the_examples_run():
    failed, attempted = doctest.testmod(labels)
    assert attempted >= 8
    assert not failed


def test_a_label_is_put_together_and_taken_apart():
    for label in ("Abnormal-ELBOW", "Normal-LEFT-HAND"):
        assert labels.join(*labels.split(label)) == label
    assert labels.split("Normal-LEFT-HAND") == ("Normal", "LEFT-HAND")
    assert labels.split("something") == ("something", "")
    assert not labels.is_abnormal("Abnormally-HAND")


def test_p_abnormal_is_a_probability_and_keeps_its_rows():
    third = np.float32(1 / 3)
    values = {"Abnormal-A": third, "Abnormal-B": third, "Abnormal-C": third, "Normal-A": 0.0}
    columns = dict(zip(labels.probability_columns(values), values.values(), strict=True))
    predictions = pd.DataFrame({"path": ["x.png"], **columns}, index=[7])
    assert sum(map(float, values.values())) > 1
    assert labels.p_abnormal(predictions).to_dict() == {7: 1.0}
    only_normal = predictions[["path", "p:Normal-A"]]
    assert labels.p_abnormal(only_normal).to_dict() == {7: 0.0}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_other_file_knows_the_grammar(path):
    found = [where for tree in trees(path) for where in own_grammar(tree)]
    if path.name == "labels.py":
        assert found == ["'p:'"]
    else:
        assert not found, "mura_utils.labels joins and splits labels"


def test_a_grammar_of_its_own_would_be_found():
    source = 'f"Abnormal-{part}"; label.partition("-"); s.str.split("-", n=1); f"p:{label}"'
    assert len(list(own_grammar(ast.parse(source)))) == 4
