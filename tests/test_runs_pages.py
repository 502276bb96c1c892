"""The web pages of `mura report`, read as a browser and a screen reader read them."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image
from typer.testing import CliRunner

from mura_utils import cli
from mura_utils.data.sources import SOURCES
from mura_utils.errors import UserError
from mura_utils.evaluation import LEVELS
from mura_utils.paths import REPOSITORY, runs_dir, write_json, write_text
from mura_utils.runs.formulas import draw_formulas
from mura_utils.runs.pages import write_report
from mura_utils.runs.record import ENSEMBLE, write_completed
from mura_utils.runs.stages import NOTEBOOKS

ALT = 'Loss & accuracy over "3" epochs.'
WIDE = "<table border='1'><tr>" + "<td>0.123456789</td>" * 40 + "</tr></table>"


# --- a run --------------------------------------------------------------------------------------


def png(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (4, 4), shade).save(stream, "png")
    return stream.getvalue()


def picture(content: bytes, **metadata):
    data = {"image/png": base64.b64encode(content).decode(), "text/plain": "<a picture>"}
    return new_output("display_data", data, metadata={"image/png": metadata} if metadata else {})


def book(position: int):
    neighbors = [f"[to {name}]({name}.ipynb#Save)" for name in NOTEBOOKS]
    outside = "[elsewhere](../docs/images.md) [outside](https://example.org/x.ipynb) [up](#Save)"
    outputs = [
        picture(png(position), alt=ALT),
        new_output("display_data", {"text/html": WIDE, "text/plain": "a table"}),
        new_output("stream", name="stdout", text="a < b\n"),
        new_output(
            "display_data",
            {"application/javascript": "alert(1)", "text/plain": "in place of a script"},
        ),
    ]
    return new_notebook(
        cells=[
            new_markdown_cell(f"# {NOTEBOOKS[position][:2]} · What & why?\n\n{neighbors[0]}"),
            new_markdown_cell(f"## Save\n\n{' '.join(neighbors)} {outside}"),
            new_code_cell("print('a < b')  # " + "long " * 60, outputs=outputs),
        ]
    )


@pytest.fixture
def make():
    """Write a run of a source whose first notebooks are completed; returns its folder."""

    def run(source: str = "phantom", notebooks: int = 7, name: str = "mine") -> Path:
        folder = runs_dir() / name
        for position, notebook in enumerate(NOTEBOOKS[:notebooks]):
            write_text(folder / f"{notebook}.ipynb", nbformat.writes(book(position)))
        write_text(
            folder / "experiment.yaml",
            f"name: {name}\nsource: {source}\ndata_dir: /home/someone/images\nepochs: 3\n",
        )
        write_json(folder / "quality.json", {"source": source})
        interval = {"value": 0.5, "low": 0.25, "high": None}
        no_width = {"value": 1.0, "low": None, "high": None, "interval": "none"}
        level = {"kappa": interval, "accuracy": no_width, "log_loss": interval}
        write_json(
            folder / "metrics.json",
            {
                **dict.fromkeys(LEVELS, level),
                "counts": {"images": 1234, "studies": 300, "patients": 200},
                "constant_answer": {"label": "Normal-HAND", "accuracy": {"image": 0.25}},
            },
        )
        (folder / "figures").mkdir(exist_ok=True)
        (folder / "figures" / "loss_curve.png").write_bytes(png(4))
        write_completed(folder, list(NOTEBOOKS[:notebooks]))
        return folder

    return run


# --- how a page is read -------------------------------------------------------------------------


@dataclass
class Read(HTMLParser):
    """The elements of a page in order, and its text."""

    file: Path
    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    inside: list[str] = field(default_factory=list)
    boxed: list[bool] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(self.file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.elements.append((tag, found))
        if tag == "table":
            self.boxed.append("scroll" in self.open)
        if tag == "div":
            self.open.append(found.get("class") or "")

    def handle_endtag(self, tag):
        if tag == "div":
            self.open.pop()

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def banner(self) -> dict[str, str | None]:
        (note,) = [attributes for attributes in self.all("p") if attributes.get("role") == "note"]
        return note


def read(folder: Path) -> dict[str, Read]:
    return {path.stem: Read(path) for path in sorted((folder / "report").glob("*.html"))}


def check(pages: dict[str, Read]) -> None:
    """What holds for every page of every report."""
    for name, page in pages.items():
        assert page.all("html") == [{"lang": "en"}]
        assert not page.all("script") and not page.all("iframe")
        assert [link["href"] for link in page.all("link")] == ["style.css"]
        assert all(image["alt"].strip() for image in page.all("img")), name
        headings = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3", "h4")]
        assert headings.count(1) == 1 and headings[0] == 1
        assert all(after <= before + 1 for before, after in pairwise(headings))
        assert all(page.boxed) and not any("border" in table for table in page.all("table"))
        assert all(code.get("tabindex") == "0" for code in page.all("pre"))
        sources = [image["src"] for image in page.all("img")]
        links = [link["href"] for link in page.all("a")]
        for target in [*sources, *links]:
            url = urlsplit(target)
            if url.scheme not in ("data", "https") and url.path:
                assert (page.file.parent / unquote(url.path)).is_file(), (name, target)
            if url.fragment and url.scheme != "https":
                there = pages[Path(url.path).stem] if url.path else page
                ids = {attributes.get("id") for _, attributes in there.elements}
                assert unquote(url.fragment) in ids, (name, target)
        assert not any(source.startswith("http") for source in sources)


# --- a report -----------------------------------------------------------------------------------


def test_a_report_links_its_notebooks_figures_and_numbers(make):
    folder = make()
    index, remarks = write_report("mine")
    assert index == folder / "report" / "index.html"
    assert remarks == ["outside the report, and no longer links: ../docs/images.md"]
    pages = read(folder)
    assert list(pages) == [*NOTEBOOKS, "index"]
    check(pages)
    first = pages["index"]
    assert "all classes, per imagekappa0.5000.250 to undefined" in first.text
    assert "accuracy1.000none" in first.text
    groups = [head for head in first.all("th") if head.get("scope") == "rowgroup"]
    assert groups == [{"scope": "rowgroup", "rowspan": "2"}] * len(LEVELS)
    assert "log_loss" not in first.text
    assert "1,234 images in 300 studies of 200 patients" in first.text
    assert "Normal-HAND has the accuracy 0.250" in first.text
    assert "data_dirimagesphantom" in first.text and "/home" not in first.text
    assert "epochs3" in first.text and "seed: 0" in first.text
    assert first.all("img") == [{"src": "figures/loss_curve.png", "alt": ALT}]
    assert "loss curve, from 05_modeling" in first.text
    assert (
        "06 · What & why?writes predictions.csv, metrics.json, operating_point.json, "
        "calibration.json, familiarity.npz, model_card.md, figures/" in first.text
    )


def test_the_command_prints_the_page_and_the_remarks(make):
    folder = make(notebooks=6)
    done = CliRunner().invoke(cli.app, ["report", "--run", "mine"])
    assert done.exit_code == 0
    assert done.stdout == f"Open {folder / 'report' / 'index.html'}\n"
    assert "Remark: not completed, so not shown: 07_explainability\n" in done.stderr


def test_a_notebook_keeps_its_pictures_with_their_alt_text_and_runs_no_script(make):
    folder = make()
    write_report(folder)
    pages = read(folder)
    page = pages[NOTEBOOKS[2]]
    (image,) = page.all("img")
    assert image["alt"] == ALT
    assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == png(2)
    assert "a < b" in page.text and "in place of a script" in page.text
    assert "alert" not in page.text and "<a picture>" not in page.text
    links = [link["href"] for link in page.all("a")]
    assert {f"{name}.html#Save" for name in NOTEBOOKS} <= set(links)
    assert "https://example.org/x.ipynb" in links and "#Save" in links
    assert "elsewhere" in page.text and not any("docs" in link for link in links)
    assert "Previous: 02 · What & why?" in page.text and "Next: 04 · What & why?" in page.text
    assert "Next:" not in pages[NOTEBOOKS[6]].text and "Previous:" not in pages["index"].text
    (current,) = [link["href"] for link in page.all("a") if "aria-current" in link]
    assert current == page.file.name


@pytest.mark.parametrize(
    ("source", "words", "private"),
    [
        ("mura", "Do not publish or share this page", True),
        ("fracatlas", "CC BY 4.0", False),
        ("grazpedwri", "Nagy et al.", False),
        ("phantom", "they show no patient", False),
    ],
)
def test_every_page_says_what_its_images_are(make, source, words, private):
    folder = make(source)
    write_text(folder / "model_card.md", "# The model\n\nIt was trained.\n")
    write_report(folder)
    pages = read(folder)
    assert len(pages) == 9
    for page in pages.values():
        assert words in page.text and ("not publish" in page.text) == private
        assert page.banner()["class"] == ("terms private" if private else "terms")
        robots = [meta for meta in page.all("meta") if meta.get("name") == "robots"]
        assert bool(robots) == private


def test_the_source_is_that_of_the_images_not_what_was_asked_for(make):
    folder = make("auto")
    write_json(folder / "quality.json", {"source": "mura"})
    write_report(folder)
    assert all("not publish" in page.text for page in read(folder).values())


def test_every_source_has_terms_and_muras_and_your_own_images_are_private():
    assert all(source.terms.endswith(".") for source in SOURCES.values())
    assert [name for name, source in SOURCES.items() if source.private] == ["mura", "table"]


def test_a_model_card_is_a_page_with_its_figures(make):
    folder = make()
    pictures = "![a curve](figures/loss_curve.png) ![gone](gone.png)"
    text = f"# The model\n\n{pictures}\n\n[05](05_modeling.ipynb)\n"
    write_text(folder / "model_card.md", text)
    _, remarks = write_report(folder)
    pages = read(folder)
    check(pages)
    card = pages["model_card"]
    assert card.all("img") == [{"alt": "a curve", "src": "figures/loss_curve.png"}]
    assert "[gone]" in card.text and "gone.png" in remarks[0]
    assert "05_modeling.html" in [link["href"] for link in card.all("a")]
    assert "model_card.html" in [link["href"] for link in pages["index"].all("a")]


def test_the_card_of_an_earlier_model_is_no_page(make):
    folder = make(notebooks=5)
    write_text(folder / "model_card.md", "# The model\n\nIt was trained.\n")
    write_report(folder)
    assert "model_card" not in read(folder)


def test_a_picture_without_description_and_a_file_without_picture_are_remarks(make):
    folder = make()
    bare = book(0)
    bare.cells[2].outputs = [picture(png(9)), picture(png(4), alt=" ")]
    write_text(folder / f"{NOTEBOOKS[0]}.ipynb", nbformat.writes(bare))
    (folder / "figures" / "old.png").write_bytes(png(99))
    _, remarks = write_report(folder)
    check(read(folder))
    assert "in figures/, but in no notebook of the report: old.png" in remarks
    assert "figures without a description: 2 in 01 · What & why?" in remarks
    assert not (folder / "report" / "figures" / "old.png").exists()


def test_an_unfinished_run_is_reported_as_far_as_it_goes(make):
    folder = make(notebooks=5)
    (folder / f"{NOTEBOOKS[1]}.ipynb").unlink()
    _, remarks = write_report(folder)
    pages = read(folder)
    check(pages)
    assert "completed, but not in the run's folder: 02_data_preprocessing" in remarks
    assert "not completed, so not shown: 06_evaluation, 07_explainability" in remarks
    assert "there are no results to show" in pages["index"].text
    assert "0.500" not in pages["index"].text, "of an earlier execution"
    assert "06_evaluation is not in this report" in pages["index"].text


def test_a_second_report_replaces_the_first_whole(make, monkeypatch):
    folder = make()
    write_report(folder)
    before = {path.name: path.read_bytes() for path in (folder / "report").glob("*.*")}
    (folder / "report" / "old.html").touch()
    (folder / ".report.0a.tmp").mkdir()
    monkeypatch.setattr("mura_utils.runs.pages._assemble", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(folder)
    assert (folder / "report" / "old.html").exists(), "the earlier report was not touched"
    monkeypatch.undo()
    write_report(folder)
    assert {path.name: path.read_bytes() for path in (folder / "report").glob("*.*")} == before
    assert not list(folder.glob(".report*"))


# --- what cannot be reported --------------------------------------------------------------------


def test_what_is_no_run_with_notebooks_is_one_sentence(make):
    with pytest.raises(UserError, match=r"There is no run 'nothing' in .*: make it with"):
        write_report("nothing")
    folder = make(notebooks=0)
    with pytest.raises(UserError, match=r"no completed notebook in .* \(none is completed\)"):
        write_report(folder)
    write_completed(folder, list(NOTEBOOKS))
    with pytest.raises(UserError, match="those executed in JupyterLab keep their outputs in noteb"):
        write_report(folder)
    write_json(folder / ENSEMBLE, {})
    with pytest.raises(UserError, match="mine is an ensemble, in which no notebook works: give"):
        write_report(folder)
    assert not (folder / "report").exists()


def test_a_folder_that_is_no_report_is_left_alone(make):
    folder = make()
    write_text(folder / "report" / "index.html", "my own page")
    with pytest.raises(UserError, match="report was not written by 'mura report': move or rename"):
        write_report(folder)
    assert (folder / "report" / "index.html").read_text() == "my own page"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (f"{NOTEBOOKS[4]}.ipynb", r"05_modeling.ipynb is damaged .*'mura run' and --from 05"),
        ("quality.json", "quality.json is not JSON"),
        ("metrics.json", "metrics.json is not JSON"),
    ],
)
def test_a_damaged_file_is_named(make, name, sentence):
    folder = make()
    (folder / name).write_text('{"cells": [')
    with pytest.raises(UserError, match=sentence):
        write_report(folder)
    assert not (folder / "report").exists() and not list(folder.glob(".report*"))


def test_the_committed_notebooks_become_pages(make):
    folder = make()
    for name in NOTEBOOKS:
        source = REPOSITORY / "notebooks" / f"{name}.ipynb"
        (folder / f"{name}.ipynb").write_bytes(source.read_bytes())
    _, remarks = write_report(folder)
    check(read(folder))
    assert not any("description" in remark or "LaTeX" in remark for remark in remarks)
    assert 'class="formula block"' in (folder / "report" / "05_modeling.html").read_text()


def test_formulas_are_drawn_and_code_is_not():
    page = BeautifulSoup("<p>$a_1$ or $\\wrong{}$</p><code>$HOME$</code>", "html.parser")
    assert draw_formulas(page) == ["$\\wrong{}$"]
    assert page.img["alt"] == "a_1"
    assert page.get_text() == " or $\\wrong{}$$HOME$"
