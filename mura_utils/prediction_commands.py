"""``mura predict``: single images, or all of a folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mura_utils.errors import UserError


def predict(
    images: Annotated[list[Path], typer.Argument(help="PNG, JPEG or DICOM; or one folder")],
    run: Annotated[str, typer.Option(help="a run's name, or its folder")],
    out: Annotated[
        Path, typer.Option(help="folder for the overlays; of a folder's images: FILE.csv")
    ] = Path(),
    method: Annotated[
        str | None,
        typer.Option("--map", metavar="METHOD", help="heat-map, e.g. grad_cam", show_default=False),
    ] = None,
    backend: Annotated[
        str, typer.Option(help="with --out FILE.csv: tensorflow or openvino")
    ] = "tensorflow",
    age: Annotated[
        float | None, typer.Option(help="the patient's years, where the run reads them")
    ] = None,
    sex: Annotated[str | None, typer.Option(help="F, M or O, where the run reads it")] = None,
) -> None:
    """Classify radiographs with a trained run: JSON on standard output, an overlay for each.

    What is odd about an image is a remark in the JSON and on standard error; so is an image unlike
    those of the training. With --out FILE.csv all images of a folder, and below it, go into that
    file, a row each, without overlays; interrupted, the same command goes on there.
    """
    if out.suffix.lower() != ".csv":
        _predict_images(run, images, out, method, backend, age, sex)
        return
    if age is not None or sex is not None:
        raise UserError(
            f"--age and --sex are of one patient, and --out {out} is for all images of a folder: "
            "leave them out, and they are treated as missing."
        )
    _predict_folder(run, images, out, method, backend)


def _predict_folder(
    run: str, images: Sequence[Path], out: Path, method: str | None, backend: str
) -> None:
    from mura_utils.batch import predict_folder

    if len(images) != 1 or not images[0].is_dir():
        what = "several paths are" if len(images) > 1 else f"{images[0]} is no folder that is"
        raise UserError(
            f"--out {out} is for the images of one folder, and {what} given: for single images "
            "--out names the folder of the overlays."
        )
    if method is not None:
        raise UserError(f"--map is of overlays, and there are none with --out {out}: leave it out.")
    predict_folder(run, images[0], out, backend, progress=sys.stderr.isatty())


def _predict_images(
    run: str,
    images: Sequence[Path],
    out: Path,
    method: str | None,
    backend: str,
    age: float | None,
    sex: str | None,
) -> None:
    from mura_utils.prediction import predict_images
    from mura_utils.predictor import missing_of_person
    from mura_utils.runs.ensemble import networks_of
    from mura_utils.runs.record import require_trained

    if folder := next((path for path in images if path.is_dir()), None):
        raise UserError(f"{folder} is a folder: give --out FILE.csv for all of its images.")
    if backend != "tensorflow":
        raise UserError("--backend is for the images of a folder: it needs --out FILE.csv.")
    results = predict_images(run, images, out, method, age, sex)
    if missing := missing_of_person(networks_of(require_trained(run)), age, sex):
        typer.echo(missing, err=True)
    for result in results:
        for remark in result["remarks"]:
            typer.echo(f"{result['image']}: {remark['kind']}: {remark['detail']}", err=True)
    if any(result["unfamiliar"] is None for result in results):
        typer.echo(
            f"The run {run} does not know which images are unlike its training images: it has no "
            "familiarity.npz, which notebook 06 writes.",
            err=True,
        )
    typer.echo(json.dumps(results, indent=2))
