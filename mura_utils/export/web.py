"""A run as a static web page that answers radiographs in the browser, for ``mura export``.

The folder holds everything that the page loads: its own files, the network, what notebook 06 chose
on validation images, and ONNX Runtime Web. See docs/web_page.md.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from mura_utils import labels
from mura_utils.data import images, levels
from mura_utils.errors import UserError
from mura_utils.evaluation.familiarity import Familiarity
from mura_utils.export.description import describe, one_network
from mura_utils.export.onnx_web import write_runtime
from mura_utils.export.runtime import require_library
from mura_utils.paths import atomic_write, reading, write_json
from mura_utils.predictor import known_by
from mura_utils.runs.record import require_trained

FACTS = "run.json"
"""What the page knows of its run, written last: a folder without it is no whole page."""

PAGE = (
    *("index.html", "page.css", "icon.svg"),
    *("page.js", "show.js", "answer.js", "decode.js", "image.js"),
)
"""The page's own files, the same for every run."""

_RULES = {
    "threshold": "the threshold that the run was given",
    "youden": "chosen on validation studies by Youden's index",
    "sensitivity": "chosen on validation studies for a sensitivity of {target:g}",
    "specificity": "chosen on validation studies for a specificity of {target:g}",
}


def write_page(run: str, out: Path | None = None) -> Path:
    """Write the static folder of a run's page.

    Args:
        run: the name of a run, or the path of its folder.
        out: folder of the page, made if need be; an earlier page in it is replaced. By default
            ``export/web/`` in the run's.

    Returns:
        The page, ``out/index.html``.

    Raises:
        UserError: no trained run, or one of several networks; a library is missing; `out` holds
            something else; ONNX Runtime Web cannot be fetched.
    """
    require_library("onnx", "tf2onnx")
    folder = require_trained(run)
    (network,) = one_network(folder).files
    out = folder / "export" / "web" if out is None else out
    _require_free(out)
    write_runtime(out / "onnxruntime")

    from mura_utils.export.explaining import explaining_network
    from mura_utils.network.build import in_float32
    from mura_utils.network.onnx import write_onnx
    from mura_utils.network.saved import load_model

    familiar = known_by(network)
    model = in_float32(load_model(network))
    facts = page_facts(folder, model.input_shape[1], familiar)
    (out / FACTS).unlink(missing_ok=True)
    whole = explaining_network(model, facts["map"] == "attention", familiar)
    write_onnx(whole, out / "model.onnx", describe(folder, model.input_shape[1]))
    for name in PAGE:
        with atomic_write(out / name) as temporary:
            temporary.write_bytes((files(__package__) / "web" / name).read_bytes())
    write_json(out / FACTS, facts)
    return out / "index.html"


def page_facts(folder: Path, size: int, familiar: Familiarity | None) -> dict[str, Any]:
    """The content of ``run.json``: what turns the network's numbers into an answer.

    Args:
        folder: of a trained run of one network.
        size: side of its square images, in pixels.
        familiar: what is familiar to it; None where it does not know.

    Returns:
        What `describe` says, and ``labels`` (of each class: label, abnormal, body_part); ``rule``,
        how the threshold was chosen, in words; ``limit``, above which an image is unfamiliar, or
        None; ``map``, "attention" or "occlusion"; ``checks``, what `data.images` refuses and
        remarks.
    """
    about = describe(folder, size)
    return about | {
        "labels": [
            {
                "label": label,
                "abnormal": labels.is_abnormal(label),
                "body_part": labels.body_part(label),
            }
            for label in about["classes"]
        ],
        "rule": _rule(folder, about["threshold_from"]),
        "limit": None if familiar is None else familiar.limit,
        "map": "attention" if one_network(folder).taught else "occlusion",
        "checks": {
            "min_side": images.MIN_SIDE,
            "max_pixels": images.MAX_PIXELS,
            "min_levels": levels.MIN_LEVELS,
            "stretch": {"percent": levels.STRETCH_PERCENTILE, "margin": levels.STRETCH_MARGIN},
            "inverted": {"border": images.INVERTED_BORDER, "medians": images.INVERTED_MEDIANS},
        },
    }


def _rule(folder: Path, threshold_from: str) -> str:
    if threshold_from != "operating_point.json":
        return _RULES["threshold"]
    with reading(folder / threshold_from) as point:
        return _RULES[point["rule"]].format(target=point["target"])


def _require_free(out: Path) -> None:
    """Refuse a folder of other things: an earlier page, whole or not, has ``onnxruntime/``."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is not a folder: --out names the folder of the page.")
    present = {path.name for path in out.iterdir()} if out.exists() else set()
    if present and "onnxruntime" not in present:
        raise UserError(
            f"{out} holds other files, {min(present)} among them: give an empty folder with --out."
        )
