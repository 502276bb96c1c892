"""The benchmark on MURA's size: every stage, what is scaled and summed, and what it refuses."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import io
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from mura_tree import png, real_rows, write_tree
from PIL import Image

from mura_utils import report
from mura_utils.errors import UserError
from mura_utils.paths import REPOSITORY, read_json

MEMORY = (2_000_000_000, 1_500_000_000)


@pytest.fixture
def scale(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(REPOSITORY / "benchmarks"), *sys.path])
    return importlib.import_module("scale")


def draw_noise(root, patients):
    """A pool of two images a class, which the phantoms' card makes one of phantoms."""
    rows = real_rows()
    rows = rows.groupby(["split", "body_part", "abnormal"]).head(1)
    write_tree(root, rows.reset_index(drop=True), png)
    (root / "phantoms.json").write_text("{}")


def once(build):
    """`build_model`, whose network is built once and gets its first weights in each later call."""
    built = []

    def build_model(experiment, classes, policy="float32"):
        if not built:
            model = build(experiment, classes, policy)
            built.extend([model, model.get_weights()])
        built[0].set_weights(built[1])
        return built[0]

    return build_model


@pytest.fixture
def in_process(scale, monkeypatch):
    """Stages run here instead of in processes of their own; gives the names of those that ran."""
    ran = []
    network = importlib.import_module("_scale_network")
    monkeypatch.setattr(network, "build_model", once(network.build_model))

    def supervise(command, cache):
        monkeypatch.setenv("MURA_CACHE_DIR", str(cache))
        _, script, stage, folder = command
        module = importlib.import_module(Path(script).stem)
        if stage == "pool":
            monkeypatch.setattr(module, "draw_phantoms", draw_noise)
        data = importlib.import_module("_scale_data")
        data.perform(module.STAGES, stage, Path(folder))
        ran.append(stage)
        return scale.Peak(*MEMORY)

    monkeypatch.setattr(scale, "supervise", supervise)
    return ran


def run_quick(scale, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["scale.py", "--quick", *map(str, arguments)])
    scale.main()


