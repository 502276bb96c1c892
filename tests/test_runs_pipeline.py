"""`mura run` on small notebooks that stand in for the series; the series itself: test_notebooks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest

from mura_utils.errors import UserError
from mura_utils.experiments import Experiment
from mura_utils.notebook import Run
from mura_utils.paths import runs_dir
from mura_utils.runs import kernels, pipeline
from mura_utils.runs.record import completed
from mura_utils.runs.stages import NOTEBOOKS

OPEN = "from mura_utils.notebook import open_run\nrun = open_run({name!r}, In)"
DONE = "run.path({name!r} + '.txt').write_text(str(run.experiment.epochs))\nrun.complete();"


@pytest.fixture
def series(tmp_path, monkeypatch):
    """Seven notebooks that only open and complete their run; returns a function to change one."""
    folder = tmp_path / "repository" / "notebooks"
    folder.mkdir(parents=True)

    def write(name: str, middle: str = "") -> None:
        own = "epochs = 40\n" if name.startswith("05") else ""
        parameters = nbformat.v4.new_code_cell(f'# Parameters: test\nname = "demo"\n{own}')
        parameters.metadata["tags"] = ["parameters"]
        cells = [
            parameters,
            *map(
                nbformat.v4.new_code_cell, (OPEN.format(name=name), middle, DONE.format(name=name))
            ),
        ]
        book = nbformat.v4.new_notebook(cells=cells)
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
        book.metadata["language_info"] = {"name": "python"}
        nbformat.write(book, folder / f"{name}.ipynb")

    for name in NOTEBOOKS:
        write(name)
    monkeypatch.setattr(pipeline, "REPOSITORY", folder.parent)
    return write


@pytest.fixture
def instant(monkeypatch):
    """Notebooks that complete their run at once: what is shown needs no kernel."""

    def execute(name, experiment, folder, progress):
        (folder / f"{name}.ipynb").touch()
        Run(experiment, folder, name).complete()

    monkeypatch.setattr(pipeline, "_execute", execute)
    monkeypatch.setattr(pipeline, "require_kernel", lambda: None)


def run(start="01", stop="07", overwrite=False, **changes):
    experiment = pipeline.resolve_experiment("demo", {"name": "mine", **changes}, start)
    return pipeline.run_experiment(experiment, start, stop, overwrite=overwrite, progress=False)


def test_a_failure_stops_there_says_why_and_can_be_mended(series):
    series(
        NOTEBOOKS[2],
        "from mura_utils.errors import UserError\nraise UserError('The disk is full.')",
    )
    with pytest.raises(pipeline.NotebookFailed) as caught:
        run(epochs=3)
    folder = runs_dir() / "mine"
    sentence = str(caught.value)
    assert "03_data_preparation stopped: The disk is full." in sentence
    assert str(folder / "03_data_preparation.ipynb") in sentence
    assert "--from 03" in sentence
    assert completed(folder) == list(NOTEBOOKS[:2])
    assert not (folder / "04_data_transformation.ipynb").exists()
    failed = nbformat.read(folder / "03_data_preparation.ipynb", as_version=4)
    outputs = [
        output for cell in failed.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    (error,) = [output for output in outputs if output.output_type == "error"]
    assert error.traceback == ["UserError: The disk is full."]

    series(NOTEBOOKS[2])
    run(start="03", stop="05", epochs=3)
    assert completed(folder) == list(NOTEBOOKS[:5])
    assert (folder / "05_modeling.txt").read_text() == "3"


def test_a_used_name_is_refused_and_replaced_only_when_asked(instant):
    folder = run(stop="01")
    (folder / "mine.txt").write_text("result")
    with pytest.raises(UserError, match=r"The run mine exists: go on with --from 02.*--overwrite"):
        run()
    assert (folder / "mine.txt").exists()
    run(stop="01", overwrite=True)
    assert not (folder / "mine.txt").exists()


def test_a_run_is_not_replaced_for_data_that_is_not_there(instant):
    folder = run(stop="01")
    (folder / "model.keras").write_text("trained")
    with pytest.raises(UserError, match=r"data_dir: /typo is no folder: give the folder of the"):
        run(overwrite=True, source="mura", data_dir="/typo")
    assert (folder / "model.keras").read_text() == "trained"


def test_what_the_file_says_differently_of_earlier_notebooks_is_said(instant, caplog):
    run(stop="02", pca_image_size=32, image_size=64)
    with caplog.at_level("INFO"):
        run(start="02", stop="02", phantom_patients=360)
        assert "not as in demo.yaml" not in caplog.text
        experiment = pipeline.resolve_experiment("exp6", {"name": "mine"}, "02")
    assert experiment.source == "phantom"
    assert "As the run was made, and not as in exp6.yaml: data_dir, source." in caplog.text


def test_a_weights_file_that_is_absent_stops_what_would_read_it_before_it_begins(instant):
    absent = str(runs_dir() / "nowhere.npz")
    with pytest.raises(UserError, match=r"nowhere\.npz is no file; give phantom, imagenet, none"):
        run(weights=absent)
    assert not (runs_dir() / "mine").exists()
    assert completed(run(stop="04", weights=absent)) == list(NOTEBOOKS[:4])


def test_a_run_does_not_begin_with_the_network_that_it_would_overwrite(instant):
    folder = run(stop="01")
    (folder / "model.keras").write_text("trained")
    for options in ({"overwrite": True}, {"start": "02"}):
        with pytest.raises(UserError, match="is the run mine's own, which would be overwritten"):
            run(weights=str(folder / "model.keras"), **options)
    assert (folder / "model.keras").read_text() == "trained"


def test_a_library_that_is_absent_stops_what_would_need_it_before_it_begins(instant, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match="extractor = openvino needs OpenVINO"):
        run(extractor="openvino")
    assert not (runs_dir() / "mine").exists()
    assert completed(run(stop="04", extractor="openvino")) == list(NOTEBOOKS[:4])


def test_a_folder_that_is_no_run_is_never_replaced(instant):
    folder = runs_dir() / "mine"
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="exists and is no run"):
        run(overwrite=True)
    assert (folder / "thesis.txt").read_text() == "years of work"


def test_going_on_keeps_what_the_run_was_made_with(series):
    folder = run(stop="04", split_seed=7, epochs=3)
    run(start="05", stop="05")
    assert "split_seed: 7" in (folder / "experiment.yaml").read_text()
    assert (folder / "05_modeling.txt").read_text() == str(Experiment().epochs), (
        "parameters of 05 come from the file"
    )
    with pytest.raises(UserError, match="split_seed = 8, but the run mine was made with 7"):
        run(start="05", split_seed=8)


def test_going_on_needs_the_notebooks_before(instant):
    run(stop="02")
    with pytest.raises(UserError, match="run 03_data_preparation first"):
        run(start="05")


def test_a_notebook_number_that_does_not_exist_is_refused(instant):
    with pytest.raises(UserError, match="no notebook '08'"):
        run(stop="08")
    with pytest.raises(UserError, match="--from 05 comes after --to 03"):
        run(start="05", stop="03")


def test_a_killed_run_leaves_whole_files_and_goes_on(series, tmp_path):
    series(NOTEBOOKS[1], "import time\nprint('working')\ntime.sleep(600)")
    script = (
        "from pathlib import Path\n"
        "from mura_utils.runs import pipeline\n"
        f"pipeline.REPOSITORY = Path({str(tmp_path / 'repository')!r})\n"
        "e = pipeline.resolve_experiment('demo', {'name': 'mine'})\n"
        "pipeline.run_experiment(e, progress=False)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], env=os.environ.copy())
    folder = runs_dir() / "mine"
    partial = folder / ".02_data_preprocessing.partial.ipynb"
    deadline = time.monotonic() + 120
    while not partial.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()

    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.suffix in (".json", ".ipynb"):
            json.loads(path.read_text())
    assert completed(folder) == [NOTEBOOKS[0]]
    assert not (folder / "02_data_preprocessing.ipynb").exists()
    series(NOTEBOOKS[1])
    (folder / ".model.0123abcd.tmp.keras").write_bytes(b"half")
    run(start="02", stop="03")
    assert completed(folder) == list(NOTEBOOKS[:3])
    assert not [path for path in folder.iterdir() if ".tmp" in path.name or "partial" in path.name]


def test_the_kernel_of_this_environment_runs_whatever_a_notebook_was_saved_with(series):
    series(NOTEBOOKS[0], "import sys\nrun.path('python.txt').write_text(sys.executable)")
    path = pipeline.REPOSITORY / "notebooks" / f"{NOTEBOOKS[0]}.ipynb"
    book = nbformat.read(path, as_version=4)
    book.metadata = {"kernelspec": {"name": "tf-gpu", "display_name": "TensorFlow on the GPU box"}}
    nbformat.write(book, path)
    folder = run(stop="01")
    assert (folder / "python.txt").read_text() == sys.executable


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_kernel_that_does_not_start_is_one_sentence_and_changes_nothing(
    series, monkeypatch, overwrite
):
    if overwrite:
        run(stop="01")
    before = {path: path.read_bytes() for path in runs_dir().rglob("*") if path.is_file()}
    words = "import sys; sys.exit('No module named ipykernel_launcher')"
    monkeypatch.setattr(kernels, "COMMAND", [sys.executable, "-c", words])
    with pytest.raises(UserError, match=r"starts no kernel \(No module named ipykernel_launcher\)"):
        run(stop="01", overwrite=overwrite)
    now = {path: path.read_bytes() for path in runs_dir().rglob("*") if path.is_file()}
    assert {path for path in now if ".locks" not in path.parts} == {
        path for path in before if ".locks" not in path.parts
    }
    assert all(now[path] == content for path, content in before.items())


def test_going_on_makes_the_later_notebooks_out_of_date_before_the_first_cell(series):
    folder = run(stop="06")
    series(NOTEBOOKS[4], "raise ValueError('diverged')")
    with pytest.raises(pipeline.NotebookFailed):
        run(start="05", epochs=7)
    assert completed(folder) == list(NOTEBOOKS[:4])
    assert (folder / "05_modeling.txt").read_text() != "7", "the old artefact lies there"


def test_a_run_at_work_is_neither_replaced_nor_gone_on_with(instant):
    folder = run(stop="01")
    script = (
        "import sys\nfrom pathlib import Path\nfrom mura_utils.runs.record import lock\n"
        f"lock(Path({str(folder)!r}))\nprint('held', flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        for attempt in ({"overwrite": True}, {"start": "02"}):
            with pytest.raises(UserError, match="Another process works in the run mine"):
                run(**attempt)
        holder.kill()
    assert completed(folder) == [NOTEBOOKS[0]] and (folder / f"{NOTEBOOKS[0]}.ipynb").exists()


SCRIPT = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
from mura_utils import cli
from mura_utils.runs import pipeline
pipeline.REPOSITORY = Path({repository!r})
limit = {limit}
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # as a full disk: writing fails
sys.argv = ["mura", "run", "demo", "--name", "mine", *{arguments!r}]
cli.main()
"""


