"""What is shown where: the package's log lines, progress bars, TensorFlow's messages."""

from __future__ import annotations

import io
import logging
import os
import platform
import subprocess
import sys

import pytest
from tqdm import tqdm

from mura_utils.terminal import print_log_lines

logger = logging.getLogger("mura_utils.runs.any")


@pytest.fixture(autouse=True)
def unchanged(monkeypatch):
    """The package's logger is as before afterwards."""
    package = logging.getLogger("mura_utils")
    monkeypatch.setattr(package, "handlers", [])
    before = package.level
    yield
    package.setLevel(before)


def test_log_lines_are_printed_as_they_are_once_and_to_standard_output(capsys):
    print_log_lines()
    print_log_lines()
    logger.info("[1/7] 01: 100 % of %s")
    logger.debug("nothing for a user")
    logging.getLogger("another").info("library")
    assert capsys.readouterr() == ("[1/7] 01: 100 % of %s\n", "")


def test_a_line_does_not_tear_a_bar(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TQDM_DISABLE", "0")
    print_log_lines()
    with tqdm(total=2, desc="steps", disable=False) as bar:
        bar.update()
        logger.info("to be continued")
    assert "\rto be continued\n" in screen.getvalue()


# --- file descriptors -----------------------------------------------------------------------------

WATCHING = """
import os, sys
called = []
for name in ("dup", "dup2"):
    def spy(*args, real=getattr(os, name), name=name):
        called.append(name)
        return real(*args)
    setattr(os, name, spy)
def state():
    return [os.fstat(number)[:3] for number in (1, 2)], list(called)
before = state()
"""


def python(code, **options):
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done


def test_importing_the_package_touches_no_file_descriptor():
    python(WATCHING + "import mura_utils, mura_utils.network.build\nassert state() == before")


X86 = platform.machine() in ("x86_64", "AMD64")


@pytest.mark.parametrize(
    ("variable", "ours", "theirs"),
    [
        pytest.param(
            *("TF_ENABLE_ONEDNN_OPTS", "1", "0"),
            marks=pytest.mark.skipif(not X86, reason="oneDNN is for x86"),
        ),
        ("TF_FORCE_GPU_ALLOW_GROWTH", "true", "false"),
    ],
)
def test_tensorflow_is_set_up_unless_the_user_says_otherwise(variable, ours, theirs):
    kept = {name: value for name, value in os.environ.items() if name != variable}
    asked = f"import os, mura_utils; print(os.environ[{variable!r}])"
    for chosen, used in (({}, ours), ({variable: theirs}, theirs)):
        assert python(asked, env=kept | chosen).stdout.strip() == used


def test_in_a_notebook_what_tensorflow_s_import_writes_goes_to_the_terminal(tmp_path):
    """In what looks like a kernel, with a TensorFlow that only writes."""
    (tmp_path / "tensorflow.py").write_text("import os\nos.write(2, b'oneDNN is on')")
    code = f"""
import os, sys, types
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
sys.modules["ipykernel"] = types.ModuleType("ipykernel")
terminal = os.open({str(tmp_path / "terminal")!r}, os.O_CREAT | os.O_WRONLY)
sys.stderr._original_stdstream_copy = terminal
{WATCHING}
import mura_utils, mura_utils.notebook
assert state() == before, "by the import of the package"
sys.path.insert(0, {str(tmp_path)!r})
import tensorflow
os.write(2, b", in the same cell")
shell.events.trigger("post_run_cell", None)
assert state()[0] == before[0], "after the cell"
os.write(2, b"in the next cell")
"""
    assert python(code, cwd=tmp_path).stderr == "in the next cell"
    assert (tmp_path / "terminal").read_text() == "oneDNN is on, in the same cell"
