"""The row for a GPU box: every part is measured, and what a device cannot do is a row."""

from __future__ import annotations

import sys

import pytest
import tensorflow as tf
from small import tiny

from mura_utils.experiments import load_experiment
from mura_utils.paths import REPOSITORY


@pytest.fixture
def script(monkeypatch):
    """The script, with a network of two convolutions, which XLA compiles in a second."""
    monkeypatch.setattr(sys, "path", [str(REPOSITORY / "benchmarks"), *sys.path])
    import gpu

    def build(experiment, classes, policy):
        model = tiny(experiment)
        if experiment.unfreeze == "all":
            model.trainable = True
        return model

    monkeypatch.setattr(gpu, "build_model", build)
    monkeypatch.setattr(gpu, "_CLASSES", 2)
    return gpu


@pytest.fixture
def small(script):
    """The size that ``--small`` asks for."""
    return script.command_line("").parse_args(["--small"]).size


def tables(text):
    """The cells of each table in the text, without the line below its head."""
    found = []
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        found.append([[cell.strip() for cell in line.strip("|").split("|")] for line in lines])
    return [rows[:1] + rows[2:] for rows in found if rows]


def test_every_part_is_measured_or_says_why_not(script, small, capsys):
    script.measure_all(small, seconds=0)
    steps, (head, row) = tables(capsys.readouterr().out)
    assert {len(cells) for cells in steps} == {6}
    by_name = {tuple(cells[:3]): cells[3:] for cells in steps[1:]}
    assert len(by_name) == 2 + 1 + 2 + 2 * 2 * len(script.NETWORKS)
    assert by_name["augmentation", "–", "on"][0] == (
        "not possible: XLA has no kernel for ImageProjectiveTransformV3"
    )
    for name in script.NETWORKS:
        for xla in ("off", "on"):
            speed, operations, share = by_name[name, "float32", xla]
            assert float(speed.replace(",", "")) > 0 and float(operations) > 0
            assert share.endswith(" %")
            if not tf.config.list_physical_devices("GPU"):
                assert by_name[name, "mixed", xla][0] == "not possible: float16 is for GPUs"
    assert head[:4] == [
        "device",
        "float32 product, TFLOP/s",
        "float16 product, TFLOP/s",
        "input pipeline",
    ]
    assert len(row) == len(head) == 4 + 1 + 2 * len(script.NETWORKS)
    assert row[head.index("extraction, float32")].count(" %") == 2


def test_what_does_not_fit_into_memory_is_a_row_and_the_next_is_measured(
    script, small, capsys, monkeypatch
):
    def too_large(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(script, "_extraction", too_large)
    monkeypatch.setattr(script, "_training", lambda *_: (lambda: None, 8))
    experiment = load_experiment("exp6", weights="none", **small.changes)
    results = script.Results()
    script.measure_networks(results, experiment, seconds=0)
    assert capsys.readouterr().out.count("not possible: out of memory") == 2
    extraction, *others = results.cells.values()
    assert extraction == ["–", "–"]
    assert len(others) == 2 and not any("–" in cells for cells in others)


def test_other_errors_are_not_hidden(script):
    with pytest.raises(ZeroDivisionError):
        script.attempt(lambda: 1 / 0)


def test_a_share_is_the_operations_done_of_those_possible(script, capsys):
    results = script.Results()
    results.add_peak("float32", 100, 50.0)  # 50 products of 2e6 operations: 1e8 a second
    results.add("extraction", 250.0, "float32", True, operations=2e5)  # 5e7 a second
    (rows,) = tables(f"|\n|\n{capsys.readouterr().out}")
    assert rows[-1][-1] == "50 %"
    assert results.cells == {
        "float32 product, TFLOP/s": ["0.0001"],
        "extraction, float32": ["250 (50 %)"],
    }


def test_the_first_step_is_not_counted(script, monkeypatch):
    clock = iter([0.0, 1.0, 2.0, 2.0])
    monkeypatch.setattr(script.time, "perf_counter", lambda: next(clock))
    done = []
    assert script.rate(lambda: done.append(1), images=10, seconds=2) == 10.0
    assert len(done) == 3
