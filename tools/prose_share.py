"""How much of the notebooks' code builds sentences, and how long their cells are.

Words of a notebook stand in Markdown, where a reader sees them once. What its code holds is shown
twice, as quoted code and as output.
"""

from __future__ import annotations

import argparse
import ast
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat

from mura_utils.paths import REPOSITORY

WORDS = 6


@dataclass(frozen=True)
class Shape:
    """What the code of a notebook looks like, without its cell of parameters.

    Attributes:
        lengths: lines of each code cell.
        code: lines of code, imports, comments and empty lines not counted.
        prose: how many of them build a sentence, see `prose_lines`.
    """

    lengths: list[int]
    code: int
    prose: int

    @property
    def share(self) -> float:
        """Prose in code, 0 to 1."""
        return self.prose / max(self.code, 1)


def measure(path: Path) -> Shape:
    """Count the lines of a notebook's code."""
    cells = nbformat.read(path, as_version=4).cells
    sources = [
        cell.source
        for cell in cells
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", [])
    ]
    return Shape(
        lengths=[len(source.splitlines()) for source in sources],
        code=sum(len(code_lines(source)) for source in sources),
        prose=sum(len(prose_lines(source)) for source in sources),
    )


def code_lines(source: str) -> set[int]:
    """Numbers of the lines that hold code other than imports.

    Example:
        >>> sorted(code_lines("import os\\n\\n# The folder.\\nos.getcwd()"))
        [4]
    """
    lines = source.splitlines()
    imports = {
        number
        for statement in ast.walk(ast.parse(source))
        if isinstance(statement, ast.Import | ast.ImportFrom)
        for number in range(statement.lineno, statement.end_lineno + 1)
    }
    held = {n for n, line in enumerate(lines, 1) if line.strip() and line.strip()[0] != "#"}
    return held - imports


def prose_lines(source: str) -> set[int]:
    """Numbers of the lines that build a sentence.

    A line of code counts when its statement holds a string or an f-string of six or more words. A
    value that is put into an f-string counts as one word. Of a statement with a body (for, if,
    with, def), the head counts for itself.

    Example:
        >>> sorted(prose_lines("count = 3\\nprint(f'I have counted {count} of the images.')"))
        [2]
    """
    found: set[int] = set()
    for statement in ast.walk(ast.parse(source)):
        if isinstance(statement, ast.stmt) and any(
            len(text.split()) >= WORDS for text in _texts(statement)
        ):
            body = getattr(statement, "body", [])
            end = body[0].lineno - 1 if body else statement.end_lineno
            found |= set(range(statement.lineno, max(end, statement.lineno) + 1))
    return found & code_lines(source)


def _texts(node: ast.AST) -> Iterator[str]:
    """The strings of a statement, without those of the statements in its body."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else "0" for part in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.stmt):
            yield from _texts(child)


def main() -> None:
    """Print one line a notebook."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, help="all seven, if none is given")
    paths = parser.parse_args().notebooks or sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
    print(f"{'notebook':<28}{'prose':>7}{'of lines':>10}{'cells':>7}{'median':>8}{'longest':>9}")
    for path in paths:
        shape = measure(path)
        print(
            f"{path.stem:<28}{shape.share:>7.1%}{shape.code:>10,}{len(shape.lengths):>7}"
            f"{statistics.median(shape.lengths):>8g}{max(shape.lengths):>9}"
        )


if __name__ == "__main__":
    main()
