from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from mura_tree import image_paths, png, tiny_rows, write_tree
from PIL import Image

from mura_utils import cli
from mura_utils.data import sources
from mura_utils.experiments import Experiment
from mura_utils.paths import cache_dir, data_dir, runs_dir, write_json
from mura_utils.phantoms import dataset
from mura_utils.runs import sweep
from mura_utils.runs.record import write_completed
from mura_utils.runs.stages import NOTEBOOKS


@pytest.fixture
def mura(monkeypatch, capfd):
    """Run the command in this process; returns (status, standard output, standard error)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mura", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capfd.readouterr()
        return int(caught.value.code or 0), out, err

    return call


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "exp9"], "There is no experiment 'exp9'"),
        (["run", "demo", "-p", "epoch=3"], "unknown parameter 'epoch'; did you mean 'epochs'?"),
        (["run", "demo", "-p", "epochs=many"], "epochs = 'many': input should be a valid integer"),
        (["run", "demo", "-p", "epochs"], "write it as key=value"),
        (["run", "demo", "--from", "05"], "run 01_data_understanding first"),
        (["data", "check", "/nowhere"], "/nowhere does not exist"),
        (["predict", "--run", "nothing", "a.png"], "There is no trained run 'nothing'"),
        (["predict", "--run", "nothing", ".", "--out", "p.csv"], "There is no trained run"),
        (["predict", "--run", "nothing", "a.png", "--out", "p.csv"], "a.png is no folder that is"),
        (["predict", "--run", "x", ".", ".", "--out", "p.CSV"], "several paths are given"),
        (["predict", "--run", "x", ".", "--out", "p.csv", "--map", "rise"], "--map is of overlays"),
        (["predict", "--run", "nothing", "."], ". is a folder: give --out FILE.csv"),
        (["predict", "--run", "x", "a.png", "--backend", "openvino"], "needs --out FILE.csv"),
        (["sweep", "exp1", "exp9"], "There is no experiment 'exp9'"),
        (["sweep", "exp1", "exp6", "-p", "epoch=3"], "unknown parameter 'epoch'; did you mean"),
        (["sweep", "exp1", "exp5", "-p", "dropout=[0.5]"], "exp5.yaml: the head attention takes 5"),
        (["sweep", "demo", "demo", "--seeds", "2"], "both make the run demo-seed0"),
        (["sweep", "demo", "--cpus", "2"], "they need --ray"),
        (["sweep", "demo", "--from", "5", "--to", "3"], "--from 05 comes after --to 03"),
        (["report", "--run", "nothing"], "There is no run 'nothing'"),
        (["compare", "exp1"], "There is no trained run (exp1: there is no such run)"),
        (["evaluate", "--run", "exp6"], "Give --run and --data"),
        (["evaluate", "--predictions", "a.csv", "--binary"], "or --predictions with --threshold"),
        (["evaluate", "--run", "nothing", "--data", "."], "There is no trained run 'nothing'"),
        (["evaluate", "--predictions", "/nowhere.csv"], "/nowhere.csv"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_made(mura, arguments, sentence):
    status, out, err = mura(*arguments)
    assert status == 1
    assert sentence in err
    assert "Traceback" not in out + err and err.count("\n") == 1
    assert not runs_dir().exists()


def test_the_command_draws_the_demos_phantoms_unless_told_otherwise(mura, monkeypatch):
    drawn = []
    monkeypatch.setattr(dataset, "draw_phantoms", lambda *args, **kwargs: drawn.append(args[1:]))
    monkeypatch.setattr(sources, "open_source", str)
    demo = Experiment()
    defaults = [getattr(demo, f"phantom_{name}") for name in ("patients", "seed")]
    defaults += [demo.phantom_faults, demo.phantom_label_noise]
    assert mura("data", "phantom")[0] == 0
    assert mura("data", "phantom", "--seed", 3, "--no-faults", "--label-noise", 0.2)[0] == 0
    assert drawn == [tuple(defaults), (360, 3, False, 0.2)]
    assert mura("data", "phantom", "--label-noise", 0.6)[0] == 2
    assert mura("data", "phantom", "--age-effect", 1.1)[0] == 2


def test_phantoms_are_drawn_and_checked(mura):
    status, out, _ = mura("data", "phantom", "few", "--patients", 30, "--no-faults")
    assert status == 0 and "phantom" in out
    broken = next((data_dir() / "few" / "MURA-v1.1" / "train").rglob("image1.png"))
    broken.write_bytes(broken.read_bytes()[:500])
    status, out, _ = mura("data", "check", "few")
    assert status == 0
    assert f"{broken.name}: truncated" in out
    counts = json.loads(out[out.index("{") : out.rindex("}") + 1])
    assert counts["excluded"]["truncated"] == sum(counts["excluded"].values()) == 1
    assert counts["listed"] - counts["admitted"] == 1


def test_a_sweep_prints_how_each_run_ended(mura, monkeypatch, tmp_path):
    child = tmp_path / "child.py"
    child.write_text(
        "import json, os, pathlib, sys, yaml\n"
        "values = yaml.safe_load(open(sys.argv[2]))\n"
        "if values['seed']:\n"
        "    sys.exit('mura: the disk is full: ' + values['data_dir'])\n"
        "folder = pathlib.Path(os.environ['MURA_RUNS_DIR'], values['name'])\n"
        "folder.mkdir()\n"
        "(folder / 'experiment.yaml').write_text(yaml.safe_dump(values))\n"
        f"(folder / 'state.json').write_text(json.dumps({{'completed': {NOTEBOOKS!r}}}))\n"
    )
    monkeypatch.setattr(sweep, "_MURA", (str(child),))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    for name, seed in (("good", 0), ("bad", 1)):
        (tmp_path / f"{name}.yaml").write_text(
            f"name: {name}\nseed: {seed}\nphantom_seed: {seed}\n"
        )
    status, out, err = mura("sweep", "good.yaml", "bad.yaml", "-p", "data_dir=own")
    assert status == 1 and err == ""
    assert "[2/2] bad 01–07" in out
    good, bad, last = out.splitlines()[-3:]
    assert good.startswith("good  done ") and good.endswith(" s")
    assert bad.startswith("bad   failed ")
    assert f"the disk is full: {tmp_path / 'own'} Log: {runs_dir()}" in bad
    assert last == "After that is put right, the same command runs what is missing."
    status, out, _ = mura("sweep", "good.yaml", "-p", "data_dir=own")
    assert status == 0 and out.startswith("good  already complete ")


def test_runs_are_compared(mura, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, learning_rate, accuracy in (("a-seed0", 0.1, 0.5), ("b", 0.2, 0.75)):
        best = {"loss": 1.0, "accuracy": 0.5, "val_loss": 1.5, "val_accuracy": accuracy}
        write_json(runs_dir() / name / "training.json", {"best": best, "epochs": 2, "seconds": 9.5})
        (runs_dir() / name / "experiment.yaml").write_text(f"learning_rate: {learning_rate}\n")
        write_completed(runs_dir() / name, list(NOTEBOOKS[:5]))
    (runs_dir() / "begun").mkdir()
    status, out, err = mura("compare", runs_dir() / "a-seed0", "b", "begun", "--csv", "all.csv")
    assert status == 0
    assert err == "Left out, begun: not trained\n"
    assert out.splitlines()[0].split() == ["experiment", "b", "a"], "the better one first"
    assert "Parameters that differ:" in out and "learning_rate" in out
    table = pd.read_csv("all.csv")
    assert table["experiment"].tolist() == ["b", "a"]
    assert table["val_accuracy"].tolist() == [0.75, 0.5]


def test_the_cache_is_listed_and_pruned(mura):
    status, out, _ = mura("cache")
    assert status == 0 and "0 entries" in out
    folder = cache_dir()
    folder.mkdir()
    np.save(folder / "pixels-01.npy", np.zeros((5, 32, 32), np.uint8))
    status, out, _ = mura("cache", "--prune", 1)
    assert status == 0 and "Removed 0 entries" in out and "5 images of 32 x 32 pixels" in out
    status, out, _ = mura("cache", "--prune", 0)
    assert status == 0 and "Removed 1 entries" in out and not list(folder.iterdir())


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )


def test_help_is_printed_on_a_terminal_that_knows_only_ascii():
    for command in ([], ["compare"]):
        said = python(
            "from mura_utils.cli import main; main()",
            *command,
            "--help",
            PYTHONIOENCODING="ascii:strict",
        )
        assert (said.returncode, said.stderr) == (0, "")


def test_without_a_home_the_cache_is_one(tmp_path):
    code = (
        "import os, pwd\nos.environ.pop('HOME')\n"
        "def unknown(uid):\n    raise KeyError(uid)\n"
        "pwd.getpwuid = unknown\n"
        "from mura_utils.cli import main\n"
        "try:\n    main()\nfinally:\n    print(os.environ['HOME'])\n"
    )
    said = python(code, "cache")
    home = str(cache_dir() / "home")
    assert said.returncode == 0 and said.stdout.splitlines()[-1] == home
    assert said.stderr == f"mura: no home folder is known here; {home} is used.\n"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            PermissionError(13, "Permission denied", "/data/a.csv"),
            "/data/a.csv: Permission denied.",
        ),
        (OSError(28, "No space left on device"), "No space left on device."),
        (MemoryError(), "There is not enough memory: lower batch_size"),
    ],
)
def test_errors_of_the_system_are_sentences_unless_debugged(mura, monkeypatch, error, sentence):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("mura_utils.cache.entries", fail)
    status, _, err = mura("cache")
    assert status == 1 and err.startswith(f"mura: {sentence}") and err.count("\n") == 1
    monkeypatch.setenv("MURA_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["mura", "cache"])
    with pytest.raises(type(error)):
        cli.main()


def test_folders_that_cannot_be_written_are_one_sentence(mura, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MURA_RUNS_DIR", str(tmp_path / "file" / "runs"))
    status, _, err = mura("run", "demo")
    assert status == 1 and err.startswith(f"mura: {tmp_path / 'file' / 'runs'}")
    assert err.endswith(": Not a directory.\n") and err.count("\n") == 1


def test_a_run_whose_last_training_failed_is_not_compared(mura):
    for name, done in (("good", 6), ("bad", 4)):
        folder = runs_dir() / name
        best = {"loss": 1.0, "accuracy": 0.5, "val_loss": 1.5, "val_accuracy": 0.5}
        write_json(folder / "training.json", {"best": best, "epochs": 2, "seconds": 9.5})
        metric = {"value": 0.25}
        levels = ("image", "binary_image", "binary_study")
        metrics = dict.fromkeys(levels, dict.fromkeys(("accuracy", "kappa", "auroc"), metric))
        write_json(folder / "metrics.json", {"source": "phantom", **metrics})
        rate = 1e30 if name == "bad" else 1e-3
        (folder / "experiment.yaml").write_text(f"learning_rate: {rate}\nname: {name}\n")
        write_completed(folder, list(NOTEBOOKS[:done]))
    status, out, err = mura("compare", "good", "bad")
    assert (status, err) == (0, "Left out, bad: not trained\n")
    assert "1e+30" not in out and "test accuracy" in out
    write_completed(runs_dir() / "good", list(NOTEBOOKS[:5]))
    status, out, _ = mura("compare", "good")
    assert status == 0 and "test accuracy" not in out, "the metrics are of an earlier model"
    status, out, err = mura("compare", "bad")
    assert status == 1 and "There is no trained run (bad: not trained)" in err


def test_a_check_names_details_remarks_and_duplicates(mura, tmp_path):
    negative = np.full((64, 64), 250, np.uint8)
    negative[20:40, 20:40] = np.arange(0, 200, 10)
    stream = io.BytesIO()
    Image.fromarray(negative).save(stream, "PNG")
    content = [png(0)[:200], png(1), png(2), *[stream.getvalue()] * 3, png(1), png(3)]
    paths = ["MURA-v1.1/" + path for path in image_paths(tiny_rows())]
    write_tree(tmp_path, tiny_rows(), content=content.__getitem__)
    status, out, err = mura("data", "check", tmp_path, "--show", 2)
    assert (status, err) == (0, "")
    assert f"excluded: {paths[0]}: truncated: the file ends before its image does\n" in out
    assert f"remark: inverted: {min(paths[3:6])}: bright background, as in a negative: " in out
    assert "and 1 more inverted remarks (--show 0 lists all)\n" in out
    assert f"duplicates across patient, study, official_split: {paths[1]} = {paths[6]}\n" in out
    assert "groups that differ in: patient 2, study 2, official_split 1, label 1\n" in out


@pytest.mark.parametrize("pixels", ["--pixels", "--no-pixels"])
def test_a_check_fails_where_no_image_can_be_used(mura, tmp_path, pixels):
    write_tree(tmp_path, tiny_rows(), content=b"")
    status, out, err = mura("data", "check", tmp_path, pixels)
    assert status == 1
    assert out.count(": zero-byte: ") == 8
    assert err == (
        "mura: None of the 8 listed images can be used (zero-byte 8); check the data folder.\n"
    )


def test_paths_on_the_command_line_are_meant_from_where_the_shell_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("labels.csv", "model.keras"):
        (tmp_path / name).touch()
    changes = cli._changes(["relabel=labels.csv", "weights=model.keras", "data_dir=phantom"])
    expected = {"relabel": tmp_path / "labels.csv", "weights": tmp_path / "model.keras"}
    assert changes == {**{key: str(path) for key, path in expected.items()}, "data_dir": "phantom"}
    assert cli._changes(["relabel="]) == {"relabel": ""}
