"""A run as a static web page that answers radiographs in the browser, for ``mura export``.

The folder holds everything that the page loads: its own files, the network, what notebook 06 chose
on validation images, and ONNX Runtime Web. See docs/web_page.md.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from mura_utils import labels
from mura_utils.data import images
from mura_utils.errors import UserError
from mura_utils.evaluation.familiarity import FAMILIARITY, Familiarity, read_familiarity
from mura_utils.experiments import Experiment
from mura_utils.export.onnx_web import write_runtime
from mura_utils.paths import atomic_write, reading, write_json
from mura_utils.runs.ensemble import Networks, networks_of
from mura_utils.runs.record import chosen_number, is_tested, read_experiment, require_trained

FACTS = "run.json"
"""What the page knows of its run, written last: a folder without it is no whole page."""

_PAGE = ("index.html", "page.css", "icon.svg")
_SCRIPTS = ("page.js", "answer.js", "decode.js", "image.js", "show.js")
_RULES = {
    "threshold": "the threshold that the run was given",
    "youden": "chosen on validation studies by Youden's index",
    "sensitivity": "chosen on validation studies for a sensitivity of {target:g}",
    "specificity": "chosen on validation studies for a specificity of {target:g}",
}


def write_page(run: str, out: Path) -> Path:
    """Write the static folder of a run's page.

    Args:
        run: the name of a run, or the path of its folder.
        out: folder of the page, made if need be; an earlier page in it is replaced.

    Returns:
        The page, ``out/index.html``.

    Raises:
        UserError: no trained run, or one of several networks; `out` holds something else; ONNX
            Runtime Web cannot be fetched.
    """
    folder = require_trained(run)
    networks = networks_of(folder)
    if len(networks.files) > 1 or networks.flip:
        raise UserError(
            f"{folder.name} is an ensemble of several answers, and a page takes one network: "
            "export one of its members."
        )
    _require_free(out)
    familiar = _familiar(folder)
    facts = page_facts(folder, networks, familiar)
    write_runtime(out / "onnxruntime")
    (out / FACTS).unlink(missing_ok=True)
    _write_network(networks, familiar, out / "model.onnx")
    for name in (*_PAGE, *_SCRIPTS):
        with atomic_write(out / name) as temporary:
            temporary.write_bytes((files(__package__) / "web" / name).read_bytes())
    write_json(out / FACTS, facts)
    return out / "index.html"


def page_facts(folder: Path, networks: Networks, familiar: Familiarity | None) -> dict[str, Any]:
    """The content of ``run.json``: what turns the network's numbers into an answer.

    Args:
        folder: of a trained run.
        networks: of that run.
        familiar: what is familiar to it; None where it does not know.

    Returns:
        ``about`` (a sentence), ``classes`` (label, abnormal, body_part), ``image_size``,
        ``resize``, ``threshold`` and ``rule`` (its words), ``temperature``, ``limit`` (above it
        an image is unfamiliar), ``map`` ("attention" or "occlusion"), ``checks`` (what
        `data.images` refuses and remarks).
    """
    experiment = read_experiment(folder)
    threshold, rule = _operating_point(folder, networks)
    return {
        "about": _about(folder.name, experiment),
        "classes": [
            {
                "label": label,
                "abnormal": labels.is_abnormal(label),
                "body_part": labels.body_part(label),
            }
            for label in networks.classes
        ],
        "image_size": experiment.image_size,
        "resize": networks.resize[0],
        "threshold": threshold,
        "rule": rule,
        "temperature": chosen_number(folder / "calibration.json", "temperature"),
        "limit": None if familiar is None else familiar.limit,
        "map": "attention" if networks.taught else "occlusion",
        "checks": {
            "min_side": images.MIN_SIDE,
            "max_pixels": images.MAX_PIXELS,
            "min_levels": images.MIN_LEVELS,
            "stretch": {"percent": images.STRETCH_PERCENTILE, "margin": images.STRETCH_MARGIN},
            "inverted": {"border": images.INVERTED_BORDER, "medians": images.INVERTED_MEDIANS},
        },
    }


def _about(name: str, experiment: Experiment) -> str:
    size = experiment.image_size
    return (
        f"Run {name}: {experiment.backbone} with head {experiment.head}, images "
        f"{'padded' if experiment.resize == 'pad' else 'stretched'} to {size} × {size} pixels."
    )


def _operating_point(folder: Path, networks: Networks) -> tuple[float, str]:
    """The threshold as `mura predict` takes it, and where it comes from in words."""
    path = folder / "operating_point.json"
    threshold = chosen_number(path, "threshold")
    if threshold is None:
        return networks.threshold, _RULES["threshold"]
    with reading(path) as point:
        return threshold, _RULES[point["rule"]].format(target=point["target"])


def _familiar(folder: Path) -> Familiarity | None:
    path = folder / FAMILIARITY
    return read_familiarity(path) if is_tested(folder) and path.is_file() else None


def _require_free(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is not a folder: --out names the folder of the page.")
    known = {FACTS, "index.html", "onnxruntime"}
    present = {path.name for path in out.iterdir()} if out.exists() else set()
    if present and not present & known:
        raise UserError(
            f"{out} holds other files, {min(present)} among them: give an empty folder with --out."
        )


def _write_network(networks: Networks, familiar: Familiarity | None, path: Path) -> None:
    import numpy as np

    from mura_utils.export.explaining import explaining_network
    from mura_utils.network.saved import load_model

    model = load_model(networks.files[0])
    whole = explaining_network(model, networks.taught, familiar)
    whole(np.zeros((1, *model.input_shape[1:]), np.float32))
    with atomic_write(path) as temporary:
        whole.export(str(temporary), format="onnx", verbose=False)
