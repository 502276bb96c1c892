"""``mura report``: a run's executed notebooks and its main numbers as web pages.

The pages need no network and run no scripts. What their reader must know of the images, such as
that those of MURA must not be published, stands on every page, as the data source says it.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import quote, unquote, urlsplit

import nbformat
from bs4 import BeautifulSoup
from nbconvert.exporters import HTMLExporter
from nbformat import NotebookNode
from traitlets.config import Config

from mura_utils.data.sources import SOURCES, Source
from mura_utils.errors import UserError, naming_damage
from mura_utils.paths import atomic_write, reading, runs_dir, write_text
from mura_utils.runs.formulas import draw_formulas
from mura_utils.runs.overview import find_figures, overview
from mura_utils.runs.pipeline import discard
from mura_utils.runs.record import completed, find_run, is_ensemble, working_in
from mura_utils.runs.stages import NOTEBOOKS

_MARK = '<meta name="generator" content="mura report">'
_CARD = "model_card"

# No scripts and no widgets: a page shows them as the text or picture that comes with them.
_EXPORT = Config(
    HTMLExporter={
        "template_name": "basic",
        "exclude_input_prompt": True,
        "exclude_output_prompt": True,
    },
    NbConvertBase={
        "display_data_priority": [
            *("text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg"),
            "text/plain",
        ]
    },
)
_NO_ALT = "No description has been provided for this image"  # nbconvert's

_PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
$mark$robots
<title>$title</title>
<link rel="stylesheet" href="style.css">
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header>
<p class="$kind" role="note">$terms</p>
<nav aria-label="Pages"><ol>$pages</ol></nav>
</header>
<main id="content">
$body
</main>
<footer><nav aria-label="Previous and next page"><ol>$neighbors</ol></nav></footer>
</body>
</html>
""")


@dataclass
class _Page:
    """One page: the name of its file without ending, its title, and its content as HTML."""

    name: str
    title: str
    body: str = ""


@dataclass
class _Report:
    """What the pages are made of, and remarks on what they do not show."""

    folder: Path
    source: Source
    books: dict[str, NotebookNode]
    remarks: list[str] = field(default_factory=list)


def write_report(run: str | Path) -> tuple[Path, list[str]]:
    """Write ``report/`` into a run's folder; an earlier report there is replaced.

    It holds ``index.html`` (headline metrics, parameters, figures), a page for each completed
    notebook that lies in the run, and one for ``model_card.md`` if there is one. Links between
    notebooks lead from page to page; a link to a file outside the report becomes text.

    Args:
        run: a run's name or folder.

    Returns:
        The path of index.html, and one sentence for each thing that is not shown.

    Raises:
        UserError: there is no such run; it is an ensemble; it holds no completed notebook; another
            process works in it; a file of it is damaged; report/ holds something else.
    """
    folder = find_run(run)
    if is_ensemble(folder):
        raise UserError(
            f"The run {folder.name} is an ensemble, in which no notebook works: give the name of "
            "one of its members."
        )
    if not (folder / "state.json").is_file():
        raise UserError(f"There is no run {str(run)!r} in {runs_dir()}: make it with 'mura run'.")
    with working_in(folder):
        target = folder / "report"
        _refuse_foreign(target)
        report = _read(folder)
        for leftover in folder.glob(".report.*.tmp"):  # of a report that was killed
            shutil.rmtree(leftover)
        with atomic_write(target) as temporary:
            temporary.mkdir()
            _write_pages(report, temporary)
            discard(target)
    return target / "index.html", report.remarks


def _refuse_foreign(target: Path) -> None:
    index = target / "index.html"
    if target.exists() and not (index.is_file() and _MARK in index.read_text(errors="replace")):
        raise UserError(f"{target} was not written by 'mura report': move or rename it first.")


def _read(folder: Path) -> _Report:
    """The run's completed notebooks; a remark names those that are not there."""
    done = completed(folder)
    there = [name for name in done if (folder / f"{name}.ipynb").is_file()]
    if not there:
        reason = (
            "those executed in JupyterLab keep their outputs in notebooks/"
            if done
            else "none is completed"
        )
        raise UserError(
            f"The run {folder.name} has no completed notebook in {folder} ({reason}): execute them "
            "with 'mura run'."
        )
    books = {}
    for name in there:
        path = folder / f"{name}.ipynb"
        with naming_damage(path, f"execute it again with 'mura run' and --from {name[:2]}"):
            books[name] = nbformat.read(path, as_version=4)
    with reading(folder / "quality.json") as quality:
        source = SOURCES[quality["source"]]
    report = _Report(folder, source, books)
    absent = ", ".join(name for name in done if name not in there)
    later = ", ".join(name for name in NOTEBOOKS if name not in done)
    if absent:
        report.remarks.append(f"completed, but not in the run's folder: {absent}")
    if later:
        report.remarks.append(f"not completed, so not shown: {later}")
    return report


