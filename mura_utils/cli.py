"""The ``mura`` command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from mura_utils.errors import UserError

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
data_app = typer.Typer(no_args_is_help=True, help="Prepare and check data sets.")
app.add_typer(data_app, name="data")


@app.command()
def run(
    experiment: Annotated[str, typer.Argument(help="a YAML file, or its name in experiments/")],
    parameter: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads it on Python 3.10
        typer.Option("-p", "--parameter", metavar="key=value", help="replaces the file's value"),
    ] = None,
    name: Annotated[str, typer.Option(help="the run's folder in runs/")] = "",
    start: Annotated[str, typer.Option("--from", help="first notebook, e.g. 05")] = "01",
    stop: Annotated[str, typer.Option("--to", help="last notebook, e.g. 06")] = "07",
    overwrite: Annotated[bool, typer.Option(help="replace a run of this name")] = False,
) -> None:
    """Execute the notebooks of an experiment with papermill into runs/NAME/."""
    from mura_utils.experiments import parse_assignment
    from mura_utils.pipeline import resolve_experiment, run_experiment

    changes = dict(parse_assignment(assignment) for assignment in parameter or [])
    for key in ("data_dir", "weights"):
        # A path typed in a shell is meant from where the shell is; a name means data/<name>.
        if key in changes and Path(changes[key]).expanduser().exists():
            changes[key] = str(Path(changes[key]).expanduser().resolve())
    if name:
        changes["name"] = name
    start, stop = start.zfill(2), stop.zfill(2)
    run_experiment(
        resolve_experiment(experiment, changes, start),
        start,
        stop,
        overwrite=overwrite,
        progress=sys.stdout.isatty(),
        report=typer.echo,
    )


@data_app.command("phantom")
def data_phantom(
    folder: Annotated[str, typer.Argument(help="absolute, or a name in data/")] = "phantom",
    patients: Annotated[int, typer.Option(help="how many patients to draw", min=30)] = 480,
    seed: Annotated[int, typer.Option(help="another seed draws other patients", min=0)] = 0,
) -> None:
    """Draw a phantom data set in MURA's layout."""
    from mura_utils.paths import data_dir
    from mura_utils.sources import open_source
    from mura_utils.sources.phantom import draw_phantoms

    root = data_dir() / Path(folder).expanduser()
    draw_phantoms(root, patients=patients, seed=seed, progress=sys.stderr.isatty())
    typer.echo(open_source(root))


@data_app.command("check")
def data_check(
    folder: Annotated[str, typer.Argument(help="a folder, or a name in data/")],
    source: Annotated[str, typer.Option(help="auto, mura, fracatlas or phantom")] = "auto",
    pixels: Annotated[bool, typer.Option(help="open every file, or only list them")] = True,
) -> None:
    """Say what a data folder holds and which files a run would exclude."""
    from mura_utils.manifest import quality_report, scan
    from mura_utils.paths import data_dir
    from mura_utils.sources import open_source

    here = Path(folder).expanduser()
    root = here.resolve() if here.exists() else data_dir() / here
    listing = open_source(root, source)
    typer.echo(listing)
    inventory = scan(listing, read_pixels=pixels, progress=sys.stderr.isatty())
    typer.echo(json.dumps(quality_report(listing, inventory)["counts"], indent=2))
    for row in inventory[inventory["fault"] != ""].itertuples():
        typer.echo(f"excluded: {row.path}: {row.fault}")


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="PNG or JPEG radiographs")],
    run: Annotated[str, typer.Option(help="a run's name, or its folder")],
    out: Annotated[Path, typer.Option(help="folder for the overlays")] = Path(),
) -> None:
    """Classify radiographs with a trained run: JSON on standard output, an overlay for each."""
    from mura_utils.prediction import predict_images

    typer.echo(json.dumps(predict_images(run, images, out), indent=2))


def main() -> None:
    """Run the command; an error that the user can put right is one sentence and status 1."""
    try:
        app()
    except UserError as error:
        typer.echo(f"mura: {error}", err=True)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        typer.echo("mura: interrupted; what was completed is kept.", err=True)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
