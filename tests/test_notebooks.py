"""The series itself: its form, and a tiny run of all seven notebooks with numbers asserted."""

from __future__ import annotations

import ast
import json
import re
import shutil
import statistics
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from mura_tree import tiny_rows, write_tree
from small import experiment, vivid

from mura_utils.experiments import Experiment, load_experiment, owner, save_experiment
from mura_utils.network.backbone import save_weights
from mura_utils.notebook import parameters_in
from mura_utils.paths import REPOSITORY, read_json, read_table
from mura_utils.runs import pipeline
from mura_utils.runs.jobs import run_here
from mura_utils.runs.pipeline import NotebookFailed
from mura_utils.runs.record import completed
from mura_utils.runs.stages import NOTEBOOKS
from mura_utils.runs.sweep import plan, run_sweep
from tools.prose_share import measure, prose_lines

TINY = {
    "name": "tiny",
    "data_dir": "tiny",
    "phantom_patients": 80,
    "phantom_faults": False,
    "backbone": "mobilenet",
    "alpha": 0.25,
    "image_size": 64,
    "pca_image_size": 16,
    "pca_images_per_class": [3],
    "epochs": 2,
    "batch_size": 16,
    "extractor": "tensorflow",
    "bootstrap": 100,
    "scored_images": 4,
    "checked_images": 2,
}


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", as_version=4)


def code_cells(name: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


def exercises(name: str) -> list[str]:
    """The numbered exercises of a notebook, each with its solution."""
    _, text = read(name).cells[-1].source.split("## Exercises")
    return re.split(r"^\d+\. ", text, flags=re.MULTILINE)[1:]


def solutions(name: str) -> list[str]:
    """The Python code of the solutions."""
    return [
        code
        for exercise in exercises(name)
        for code in re.findall(r"^```python\n(.*?)^```$", exercise, re.MULTILINE | re.DOTALL)
    ]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_parameter_cells_hold_the_defaults_of_their_own_parameters(name):
    (cell,) = [cell for cell in code_cells(name) if "parameters" in cell.metadata.get("tags", [])]
    parameters = parameters_in([cell.source], name)
    owned = {field for field in Experiment.model_fields if owner(field) == name[:2]}
    assert parameters.keys() == owned | {"name"}
    defaults = Experiment().model_dump()
    assert parameters == {field: defaults[field] for field in parameters}
    lines = cell.source.splitlines()[1:]
    assert all("  # " in line for line in lines), "each parameter says what it means"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_cells_are_short_and_hold_no_logic(name):
    code = [c for c in code_cells(name) if "parameters" not in c.metadata.get("tags", [])]
    lengths = [len(cell.source.splitlines()) for cell in code]
    assert statistics.median(lengths) <= 6
    assert max(lengths) <= 25, "only the table of parameters may be longer"
    for cell in code_cells(name):
        assert max(map(len, cell.source.splitlines())) <= 86, "longer lines wrap on a projector"
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.ClassDef)
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno <= 2
            assert not (isinstance(node, ast.Attribute) and node.attr == "filterwarnings")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_words_are_markdown_and_not_built_by_code(name):
    assert measure(REPOSITORY / "notebooks" / f"{name}.ipynb").share < 0.05


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("x = 'one two three four five'", set()),
        ("x = 'one two three four five six'", {1}),
        ("x = (\n    f'one {two} three '\n    'four five six'\n)", {1, 2, 3, 4}),
        ("for x in y:\n    x += 1\n    print('one two three four five six')", {3}),
        ("if x == 'one two three four five six':\n    x = 1", {1}),
        ("import os\n# one two three four five six\nos.getcwd()", set()),
    ],
)
def test_a_sentence_is_a_string_of_six_words(source, lines):
    assert prose_lines(source) == lines


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_frame_is_the_same_in_every_notebook(name):
    text = [cell.source for cell in read(name).cells if cell.cell_type == "markdown"]
    assert sum(len(re.findall(r"^# ", source, re.MULTILINE)) for source in text) == 1
    for row in ("Purpose", "You will learn", "Time", "Reads", "Writes", "Previous / next"):
        assert f"| **{row}** |" in text[0]
    everything = "\n".join(text)
    for part in (
        "\n**In this notebook you will**\n\n- ",
        "## Set-up",
        "## What we learned",
        "| Decision | Evidence | Consequence |",
    ):
        assert part in "\n" + everything
    assert len(exercises(name)) >= 3
    for exercise in exercises(name):
        assert exercise.count("<details><summary>Solution</summary>") == 1
    assert re.match(r"\*\*API pages:\*\* .*\]\(https://", text[-1].splitlines()[-1])


