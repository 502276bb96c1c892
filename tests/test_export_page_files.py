"""What goes into the page's folder, and what is refused, without a browser."""

from __future__ import annotations

import re
import stat

import pytest
from members import member

from mura_utils import cache
from mura_utils.errors import UserError
from mura_utils.export import onnx_web
from mura_utils.export.web import PAGE, page_facts, write_page
from mura_utils.paths import REPOSITORY, cache_dir, write_json

WEB = REPOSITORY / "mura_utils" / "export" / "web"


def test_the_page_names_no_other_place_and_runs_no_inline_script():
    assert sorted(path.name for path in WEB.iterdir()) == sorted(PAGE)
    for path in WEB.iterdir():
        urls = set(re.findall(r"https?://[\w./:]+", path.read_text(encoding="utf-8")))
        assert urls <= {"http://localhost:8000", "http://www.w3.org/2000/svg"}, path.name
    page = (WEB / "index.html").read_text(encoding="utf-8")
    assert "unsafe-inline" not in page and "'unsafe-eval'" not in page
    assert re.search(r"default-src 'none'.*connect-src 'self'", page)
    assert not re.search(r"<script(?![^>]*\bsrc=)|\bon\w+=|\bstyle=", page)


def test_the_facts_are_what_notebook_06_has_chosen():
    folder = member("tested", threshold=0.3)
    facts = page_facts(folder, 64, None)
    assert [one["abnormal"] for one in facts["labels"]] == [True, False]
    assert (facts["threshold"], facts["temperature"], facts["limit"]) == (0.3, None, None)
    assert facts["rule"] == "the threshold that the run was given"
    point = {"rule": "sensitivity", "target": 0.95, "threshold": 0.2}
    write_json(folder / "operating_point.json", point)
    write_json(folder / "calibration.json", {"temperature": 1.5})
    facts = page_facts(folder, 64, None)
    assert (facts["threshold"], facts["temperature"]) == (0.2, 1.5)
    assert facts["rule"] == "chosen on validation studies for a sensitivity of 0.95"


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    member("tested")
    out = tmp_path / "mine"
    out.mkdir()
    (out / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds other files, letter\.txt among them"):
        write_page("tested", out)
    assert [path.name for path in out.iterdir()] == ["letter.txt"]
    with pytest.raises(UserError, match=r"letter\.txt is not a folder"):
        write_page("tested", out / "letter.txt")


# --- ONNX Runtime Web ---------------------------------------------------------------------------


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """Put a program named npm in place of the real one: what it runs, in sh; None is no npm."""

    def put(script):
        place = tmp_path / "bin"
        place.mkdir(exist_ok=True)
        if script is not None:
            program = place / "npm"
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin" if script else str(place))

    return put


def test_without_npm_a_sentence_says_what_to_do(npm, tmp_path):
    npm(None)
    with pytest.raises(UserError, match=r"there is no npm here to fetch it: install Node\.js, or"):
        onnx_web.write_runtime(tmp_path / "out")


def test_without_a_network_npm_is_quoted(npm, tmp_path):
    npm("echo 'npm error code ENOTFOUND' >&2; exit 1")
    with pytest.raises(UserError, match=r"could not fetch .*\(npm error code ENOTFOUND\)"):
        onnx_web.write_runtime(tmp_path / "out")
    assert list(cache_dir().iterdir()) == []


def test_another_package_is_refused_and_not_kept(npm, tmp_path):
    npm(f'echo other > "$4/onnxruntime-web-{onnx_web.VERSION}.tgz"')
    with pytest.raises(UserError, match=r"its SHA-512 differs"):
        onnx_web.write_runtime(tmp_path / "out")
    assert list(cache_dir().iterdir()) == []
    assert not (tmp_path / "out").exists()


def test_a_damaged_package_in_the_cache_is_named(tmp_path):
    cache_dir().mkdir()
    package = cache_dir() / f"onnxruntime-web-{onnx_web.VERSION}.tgz"
    package.write_bytes(b"half")
    with pytest.raises(UserError, match=r"remove it, and it is fetched again"):
        onnx_web.write_runtime(tmp_path / "out")
    assert [entry.content for entry in cache.entries()] == ["ONNX Runtime Web, from npm"]
