"""`pip install .`, not editable: the command works in any folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from mura_utils.experiments import EXPERIMENTS
from mura_utils.paths import REPOSITORY, read_json

TINY = {"data_dir": "tiny", "phantom_patients": 80, "phantom_faults": False, "image_size": 64}


def call(*command: object, **options) -> str:
    """Standard output of a command that succeeds."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def mura(tmp_path_factory) -> Path:
    """The command of an environment that holds a wheel of this repository, and its dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    for name in ("mura_utils", "notebooks", "experiments"):
        shutil.copytree(REPOSITORY / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    python = Path(sys.executable)
    call(python, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source)
    call(python, "-m", "venv", "--without-pip", folder / "venv")
    own = folder / "venv" / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    call(python, "-m", "pip", f"--python={own}", "install", "--no-deps", "--no-index", wheel)
    site = call(own, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv" / "bin" / "mura"


def test_a_wheel_runs_the_first_notebooks_in_an_empty_folder(mura, tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MURA_")}
    environment.pop("PYTHONPATH", None)
    folder = tmp_path / "empty"
    folder.mkdir()
    options = {"cwd": folder, "env": environment}
    parameters = [part for key, value in TINY.items() for part in ("-p", f"{key}={value}")]
    call(mura, "run", "demo", "--to", "02", *parameters, **options)
    assert read_json(folder / "runs" / "demo" / "state.json")["completed"][-1].startswith("02")
    assert {path.name for path in folder.iterdir()} == {"data", "runs"}
    files = [*(REPOSITORY / "notebooks").glob("*.ipynb"), *EXPERIMENTS.glob("*.yaml")]
    assert f"{len(files)} files" in call(mura, "init", "mine", **options)
    assert (folder / "mine" / "notebooks" / "07_explainability.ipynb").is_file()
