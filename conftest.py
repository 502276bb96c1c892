"""Tests and nbval write to a temporary folder and touch no run, data or cache of the user's."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

_FOLDER = tempfile.TemporaryDirectory(prefix="mura-tests-")

for _kind in ("DATA", "RUNS", "CACHE"):
    os.environ[f"MURA_{_kind}_DIR"] = os.path.join(_FOLDER.name, _kind.lower())  # noqa: PTH118
os.environ["TQDM_DISABLE"] = "1"  # committed outputs hold no progress bars


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep what shares fixtures or files in one process of ``pytest -n``.

    That is each test file, and the notebooks, which read what those before them wrote.
    """
    for item in items:
        path = Path(item.path)
        group = "notebooks" if path.suffix == ".ipynb" else path.stem
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_unconfigure() -> None:
    """Remove the folder."""
    _FOLDER.cleanup()
