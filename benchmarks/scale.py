"""exp6 on as many images as MURA has: seconds, memory and disk of every stage, and the hours.

A tree with MURA's images of each class, patients and studies, as PNG files of 512 px: phantoms,
each of which stands in many places, as files of their own. Then the series on it, each stage in a
process of its own, without figures. What takes hours is measured on a part of the training images
and scaled by their number, and the table says so.

The last two stages write a store of activations as large as the tree's, with random numbers, and
train one epoch from it with nothing of it in the system's page cache. Where they ran, that epoch
counts in the hours instead of the part's.

Peak memory is what a process had resident. Mapped files, such as the stored activations, are part
of it, though the system takes their memory back when it needs it; the column "own" is without them.

It needs Linux.

    python benchmarks/scale.py --keep /large/disk/scale
    python benchmarks/scale.py --keep /large/disk/scale --stages store epoch
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from _common import machine, options, run, say, say_head, say_row, workspace
from _scale_data import Size, Work

from mura_utils import report
from mura_utils.errors import UserError
from mura_utils.paths import read_json, write_json

_HERE = Path(__file__).parent
_DATA, _NETWORK = "_scale_data.py", "_scale_network.py"
_ROOM = 0.95  # of the free disk, what may be filled
_PAUSE = 0.05  # seconds between two looks at a process


class Stage(NamedTuple):
    """A stage: the script that does it, and those before it."""

    script: str
    needs: tuple[str, ...] = ()


SET_UP = {
    "pool": Stage(_DATA),
    "disk": Stage(_NETWORK, ("pool",)),
    "tree": Stage(_DATA, ("pool",)),
}
STAGES = {
    "index": Stage(_DATA),
    "manifest": Stage(_DATA, ("index",)),
    "splits": Stage(_DATA, ("manifest",)),
    "pixels": Stage(_DATA, ("splits",)),
    "pca": Stage(_DATA, ("splits",)),
    "extraction": Stage(_NETWORK, ("pixels",)),
    "features": Stage(_NETWORK, ("extraction",)),
    "training": Stage(_NETWORK, ("extraction",)),
    "thumbnails": Stage(_DATA, ("pixels",)),
    "evaluation": Stage(_NETWORK, ("training",)),
    "explanations": Stage(_NETWORK, ("training",)),
    "store": Stage(_NETWORK, ("pixels",)),
    "epoch": Stage(_NETWORK, ("store",)),
}

FULL = Size(
    images=report.MURA_IMAGES,
    phantom_patients=520,
    part=4000,
    epochs=3,
    bootstrap=2000,
    explained=200,
    changes={"weights": "phantom"},
)
QUICK = Size(
    images=1600,
    phantom_patients=28,
    part=128,
    epochs=2,
    bootstrap=100,
    explained=4,
    changes={
        "backbone": "mobilenet",
        "alpha": 0.25,
        "weights": "none",
        "image_size": 32,
        "batch_size": 16,
        "views": 2,
        "pca_image_size": 8,
        "pca_images_per_class": [2],
    },
)


class Peak(NamedTuple):
    """Most memory of a process in bytes: resident, and of it what is no mapped file."""

    resident: int
    own: int


def memory_now(pid: int) -> Peak | None:
    """The peak of a process so far, and what of its memory is its own now; None if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    sizes = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith(" kB")}
    if "VmHWM" not in sizes:  # it has ended, and waits to be asked for its status
        return None
    return Peak(1024 * int(sizes["VmHWM"]), 1024 * int(sizes["RssAnon"]))


def supervise(command: Sequence[str], cache: Path) -> Peak:
    """Run a process to its end and watch its memory.

    Raises:
        UserError: it failed.
    """
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2"} | os.environ | {"MURA_CACHE_DIR": str(cache)}
    process = subprocess.Popen(command, env=environment)
    peak = Peak(0, 0)
    try:
        while process.poll() is None:
            if now := memory_now(process.pid):
                peak = Peak(*map(max, peak, now))
            time.sleep(_PAUSE)
    finally:
        if process.poll() is None:  # the user's interruption, or an error here
            process.terminate()
            process.wait()
    if process.returncode:
        raise UserError(
            f"The stage {command[2]} ended with status {process.returncode}: what it printed says "
            "why, and the same command with --keep goes on with it."
        )
    return peak


def do(name: str, stage: Stage, work: Work) -> dict[str, Any]:
    """The result of a stage, which is measured unless it is there.

    Raises:
        UserError: it failed, or a stage before it has not been done.
    """
    target = work.result(name)
    if target.is_file():
        say(f"{name}: measured before")
        return read_json(target)
    if missing := [other for other in stage.needs if not work.result(other).is_file()]:
        raise UserError(
            f"The stage {name} needs {missing[0]}, which {work.folder} does not hold: name it "
            "among --stages as well."
        )
    say(f"{name} ...")
    command = [sys.executable, str(_HERE / stage.script), name, str(work.folder)]
    peak = supervise(command, work.cache)
    written = target.with_suffix(".part")
    found = read_json(written) | {"peak": peak}
    write_json(target, found)
    written.unlink()
    return found


