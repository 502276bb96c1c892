"""What a file says of itself: which run it is, what it takes, what its numbers mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mura_utils.errors import UserError
from mura_utils.labels import body_part
from mura_utils.runs.ensemble import Networks, Rules, networks_of, read_ensemble

NOTICE = "Not a medical device: do not use it for clinical decisions."


def one_network(folder: Path) -> Networks:
    """The network of a trained run, or of a soup.

    Raises:
        UserError: it is an ensemble that answers with several networks, or with mirror images; it
            reads the patient's age or sex; it reads images twice; its record is damaged.
    """
    networks = networks_of(folder)
    if read := next(filter(None, networks.tabular), None):
        raise UserError(
            f"The run {folder.name} reads the patient's {' and '.join(read)} (its parameter "
            "tabular), and an export takes radiographs alone: export a run with tabular = []."
        )
    if any(networks.second_look):
        raise UserError(
            f"The run {folder.name} reads each image twice (its parameter second_look), and an "
            "export reads it once: export a run with second_look = False."
        )
    if len(networks.files) == 1 and not networks.flip:
        return networks
    members = ", ".join(member.name for member in read_ensemble(folder).members)
    raise UserError(
        f"The ensemble {folder.name} asks a network more than once for an image, and an export "
        f"does so once: export a member ({members}), or an ensemble made with --soup and without "
        "--flip."
    )


def describe(folder: Path, size: int) -> dict[str, Any]:
    """Everything that a program needs to use an exported run as ``mura predict`` does.

    Args:
        folder: of a run that `one_network` accepts.
        size: side of the square images, in pixels.

    Returns:
        Of plain JSON values: run; image_size; resize ("stretch" or "pad"), see
        `data.squares.resize`; input (name, layout, values); output (name, values); classes, in the
        order of the outputs; body_parts; threshold, above which a sum of the abnormal classes'
        probabilities is called abnormal, and threshold_from; temperature, by which logits are
        divided for calibrated probabilities, None where none was fitted; notice.
    """
    networks = one_network(folder)
    rules = Rules.of(folder, networks)
    return {
        "run": folder.name,
        "image_size": size,
        "resize": networks.resize[0],
        "input": {"name": "radiograph", "layout": "NHWC", "values": "gray, float32, 0 to 255"},
        "output": {"name": "predictions", "values": "probability of each class"},
        "classes": networks.classes,
        "body_parts": sorted({body_part(label) for label in networks.classes}),
        "threshold": rules.threshold,
        "threshold_from": rules.threshold_from,
        "temperature": rules.temperature,
        "notice": NOTICE,
    }
