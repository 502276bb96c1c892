"""The command ``mura export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[str, typer.Option(help="a run's name, or its folder")],
    to: Annotated[str, typer.Option(help="litert, onnx, openvino or keras")],
    int8: Annotated[
        bool, typer.Option("--int8", help="8 bits for most numbers, calibrated on training images")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="folder", show_default="export/ in the run's")
    ] = None,
) -> None:
    """Write a run's network for another runtime, and check that it gives the same answers."""
    from mura_utils.export.writing import export_run

    made = export_run(run, to, int8, out)
    typer.echo(
        f"{made.path}: {made.size / 1e6:.1f} MB; on {made.checked} validation images no "
        f"probability differs from the run's by more than {made.difference:.2g}."
    )
