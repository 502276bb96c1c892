"""Arrays of an interrupted training and a JSON record, in one file that is whole or absent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mura_utils.errors import naming_damage
from mura_utils.paths import atomic_write


def to_numpy(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    """Copies, as what Keras gives may be the variable's own memory, which training changes."""
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def write_checkpoint(path: Path, arrays: Sequence[np.ndarray], **record: Any) -> None:
    """Write arrays, in order, and what describes them, to an ``.npz`` file, atomically."""
    named = {f"v{index}": array for index, array in enumerate(arrays)}
    with atomic_write(path) as temporary:
        np.savez(temporary, record=json.dumps(record), **named)


def read_checkpoint(path: Path) -> tuple[list[np.ndarray], dict[str, Any]]:
    """The arrays and the record that `write_checkpoint` wrote.

    Raises:
        UserError: the file is damaged.
    """
    with naming_damage(path, "remove it to start again"), np.load(path) as stored:
        record = json.loads(str(stored["record"]))
        return [stored[f"v{index}"] for index in range(len(stored.files) - 1)], record
