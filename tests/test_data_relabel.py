"""Other labels as an overlay: what a table says, how it matches, and what it must not say."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from mura_utils.data.relabel import evaluate_relabeled, relabeled
from mura_utils.errors import UserError
from mura_utils.evaluation import evaluate, relabel_table, study_predictions

PARTS = ["HAND", "WRIST"]


def predictions() -> pd.DataFrame:
    """Eight studies of two views; patient1 to patient4 are abnormal."""
    rows = []
    for number in range(1, 9):
        kind, verdict = ("Abnormal", "positive") if number < 5 else ("Normal", "negative")
        part = PARTS[number % 2]
        study = f"valid/XR_{part}/patient{number}/study1_{verdict}"
        for view in (1, 2):
            path = f"MURA-v1.1/{study}/image{view}.png"
            rows.append((path, f"patient{number}", study, part, kind, f"{kind}-{part}"))
    columns = ["path", "patient", "study", "body_part", "abnormality", "label"]
    table = pd.DataFrame(rows, columns=columns).assign(split="test")
    classes = [f"{kind}-{part}" for kind in ("Abnormal", "Normal") for part in PARTS]
    p = np.random.default_rng(0).dirichlet([1] * 4, len(table))
    table["predicted"] = np.take(classes, p.argmax(axis=1))
    return table.join(pd.DataFrame(p, columns=[f"p:{label}" for label in classes]))


def write(folder, text: str, encoding: str = "utf-8"):
    file = folder / "labels.csv"
    file.write_bytes(text.encode(encoding))
    return file


ABNORMAL_TO_NORMAL = "valid/XR_WRIST/patient1/study1_positive"

SPELLINGS = {
    "plain": f"study,abnormality\n{ABNORMAL_TO_NORMAL},Normal\n",
    "numbers": f"study,abnormality\n{ABNORMAL_TO_NORMAL},0\n",
    "windows": f"study,abnormality\r\n{ABNORMAL_TO_NORMAL}/,0\r\n",
    "MURA's, no header": f"MURA-v1.1/{ABNORMAL_TO_NORMAL}/,0\r\n",
    "verdict of the new label": "study,abnormality\nvalid/XR_WRIST/patient1/study1_negative/,0\n",
    "backslashes": "study;abnormality\nD:\\valid\\XR_WRIST\\patient1\\study1_positive;no\n",
    "other columns": f"who,Abnormality,Study\nme,negative,{ABNORMAL_TO_NORMAL}\n",
    "by image": "path,abnormality\n"
    + "".join(f"MURA-v1.1/{ABNORMAL_TO_NORMAL}/image{view}.png,0\n" for view in (1, 2)),
    "said twice": f"study,abnormality\n{ABNORMAL_TO_NORMAL},0\n{ABNORMAL_TO_NORMAL}/,Normal\n",
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_every_spelling_changes_the_one_study(tmp_path, text, encoding):
    before = predictions()
    after, counts = relabeled(before, write(tmp_path, text, encoding))
    changed = before["abnormality"] != after["abnormality"]
    assert before["patient"][changed].tolist() == ["patient1", "patient1"]
    assert after["label"][changed].tolist() == ["Normal-WRIST"] * 2
    others = before.columns.drop(["abnormality", "label"])
    pd.testing.assert_frame_equal(after[others], before[others])
    assert (counts["images"], counts["studies"], counts["unmatched"]) == (2, 1, 0)


def test_views_of_a_study_may_disagree_and_one_abnormal_view_makes_it_abnormal(tmp_path):
    text = f"path,abnormality\nMURA-v1.1/{ABNORMAL_TO_NORMAL}/image1.png,0\n"
    text += "MURA-v1.1/valid/XR_WRIST/patient5/study1_negative/image2.png,1\n"
    after, counts = relabeled(predictions(), write(tmp_path, text))
    studies = study_predictions(after).set_index("patient")["abnormality"]
    assert (studies["patient1"], studies["patient5"]) == ("Abnormal", "Abnormal")
    assert (counts["images"], counts["studies"]) == (2, 1)


def test_the_row_of_an_image_prevails_over_that_of_its_study(tmp_path):
    text = f"path,study,abnormality\n,{ABNORMAL_TO_NORMAL},0\n"
    text += f"MURA-v1.1/{ABNORMAL_TO_NORMAL}/image2.png,,1\n"
    after, counts = relabeled(predictions(), write(tmp_path, text))
    first = after[after["patient"] == "patient1"]
    assert first["abnormality"].tolist() == ["Normal", "Abnormal"]
    assert counts == {"file": "labels.csv", "rows": 2, "unmatched": 0, "images": 1, "studies": 0}


def test_what_matches_nothing_is_counted_and_the_same_label_changes_nothing(tmp_path):
    text = "study,abnormality\ntrain/XR_HAND/patient77/study1_positive,0\n"
    text += f"{ABNORMAL_TO_NORMAL},1\n"
    before = predictions()
    after, counts = relabeled(before, write(tmp_path, text))
    pd.testing.assert_frame_equal(after, before)
    assert (counts["rows"], counts["unmatched"], counts["images"]) == (2, 1, 0)


FAULTS = {
    "label": (f"study,abnormality\n{ABNORMAL_TO_NORMAL},perhaps\n", "its label is none: row 2, "),
    "no name": ("study,abnormality\n,0\n", "it names no study and no path: row 2, "),
    "columns": ("image,label\na,0\n", "its columns are not those expected: row 1, "),
    "twice": ("study,study,abnormality\na,b,0\n", "its columns are not those expected: row 1, "),
    "contradiction": (
        f"study,abnormality\n{ABNORMAL_TO_NORMAL},0\n{ABNORMAL_TO_NORMAL}/,1\n",
        "it contradicts row 2: row 3, ",
    ),
    "no rows": ("study,abnormality\n", "has a header and no rows: list studies"),
    "empty": ("\n\n", "holds no rows, only blank lines"),
}


@pytest.mark.parametrize(("text", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_one_sentence_with_its_row(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as caught:
        relabeled(predictions(), write(tmp_path, text))
    assert str(caught.value).startswith(str(tmp_path / "labels.csv"))
    assert "\n" not in str(caught.value)


def test_a_label_that_is_no_class_of_the_model_is_named(tmp_path):
    lacks = predictions().drop(columns="p:Normal-WRIST")
    with pytest.raises(UserError, match=r"Normal-WRIST, no class of the model: row 2, 'valid/"):
        relabeled(lacks, write(tmp_path, SPELLINGS["plain"]))


def test_every_metric_is_that_of_the_other_labels(tmp_path):
    file = write(tmp_path, SPELLINGS["plain"])
    rows = predictions()
    record = evaluate_relabeled(rows, file, 0.5, bootstrap=50)
    changed, counts = relabeled(rows, file)
    expected = evaluate(changed, 0.5, bootstrap=50)
    assert record == counts | {level: expected[level] for level in record.keys() - counts.keys()}
    json.dumps(record, allow_nan=False)
    given = evaluate(rows, 0.5, bootstrap=50)
    table = relabel_table(given, record)
    assert len(table) == 6
    assert (table["as given"] != table["relabeled"]).any()


def test_without_a_file_there_is_nothing():
    assert evaluate_relabeled(predictions(), None, 0.5) is None
    assert relabel_table({}, None).empty
