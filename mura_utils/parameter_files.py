"""Parameters as text: a YAML file of them, and a value as typed in a shell.

What is a number or a truth value follows YAML 1.2, as people expect it: ``1e-5`` is a number;
``no``, ``on``, ``12:30`` and ``2024-01-01`` are text. PyYAML's own reader follows YAML 1.1, where
it is the other way round. A value is text, a number, true, false, null, a flat list of these, or
names with such a list each: ``{ARM: [FOREARM, HUMERUS]}``.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from mura_utils.errors import UserError, describe
from mura_utils.paths import write_text

SCIENTIFIC = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)[eE][-+]?[0-9]+"
"""Numbers that readers of YAML 1.1, papermill's among them, may take for text."""

_NO_VALUE = "a value is text, a number, true, false, a list of these, or names with a list each"
_LARGEST = 100_000  # bytes; every parameter with a comment takes 5,000
_TAG = "tag:yaml.org,2002:"
_TRUTH = {"true": True, "false": False}
_SPECIAL = r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
_FLOAT = rf"{SCIENTIFIC}|[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)|{_SPECIAL}"

# Of unquoted text: what it looks like, the characters that it begins with, and its value.
_PLAIN: dict[str, tuple[str, list[str], Callable[[str], Any]]] = {
    "null": (r"~|null|Null|NULL|", [*"~nN", ""], lambda text: None),
    "bool": (r"true|True|TRUE|false|False|FALSE", [*"tTfF"], lambda text: _TRUTH[text.lower()]),
    # Neither with a leading zero, which YAML 1.1 reads as octal, nor longer than Python converts.
    "int": (r"[-+]?(?:0|[1-9](?:_?[0-9]){0,99})", [*"-+0123456789"], int),
    "float": (_FLOAT, [*"-+.0123456789"], lambda text: float(re.sub(r"\.(?=[iInN])", "", text))),
    "str": (r".*", [], str),
}


class _Reader(yaml.SafeLoader):
    """PyYAML's, with the types of YAML 1.2."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012 - PyYAML's name


class _Writer(yaml.SafeDumper):
    """PyYAML's, which also quotes text that YAML 1.2 reads as a number."""


for _name, (_pattern, _first, _) in _PLAIN.items():
    if _first:
        _Reader.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), _first)
_Writer.add_implicit_resolver(_TAG + "float", re.compile(rf"(?:{_FLOAT})\Z"), _PLAIN["float"][1])


class _Unreadable(Exception):
    """Why a text is no YAML, or no value of a parameter."""


SEARCH = "search"
"""The key that makes a file a search: its value holds lists of choices, see `read_search_file`."""


def read_parameters(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; names and values are unchecked.

    Raises:
        UserError: the file cannot be read, is no YAML mapping of names to plain values, names a
            parameter twice, or is a search.
    """
    try:
        root = _compose(_read_text(path))
        if _is_search(root):
            raise _Unreadable("this is a search, which 'mura sweep' runs")
        return _mapping(root, _value)
    except _Unreadable as error:
        raise UserError(f"{path}: {error}.") from None


def read_search_file(path: Path) -> dict[str, Any] | None:
    """The mapping in the YAML file of a search; None of a file without the key `SEARCH`.

    Returns:
        Names and values, unchecked; that of `SEARCH` maps names to lists of choices.

    Raises:
        UserError: as `read_parameters`, or the choices are no lists.
    """
    try:
        root = _compose(_read_text(path))
        return _mapping(root, _value_or_choices) if _is_search(root) else None
    except _Unreadable as error:
        raise UserError(f"{path}: {error}.") from None


def parse_value(text: str) -> Any:
    """One value as typed.

    Raises:
        UserError: it is no value that a parameter can have; says why.

    Example:
        >>> parse_value("1e-5"), parse_value("no"), parse_value("[ELBOW, WRIST]")
        (1e-05, 'no', ['ELBOW', 'WRIST'])
    """
    try:
        node = _compose(text)
        return None if node is None else _value(node)
    except _Unreadable as error:
        raise UserError(str(error)) from None


def write_parameters(path: Path, parameters: Mapping[str, Any]) -> None:
    """Write a mapping as YAML, atomically; readers of YAML 1.1 and 1.2 get the same values."""
    write_text(path, as_yaml(parameters))


def as_yaml(parameters: Mapping[str, Any]) -> str:
    """A mapping as the text of a YAML file.

    Example:
        >>> as_yaml({"epochs": 3, "resize": "pad"})
        'epochs: 3\\nresize: pad\\n'
    """
    return yaml.dump(dict(parameters), Dumper=_Writer, sort_keys=False, allow_unicode=True)


def _read_text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():  # a named pipe would be waited for
            raise _Unreadable("this is no regular file")
        if path.stat().st_size > _LARGEST:
            raise _Unreadable(f"a file of more than {_LARGEST:,} bytes is none of parameters")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise _Unreadable("this is no text in UTF-8") from None
    except OSError as error:
        raise UserError(describe(error)) from None


def _compose(text: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=_Reader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise _Unreadable(f"is not YAML in line {mark.line + 1}: {problem}") from None
    except RecursionError:
        raise _Unreadable("is nested too deep") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise _Unreadable(f"is not YAML: {' '.join(str(error).split())}") from None


def _mapping(root: yaml.Node | None, read: Callable[[yaml.Node], Any]) -> dict[str, Any]:
    """A mapping whose values `read` takes apart; says which line is wrong."""
    if not isinstance(root, yaml.MappingNode):
        raise _Unreadable("must hold one 'parameter: value' a line")
    parameters: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key, node in root.value:
        name, line = key.value, key.start_mark.line + 1
        if key.tag != _TAG + "str":
            raise _Unreadable(f"line {line}: there is no parameter's name before the colon")
        if name in lines:
            raise _Unreadable(
                f"{name} stands in line {lines[name]} and in line {line}: keep one of them"
            )
        lines[name] = line
        try:
            parameters[name] = read(node)
        except _Unreadable as error:
            raise _Unreadable(f"line {line}: {name}: {error}") from None
    return parameters


def _is_search(root: yaml.Node | None) -> bool:
    return isinstance(root, yaml.MappingNode) and any(key.value == SEARCH for key, _ in root.value)


def _value_or_choices(node: yaml.Node) -> Any:
    return _mapping(node, _choices) if isinstance(node, yaml.MappingNode) else _value(node)


def _choices(node: yaml.Node) -> list[Any]:
    if isinstance(node, yaml.SequenceNode) and node.value:
        return [_value(item) for item in node.value]
    raise _Unreadable("give a list of choices")


def _value(node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
        return _lists(node)
    if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        return [_scalar(item) for item in node.value]
    return _scalar(node)


def _lists(node: yaml.MappingNode) -> dict[Any, list[Any]]:
    """Names with a list each."""
    if not all(isinstance(item, yaml.SequenceNode) for _, item in node.value):
        raise _Unreadable(_NO_VALUE)
    found = {_scalar(name): _value(item) for name, item in node.value}
    if len(found) < len(node.value):
        raise _Unreadable("it gives a name twice: keep one of them")
    return found


def _scalar(node: yaml.Node) -> Any:
    kind = node.tag.removeprefix(_TAG)
    if isinstance(node, yaml.ScalarNode) and kind in _PLAIN:
        with contextlib.suppress(ValueError, KeyError):  # of a tag such as !!int before text
            return _PLAIN[kind][2](node.value)
    raise _Unreadable(_NO_VALUE)