def begin(folder: Path, size: Size) -> Work:
    """The work in a folder, new or begun before with the same options.

    Raises:
        UserError: it was begun with others, or holds something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "size.json"
    if not kept.is_file():
        if any(folder.iterdir()):
            raise UserError(f"{folder} is not empty: give --keep a new folder.")
        write_json(kept, dataclasses.asdict(size))
        (folder / "results").mkdir()
    work = Work.open(folder)
    if work.size != size:
        raise UserError(
            f"{folder} was begun with other options, or with other extractors installed: give "
            "--keep a new folder."
        )
    return work


def require_disk(needed: Mapping[str, int], work: Work, stages: Sequence[str]) -> None:
    """Say how much disk the stages take that are not done, and refuse where there is less.

    Args:
        needed: bytes by stage.
        work: whose folder they are written in.
        stages: what is asked for.

    Raises:
        UserError: there is less.
    """
    wanted = {
        name: count
        for name, count in needed.items()
        if name in ("tree", *stages) and not work.result(name).is_file()
    }
    total, free = sum(wanted.values()), shutil.disk_usage(work.folder).free
    parts = ", ".join(f"{name} {count / 1e9:.2f}" for name, count in wanted.items())
    say(f"disk: {total / 1e9:.2f} GB to write ({parts}); {free / 1e9:.1f} GB free")
    if total > _ROOM * free:
        raise UserError(
            f"{work.folder} has {free / 1e9:.1f} GB free, and {total / 1e9:.1f} GB are to be "
            "written: give --keep a folder on a larger disk, --stored-as uint8, or --stages "
            "without store and epoch."
        )


def say_table(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Print what was measured, what it is for MURA's size, and the notes."""
    head = ("stage", "images", "s", "images/s", "for a run: images", "s", "how")
    say_head(*head, "peak memory, GB", "own, GB", "disk, GB")
    for name, result in results.items():
        done, needed, seconds = (result[key] for key in ("done", "needed", "seconds"))
        whole = [f"{needed:,}", f"{in_a_run(result):.0f}"] if result["counted"] else ["–", "–"]
        memory = [f"{count / 1e9:.2f}" for count in result["peak"]]
        written = f"{result['bytes_written'] / 1e9:.2f}"
        how = "measured" if done >= needed else "scaled"
        say_row(
            name, f"{done:,}", f"{seconds:.1f}", f"{done / seconds:,.0f}", *whole, how, *memory,
            written,
        )  # fmt: skip
    say("")
    for name, result in results.items():
        if result["note"]:
            say(f"{name}: {result['note']}")


def in_a_run(result: Mapping[str, Any]) -> float:
    """Seconds of a stage in a run of exp6 on the whole tree."""
    once = result["once"]
    return once + (result["seconds"] - once) * result["needed"] / result["done"]


def total_seconds(results: Mapping[str, Mapping[str, Any]]) -> float:
    """Seconds of a run: the epoch from disk stands for the part's, where it was measured."""
    counted = {name for name, result in results.items() if result["counted"]}
    if "epoch" in counted:
        counted.discard("training")
    return sum(in_a_run(results[name]) for name in counted)


def say_total(results: Mapping[str, Mapping[str, Any]], work: Work) -> None:
    """Print the hours of a run, or which stages they lack."""
    counted = {name for name in STAGES if name not in ("store", "epoch")}
    if "epoch" in results:
        counted.discard("training")
    if lacking := [name for name in STAGES if name in counted - set(results)]:
        say(f"\nNo total: {', '.join(lacking)} not measured.")
        return
    epochs, images = work.experiment().epochs, read_json(work.result("tree"))["done"]
    way = "epochs from a store on disk" if "epoch" in results else "epochs scaled from the part"
    hours = total_seconds(results) / 3600
    say(f"\nexp6 for {epochs} epochs on {images:,} images: {hours:.1f} hours ({way})")


def measure(arguments: argparse.Namespace) -> None:
    """Do the stages that are asked for, and print the table of all that are done."""
    if not Path("/proc/self/io").is_file():
        raise UserError("This benchmark reads /proc/self/io, which only Linux has.")
    if arguments.images is not None and arguments.images < 1:
        raise UserError(f"--images is {arguments.images}: give at least 1.")
    size = QUICK if arguments.quick else FULL
    part = size.part if arguments.images is None else arguments.images
    stored = {"stored_as": arguments.stored_as, "precision": arguments.precision}
    changes = {**size.changes, "extractor": "auto", **stored}
    size = dataclasses.replace(size, part=part, changes=changes)
    stages = [name for name in STAGES if name in (arguments.stages or STAGES)]
    with nullcontext(arguments.keep) if arguments.keep else workspace() as folder:
        work = begin(Path(folder).resolve() / "scale", size)
        do("pool", SET_UP["pool"], work)
        require_disk(do("disk", SET_UP["disk"], work), work, stages)
        results = {"tree": do("tree", SET_UP["tree"], work)}
        for name in stages:
            results[name] = do(name, STAGES[name], work)
        done = {name: work.result(name) for name in STAGES if work.result(name).is_file()}
        results |= {name: read_json(path) for name, path in done.items()}
        say(f"\n{machine('tensorflow', 'keras', 'numpy', 'openvino')}")
        say_table({name: results[name] for name in ("tree", *done)})
        say_total(results, work)
        if arguments.keep:
            say(f"\n{work.folder} stays, with tree and caches; delete it when you are done.")


def main() -> None:
    """Read the command line."""
    parser = options(__doc__)
    parser.add_argument(
        "--images", type=int, help=f"training images of the parts (default {FULL.part:,})"
    )
    parser.add_argument("--stages", nargs="+", choices=STAGES, help="only these")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="work there, stay, and go on where it ended"
    )
    parser.add_argument("--stored-as", choices=("float16", "uint8"), default="float16")
    parser.add_argument(
        "--precision",
        choices=("float32", "mixed", "int8"),
        default="mixed",
        help="of the extraction",
    )
    run(parser, measure)


if __name__ == "__main__":
    main()
