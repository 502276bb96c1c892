from __future__ import annotations

import json
import sys

import pytest

from mura_utils import cli
from mura_utils.paths import data_dir, runs_dir


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
