"""What a parameter's value can be, besides its bounds; each type keeps one spelling of a value."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from mura_utils.parameter_files import SCIENTIFIC

WEIGHTS = ("phantom", "imagenet", "none")
"""Names of weights; everything else is the path of a file."""

_NO_WINDOWS_NAME = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?|.*\.")


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _on_or_off(value: Any) -> Any:
    return ("on" if value else "off") if isinstance(value, bool) else _lower(value)


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, str) and re.fullmatch(SCIENTIFIC, value) else value


def _convolutions(value: Any) -> Any:
    value = _lower(value)
    if value == "all" or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise ValueError("give a number of convolutions from 0 up, or all")


def _folder_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError("use letters, digits, '.', '_' and '-' only, a letter or a digit first")
    if len(name) > 200:
        raise ValueError("give at most 200 characters: file systems take 255, and suffixes follow")
    if _NO_WINDOWS_NAME.fullmatch(name):
        raise ValueError("no folder on Windows can have this name: choose another")
    return name


def _path(text: str) -> str:
    try:
        sizes = [len(part.encode()) for part in PurePath(text).parts]
    except UnicodeEncodeError:
        raise ValueError("it is no text in UTF-8, so it cannot be recorded: rename it") from None
    if not text.strip() or "\0" in text:
        raise ValueError("give a path")
    if max(sizes) > 255 or sum(sizes) + len(sizes) > 4000:
        raise ValueError("file systems take names of 255 bytes and paths of 4,000 at most")
    return text


def _weights(text: str) -> str:
    return text.lower() if text.lower() in WEIGHTS else text


def _body_parts(parts: list[str]) -> list[str]:
    capitals = sorted(part.upper() for part in parts)
    if not all(part.strip() for part in parts) or len(set(capitals)) < len(parts):
        raise ValueError("name each body part once")
    return capitals


def _merged(merge: dict[str, list[str]]) -> dict[str, list[str]]:
    joined = {name.upper(): sorted(map(str.upper, parts)) for name, parts in sorted(merge.items())}
    names = [part for parts in joined.values() for part in parts]
    blank = not all(text.strip() for text in [*joined, *names])
    if blank or len(joined) < len(merge) or len(set(names)) < len(names) or [] in merge.values():
        raise ValueError("give each new name its body parts, and name each of these once")
    return joined


def _fractions(fractions: list[float]) -> list[float]:
    if len(fractions) != 3 or min(fractions) < 0.001 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError("give three positive shares that sum to 1, each 0.001 or more")
    return fractions


def _different(counts: list[int]) -> list[int]:
    if len(set(counts)) < len(counts):
        raise ValueError("give each number once")
    return counts


def _poolings(names: list[str]) -> list[str]:
    if not names or len(set(names)) < len(names):
        raise ValueError("name at least one, each once")
    return names


def _attributes(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("name each once")
    return sorted(names)


def _strides(strides: list[int]) -> list[int]:
    if strides not in ([32], [16, 32]):
        raise ValueError("give [32] or [16, 32]")
    return strides


AnyCase = BeforeValidator(_lower)
"""Added to a Literal: its texts are taken in any case."""

OnOff = BeforeValidator(_on_or_off)
"""`AnyCase`, and the truth values that readers of YAML 1.1 make of on and off."""

Number = Annotated[float, BeforeValidator(_number)]
"""A float, an int, or scientific notation that a reader of YAML 1.1 left as text: ``"1e-5"``."""

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""What NumPy and Keras take as a seed."""

Convolutions = Annotated[int | Literal["all"], BeforeValidator(_convolutions)]
FolderName = Annotated[str, AfterValidator(_folder_name)]
PathText = Annotated[str, AfterValidator(_path)]
OptionalPath = Annotated[str, AfterValidator(lambda text: text and _path(text))]
Weights = Annotated[PathText, AfterValidator(_weights)]
BodyParts = Annotated[list[str], AfterValidator(_body_parts)]
Merge = Annotated[dict[str, list[str]], AfterValidator(_merged)]
Fractions = Annotated[list[Number], AfterValidator(_fractions)]
Poolings = Annotated[
    list[Annotated[Literal["average", "max", "lse", "attention"], AnyCase]],
    AfterValidator(_poolings),
]
Attributes = Annotated[list[Annotated[Literal["age", "sex"], AnyCase]], AfterValidator(_attributes)]
Strides = Annotated[list[int], AfterValidator(_strides)]
Counts = Annotated[
    list[Annotated[int, Field(ge=1, le=1_000_000)]],
    Field(min_length=1, max_length=10),
    AfterValidator(_different),
]
