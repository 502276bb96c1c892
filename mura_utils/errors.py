"""The one exception that a user of the package is meant to read."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


class UserError(ValueError):
    """Something that the user can put right: one sentence saying what, where and what to do.

    The command line prints the sentence without a traceback; notebooks show it as the last line.
    """


def describe(error: Exception) -> str:
    """One sentence for the user: an error's own, or path and reason of one of the system's.

    Example:
        >>> describe(FileNotFoundError(2, "No such file or directory", "/data/a.png"))
        '/data/a.png: No such file or directory.'
    """
    if isinstance(error, MemoryError):
        return "There is not enough memory: lower batch_size, image_size or the number of images."
    if not isinstance(error, OSError) or error.strerror is None:
        return " ".join(str(error).split()) or type(error).__name__
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{error.strerror}."


@contextmanager
def naming_damage(path: Path, remedy: str) -> Iterator[None]:
    """Say which file is damaged, where a library reads it inside the block.

    Raises:
        UserError: the block raised anything but a `UserError` or a lack of memory.

    Example:
        >>> with naming_damage(Path("state.npz"), "remove it"):
        ...     raise EOFError("No data left in file")
        Traceback (most recent call last):
        mura_utils.errors.UserError: state.npz is damaged (No data left in file): remove it.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # NumPy's, zipfile's and zlib's, of many kinds
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is damaged ({reason}): {remedy}.") from None


def shown(value: Any) -> str:
    """A value of the user's for a message: on one line, of 80 characters at most.

    Example:
        >>> shown(["ELBOW", 3])
        "['ELBOW', 3]"
    """
    try:
        text = " ".join(_SHORT.repr(value).splitlines())
    except Exception:  # whatever a foreign __repr__ does; integers of more than 4,300 digits
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 80 else f"{text[:77]}..."
