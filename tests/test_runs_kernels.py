"""Executing a notebook in a kernel, where it is interrupted before there is one."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from mura_utils.runs import kernels


def test_an_interruption_before_the_kernel_starts_ends_the_execution(tmp_path, monkeypatch):
    begun, waited = threading.Event(), 5.0
    monkeypatch.setattr(kernels._Kernel, "latest", object())  # of the notebook before

    def execute_notebook(*_, **__):
        begun.set()
        until = time.monotonic() + waited
        while time.monotonic() < until:
            assert kernels._Kernel().kernel_spec
            time.sleep(0.02)

    monkeypatch.setattr(kernels.papermill, "execute_notebook", execute_notebook)

    def interrupt():
        begun.wait()
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt, daemon=True).start()
    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            kernels.execute(tmp_path / "a.ipynb", tmp_path / "b.ipynb", {}, False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - start < waited / 2
    kernels._Kernel.interrupted = False
