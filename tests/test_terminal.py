"""What is shown where: the package's log lines, progress bars, TensorFlow's messages."""

from __future__ import annotations

import io
import logging
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
