"""Mutated inputs: each ends in a result or in one sentence, and stays as it was.

3,200 of them, always the same; ``MURA_FUZZ=10`` makes ten times as many others beside them.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from harness import coco_file, digest, noise, time_limit, write_fracatlas
from members import member
from mura_tree import tiny_rows, write_tree
from PIL import Image

from mura_utils.data.images import ImageFault, examine_image
from mura_utils.data.manifest import admit, quality_report, scan
from mura_utils.data.sources import load_mask, open_source
from mura_utils.ensembles import make_ensemble
from mura_utils.errors import UserError
from mura_utils.experiments import EXPERIMENTS, load_experiment, save_experiment
from mura_utils.paths import runs_dir, write_json
from mura_utils.runs.comparison import compare, differing_parameters, find_runs, format_table
from mura_utils.runs.ensemble import networks_of
from mura_utils.runs.record import require_trained, write_completed
from mura_utils.runs.stages import NOTEBOOKS

TIMES = int(os.environ.get("MURA_FUZZ", "1"))
SECONDS = 20  # for one input


def seeds(count: int, first: int) -> range:
    """Numbers of the inputs of one kind."""
    return range(first, first + count * TIMES)


# --- mutations ----------------------------------------------------------------------------------


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """Change, cut, repeat or insert bytes in up to four places."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(data) + 1), rng.choice([1, 1, 2, 4, 16, 200])
        kind = rng.randrange(6)
        if kind == 0:
            data[at : at + length] = rng.randbytes(length)
        elif kind == 1:
            del data[at : at + length]
        elif kind == 2:
            data[at:at] = rng.randbytes(length)
        elif kind == 3:
            data[at:at] = data[at : at + length]
        elif kind == 4 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif rng.random() < 0.3:
            del data[at:]
        if not data:
            break
    return bytes(data)


_TOKENS = (
    *("", "-1", "1.0", "0.0", "yes", "NaN", "inf", "1e999", "null", "[]", "{}", "é", "\ufeff"),
    *(",", ";", "\t", '"', "\n", "\r\n", "\\", "../", "./", "/", "MURA-v1.1/", "\0", "9" * 400),
    *(": ", "- ", "&a ", "*a", "!!python/object:os.system ", "# ", "true", "2026-01-01"),
    "x" * 9000,
)


def mutate_text(content: str, rng: random.Random) -> bytes:
    """Change lines and words of a table or a YAML file, or its bytes."""
    if rng.random() < 0.2:
        return mutate_bytes(content.encode(), rng)
    for _ in range(rng.randint(1, 3)):
        lines = content.split("\n")
        row = rng.randrange(len(lines))
        words = re.split(r"([,:/_\s]+)", lines[row])
        kind = rng.randrange(6)
        if kind == 0:
            words[rng.randrange(len(words))] = rng.choice(_TOKENS)
        elif kind == 1:
            words.insert(rng.randrange(len(words) + 1), rng.choice(_TOKENS))
        elif kind == 2:
            rng.shuffle(words)
        lines[row] = "".join(words)
        if kind == 3:
            del lines[row]
        elif kind == 4:
            lines.insert(rng.randrange(len(lines) + 1), lines[row])
        elif kind == 5:
            lines = [rng.choice(_TOKENS) + line for line in lines]
        content = "\n".join(lines)
    encoding = rng.choice(["utf-8"] * 8 + ["utf-16", "latin-1"])
    return content.encode(encoding, errors="replace")


_VALUES = (
    *(None, True, 0, -1, 1.5, float("nan"), float("inf"), 1e308, 10**400, "", "x", "\0", "../x"),
    *([], {}, [[]], [None], [1], {"a": 1}, "9" * 5000, [0.5] * 3, "IMG0000001.jpg"),
)


