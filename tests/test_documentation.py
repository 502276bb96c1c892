"""The pages for readers: short, with links that lead somewhere, and no command undocumented."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mura_utils import data_commands
from mura_utils.cli import app
from mura_utils.paths import REPOSITORY

README = REPOSITORY / "README.md"
PAGES = [
    path
    for pattern in ("*.md", "data/*.md", "docs/*.md", "benchmarks/*.md")
    for path in sorted(REPOSITORY.glob(pattern))
]


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub makes anchors of them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path) -> list[str]:
    """Links to files or headings that are not there; those to the web are not followed."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://")):
            continue
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (heading and heading not in anchors(target)):
            dead.append(link)
    return dead


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_to_files_and_headings(page):
    assert dead_links(page) == []


def test_dead_links_are_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A b\n[x](no.md) [y](#a-b) [z](#c) [w](page.md#a-b) [v](https://x.org/no)\n")
    assert dead_links(page) == ["no.md", "#c"]


def test_the_readme_is_read_in_a_minute():
    assert len(README.read_text(encoding="utf-8").split()) <= 750


def test_every_command_is_documented():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    commands = [command.callback.__name__ for command in app.registered_commands]
    commands += [f"data {command.name}" for command in data_commands.app.registered_commands]
    assert [name for name in commands if f"mura {name}" not in text] == []
    targets = re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert [name for name in targets if f"make {name}" not in text and name != "help"] == []


def test_the_readme_gives_the_phantom_results_of_the_committed_notebook():
    (row,) = re.findall(r"^\| phantoms.*$", README.read_text(encoding="utf-8"), re.MULTILINE)
    given = re.findall(r"(\d\.\d{3}) \[(\d\.\d{3}), (\d\.\d{3})\]", row)
    assert len(given) == 4
    book = json.loads((REPOSITORY / "notebooks" / "06_evaluation.ipynb").read_text("utf-8"))
    (described,) = [
        output["metadata"]["image/png"]["alt"]
        for cell in book["cells"]
        if "plotting.intervals(headline" in "".join(cell["source"])
        for output in cell["outputs"]
    ]
    levels = dict(level.split(": ", 1) for level in re.split(r"[.;] ", described) if ": " in level)
    shown = [
        re.search(rf"\b{metric} +(\S+) +\[(\S+), (\S+)\]", levels[level]).groups()
        for level, metric in (
            ("all classes, per image", "accuracy"),
            ("all classes, per image", "kappa"),
            ("binary, per image", "auroc"),
            ("binary, per study", "auroc"),
        )
    ]
    assert given == shown
