"""The model card says what the run's files say, and marks the rest as the user's."""

from __future__ import annotations

import re

import pytest
from members import member
from small import one_sentence

from mura_utils.ensembles import make_ensemble
from mura_utils.errors import UserError
from mura_utils.evaluation import constant_answer, evaluate, metrics_record
from mura_utils.paths import read_json, read_table, write_json, write_text
from mura_utils.runs.claim import FOR_YOU, ITEMS
from mura_utils.runs.model_card import write_model_card


@pytest.fixture
def run():
    """A run that is trained and tested, with the metrics of its predictions."""
    folder = member("mine", weights="/secret/place/weights.h5")
    evaluated(folder)
    return folder


def evaluated(folder, **sections):
    predictions = read_table(folder / "predictions.csv")
    manifest = read_table(folder / "manifest.csv").merge(read_table(folder / "splits.csv"))
    metrics = evaluate(predictions[predictions["split"] == "test"], 0.5, 100)
    constant = constant_answer(manifest, metrics["confusion"]["labels"], 0.5)
    write_json(folder / "metrics.json", metrics_record("phantom", metrics, constant, **sections))


def rows(card: str) -> dict[int, str]:
    """What the run says to each item of the checklist."""
    lines = re.findall(r"^\| (\d+) \| .* \| (.*) \|$", card, re.MULTILINE)
    return {int(number): said for number, said in lines}


def test_the_numbers_are_those_of_the_files(run):
    card = write_model_card(run)
    assert (run / "model_card.md").read_text() == card
    metrics = read_json(run / "metrics.json")
    auroc = metrics["binary_study"]["auroc"]
    text = f"{auroc['value']:.3f} [{auroc['low']:.3f}, {auroc['high']:.3f}]"
    assert f"| binary, per study | auroc | {text} |" in card
    assert "| test | 8 | 8 | 4 | 4 | 8 |" in card
    assert "not for clinical use" in card.lower() and "/secret" not in card
    assert f"{metrics['counts']['images']} images" in rows(card)[32]
    (_, missed), (false_alarms, _) = metrics["confusion"]["counts"]
    assert (missed, false_alarms) == (0, 1)
    assert rows(card)[39].startswith("Normal-HAND taken for Abnormal-HAND 1; why")


def test_all_items_of_claim_are_there_and_the_unknown_ones_are_marked(run):
    said = rows(write_model_card(run))
    assert list(said) == list(range(1, 45)) and len(ITEMS) == 44
    mine = {1, 2, 3, 4, 5, 6, 11, 13, 14, 15, 16, 17, 18, 30, 31, 34, 41, 42, 44}
    assert {number for number, text in said.items() if text == FOR_YOU} == mine
    write_text(run / "explanations.csv", "")
    assert FOR_YOU not in rows(write_model_card(run))[31]


def test_what_is_not_recorded_is_said_and_what_is_there_is_shown(run):
    card = write_model_card(run)
    assert "- hardware: not recorded" in card and "\n## Calibration\n\nNot measured." in card
    assert "- shared by train and test: not recorded" in card
    training = read_json(run / "training.json")
    write_json(run / "training.json", {**training, "device": "CPU", "versions": {"keras": "3"}})
    pairs = {"train-test": {"patients": 0, "duplicate_images": 2}}
    leakage = {"chosen": {"protocol": "patient"}, "protocols": {"patient": {"pairs": pairs}}}
    write_json(run / "leakage.json", leakage)
    write_json(run / "operating_point.json", {"rule": "youden", "threshold": 0.31})
    metric = {"value": 0.25, "low": 0.125, "high": 0.5, "undefined": 0}
    evaluated(run, calibration={"temperature": 1.5, "test": {"ece": metric}, "bins": [1, 2]})
    card = write_model_card(run)
    assert "- hardware: CPU\n- software: keras 3" in card
    assert "train and test: patients 0, duplicate images 2" in card
    assert "## Operating point\n\n- rule: youden\n- threshold: 0.31\n" in card
    assert "- temperature: 1.5\n- test, ece: 0.250 [0.125, 0.500]\n" in card


def test_external_tests_are_listed_with_the_model_that_they_are_of(run):
    metric = {"value": 0.5, "low": 0.25, "high": 0.75}
    for name, model in (("clinic", "mine 0"), ("old", "another")):
        record = {"models": [model], "counts": {"images": 7}, "binary_image": {"auroc": metric}}
        write_json(run / "external" / name / "metrics.json", record)
    card = write_model_card(run)
    assert "| clinic | 7 | 0.500 [0.250, 0.750] | this one |" in card
    assert "| old | 7 | 0.500 [0.250, 0.750] | an earlier one |" in card
    assert rows(card)[33] == "see External tests"
    write_json(run / "external" / "old" / "metrics.json", {})
    with pytest.raises(UserError, match=r"old/metrics\.json does not hold") as error:
        write_model_card(run)
    assert one_sentence(error)


def test_an_ensemble_has_a_card_of_its_members(run):
    other = member("other", seed=1, image_size=96)
    folder = make_ensemble([run, other], "both")
    card = (folder / "model_card.md").read_text()
    assert card.startswith("# Model card of both\n")
    assert "| what | mine | other |" in card and "mean of mine, other" in rows(card)[27]
    assert "224 px, stretch or 96 px, stretch" in card
