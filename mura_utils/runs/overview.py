"""What stands on the first page of ``mura report``: results, notebooks, parameters, figures."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nbformat import NotebookNode

from mura_utils.evaluation import metrics_table
from mura_utils.experiments import Experiment, owner
from mura_utils.paths import reading
from mura_utils.runs.record import read_experiment
from mura_utils.runs.stages import STAGES

_HEADLINES = ("accuracy", "kappa", "macro_f1", "auroc", "sensitivity", "specificity")


@dataclass(frozen=True)
class Figure:
    """A file of ``figures/``, the notebook that shows it, and the alt text that it has there."""

    file: Path
    notebook: str
    alt: str


def find_figures(
    folder: Path, books: Mapping[str, NotebookNode]
) -> tuple[list[Figure], list[Path]]:
    """The figures of a run that its notebooks show, in their order, and the files none shows.

    The latter are left from an earlier execution: nothing says what they are of.
    """
    outputs = [
        (name, output)
        for name, book in books.items()
        for cell in book.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    shown = {
        base64.b64decode(output.data["image/png"]): (
            place,
            name,
            output.metadata.get("image/png", {}).get("alt", ""),
        )
        for place, (name, output) in enumerate(outputs)
    }
    files = {path: path.read_bytes() for path in sorted((folder / "figures").glob("*.png"))}
    found = {path: shown[png] for path, png in files.items() if png in shown}
    ordered = sorted(found, key=lambda path: found[path][0])
    return [Figure(path, *found[path][1:]) for path in ordered], [
        path for path in files if path not in found
    ]


def overview(folder: Path, data: str, titles: Mapping[str, str], figures: Sequence[Figure]) -> str:
    """The first page's content as HTML.

    Args:
        folder: the run's.
        data: what the data set is called.
        titles: of the notebooks that the report has, by name.
        figures: copied to ``figures/`` next to the page.

    Raises:
        UserError: metrics.json or experiment.yaml is damaged.
    """
    experiment = read_experiment(folder)
    return "\n".join(
        [
            f"<h1>The run {escape(folder.name)}</h1>",
            f"<p>{escape(experiment.backbone)} on {escape(data)}, split by "
            f"{escape(experiment.protocol)}.</p>",
            "<h2>Results on the test split</h2>",
            _results(folder, titles),
            "<h2>Notebooks</h2>",
            _notebooks(titles),
            "<h2>Parameters</h2>",
            _parameters(experiment),
            "<h2>Figures</h2>" if figures else "",
            *(_figure(figure) for figure in figures),
        ]
    )


def _table(caption: str, heads: Sequence[str], rows: Iterable[str]) -> str:
    cells = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return (
        f"<table><caption>{caption}</caption><thead><tr>{cells}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _results(folder: Path, titles: Mapping[str, str]) -> str:
    if "06_evaluation" not in titles:
        return "<p>06_evaluation is not in this report: there are no results to show.</p>"
    with reading(folder / "metrics.json") as metrics:
        counts, constant = metrics["counts"], metrics["constant_answer"]
        table = metrics_table(metrics)
        floor = _number(constant["accuracy"]["image"])
    table = table[table["metric"].isin(_HEADLINES)]
    groups = [
        f'<tr><th scope="rowgroup" rowspan="{len(rows)}">{escape(level)}</th>'
        + "</tr><tr>".join(_metric(row) for row in rows.to_dict("records"))
        + "</tr>"
        for level, rows in table.groupby("level", sort=False)
    ]
    caption = (
        f"{counts['images']:,} images in {counts['studies']:,} studies of "
        f"{counts['patients']:,} patients."
    )
    return _table(caption, ("level", "metric", "value", "95% interval"), groups) + (
        f"<p>To compare: always answering {escape(constant['label'])} has the accuracy {floor}, "
        "all classes, per image.</p>"
    )


def _metric(row: Mapping[str, Any]) -> str:
    return (
        f'<th scope="row">{escape(row["metric"])}</th>'
        f'<td class="number">{_number(row["value"])}</td>'
        f'<td class="number">{_interval(row["low"], row["high"])}</td>'
    )


def _interval(low: float, high: float) -> str:
    none = math.isnan(low) and math.isnan(high)
    return "none" if none else f"{_number(low)} to {_number(high)}"


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.3f}"


def _notebooks(titles: Mapping[str, str]) -> str:
    items = [
        f'<li><a href="{stage.notebook}.html">{escape(titles[stage.notebook])}</a><br>'
        f"writes {', '.join(stage.writes)}</li>"
        if stage.notebook in titles
        else f"<li>{stage.notebook} is not in this report</li>"
        for stage in STAGES
    ]
    return f"<ul>{''.join(items)}</ul>"


def _parameters(experiment: Experiment) -> str:
    """The parameters that differ from their defaults, and what they are; the others folded."""
    defaults = Experiment().model_dump()
    rows, others = [], []
    for key, value in experiment.model_dump().items():
        said = escape(_of_no_machine(value))
        if value == defaults[key]:
            others.append(f"{key}: {said}")
        elif key != "name":
            rows.append(
                f'<tr><th scope="row">{key}</th><td>{said}</td>'
                f"<td>{escape(str(defaults[key]))}</td><td>{owner(key)}</td>"
                f'<td class="words">{escape(Experiment.model_fields[key].description or "")}</td>'
                "</tr>"
            )
    heads = ("parameter", "value", "default", "notebook", "what it is")
    return (
        _table("Parameters that differ from their defaults.", heads, rows)
        if rows
        else "<p>Every parameter has its default.</p>"
    ) + (
        "<details><summary>Parameters at their defaults</summary><pre>"
        + "\n".join(others)
        + "</pre></details>"
    )


def _of_no_machine(value: Any) -> str:
    """A value as text; of a path of this machine its last part."""
    path = isinstance(value, str) and Path(value).is_absolute()
    return Path(value).name if path else str(value)


def _figure(figure: Figure) -> str:
    caption = figure.file.stem.replace("_", " ")
    return (
        f'<figure><img src="figures/{quote(figure.file.name)}" alt="{escape(figure.alt)}">'
        f'<figcaption>{escape(caption)}, from <a href="{figure.notebook}.html">'
        f"{figure.notebook}</a></figcaption></figure>"
    )
