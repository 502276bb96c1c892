from __future__ import annotations

import pandas as pd
import pytest

from mura_utils import paths
from mura_utils.errors import UserError


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("old")
    with pytest.raises(RuntimeError), paths.atomic_write(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_a_temporary_file_keeps_the_suffix(tmp_path):
    with paths.atomic_write(tmp_path / "model.keras") as temporary:
        assert temporary.suffix == ".keras"
        temporary.write_text("whole")
    assert (tmp_path / "model.keras").read_text() == "whole"


def test_folders_follow_the_environment_and_not_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MURA_RUNS_DIR")
    assert paths.runs_dir() == paths.REPOSITORY / "runs"
    monkeypatch.setenv("MURA_RUNS_DIR", str(tmp_path / "elsewhere"))
    assert paths.runs_dir() == tmp_path / "elsewhere"


def test_json_refuses_nan_and_names_a_broken_file(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        paths.write_json(tmp_path / "metrics.json", {"kappa": float("nan")})
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(UserError, match=r"metrics.json is not JSON"):
        paths.read_json(tmp_path / "metrics.json")


def test_csv_has_lf_line_ends_and_no_index(tmp_path):
    paths.write_csv(tmp_path / "t.csv", pd.DataFrame({"path": ["a"], "n": [1]}))
    assert (tmp_path / "t.csv").read_bytes() == b"path,n\na,1\n"


def test_an_installed_copy_keeps_its_folders_where_its_notebooks_are(tmp_path, monkeypatch):
    monkeypatch.delenv("MURA_RUNS_DIR")
    copied = paths.copy_series(tmp_path / "mine")
    assert len(copied) == len([*paths.REPOSITORY.glob("notebooks/*.ipynb")]) + len(
        [*paths.REPOSITORY.glob("experiments/*.yaml")]
    )
    with pytest.raises(UserError, match=r"01_data_understanding\.ipynb exists: choose another"):
        paths.copy_series(tmp_path / "mine")
    monkeypatch.setattr(paths, "REPOSITORY", tmp_path / "share")
    monkeypatch.chdir(tmp_path / "mine" / "notebooks")
    assert paths.runs_dir() == tmp_path / "mine" / "runs"
    monkeypatch.chdir(tmp_path)
    assert paths.runs_dir() == tmp_path / "runs"


def test_paths_that_lead_nowhere_are_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(UserError, match="its links lead in a circle"):
        paths.resolve(tmp_path / "a")
    with pytest.raises(UserError, match="no home folder is known for '~'"):
        paths.expand("~nobody-of-this-name/data")


def test_json_that_was_changed_by_hand_is_one_sentence(tmp_path):
    path = tmp_path / "training.json"
    path.write_text('\ufeff{"best": {"loss": 1}}', encoding="utf-8")
    with paths.reading(path) as content:
        assert content["best"]["loss"] == 1, "a byte-order mark does no harm"
    for text, look in (
        ("[]", lambda content: content["best"]),
        ('{"best": 3}', lambda content: content["best"]["loss"]),
        ('{"best": "x"}', lambda content: float(content["best"])),
        ("null", lambda content: content.get("best")),
        ("[" * 100_000, lambda content: content),
        ("1" * 5000, lambda content: content),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=r"training\.json"), paths.reading(path) as content:
            look(content)
