"""What a stage reads and writes is said in one place, and everything else follows it."""

from __future__ import annotations

import re

import nbformat
import pytest

from mura_utils.paths import REPOSITORY
from mura_utils.runs.stages import NOTEBOOKS, SHARED, STAGES


def listed(row: str, text: str) -> set[str]:
    """The artefacts in a row of a notebook's first table."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| **{row}** |")]
    return set(re.findall(r"`([^`]+)`", line))


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.notebook)
def test_the_head_of_a_notebook_says_what_its_stage_reads_and_writes(stage):
    path = REPOSITORY / "notebooks" / f"{stage.notebook}.ipynb"
    head = nbformat.read(path, as_version=4).cells[0].source
    assert listed("Reads", head) == set(stage.reads)
    assert listed("Writes", head) == set(stage.writes)


def test_each_stage_reads_only_what_an_earlier_one_wrote():
    written: set[str] = set()
    for stage in STAGES:
        assert set(stage.reads) <= written
        written |= set(stage.writes)


def test_the_notebooks_the_readme_and_what_runs_share_follow_the_stages():
    files = sorted(path.stem for path in (REPOSITORY / "notebooks").glob("*.ipynb"))
    assert files == list(NOTEBOOKS)
    readme = (REPOSITORY / "README.md").read_text()
    assert re.findall(r"\| \[.*?\]\(notebooks/(\w+)\.ipynb\)", readme) == list(NOTEBOOKS)
    first_with_a_model = next(stage for stage in STAGES if "model.keras" in stage.writes)
    assert list(SHARED) == [name for name in NOTEBOOKS if name < first_with_a_model.notebook]