def mutate_json(content: object, rng: random.Random) -> bytes:
    """Replace, remove or repeat values anywhere in a structure; sometimes change its text."""
    copy = json.loads(json.dumps(content))
    for _ in range(rng.randint(1, 3)):
        holder, key = rng.choice(list(_places(copy)))
        kind = rng.randrange(5)
        if kind <= 2:
            holder[key] = rng.choice(_VALUES)
        elif kind == 3:
            del holder[key]
        elif isinstance(holder, list):
            holder.append(holder[key])
        if not any(True for _ in _places(copy)):
            break
    if rng.random() < 0.05:
        copy = rng.choice(_VALUES)
    text = json.dumps(copy).encode()
    return mutate_bytes(text, rng) if rng.random() < 0.1 else text


def _places(value: object) -> Iterator[tuple]:
    keys = range(len(value)) if isinstance(value, list) else value
    for key in keys if isinstance(value, list | dict) else ():
        yield value, key
        yield from _places(value[key])


def survives(look: Callable[[], object], inputs: Path, what: str) -> None:
    """The look ends in time, in a result or in a sentence, and leaves its inputs alone."""
    before = digest(inputs)
    try:
        with time_limit(SECONDS):
            look()
    except UserError as error:
        sentence = str(error)
        assert sentence.count("\n") == 0 and len(sentence) < 2500, (what, sentence)
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    assert digest(inputs) == before, f"{what} changed its input"


# --- images -------------------------------------------------------------------------------------


def images() -> list[bytes]:
    """A file of each form in which radiographs come."""
    gray = Image.fromarray(noise())
    deep = Image.fromarray(noise().astype(np.uint16) * 16)
    exif = Image.Exif()
    exif[0x0112] = 6
    forms = [
        (gray, "PNG", {}),
        (deep, "PNG", {}),
        (gray.convert("RGBA"), "PNG", {}),
        (gray.convert("P"), "PNG", {}),
        (gray.convert("1"), "PNG", {}),
        (gray, "JPEG", {"exif": exif}),
        (gray.convert("RGB"), "JPEG", {"progressive": True}),
        (gray.convert("CMYK"), "JPEG", {}),
    ]
    files = []
    for image, form, options in forms:
        stream = io.BytesIO()
        image.save(stream, form, **options)
        files.append(stream.getvalue())
    return files


def test_mutated_images(tmp_path):
    whole = images()
    path = tmp_path / "image.png"
    ended = {"read": 0, "fault": 0}
    for seed in seeds(1200, 0):
        rng = random.Random(seed)
        path.write_bytes(mutate_bytes(whole[seed % len(whole)], rng))

        def look() -> None:
            try:
                gray, _ = examine_image(path)
                assert gray.dtype == np.uint8 and gray.ndim == 2
                ended["read"] += 1
            except ImageFault:
                ended["fault"] += 1

        survives(look, tmp_path, f"image {seed}")
    assert min(ended.values()) > 100, "mutations that all break, or none, test nothing"


# --- data sets ----------------------------------------------------------------------------------


def inspect(root: Path) -> None:
    """What notebooks 01, 02 and 07 do with a folder."""
    listing = open_source(root)
    assert str(listing)
    inventory = scan(listing, progress=False)
    json.dumps(quality_report(listing, inventory), allow_nan=False)
    for row in admit(inventory).itertuples():
        mask = load_mask(row.source, root, row.path)
        assert mask is None or mask.shape == (row.height, row.width)


def mutations_of(
    files: list[Path], count: int, first: int, mutate: Callable, read: Callable
) -> Iterator[tuple[int, Path]]:
    """One file after the other mutated in place, and put right again."""
    whole = {file: file.read_bytes() for file in files}
    for seed in seeds(count, first):
        rng = random.Random(seed)
        file = files[seed % len(files)]
        file.write_bytes(mutate(read(whole[file]), rng))
        yield seed, file
        file.write_bytes(whole[file])


def test_mutated_tables_of_mura(tmp_path):
    tree = write_tree(tmp_path, tiny_rows())
    tables = sorted(tree.glob("*.csv"))
    for seed, file in mutations_of(tables, 300, 10_000, mutate_text, bytes.decode):
        survives(lambda: inspect(tmp_path), tmp_path, f"{file.name} {seed}")


