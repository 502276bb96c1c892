"""Tests and nbval write to a temporary folder and touch no run, data or cache of the user's."""

from __future__ import annotations

import os
import tempfile

import pytest

import mura_utils  # noqa: F401 - chooses TensorFlow's kernels: before a test imports it

_FOLDER = tempfile.TemporaryDirectory(prefix="mura-tests-")

for _kind in ("DATA", "RUNS", "CACHE"):
    os.environ[f"MURA_{_kind}_DIR"] = os.path.join(_FOLDER.name, _kind.lower())  # noqa: PTH118
os.environ["TQDM_DISABLE"] = "1"  # committed outputs hold no progress bars


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give a worker a file's tests together, and the notebooks as one file: each needs the last."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return "notebooks" if file.endswith(".ipynb") else file

    return ByFile(config, log)


def pytest_unconfigure() -> None:
    """Remove the folder."""
    _FOLDER.cleanup()
