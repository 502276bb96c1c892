"""The ``mura`` command."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from mura_utils import data_commands, export_commands, prediction_commands
from mura_utils.errors import UserError, describe
from mura_utils.terminal import print_log_lines

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
app.add_typer(data_commands.app, name="data")
app.command()(export_commands.export)


@app.command()
def run(
    experiment: Annotated[str, typer.Argument(help="a YAML file, or its name in experiments/")],
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", "--parameter", metavar="key=value", help="replaces the file's value"),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="the run's folder in runs/", show_default=False)
    ] = None,
    start: Annotated[str, typer.Option("--from", help="first notebook, e.g. 05")] = "01",
    stop: Annotated[str, typer.Option("--to", help="last notebook, e.g. 06")] = "07",
    overwrite: Annotated[bool, typer.Option(help="replace a run of this name")] = False,
) -> None:
    """Execute the notebooks of an experiment with papermill into runs/NAME/."""
    from mura_utils.runs.pipeline import resolve_experiment, run_experiment

    changes = _changes(parameter or [])
    if name is not None:
        changes["name"] = name
    start, stop = start.zfill(2), stop.zfill(2)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the kernel, as Ctrl-C does
    run_experiment(
        resolve_experiment(experiment, changes, start),
        start,
        stop,
        overwrite=overwrite,
        progress=sys.stdout.isatty(),
    )


@app.command()
def sweep(
    experiments: Annotated[
        list[str], typer.Argument(help="YAML files, or names in experiments/; a search among them")
    ],
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", "--parameter", metavar="key=value", help="replaces the files' values"),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(help="run each with the seeds 0 to n-1, as NAME-seed0 …", min=1),
    ] = None,
    start: Annotated[
        str,
        typer.Option(
            "--from", help="again from this notebook; else only what is missing", show_default=False
        ),
    ] = "01",
    stop: Annotated[
        str, typer.Option("--to", help="last notebook, e.g. 06", show_default="07; of a search 05")
    ] = "",
    use_ray: Annotated[bool, typer.Option("--ray", help="several at a time, with Ray")] = False,
    address: Annotated[
        str | None,
        typer.Option(help="a running Ray cluster; project, data, runs and caches must be shared"),
    ] = None,
    cpus: Annotated[
        int | None,
        typer.Option(help="with Ray: CPUs of each run", min=1, show_default="1"),
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option(help="with Ray: GPUs of each run", min=0, show_default="0"),
    ] = None,
) -> None:
    """Run experiments, every file with every seed, or a search; again: what is missing.

    Runs that agree in the parameters of 01 to 04 execute these notebooks once. The output of each
    run goes to runs/.sweep/NAME.log.
    """
    from mura_utils.experiments import experiment_file
    from mura_utils.runs.jobs import run_here, summarize
    from mura_utils.runs.ray import ray_cluster
    from mura_utils.runs.search import describe_trials, read_search
    from mura_utils.runs.sweep import plan, run_sweep

    with_ray = use_ray or address is not None
    if not with_ray and (cpus is not None or gpus is not None):
        raise UserError("--cpus and --gpus divide a machine among runs: they need --ray.")
    stop = stop and stop.zfill(2)
    runs = plan(experiments, _changes(parameter or []), seeds, start.zfill(2), stop)
    if with_ray and not all(run.complete for run in runs):
        executor = ray_cluster(address, cpus or 1, gpus or 0)
    else:
        executor = nullcontext(run_here)
    with executor as execute:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # end the runs as Ctrl-C does
        outcomes = run_sweep(runs, execute)
    typer.echo(summarize(outcomes))
    for search in filter(None, map(read_search, map(experiment_file, experiments))):
        typer.echo(f"\n{describe_trials(search)}")
    if any(outcome.state == "failed" for outcome in outcomes):
        typer.echo("After that is put right, the same command runs what is missing.")
        raise typer.Exit(1)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(help="folders of runs, or names in runs/")],
    csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="also write every number there"),
    ] = None,
    paired: Annotated[
        bool, typer.Option("--paired", help="test the difference of two runs on the same images")
    ] = False,
) -> None:
    """Compare trained runs: experiments, best first, by mean ± standard deviation over seeds."""
    from mura_utils.paths import write_csv
    from mura_utils.runs import comparison

    folders, left_out = comparison.find_runs(runs)
    for name, reason in left_out.items():
        typer.echo(f"Left out, {name}: {reason}", err=True)
    if paired:
        if len(folders) != 2:
            raise UserError(f"--paired compares two trained runs; {len(folders)} are given.")
        differences, line = comparison.compare_on_same_images(*folders)
    table = comparison.compare(folders)
    if table["source"].nunique() > 1:
        typer.echo("These runs are of different data: see the row source.", err=True)
    width = shutil.get_terminal_size((200, 24)).columns
    typer.echo(comparison.format_table(table).T.to_string(line_width=width))
    differing = comparison.differing_parameters(folders)[table.index]
    if not differing.empty:
        typer.echo(f"\nParameters that differ:\n{differing.to_string(line_width=width)}")
    if paired:
        typer.echo(f"\n{line}\n{differences.round(4).to_string(line_width=width)}")
    if csv is not None:
        write_csv(csv, table.reset_index())


@app.command()
def report(
    run: Annotated[str, typer.Option(help="a run's name, or its folder")],
) -> None:
    """Make web pages of a run: its notebooks and an overview, in runs/NAME/report/.

    What could not be shown is a remark on standard error.
    """
    from mura_utils.runs.pages import write_report

    page, remarks = write_report(run)
    for remark in remarks:
        typer.echo(f"Remark: {remark}", err=True)
    typer.echo(f"Open {page}")


@app.command()
def ensemble(
    runs: Annotated[list[str], typer.Argument(help="folders of tested runs, or names in runs/")],
    name: Annotated[str, typer.Option(help="its folder in runs/; without: from the runs'")] = "",
    flip: Annotated[bool, typer.Option("--flip", help="over mirror images as well")] = False,
    soup: Annotated[bool, typer.Option("--soup", help="average weights, not answers")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace an ensemble of this name")
    ] = False,
) -> None:
    """Make a run of the mean of several runs: seeds, backbones, sizes; for compare and predict."""
    from mura_utils.ensembles import make_ensemble

    make_ensemble(runs, name, flip, soup, overwrite)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="made if need be")] = Path(),
) -> None:
    """Copy the notebooks and experiments into a folder, to change them there."""
    from mura_utils.paths import copy_series

    made = copy_series(folder)
    typer.echo(f"{len(made)} files in {folder.resolve()}: open them with 'jupyter lab notebooks'.")


app.command()(prediction_commands.predict)


@app.command()
def evaluate(
    run: Annotated[str, typer.Option(help="a run's name, or its folder")] = "",
    data: Annotated[str, typer.Option(help="a data set's folder, or a name in data/")] = "",
    source: Annotated[
        str, typer.Option(help="auto, mura, fracatlas, grazpedwri, phantom or table")
    ] = "auto",
    binary: Annotated[
        bool, typer.Option("--binary", help="only normal or abnormal, of all body parts")
    ] = False,
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CSV of any tool; no --run and --data")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="with --predictions; a run has its own", min=0, max=1)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder for the results")] = None,
) -> None:
    """Test a run on another data set, or judge the predictions of any tool."""
    from mura_utils import external

    if predictions is not None and not (run or data or binary):
        external.evaluate_file(predictions, threshold, out)
    elif predictions is None and run and data and threshold is None:
        root = data_commands.data_folder(data)
        external.evaluate_run(run, root, source, binary, out, progress=sys.stderr.isatty())
    else:
        raise UserError(
            "Give --run and --data, with --binary if need be, or --predictions with --threshold."
        )


@app.command()
def pretrain(
    folder: Annotated[
        Path, typer.Argument(help="for checkpoint and weights; one with a checkpoint goes on")
    ],
    backbone: Annotated[str, typer.Option(help="network of keras.applications")] = "densenet121",
    alpha: Annotated[float, typer.Option(help="width multiplier of mobilenet")] = 1.0,
    images: Annotated[int, typer.Option(help="phantoms to train on, in all", min=1)] = 80_000,
    image_size: Annotated[int, typer.Option(help="where the weights will be used, pixels")] = 224,
    batch_size: Annotated[int, typer.Option(help="a multiple of 4")] = 16,
    seed: Annotated[int, typer.Option(help="of initialization and phantoms", min=0)] = 0,
    minutes: Annotated[
        float | None,
        typer.Option(help="stop after so long; the same command goes on", show_default=False),
    ] = None,
    workers: Annotated[int, typer.Option(help="processes that draw phantoms", min=1)] = 1,
) -> None:
    """Train a backbone on endless phantoms: weights for radiographs, without any data."""
    from mura_utils.pretraining.training import Recipe, pretrain

    recipe = Recipe(
        backbone=backbone,
        alpha=alpha,
        images=images,
        image_size=image_size,
        batch_size=batch_size,
        seed=seed,
    )
    pretrain(recipe, folder, minutes, workers, progress=sys.stderr.isatty())


@app.command()
def cache(
    prune: Annotated[
        float | None,
        typer.Option(metavar="DAYS", help="remove what was not used for so long; 0: all", min=0),
    ] = None,
) -> None:
    """List what the cache holds, or remove what is no longer used; all of it can be made again."""
    from mura_utils import cache as contents
    from mura_utils.paths import cache_dir

    if prune is not None:
        removed, kept = contents.prune(prune)
        freed = sum(entry.size for entry in removed)
        typer.echo(f"Removed {len(removed)} entries, {freed / 1e9:.2f} GB.")
        for entry in kept:
            typer.echo(f"Kept, a process is computing it: {entry.path.name}")
    found = contents.entries()
    for entry in found:
        age = f"used {entry.unused_for:.0f} days ago"
        typer.echo(f"{entry.path.name}  {entry.size / 1e9:.2f} GB  {age}  {entry.content}")
    total = sum(entry.size for entry in found)
    typer.echo(f"{len(found)} entries, {total / 1e9:.2f} GB in {cache_dir()}")


def _changes(assignments: Sequence[str]) -> dict[str, Any]:
    """Parameters as typed in a shell: a path is meant from where the shell is."""
    from mura_utils.experiments import parse_assignment
    from mura_utils.paths import expand, resolve

    changes = dict(parse_assignment(assignment) for assignment in assignments)
    for key in ("data_dir", "relabel", "weights"):
        # What does not exist from here may be a name in data/, or imagenet.
        if changes.get(key) and expand(changes[key]).exists():
            changes[key] = str(resolve(changes[key]))
    return changes


def _find_a_home() -> None:
    """Name one where the system knows none, as in a container with a user of its own.

    IPython does not start without; Keras keeps downloaded weights there.
    """
    from mura_utils.paths import cache_dir

    try:
        Path.home()
    except RuntimeError:
        home = cache_dir() / "home"
        home.mkdir(parents=True, exist_ok=True)
        os.environ["HOME"] = str(home)
        typer.echo(f"mura: no home folder is known here; {home} is used.", err=True)


def main() -> None:
    """Run the command; what the user can put right is one sentence and status 1.

    So are errors of the operating system; with ``MURA_DEBUG=1`` they show where they come from.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may know ASCII only
    print_log_lines()
    try:
        _find_a_home()
        app()
    except (UserError, OSError, MemoryError, BrokenExecutor) as error:
        if os.environ.get("MURA_DEBUG") == "1":
            raise
        typer.echo(f"mura: {describe(error)}", err=True)
        raise SystemExit(1) from None
    except SystemExit as error:
        if error.code == 130:  # what typer makes of KeyboardInterrupt
            typer.echo("mura: interrupted; what was completed is kept.", err=True)
        raise


if __name__ == "__main__":
    main()