def table(text):
    """The rows of the table by their stage."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}


def test_every_stage_is_measured_and_none_twice(scale, in_process, monkeypatch, capsys, tmp_path):
    run_quick(scale, monkeypatch, "--keep", tmp_path, "--stages", "index", "manifest")
    assert in_process == ["pool", "disk", "tree", "index", "manifest"]
    first = capsys.readouterr().out
    assert "No total: splits" in first
    run_quick(scale, monkeypatch, "--keep", tmp_path)
    assert in_process == ["pool", "disk", "tree", *scale.STAGES]
    text = capsys.readouterr().out
    found = table(text)
    assert list(found) == ["tree", *scale.STAGES]
    work = scale.Work.open(tmp_path / "scale")
    images = work.images()
    count, train = len(images), len(images.positions("train"))
    test = len(images.positions("test"))
    assert found["index"]["images"] == f"{count:,}"
    assert "0 excluded, 0 duplicates" in text
    assert found["evaluation"]["images"] == f"{test:,}"
    part = work.images(part=True)
    assert len(part.positions("train")) == scale.QUICK.part
    assert len(part.positions("test")) == test
    assert found["extraction"]["how"] == found["training"]["how"] == "scaled"
    assert found["extraction"]["for a run: images"] == f"{count + train:,}"  # two views
    assert found["epoch"]["images"] == f"{train:,}"
    epochs = work.experiment().epochs
    assert found["epoch"]["for a run: images"] == f"{epochs * train:,}"
    assert {row["peak memory, GB"] for row in found.values()} == {"2.00"}
    assert f"exp6 for {epochs} epochs on {count:,} images" in text
    assert "from a store on disk" in text

    needed = read_json(work.result("disk"))
    for name in ("pixels", "pca", "extraction", "store"):
        written = read_json(work.result(name))["bytes_written"]
        assert written == pytest.approx(needed[name], rel=0.05)
    assert not list(work.cache.glob("features-*/view-1.npy"))  # the store is gone
    work.result("epoch").unlink()
    with pytest.raises(SystemExit, match="store of random numbers is gone"):
        run_quick(scale, monkeypatch, "--keep", tmp_path, "--stages", "epoch")


def test_the_hours_take_the_epoch_from_disk_where_it_was_measured(scale):
    def result(done, needed, seconds, counted=True, once=0.0):
        numbers = {"done": done, "needed": needed, "seconds": seconds, "once": once}
        return numbers | {"counted": counted}

    results = {"index": result(10, 10, 3.0), "training": result(10, 40, 5.0)}
    results["store"] = result(10, 10, 100.0, counted=False)
    assert scale.total_seconds(results) == 23.0
    assert scale.total_seconds(results | {"epoch": result(20, 40, 30.0)}) == 63.0
    results["training"] = result(10, 40, 5.0, once=1.0)
    assert scale.total_seconds(results) == 20.0


def test_the_full_tree_has_muras_images_studies_and_patients(scale):
    rows = importlib.import_module("_scale_data").tree_rows(scale.FULL)
    lists = report.MURA_LISTS
    for split, of_split in rows.groupby("split"):
        assert len(of_split) == lists.loc[split, "images"]
        assert of_split["patient"].nunique() == lists.loc[split, "patients"]


def test_one_image_in_two_places_is_two_files_with_the_same_pixels(scale):
    own_file = importlib.import_module("_scale_data").own_file
    data = png(1)
    files = [own_file(data, number) for number in range(2)]
    assert len({hashlib.sha256(each).hexdigest() for each in files}) == 2
    shown = [np.asarray(Image.open(io.BytesIO(each))) for each in (data, *files)]
    np.testing.assert_array_equal(shown[0], shown[1])
    np.testing.assert_array_equal(shown[0], shown[2])


def test_too_small_a_disk_is_refused_before_the_tree(scale, tmp_path, monkeypatch, capsys):
    work = scale.begin(tmp_path / "scale", scale.QUICK)
    usage = shutil.disk_usage(tmp_path)._replace(free=10 * 10**9)
    monkeypatch.setattr(scale.shutil, "disk_usage", lambda _: usage)
    needed = {"tree": 4 * 10**9, "pixels": 10**9, "store": 26 * 10**9}
    with pytest.raises(UserError, match=r"has 10\.0 GB free, and 31\.0 GB are"):
        scale.require_disk(needed, work, ["pixels", "store"])
    capsys.readouterr()
    scale.require_disk(needed, work, ["pixels"])
    assert "5.00 GB to write (tree 4.00, pixels 1.00)" in capsys.readouterr().out
    work.result("tree").write_text("{}")
    scale.require_disk(needed, work, ["pixels"])
    assert "1.00 GB to write (pixels 1.00)" in capsys.readouterr().out


def test_a_folder_of_other_options_and_a_stage_without_its_forerunner_are_refused(scale, tmp_path):
    folder = tmp_path / "scale"
    work = scale.begin(folder, scale.QUICK)
    assert scale.begin(folder, scale.QUICK) == work
    with pytest.raises(UserError, match="other options"):
        scale.begin(folder, dataclasses.replace(scale.QUICK, part=7))
    with pytest.raises(UserError, match="needs extraction, which"):
        scale.do("training", scale.STAGES["training"], work)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(UserError, match="is not empty"):
        scale.begin(tmp_path / "other", scale.QUICK)


@pytest.mark.skipif(not Path("/proc/self/io").is_file(), reason="needs Linux")
def test_the_memory_of_a_process_is_its_own_and_a_failure_is_a_sentence(scale, tmp_path):
    size = 300_000_000
    wait = "import time; time.sleep(0.5)"
    peak = scale.supervise([sys.executable, "-c", f"held = bytes({size}) + b'1'; {wait}"], tmp_path)
    assert size < peak.own <= peak.resident < 2.5 * size
    with pytest.raises(UserError, match="ended with status 3"):
        scale.supervise([sys.executable, "-c", "raise SystemExit(3)"], tmp_path)


@pytest.mark.skipif(not Path("/proc/self/io").is_file(), reason="needs Linux")
def test_a_forgotten_file_is_read_from_disk_again(scale, tmp_path):
    network = importlib.import_module("_scale_network")
    path = tmp_path / "numbers"
    with path.open("wb") as stream:
        stream.write(bytes(2**22))
        stream.flush()
        network.os.fsync(stream.fileno())
    network.forget(path)
    before = network.bytes_read()
    path.read_bytes()
    again = network.bytes_read()
    if again == before:
        pytest.skip("this file system is in memory, or does not count")
    assert again - before >= 2**22
    path.read_bytes()
    assert network.bytes_read() == again
