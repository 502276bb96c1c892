"""Formulas of a page, drawn, so that it needs no script to show them."""

from __future__ import annotations

import re
from base64 import b64encode
from io import BytesIO

from bs4 import BeautifulSoup, NavigableString, Tag
from matplotlib import rc_context
from matplotlib.mathtext import math_to_image

_FORMULA = re.compile(r"(\$\$[^$]+\$\$|\$[^$\s](?:[^$\n]*[^$\s])?\$)")
_DELIMITERS = re.compile(r"\\[bB]igg?[lr]\b")  # sizes that Matplotlib does not know
_SIZE = 12  # points; the text of a page is 1 em


def draw_formulas(soup: BeautifulSoup) -> list[str]:
    """Replace the LaTeX of a page, between dollar signs, by pictures whose alt text it becomes.

    Args:
        soup: changed in place; code stays as it is.

    Returns:
        The formulas that Matplotlib cannot draw; they stay as they are.

    Example:
        >>> page = BeautifulSoup("<p>Half: $x/2$; costs $5.</p>", "html.parser")
        >>> draw_formulas(page), page.img["alt"], page.p.get_text()
        ([], 'x/2', 'Half: ; costs $5.')
    """
    unknown = []
    for text in list(soup.find_all(string=_FORMULA)):
        if text.find_parent(["pre", "code"]):
            continue
        parts = []
        for part in _FORMULA.split(text):
            picture = None
            if _FORMULA.fullmatch(part):
                picture = _picture(soup, part)
                if picture is None:
                    unknown.append(part)
            parts.append(NavigableString(part) if picture is None else picture)
        text.replace_with(*parts)
    return unknown


def _picture(soup: BeautifulSoup, formula: str) -> Tag | None:
    latex = " ".join(formula.strip("$").split())
    svg = BytesIO()
    try:
        with rc_context(
            {"mathtext.fontset": "dejavusans", "svg.fonttype": "path", "font.size": _SIZE}
        ):
            math_to_image(f"${_DELIMITERS.sub('', latex)}$", svg, format="svg")
    except ValueError:  # mathtext's for LaTeX that it does not know
        return None
    points = dict(re.findall(rb'\b(width|height)="([\d.]+)pt"', svg.getvalue()[:2000]))
    picture = soup.new_tag("img", alt=latex)
    picture["class"] = "formula block" if formula.startswith("$$") else "formula"
    picture["style"] = f"width: {float(points[b'width']) / _SIZE:.2f}em"
    picture["src"] = f"data:image/svg+xml;base64,{b64encode(svg.getvalue()).decode()}"
    return picture