def test_every_report_figure_has_a_section():
    headings = "\n".join(
        line
        for name in NOTEBOOKS
        for cell in read(name).cells
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if line.startswith("#")
    )
    named = set()
    for listed in re.findall(r"Fig\. ((?:\d+(?:, | and | to |))+)", headings):
        for first, last in re.findall(r"(\d+)(?: to (\d+))?", listed):
            named |= set(range(int(first), int(last or first) + 1))
    expected = set(range(3, 37))
    assert expected <= named, f"no section for report figures {sorted(expected - named)}"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_committed_outputs_are_complete_small_and_of_no_machine(name):
    path = REPOSITORY / "notebooks" / f"{name}.ipynb"
    assert path.stat().st_size < 2e6
    for cell in code_cells(name):
        assert cell.execution_count, "nbval compares executed cells only"
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr"
            text = output.get("text", "") + str(
                [
                    value
                    for kind, value in output.get("data", {}).items()
                    if kind.startswith("text/")
                ]
            )
            assert not re.search(r"(/tmp|/home|/root|/work|0x[0-9a-f]{8})", text), text
            if "image/png" in output.get("data", {}):
                assert len(output.metadata["image/png"]["alt"]) > 20, "a figure needs alt text"


SOLUTION = """
try:
    exec({code!r})
except Exception as error:
    print("solution {number} failed:", type(error).__name__, error)
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """All seven notebooks on 80 phantom patients, in the session's temporary folders.

    At its end each notebook also runs the solutions of its exercises, in their order.
    """
    copies = tmp_path_factory.mktemp("repository")
    (copies / "notebooks").mkdir()
    for name in NOTEBOOKS:
        book = read(name)
        for number, code in enumerate(solutions(name), start=1):
            cell = nbformat.v4.new_code_cell(SOLUTION.format(code=code, number=number))
            cell.metadata["tags"] = ["solution"]
            book.cells.append(cell)
        nbformat.write(book, copies / "notebooks" / f"{name}.ipynb")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pipeline, "REPOSITORY", copies)
        save_weights(vivid(experiment()).weights, copies / "vivid.npz")
        parameters = load_experiment("demo", **TINY, weights=str(copies / "vivid.npz"))
        folder = pipeline.run_experiment(parameters, progress=False)
    assert completed(folder) == list(NOTEBOOKS)
    return folder


@pytest.fixture(autouse=True)
def folders():
    """The session's folders, not one for each test: the tiny run is shared."""


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_solutions_of_the_exercises_run(tiny, name):
    cells = [
        cell
        for cell in nbformat.read(tiny / f"{name}.ipynb", as_version=4).cells
        if "solution" in cell.metadata.get("tags", [])
    ]
    assert len(cells) == len(solutions(name)) >= 1
    printed = "".join(output.get("text", "") for cell in cells for output in cell.outputs)
    assert not re.findall(r"^solution \d+ failed: .*", printed, re.MULTILINE)


def test_the_tiny_run_admits_every_phantom(tiny):
    counts = read_json(tiny / "quality.json")["counts"]
    card = read_json(tiny.parents[1] / "data" / "tiny" / "phantoms.json")
    assert (
        counts["listed"]
        == counts["admitted"]
        == card["images"]
        == len(read_table(tiny / "manifest.csv"))
    )


def test_the_tiny_runs_split_leaks_no_patient_and_keeps_the_official_test_set(tiny):
    manifest = read_table(tiny / "manifest.csv").merge(read_table(tiny / "splits.csv"), on="path")
    patients = manifest.groupby("patient")["split"].nunique()
    assert patients.max() == 1
    assert set(manifest.query("split == 'test'")["official_split"]) == {"valid"}
    assert set(manifest.query("split != 'test'")["official_split"]) == {"train"}
    by_image = read_json(tiny / "leakage.json")
    assert "official-image" in json.dumps(by_image)


def test_the_tiny_runs_predictions_are_distributions_over_all_classes(tiny):
    predictions = pd.read_csv(tiny / "predictions.csv")
    columns = [name for name in predictions if name.startswith("p:")]
    assert len(columns) == 14
    np.testing.assert_allclose(predictions[columns].sum(axis=1), 1, atol=1e-4)
    predicted = predictions[columns].idxmax(axis=1).str.removeprefix("p:")
    assert (predicted == predictions["predicted"]).all()