def test_mutated_tables_of_fracatlas(tmp_path):
    root = write_fracatlas(tmp_path / "FracAtlas")
    for seed, file in mutations_of([root / "dataset.csv"], 250, 20_000, mutate_text, bytes.decode):
        survives(lambda: inspect(root), root, f"{file.name} {seed}")


def test_mutated_annotations(tmp_path):
    root = write_fracatlas(tmp_path / "FracAtlas")
    (file,) = root.rglob("*.json")
    for seed, _ in mutations_of([file], 300, 30_000, mutate_json, json.loads):
        survives(lambda: inspect(root), root, f"{file.name} {seed}")


# --- experiments and runs -----------------------------------------------------------------------


def test_mutated_experiments(tmp_path):
    texts = [path.read_text() for path in sorted(EXPERIMENTS.glob("*.yaml"))]
    inputs = tmp_path / "input"
    inputs.mkdir()
    path = inputs / "own.yaml"
    accepted = 0
    for seed in seeds(700, 40_000):
        rng = random.Random(seed)
        path.write_bytes(mutate_text(texts[seed % len(texts)], rng))

        def look() -> None:
            nonlocal accepted
            experiment = load_experiment(path)
            accepted += 1
            save_experiment(experiment, runs_dir() / "own.yaml")
            assert load_experiment(runs_dir() / "own.yaml") == experiment

        survives(look, inputs, f"experiment {seed}")
    assert accepted > 60


@pytest.fixture
def record() -> Path:
    """A run that says of itself that it is trained and tested."""
    folder = runs_dir() / "mine"
    save_experiment(load_experiment("demo", name="mine"), folder / "experiment.yaml")
    best = {"loss": 0.1, "accuracy": 0.9, "val_loss": 0.2, "val_accuracy": 0.8}
    training = {"best": best, "epochs": 3, "seconds": 1.5, "classes": ["Normal-HAND"]}
    write_json(folder / "training.json", training)
    metric = {"value": 0.5, "low": 0.4, "high": 0.6}
    level = dict.fromkeys(("accuracy", "kappa", "auroc"), metric)
    levels = dict.fromkeys(("image", "binary_image", "binary_study"), level)
    write_json(folder / "metrics.json", {"source": "phantom", **levels})
    write_completed(folder, list(NOTEBOOKS))
    return folder


def test_mutated_records_of_runs(record):
    other = record.with_name("other")
    shutil.copytree(record, other)

    def look() -> None:
        folders, left_out = find_runs([record, other])
        assert other in folders and len(folders) + len(left_out) == 2
        table = compare(folders)
        assert format_table(table).T.to_string() and differing_parameters(folders) is not None
        require_trained("mine")

    files = sorted(record.glob("*.json"))
    for seed, file in mutations_of(files, 200, 50_000, mutate_json, json.loads):
        survives(look, record, f"{file.name} {seed}")
    yaml = record / "experiment.yaml"
    for seed, _ in mutations_of([yaml], 100, 60_000, mutate_text, bytes.decode):
        survives(look, record, f"experiment.yaml {seed}")


def test_mutated_records_of_ensembles():
    other = member("other")
    record = make_ensemble(["other", member("more", 1)], name="mine")

    def look() -> None:
        folders, left_out = find_runs([record, other])
        assert other in folders and len(folders) + len(left_out) == 2
        assert format_table(compare(folders)).T.to_string()
        assert differing_parameters(folders) is not None
        networks_of(record)

    for seed, _ in mutations_of([record / "ensemble.json"], 150, 70_000, mutate_json, json.loads):
        survives(look, record, f"ensemble.json {seed}")


def test_a_mutation_leaves_the_good_files_good(tmp_path):
    root = write_fracatlas(tmp_path / "FracAtlas", coco=coco_file(["IMG0000001.jpg"]))
    assert open_source(root).rows["path"].size == 8
    assert load_mask("fracatlas", root, "images/Fractured/IMG0000001.jpg").sum() > 80
