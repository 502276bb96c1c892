"""What is shown where: the package's log lines, progress bars, C messages.

TensorFlow logs its start-up to standard error (through absl, whatever TF_CPP_MIN_LOG_LEVEL says),
and ipykernel shows it as a cell's output. Here it goes to the terminal that started Jupyter.
Python's own warnings stay in the notebook.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.abc import MetaPathFinder

from tqdm import tqdm


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode():  # a bar on the screen moves below the line
            print(self.format(record), flush=True)


_LINES = _Lines()


def print_log_lines() -> None:
    """Print what the package logs of its progress to standard output, as plain lines."""
    package = logging.getLogger("mura_utils")
    package.addHandler(_LINES)
    package.setLevel(logging.INFO)


def hide_bars(progress: bool) -> bool:
    """What tqdm's `disable` should be: True where no bar is wanted, or TQDM_DISABLE is set.

    tqdm reads that variable itself, but not for its notebook widget.

    Example:
        >>> hide_bars(progress=False)
        True
    """
    return not progress or os.environ.get("TQDM_DISABLE", "") not in ("", "0")


@contextmanager
def to_the_terminal() -> Iterator[None]:
    """Send C messages to the terminal inside the block; outside a notebook nothing changes."""
    terminal = getattr(sys.stderr, "_original_stdstream_copy", None)
    if terminal is None:
        yield
        return
    captured = os.dup(2)
    os.dup2(terminal, 2)
    try:
        yield
    finally:
        os.dup2(captured, 2)
        os.close(captured)


class _FirstImportOfTensorFlow(MetaPathFinder):
    """Finds nothing: sees TensorFlow's import begin, and sends what it logs to the terminal."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == "tensorflow":
            sys.meta_path.remove(self)
            _to_the_terminal_in_this_cell()


def keep_tensorflow_out_of_notebooks() -> None:
    """Send C messages to the terminal from TensorFlow's first import to the end of that cell."""
    sys.meta_path.insert(0, _FirstImportOfTensorFlow())


def _to_the_terminal_in_this_cell() -> None:
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return
    stack = ExitStack()
    stack.enter_context(to_the_terminal())

    def restore(_result: object) -> None:
        stack.close()
        shell.events.unregister("post_run_cell", restore)

    shell.events.register("post_run_cell", restore)
