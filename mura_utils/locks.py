"""Locks between processes: one refuses the second, the other lets it wait.

A lock ends with the process that holds it, however that ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mura_utils.errors import UserError


def claim(path: Path, refusal: str) -> FileLock:
    """Take a lock until it is released or the process ends.

    Args:
        path: of the lock's file, made with its folder if need be.
        refusal: what to say if another process holds it.

    Raises:
        UserError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(refusal) from None
    return lock


@contextmanager
def waiting(path: Path, work: str) -> Iterator[None]:
    """Hold a lock inside the block; where another process holds it, say so and wait for its end.

    Args:
        path: of the lock's file, made with its folder if need be.
        work: what the other process does, as in "draws these phantoms".
    """
    try:
        lock = claim(path, f"Waiting for another process that {work}.")
    except UserError as wait:
        print(wait, flush=True)
        lock = FileLock(path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
