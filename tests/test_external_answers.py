"""The CSV of any tool: read, or refused with one sentence that names the line or the column."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mura_utils.errors import UserError
from mura_utils.evaluation import evaluate
from mura_utils.external import evaluate_file, read_answers
from mura_utils.paths import read_json

CLASSES = [f"{kind}-{part}" for kind in ("Abnormal", "Normal") for part in ("HAND", "WRIST")]


def table(count: int = 12, classes: list[str] = CLASSES) -> pd.DataFrame:
    """Answers for two views of each study, two studies of each patient."""
    rng = np.random.default_rng(0)
    numbers = np.arange(count)
    answers = rng.dirichlet(np.ones(len(classes)), count).round(4)
    columns = {f"p:{label}": answers[:, k] for k, label in enumerate(classes)}
    return pd.DataFrame(
        {
            "path": [f"{n}.png" for n in numbers],
            "patient": [f"{n // 4:03d}" for n in numbers],
            "study": [f"study{n // 2 % 2 + 1}" for n in numbers],
            "label": [classes[n // 2 % len(classes)] for n in numbers],
            **columns,
        }
    )


@pytest.fixture
def file(tmp_path):
    """Write a table, or text, and return the path of the file."""

    def write(content: pd.DataFrame | str | bytes, **options):
        path = tmp_path / "other.csv"
        if isinstance(content, pd.DataFrame):
            content.to_csv(path, index=False, **options)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def refused(path) -> str:
    with pytest.raises(UserError) as caught:
        read_answers(path)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".") and sentence.startswith(str(path))
    return sentence.removeprefix(str(path))


def test_all_classes_are_evaluated_as_they_are(file):
    given = table()
    answers = read_answers(file(given))
    assert not answers.binary and answers.remarks == []
    read = answers.predictions
    assert read["study"].nunique() == 6 and read["patient"].nunique() == 3
    np.testing.assert_allclose(read.filter(like="p:"), given.filter(like="p:"))
    by_hand = given.filter(like="p:").idxmax(axis=1).str.removeprefix("p:") == given["label"]
    assert evaluate(read, bootstrap=0)["image"]["accuracy"]["value"] == by_hand.mean()


@pytest.mark.parametrize("how", ["comma", "semicolon", "tab", "bom", "crlf", "utf-16"])
def test_other_forms_of_the_file_give_the_same_and_are_remarked(file, how):
    expected = read_answers(file(table())).predictions
    options = {
        "comma": {},
        "semicolon": {"sep": ";", "decimal": ","},
        "tab": {"sep": "\t", "decimal": ","},
        "bom": {"encoding": "utf-8-sig"},
        "crlf": {"lineterminator": "\r\n"},
        "utf-16": {"encoding": "utf-16"},
    }[how]
    answers = read_answers(file(table(), **options))
    pd.testing.assert_frame_equal(answers.predictions, expected)
    marks = {"semicolon": "semicolon", "tab": "tab", "bom": "byte-order", "utf-16": "UTF-16"}
    assert len(answers.remarks) == (how in marks)
    assert marks.get(how, "") in "".join(answers.remarks)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda t: t.drop(columns="p:Normal-WRIST"),
            ", line 8: the label 'Normal-WRIST' has no column p:Normal-WRIST",
        ),
        (
            lambda t: t[:6].drop(columns="p:Normal-WRIST"),
            ", line 3: the probabilities of the 3 classes add up to 0.791, not 1;",
        ),
        (lambda t: t.replace({"label": {"Normal-HAND": "Broken-HAND"}}), ", line 6: the label is"),
        (lambda t: t.replace({"label": {"Normal-HAND": "Normal"}}), ", line 6: the body part is"),
        (lambda t: t.assign(label=["Normal-KNEE", *t["label"][1:]]), ", line 3: the study"),
        (lambda t: pd.concat([t, t.iloc[[2]]]), ", line 14: it repeats the image of line 4, '2.p"),
        (lambda t: t.rename(columns={"p:Normal-HAND": "p:Odd"}), ", column p:Odd: a class is"),
        (lambda t: t.rename(columns={"patient": "path"}), " has two columns 'path'"),
        (lambda t: t.drop(columns="label"), " has no truth: it needs a column label"),
        (lambda t: t.filter(regex="^[^:]*$"), " has no probabilities: it needs a column p:"),
        (lambda t: t.iloc[:0], " has a header and no rows."),
        (lambda t: t.assign(patient=["", *t["patient"][1:]]), ", line 2: the patient is empty."),
        (lambda t: t.assign(split=["a", *"b" * 11]), ", column split: there are 'a', 'b' and no"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_with_its_line_or_column(file, change, sentence):
    assert refused(file(change(table()))).startswith(sentence)


@pytest.mark.parametrize("cell", ["", "nan", "NaN", "1.5", "-0.1", "inf", "87%", "0.5.1"])
def test_what_is_no_probability_is_refused_with_line_and_column(file, cell):
    given = table().astype({"p:Normal-HAND": str})
    given.loc[3, "p:Normal-HAND"] = cell
    sentence = refused(file(given))
    found = f"is '{cell}'" if cell else "is empty"
    assert sentence == (f", line 5: p:Normal-HAND {found}; give a probability from 0 to 1.")


def test_probabilities_add_up_to_one_within_their_rounding(file):
    given = table()
    columns = given.filter(like="p:").columns
    rounded = given.assign(**given[columns].round(2))
    assert len(read_answers(file(rounded)).predictions) == len(given)
    given.loc[4, "p:Normal-HAND"] += 0.05
    total = given.loc[4, columns].sum()
    assert refused(file(given)).startswith(
        f", line 6: the probabilities of the 4 classes add up to {total:.3g}, not 1"
    )


def test_a_decimal_comma_without_quotes_is_refused(file):
    sentence = refused(file("label,p_abnormal\nAbnormal-HAND,0,25\n"))
    assert sentence.startswith(", line 2: there are more cells than the header names")


def test_without_patients_each_study_or_row_is_its_own_and_that_is_said(file):
    given = table().drop(columns="patient").assign(study=table()["patient"] + table()["study"])
    answers = read_answers(file(given))
    assert answers.predictions["patient"].nunique() == 6
    assert "each study is its own patient" in " ".join(answers.remarks)
    answers = read_answers(file(given.drop(columns=["study", "path"])))
    assert answers.predictions["patient"].nunique() == 12
    said = " ".join(answers.remarks)
    assert "each row is its own patient" in said and "named by their line" in said


def test_a_single_column_asks_only_normal_or_abnormal(file):
    given = table()[["path", "patient", "study"]].assign(
        abnormality=["1", "0"] * 3 + ["abnormal", "Normal"] * 3, p_abnormal=np.linspace(0, 1, 12)
    )
    given["study"] = given["path"]
    answers = read_answers(file(given))
    assert answers.binary and answers.remarks == []
    ours = evaluate(answers.predictions, 0.5, bootstrap=0)
    assert ours["binary_image"]["sensitivity"]["value"] == 0.5
    assert ours["binary_image"]["auroc"]["value"] == pytest.approx(15 / 36)
    parts = read_answers(file(given.assign(body_part=["HAND"] * 5 + ["HIP"] * 7)))
    assert set(parts.predictions["label"]) >= {"Abnormal-HAND", "Normal-HIP"}
    same = evaluate(parts.predictions, 0.5, bootstrap=0)
    assert same["binary_study"] == ours["binary_study"]


def test_classes_without_a_known_body_part_are_added_up(file):
    given = table().assign(abnormality=["Abnormal", "Normal"] * 6).drop(columns="label")
    given["study"] = given["path"]
    answers = read_answers(file(given))
    assert answers.binary and "No body part is known" in " ".join(answers.remarks)
    np.testing.assert_allclose(
        answers.predictions["p:Abnormal-"], given.filter(like="p:Abnormal").sum(axis=1)
    )


def test_of_several_splits_only_test_counts(file):
    given = table().assign(split=["validation"] * 4 + ["test"] * 8)
    answers = read_answers(file(given))
    assert len(answers.predictions) == 8
    assert answers.remarks == ["4 rows whose split is not test are left out."]


def test_metrics_are_printed_and_kept(file, tmp_path, caplog):
    caplog.set_level("INFO", "mura_utils")
    path = file(table())
    evaluate_file(path, threshold=0.25, out=tmp_path / "out")
    kept = read_json(tmp_path / "out" / "metrics.json")
    expected = evaluate(read_answers(path).predictions, 0.25)
    assert kept["binary_study"] == expected["binary_study"] and kept["threshold"] == 0.25
    assert "binary, per study" in caplog.text and "threshold 0.25" in caplog.text
    binary = table()[["path", "label"]].assign(p_abnormal=0.5)
    caplog.clear()
    evaluate_file(file(binary))
    assert "binary, per image" in caplog.text and "all classes" not in caplog.text


def test_what_it_has_read_it_reads_again(file):
    predictions = read_answers(file(table())).predictions
    pd.testing.assert_frame_equal(read_answers(file(predictions)).predictions, predictions)
