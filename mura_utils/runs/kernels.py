"""Execute one notebook with papermill, in a kernel of the Python that runs this package.

Which kernel a notebook was saved with does not matter: JupyterLab writes the name of whatever was
chosen there, and on another machine there is no such kernel, or one without this package.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import papermill
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager, KernelManager

from mura_utils.errors import UserError
from mura_utils.paths import cache_dir, data_dir, runs_dir
from mura_utils.runs.record import HELD

COMMAND = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
START_SECONDS = 120  # a first import from a network drive is slow


class _Kernel(AsyncKernelManager):
    """A kernel of this Python; papermill makes the one instance of an execution itself."""

    latest: _Kernel | None = None
    interrupted = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        _Kernel.latest = self

    @property
    def kernel_spec(self) -> KernelSpec:
        if _Kernel.interrupted:
            raise RuntimeError("interrupted before its kernel started")
        return _spec()

    @classmethod
    def kill_latest(cls) -> None:
        """End the kernel of the execution, if it runs."""
        provisioner = cls.latest and cls.latest.provisioner
        if provisioner is not None and provisioner.has_process:
            with suppress(ProcessLookupError):
                os.kill(provisioner.pid, signal.SIGKILL)


class _CheckedKernel(KernelManager):
    @property
    def kernel_spec(self) -> KernelSpec:
        return _spec()


def _spec() -> KernelSpec:
    return KernelSpec(argv=COMMAND, display_name="Python 3", language="python")


def require_kernel() -> None:
    """See that a kernel can be started here, by starting one.

    Raises:
        UserError: it cannot; the sentence ends with the kernel's last words.
    """
    manager = _CheckedKernel()
    with tempfile.TemporaryFile() as words:
        try:
            manager.start_kernel(stdout=words, stderr=words)
            client = manager.blocking_client()
            client.start_channels()
            try:
                client.wait_for_ready(timeout=START_SECONDS)
            finally:
                client.stop_channels()
        except (RuntimeError, OSError) as error:
            words.seek(0)
            said = words.read().decode(errors="replace").strip().splitlines()
            raise UserError(
                f"No notebook can be executed: {sys.executable} starts no kernel "
                f"({said[-1] if said else error}). Check that ipykernel is installed there, as "
                "'pip install -e .' does."
            ) from None
        finally:
            if manager.has_kernel:
                manager.shutdown_kernel(now=True)


def execute(
    source: Path, target: Path, parameters: Mapping[str, Any], bar: Mapping[str, Any] | bool
) -> None:
    """Execute a notebook in the folder of `target`, and write it there cell by cell.

    Ctrl-C ends the kernel before it is raised again.

    Args:
        source: the notebook.
        target: of the executed one. Its folder also takes ``kernel.log``: what the kernel writes to
            the terminal.
        parameters: names and values to inject.
        bar: papermill's ``progress_bar``.

    Raises:
        papermill.exceptions.PapermillExecutionError: a cell failed.
        nbclient.exceptions.DeadKernelError: the kernel died.
        RuntimeError: the kernel did not start.
        OSError: the notebook cannot be written.
    """
    _Kernel.latest, _Kernel.interrupted = None, False
    with _surroundings(target.parent), ThreadPoolExecutor(1) as pool:
        # In a thread, as in the main one nbclient takes Ctrl-C for a kernel that died.
        execution = pool.submit(
            papermill.execute_notebook,
            source,
            target,
            parameters=parameters,
            kernel_name="python3",
            language="python",
            kernel_manager_class=_Kernel,
            start_timeout=START_SECONDS,
            cwd=target.parent,
            progress_bar=bar,
        )
        try:
            execution.result()
        except KeyboardInterrupt:
            _Kernel.interrupted = True
            while not execution.done():
                _Kernel.kill_latest()
                wait([execution], timeout=0.1)
            raise


@contextmanager
def _surroundings(folder: Path) -> Iterator[None]:
    """What a kernel inherits, as papermill passes it nothing else.

    Its terminal output goes to ``kernel.log``, executed notebooks hold no progress bars, the run's
    folder is held by this process, and data, runs and caches are where this process has them.
    """
    terminal = os.dup(2)
    with (folder / "kernel.log").open("ab") as stream:
        os.dup2(stream.fileno(), 2)
    own = {
        "TQDM_DISABLE": "1",
        HELD: str(folder.resolve()),
        "MURA_DATA_DIR": str(data_dir()),
        "MURA_RUNS_DIR": str(runs_dir()),
        "MURA_CACHE_DIR": str(cache_dir()),
    }
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
