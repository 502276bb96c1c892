"""Execute the notebooks on the phantom demo, store their outputs and the README's picture.

This is ``make notebooks``.

The demo is run in a temporary folder, so that no run of the user's is touched and no path of this
machine lands in an output.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nbformat
import numpy as np
from matplotlib.figure import Figure

from mura_utils.data.images import read_image
from mura_utils.data.sources import load_mask
from mura_utils.data.squares import resize, resize_mask
from mura_utils.experiments import data_root, load_experiment
from mura_utils.explain import layer_cam
from mura_utils.explain.targets import contrast_target
from mura_utils.labels import ABNORMAL, probabilities_of
from mura_utils.network.build import load_model
from mura_utils.paths import REPOSITORY, atomic_write, read_table
from mura_utils.plotting.heatmaps import overlay
from mura_utils.plotting.style import to_png
from mura_utils.runs.pipeline import run_experiment
from mura_utils.runs.stages import NOTEBOOKS
from mura_utils.terminal import print_log_lines


def refresh() -> None:
    """Replace the outputs of all committed notebooks."""
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("DATA", "RUNS", "CACHE"):
            os.environ[f"MURA_{kind}_DIR"] = str(Path(folder) / kind.lower())
        run = run_experiment(load_experiment("demo"))
        draw_overview(run)
        for name in NOTEBOOKS:
            store(run / f"{name}.ipynb", REPOSITORY / "notebooks" / f"{name}.ipynb")


def store(executed: Path, committed: Path) -> None:
    """Copy outputs and counts, and leave sources and metadata as they are committed."""
    book = nbformat.read(committed, as_version=4)
    results = {cell.id: cell for cell in nbformat.read(executed, as_version=4).cells}
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    for count, cell in enumerate(code, start=1):  # papermill's own cell is not counted
        cell.outputs = results[cell.id].outputs
        cell.execution_count = count
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
    nbformat.write(book, committed)


def draw_overview(run: Path) -> None:
    """Draw the README's picture: of each body part an abnormal test image, chosen at random.

    Above the radiograph with the finding's outline, below LayerCAM of (abnormal - normal) and
    whether the predicted class is correct.
    """
    predictions = read_table(run / "predictions.csv").query("split == 'test'")
    abnormal = predictions[predictions["abnormality"] == ABNORMAL]
    classes = list(probabilities_of(abnormal))
    cases = abnormal.groupby("body_part").sample(1, random_state=0).sort_values("body_part")
    model = load_model(run / "model.keras")
    data = data_root(load_experiment(run / "experiment.yaml"))
    size = model.input_shape[1]
    images = np.stack([resize(read_image(data / path), size) for path in cases["path"]])
    target = contrast_target([classes.index(label) for label in cases["label"]], classes)
    heat = layer_cam(model, images[..., None].astype("float32"), target)
    figure = Figure(figsize=(1.5 * len(cases), 3.4), layout="constrained", facecolor="white")
    for column, (axes, case) in enumerate(
        zip(figure.subplots(2, len(cases)).T, cases.itertuples(), strict=True)
    ):
        mask = resize_mask(load_mask("phantom", data, case.path), size)
        axes[0].imshow(images[column], cmap="gray", vmin=0, vmax=255)
        axes[0].contour(mask, levels=[0.5], colors="#56B4E9", linewidths=1)
        axes[0].set_title(case.body_part.lower(), fontsize=10)
        axes[1].imshow(overlay(images[column], heat[column]))
        verdict = "correct" if case.label == case.predicted else "wrong"
        axes[1].set_xlabel(verdict, fontsize=9)
        for ax in axes:
            ax.set(xticks=[], yticks=[])
    with atomic_write(REPOSITORY / "docs" / "overview.png") as temporary:
        temporary.write_bytes(to_png(figure))


if __name__ == "__main__":
    print_log_lines()
    refresh()
