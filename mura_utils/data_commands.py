"""The commands ``mura data``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Prepare and check data sets.")


@app.command("phantom")
def phantom(
    folder: Annotated[str, typer.Argument(help="absolute, or a name in data/")] = "phantom",
    patients: Annotated[int, typer.Option(help="how many to draw", min=30, max=99_999)] = 360,
    seed: Annotated[int, typer.Option(help="another draws others", min=0, max=2**32 - 1)] = 0,
    faults: Annotated[bool, typer.Option(help="plant damaged files and rows")] = True,
    label_noise: Annotated[float, typer.Option(help="share of wrong labels", min=0, max=0.5)] = 0.0,
    age_effect: Annotated[
        float, typer.Option(help="how far age tells the finding", min=0, max=1)
    ] = 0.0,
) -> None:
    """Draw a phantom data set in MURA's layout; by default the one of the demo."""
    from mura_utils.data.sources import open_source
    from mura_utils.paths import data_dir, expand
    from mura_utils.phantoms.dataset import draw_phantoms

    root = data_dir() / expand(folder)
    progress = sys.stderr.isatty()
    draw_phantoms(
        root, patients, seed, faults, label_noise, age_effect=age_effect, progress=progress
    )
    typer.echo(open_source(root))


@app.command("check")
def check(
    folder: Annotated[str, typer.Argument(help="a folder, or a name in data/")],
    source: Annotated[
        str, typer.Option(help="auto, mura, fracatlas, grazpedwri, phantom or table")
    ] = "auto",
    pixels: Annotated[bool, typer.Option(help="open every file, or only list them")] = True,
    show: Annotated[int, typer.Option(help="lines for each kind of finding; 0: all", min=0)] = 10,
) -> None:
    """Say what a data folder holds, what a run would exclude, what is odd, and how to split it.

    Status 1 when no listed image can be used.
    """
    from mura_utils.data.manifest import admit, format_report, quality_report, scan
    from mura_utils.data.sources import open_source
    from mura_utils.data.splits import leak_free

    listing = open_source(data_folder(folder), source)
    typer.echo(listing)
    inventory = scan(listing, read_pixels=pixels, progress=sys.stderr.isatty())
    report = quality_report(listing, inventory)
    typer.echo(json.dumps(report["counts"], indent=2))
    typer.echo(format_report(report, show))
    for sentence in leak_free(admit(inventory), listing.has_patients):
        typer.echo(sentence)


def data_folder(name: str) -> Path:
    """A folder as typed in a shell: from where the shell is, else a name in data/."""
    from mura_utils.paths import data_dir, expand, resolve

    here = expand(name)
    return resolve(here) if here.exists() else data_dir() / here
