"""The house: how large its rooms are, and that imports lead down, never up or in a circle."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from mura_utils.paths import REPOSITORY

PACKAGE = REPOSITORY / "mura_utils"
TESTS = REPOSITORY / "tests"
GUIDE = REPOSITORY / "CONTRIBUTING.md"
HEADING = "layers, lowest first"


# --- how it is measured -------------------------------------------------------------------------


def too_long(folder: Path, limit: int) -> dict[str, int]:
    """Files of Python with more lines than the limit."""
    lengths = {
        str(path.relative_to(folder)): len(path.read_text(encoding="utf-8").splitlines())
        for path in sorted(folder.rglob("*.py"))
    }
    return {name: length for name, length in lengths.items() if length > limit}


def modules(package: Path) -> dict[str, Path]:
    """Every module of a package by its dotted name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(package: Path) -> dict[str, set[str]]:
    """The modules of the package that each of them imports, in functions too.

    ``from a.b import c`` is an import of the module ``a.b.c`` where there is one, else of ``a.b``.
    """
    files = modules(package)
    found: dict[str, set[str]] = {name: set() for name in files}
    for name, path in files.items():
        home = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                above = home[: len(home) - node.level + 1] if node.level else []
                base = ".".join([*above, *filter(None, [node.module])])
                targets = [
                    whole if (whole := f"{base}.{alias.name}") in files else base
                    for alias in node.names
                ]
            else:
                continue
            found[name] |= {target for target in targets if target in files and target != name}
    return found


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A circle of imports, the first module being the last too; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def room(module: str) -> str:
    """The top-level module or sub-package that a module belongs to; the package is its own."""
    return ".".join(module.split(".")[1:2]) or "mura_utils"


def layers(guide: str) -> list[list[str]]:
    """The rooms of each layer: the block of the guide that begins with the heading."""
    block = re.search(rf"^```\w*\n{HEADING}\n(.*?)^```", guide, re.MULTILINE | re.DOTALL)
    return [line.split() for line in block[1].splitlines() if line.strip()] if block else []


def misplaced(rooms: list[list[str]], graph: dict[str, set[str]]) -> list[str]:
    """Imports that lead up or across, and rooms that stand in no layer, twice, or nowhere.

    The package's own ``__init__`` stands on the lowest layer: Python runs it before any module.
    """
    height = {"mura_utils": 0.5}
    height |= {name: number for number, line in enumerate(rooms) for name in line}
    named = [name for line in rooms for name in line]
    there = {room(module) for module in graph} - {"mura_utils"}
    faults = [f"{name} stands in no layer" for name in sorted(there - set(named))]
    faults += [f"{name} is no room" for name in sorted(set(named) - there)]
    faults += [f"{name} stands twice" for name in sorted(set(named)) if named.count(name) > 1]
    for module, targets in sorted(graph.items()):
        for target in sorted(targets):
            here, other = room(module), room(target)
            known = here in height and other in height
            if here != other and known and height[here] <= height[other]:
                faults.append(f"{module} imports {target}")
    return faults


# --- the house ----------------------------------------------------------------------------------


def test_no_module_has_more_than_400_lines_and_no_test_more_than_500():
    assert too_long(PACKAGE, 400) == {}
    assert too_long(TESTS, 500) == {}


def test_imports_make_no_circle():
    found = circle(imports(PACKAGE))
    assert not found, " -> ".join(found)


def test_no_import_leads_up_or_across_a_layer():
    if not GUIDE.is_file():
        pytest.skip("there is no CONTRIBUTING.md to name the layers")
    rooms = layers(GUIDE.read_text(encoding="utf-8"))
    assert rooms, f"{GUIDE} has no block that begins with '{HEADING}'"
    faults = misplaced(rooms, imports(PACKAGE))
    assert not faults, "\n".join(faults)


def test_only_notebooks_import_what_notebooks_call():
    assert [name for name, used in imports(PACKAGE).items() if "mura_utils.notebook" in used] == []
    with_ipython = [
        name
        for name, path in modules(PACKAGE).items()
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom) and "IPython" in ast.unparse(node)
    ]
    assert set(with_ipython) == {"mura_utils.notebook"}


# --- that it would be seen ----------------------------------------------------------------------


@pytest.fixture
def toy(tmp_path):
    """A package of three rooms, one of them with two modules; returns how to write one."""

    def write(name: str, text: str) -> None:
        path = tmp_path / "mura_utils" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    write("__init__.py", "")
    write("errors.py", "")
    write("data/__init__.py", "from mura_utils.data.images import read\n")
    write("data/images.py", "def read():\n    from mura_utils.errors import UserError\n")
    write("cli.py", "from .data import images\nimport mura_utils.errors\nimport numpy\n")
    return write


TOY = [["errors"], ["data"], ["cli"]]


def test_imports_are_found_in_functions_and_in_every_spelling(toy, tmp_path):
    assert imports(tmp_path / "mura_utils") == {
        "mura_utils": set(),
        "mura_utils.errors": set(),
        "mura_utils.data": {"mura_utils.data.images"},
        "mura_utils.data.images": {"mura_utils.errors"},
        "mura_utils.cli": {"mura_utils.data.images", "mura_utils.errors"},
    }
    assert misplaced(TOY, imports(tmp_path / "mura_utils")) == []
    assert circle(imports(tmp_path / "mura_utils")) == []


def test_an_import_that_leads_up_across_or_round_is_seen(toy, tmp_path):
    toy("errors.py", "def late():\n    import mura_utils.cli\n")
    toy("labels.py", "from ..mura_utils.errors import x\nfrom . import errors\n")
    graph = imports(tmp_path / "mura_utils")
    assert misplaced([["errors", "labels"], ["data"], ["cli"]], graph) == [
        "mura_utils.errors imports mura_utils.cli",
        "mura_utils.labels imports mura_utils.errors",
    ]
    found = circle(graph)
    assert found[0] == found[-1] and {"mura_utils.errors", "mura_utils.cli"} <= set(found)


def test_the_package_itself_imports_of_the_lowest_layer_only(toy, tmp_path):
    for own, expected in (("errors", []), ("data", ["mura_utils imports mura_utils.data"])):
        toy("__init__.py", f"from mura_utils import {own}\n")
        assert misplaced(TOY, imports(tmp_path / "mura_utils")) == expected


def test_layers_are_read_from_the_guide_and_name_every_room_once(toy, tmp_path):
    guide = f"# How\n\n```text\nx\n```\n\n```text\n{HEADING}\nerrors\ndata cli\n\nerrors old\n```\n"
    rooms = layers(guide)
    assert rooms == [["errors"], ["data", "cli"], ["errors", "old"]]
    faults = misplaced(rooms, imports(tmp_path / "mura_utils"))
    assert faults[:2] == ["old is no room", "errors stands twice"]
    assert misplaced(TOY[:2], imports(tmp_path / "mura_utils")) == ["cli stands in no layer"]
    assert layers("no block") == []


def test_long_files_are_seen(tmp_path):
    (tmp_path / "long.py").write_text("\n" * 401)
    assert too_long(tmp_path, 400) == {"long.py": 401}
    assert too_long(tmp_path, 401) == {}