def _write_pages(report: _Report, out: Path) -> None:
    pages = [_Page("index", f"The run {report.folder.name}")]
    pages += [_Page(name, _title(name, book)) for name, book in report.books.items()]
    card = report.folder / f"{_CARD}.md"
    if card.is_file() and "06_evaluation" in report.books:  # else it is of an earlier model
        pages.append(_Page(_CARD, "Model card"))
    exporter = HTMLExporter(config=_EXPORT)
    pages[0].body = _overview(report, pages, out)
    for page in pages[1:]:
        book = report.books.get(page.name) or _as_notebook(card)
        with naming_damage(report.folder / page.name, "make it again"):
            page.body = exporter.from_notebook_node(book)[0]
    shutil.copyfile(Path(__file__).with_suffix(".css"), out / "style.css")
    (out / "style.css").chmod(0o644)
    links, undescribed, undrawn = Counter(), Counter(), []
    for page in pages:
        soup = BeautifulSoup(page.body, "html.parser")
        links.update(_mend_links(soup, out, pages))
        undrawn += draw_formulas(soup)
        undescribed[page.title] += _describe_images(soup, page.title)
        _box_what_is_wide(soup)
        write_text(out / f"{page.name}.html", _assemble(report, pages, page, str(soup)))
    if links:
        report.remarks.append(f"outside the report, and no longer links: {', '.join(links)}")
    if undrawn:
        report.remarks.append(f"formulas that stay LaTeX: {', '.join(undrawn)}")
    report.remarks += [
        f"figures without a description: {number} in {title}"
        for title, number in undescribed.items()
        if number
    ]


def _overview(report: _Report, pages: Sequence[_Page], out: Path) -> str:
    figures, unknown = find_figures(report.folder, report.books)
    if unknown:
        names = ", ".join(path.name for path in unknown)
        report.remarks.append(f"in figures/, but in no notebook of the report: {names}")
    (out / "figures").mkdir()
    for figure in figures:
        (out / "figures" / figure.file.name).write_bytes(figure.file.read_bytes())
    titles = {page.name: page.title for page in pages if page.name in report.books}
    return overview(report.folder, report.source.title, titles, figures)


def _title(name: str, book: NotebookNode) -> str:
    """A notebook's first heading; its name where there is none."""
    texts = (cell.source for cell in book.cells if cell.cell_type == "markdown")
    lines = (line for text in texts for line in text.splitlines())
    return next((line[2:].strip() for line in lines if line.startswith("# ")), name)


def _as_notebook(file: Path) -> NotebookNode:
    cell = nbformat.v4.new_markdown_cell(file.read_text(encoding="utf-8-sig"))
    return nbformat.v4.new_notebook(cells=[cell])


def _assemble(report: _Report, pages: Sequence[_Page], page: _Page, body: str) -> str:
    position = pages.index(page)
    before, after = pages[max(position - 1, 0) : position], pages[position + 1 : position + 2]
    neighbors = [_link(other, f"Previous: {other.title}") for other in before]
    neighbors += [_link(other, f"Next: {other.title}") for other in after]
    private = report.source.private
    title = page.title if position == 0 else f"{page.title} – the run {report.folder.name}"
    return _PAGE.substitute(
        mark=_MARK,
        robots='\n<meta name="robots" content="noindex, nofollow, noarchive">' if private else "",
        title=escape(title),
        kind="terms private" if private else "terms",
        terms=escape(report.source.terms),
        pages="".join(
            _link(other, _short(other), ' aria-current="page"' if other is page else "")
            for other in pages
        ),
        neighbors="".join(neighbors),
        body=body,
    )


def _short(page: _Page) -> str:
    return {"index": "Overview", _CARD: page.title}.get(page.name, page.name.replace("_", " "))


def _link(page: _Page, text: str, attributes: str = "") -> str:
    return f'<li><a href="{quote(page.name)}.html"{attributes}>{escape(text)}</a></li>'


# --- what holds for every page ------------------------------------------------------------------


def _mend_links(soup: BeautifulSoup, out: Path, pages: Iterable[_Page]) -> list[str]:
    """Point links to notebooks at their pages; what is not in the report becomes its text.

    Returns:
        The targets that are not in the report.
    """
    files = {page.name: f"{page.name}.html" for page in pages}
    outside = []
    for kind, attribute in (("a", "href"), ("img", "src")):
        for element in soup.select(f"{kind}[{attribute}]"):
            target = str(element[attribute])
            url = urlsplit(target)
            path = Path(unquote(url.path))
            if url.scheme or url.netloc or not url.path or url.path in files.values():
                continue
            if path.suffix in (".ipynb", ".md") and path.stem in files:
                element[attribute] = url._replace(path=files[path.stem]).geturl()
            elif path.is_absolute() or ".." in path.parts or not (out / path).is_file():
                outside.append(target)
                if kind == "img":
                    element.replace_with(f"[{element.get('alt') or target}]")
                else:
                    element.unwrap()
    return outside


def _describe_images(soup: BeautifulSoup, title: str) -> int:
    """Give every image an alt text; return how many had none."""
    bare = [image for image in soup("img") if image.get("alt", "").strip() in ("", _NO_ALT)]
    for image in bare:
        image["alt"] = f"A figure without a description, in: {title}"
    return len(bare)


def _box_what_is_wide(soup: BeautifulSoup) -> None:
    """Let tables and code scroll in boxes of their own, which the keyboard reaches too.

    Scripts and the signs that nbconvert puts behind headings are dropped.
    """
    for element in soup.select("script, a.anchor-link"):
        element.decompose()
    for code in soup("pre"):
        code["tabindex"] = "0"
    for table in soup("table"):
        del table["border"]
        box = soup.new_tag("div", attrs={"class": "scroll", "tabindex": "0", "role": "group"})
        box["aria-label"] = "Table"
        table.wrap(box)
