"""What an interrupted training goes on from: arrays and a record in a file, whole or absent."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
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


def read_checkpoint(
    path: Path, remedy: str = "remove it to start again"
) -> tuple[list[np.ndarray], dict[str, Any]]:
    """The arrays and the record that `write_checkpoint` wrote.

    Raises:
        UserError: the file is damaged or absent; names the `remedy`.
    """
    with naming_damage(path, remedy), np.load(path) as stored:
        record = json.loads(str(stored["record"]))
        return [stored[f"v{index}"] for index in range(len(stored.files) - 1)], record


class TrainingState:
    """All that the next step of a training depends on: its variables and what describes them.

    Attributes:
        path: the file.
        record: what the last `save` was given, in this call or an earlier one; empty before it.
        seconds: wall-clock time of training, that of earlier calls included.
        network: what is trained, from `restore` on.
    """

    def __init__(self, path: Path, period: float, fits: Callable[[dict[str, Any]], bool]) -> None:
        """Read the file, if there is one whose record `fits`; it is `due` every `period` seconds.

        Raises:
            UserError: the file is damaged.
        """
        self.path, self._period = path, period
        arrays, record = read_checkpoint(path) if path.is_file() else ([], {})
        self._arrays, self.record = (arrays, record) if record and fits(record) else ([], {})
        self.seconds = self._saved_at = self.record.get("seconds", 0.0)

    def restore(self, network: keras.Model) -> None:
        """Put a compiled network and its optimizer where the file has them; time runs from here."""
        self.network = network
        self._began = time.perf_counter() - self.seconds
        network.optimizer.build(network.trainable_variables)
        _build_metrics(network)
        if self.record:
            for variable, value in zip(self._variables(), self._arrays, strict=True):
                variable.assign(value)
            self._arrays = []

    def due(self) -> bool:
        """Take the time, and say whether the period has passed since the file was written."""
        self.seconds = time.perf_counter() - self._began
        return self.seconds - self._saved_at >= self._period

    def save(self, **record: Any) -> None:
        """Write the variables and `record`, and the seconds up to the last call of `due`."""
        self.record = {**record, "seconds": self.seconds}
        write_checkpoint(self.path, to_numpy(self._variables()), **self.record)
        self._saved_at = self.seconds

    def _variables(self) -> list[keras.Variable]:
        """Weights, dropout's random states, and the optimizer's variables with its rate."""
        counters = {id(variable) for variable in self.network.metrics_variables}
        own = [v for v in self.network.variables if id(v) not in counters]
        return own + self.network.optimizer.variables


def _build_metrics(network: keras.Model) -> None:
    """Make the variables of a compiled network's losses and metrics.

    Left to the first step, they would have TensorFlow trace it twice. With JAX, and on several
    devices, Keras makes them before by itself.
    """
    strategy = getattr(network, "distribute_strategy", None)  # TensorFlow's alone
    if strategy is None or strategy.num_replicas_in_sync > 1:
        return
    # A list of one output is a tensor in the first step: the loss of a list would read one row.
    outputs = network.output if len(network.outputs) > 1 else network.outputs[0]
    zeros = keras.tree.map_structure(
        lambda output: keras.ops.zeros([side or 1 for side in output.shape]), outputs
    )
    network.compute_loss(y=zeros, y_pred=zeros)
    network.compute_metrics(None, zeros, zeros)
    network.reset_metrics()