def mura_run(tmp_path, *arguments: str, limit: int = 0) -> subprocess.Popen:
    repository = str(tmp_path / "repository")
    script = SCRIPT.format(repository=repository, limit=limit, arguments=arguments)
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def half_written(folder):
    return [p.name for p in folder.rglob("*") if ".tmp" in p.name or ".partial" in p.name]


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_kernel_and_leaves_nothing_half_written(series, tmp_path, end):
    series(
        NOTEBOOKS[1],
        "import os, time\nrun.path('pid').write_text(str(os.getpid()))\ntime.sleep(600)",
    )
    process = mura_run(tmp_path)
    pid = runs_dir() / "mine" / "pid"
    deadline = time.monotonic() + 120
    while not (pid.exists() and pid.read_text()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(end)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "mura: interrupted; what was completed is kept.\n")
    assert completed(pid.parent) == [NOTEBOOKS[0]] and not half_written(runs_dir())
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(series, tmp_path):
    run(stop="01")
    series(NOTEBOOKS[1], "print('x' * 200_000)")
    process = mura_run(tmp_path, "--from", "02", limit=100_000)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert err.startswith("mura: ") and "File too large" in err and err.count("\n") == 1
    assert completed(runs_dir() / "mine") in ([NOTEBOOKS[0]], list(NOTEBOOKS[:2]))
    assert not half_written(runs_dir())
    series(NOTEBOOKS[1])
    assert completed(run(start="02", stop="03")) == list(NOTEBOOKS[:3])