def test_the_tiny_runs_metrics_follow_from_its_predictions(tiny):
    predictions = pd.read_csv(tiny / "predictions.csv").query("split == 'test'")
    metrics = read_json(tiny / "metrics.json")
    accuracy = (predictions["predicted"] == predictions["label"]).mean()
    assert metrics["image"]["accuracy"]["value"] == pytest.approx(accuracy)
    assert metrics["counts"]["images"] == len(predictions)
    assert np.sum(metrics["confusion"]["counts"]) == len(predictions)
    for level in ("image", "binary_image", "binary_study"):
        kappa = metrics[level]["kappa"]
        assert kappa["low"] <= kappa["value"] <= kappa["high"]


def test_the_tiny_runs_heatmaps_are_scored_and_drawn(tiny):
    explanations = pd.read_csv(tiny / "explanations.csv")
    assert {"path", "method", "energy_in_mask", "pointing_game"} <= set(explanations.columns)
    assert explanations["energy_in_mask"].dropna().between(0, 1).all()
    assert explanations["method"].nunique() >= 4
    assert list((tiny / "figures").glob("*.png"))


def test_the_tiny_run_records_every_value_and_the_model_predicts(tiny, monkeypatch, tmp_path):
    from mura_utils.prediction import predict_images

    kept = load_experiment(tiny / "experiment.yaml")
    assert kept == load_experiment("demo", **TINY, weights=kept.weights)
    monkeypatch.setenv("MURA_RUNS_DIR", str(tiny.parent))
    row = read_table(tiny / "manifest.csv").iloc[0]
    image = tiny.parents[1] / "data" / "tiny" / row["path"]
    (result,) = predict_images("tiny", [image], tmp_path)
    assert sum(result["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert result["label"].endswith(result["body_part"])
    assert Path(result["overlay"]).stat().st_size > 1000


def test_plain_papermill_takes_an_experiments_file(tiny, tmp_path, monkeypatch):
    import papermill
    import yaml

    values = yaml.safe_load((tiny / "experiment.yaml").read_text())
    shutil.copytree(tiny, tmp_path / "runs" / "tiny")  # the tiny run itself stays complete
    monkeypatch.setenv("MURA_RUNS_DIR", str(tmp_path / "runs"))
    papermill.execute_notebook(
        REPOSITORY / "notebooks" / "02_data_preprocessing.ipynb",
        tmp_path / "out.ipynb",
        parameters=values,
        progress_bar=False,
    )
    with pytest.raises(papermill.PapermillExecutionError, match="unknown parameter 'epoch'"):
        papermill.execute_notebook(
            REPOSITORY / "notebooks" / "02_data_preprocessing.ipynb",
            tmp_path / "out.ipynb",
            parameters={**values, "epoch": 3},
            progress_bar=False,
        )


def test_a_run_that_looks_twice_answers_with_both_looks_and_has_the_second_ones_map(tiny, tmp_path):
    twice = {
        "name": "twice", "head": "pooled", "dropout": [0.1], "mask_supervision": 4.0,
        "second_look": True, "cache_features": "on", "views": 2,
    }  # fmt: skip
    save_experiment(load_experiment(tiny / "experiment.yaml", **twice), tmp_path / "twice.yaml")
    runs = plan([tiny / "experiment.yaml", tmp_path / "twice.yaml"], {})
    (_, outcome) = run_sweep(runs, run_here)  # with 01 to 04 of the tiny run
    assert outcome.state == "done", outcome
    folder = tiny.with_name("twice")
    book = nbformat.read(folder / "06_evaluation.ipynb", as_version=4)
    said = "".join(
        output.get("text", "") for cell in book.cells for output in cell.get("outputs", [])
    )
    assert "each twice: as it is, and its hottest region from nearer." in said
    scores = pd.read_csv(folder / "explanations.csv")
    second = scores[scores["method"] == "second look"].set_index("path")
    first = scores[scores["method"] == "attention_0"].set_index("path")
    assert len(second) == len(first)
    scored = second["energy_in_mask"].dropna()
    assert len(scored) >= 4 and scored.between(0, 1).all()
    assert (scored != first.loc[scored.index, "energy_in_mask"]).any()


def test_a_data_set_without_one_usable_image_stops_in_the_first_notebook_with_a_count(tmp_path):
    root = write_tree(tmp_path, tiny_rows(), content=b"no image")
    experiment = load_experiment("demo", name="broken", source="mura", data_dir=str(root))
    with pytest.raises(NotebookFailed, match=r"01_.*None of the 8 .*\(wrong-format 8\)"):
        pipeline.run_experiment(experiment, stop="01", progress=False)
