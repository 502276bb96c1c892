from __future__ import annotations

import json
import sys

import numpy as np
import pandas as pd
import pytest

from mura_utils import cli, sweep
from mura_utils.paths import cache_dir, data_dir, runs_dir, write_json
from mura_utils.record import NOTEBOOKS, write_completed


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
        (["sweep", "exp1", "exp9"], "There is no experiment 'exp9'"),
        (["sweep", "exp1", "exp6", "-p", "epoch=3"], "unknown parameter 'epoch'; did you mean"),
        (["sweep", "exp1", "exp5", "-p", "dropout=[0.5]"], "exp5.yaml: the head attention takes 5"),
        (["sweep", "demo", "demo", "--seeds", "2"], "both make the run demo-seed0"),
        (["sweep", "demo", "--cpus", "2"], "they need --ray"),
        (["sweep", "demo", "--from", "5", "--to", "3"], "--from 05 comes after --to 03"),
        (["compare", "exp1"], "There is no trained run (exp1: not trained)"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_made(mura, arguments, sentence):
    status, out, err = mura(*arguments)
    assert status == 1
    assert sentence in err
    assert "Traceback" not in out + err and err.count("\n") == 1
    assert not runs_dir().exists()


def test_phantoms_are_drawn_and_checked(mura):
    status, out, _ = mura("data", "phantom", "few", "--patients", 30)
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
    assert last == "Once mended, the same command runs what is missing."
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
