"""The command ``mura export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[str, typer.Option(help="a run's name, or its folder")],
    to: Annotated[str, typer.Option(help="litert, onnx, openvino, keras or web")],
    int8: Annotated[
        bool, typer.Option("--int8", help="8 bits for most numbers, calibrated on training images")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="folder", show_default="export/ in the run's; of web export/web/"),
    ] = None,
) -> None:
    """Write a run's network for another runtime, checked to give the same answers; or a web page.

    The page (--to web) is a static folder: it answers radiographs in the browser, without a server.
    """
    if to == "web":
        _write_page(run, int8, out)
        return
    from mura_utils.export.writing import export_run

    made = export_run(run, to, int8, out)
    typer.echo(
        f"{made.path}: {made.size / 1e6:.1f} MB; on {made.checked} validation images no "
        f"probability differs from the run's by more than {made.difference:.2g}."
    )


def _write_page(run: str, int8: bool, out: Path | None) -> None:
    from mura_utils.errors import UserError
    from mura_utils.export.web import write_page

    if int8:
        raise UserError("--int8 is not for --to web: the page computes in float32.")
    folder = write_page(run, out).parent
    typer.echo(
        f"{folder}: run 'python -m http.server --directory {folder}' and open http://localhost:8000"
    )
