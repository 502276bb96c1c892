"""The loss that teaches an attention map where findings are."""

from __future__ import annotations

import keras
from keras import ops

_POSITIVE = 20.0  # weight of a cell with a finding: such cells are about one in a hundred
_GAMMA = 2.0


class MaskLoss(keras.losses.Loss):
    """Focal binary cross-entropy of a sigmoid map against a mask, cell by cell.

    Cells that are right already count little (Lin et al. 2017, "Focal Loss", equation 4), so that
    neither the many empty cells nor the sure ones drown the few that matter. Where the target is
    -1, it is unknown and counts nothing.

    Example:
        >>> loss = MaskLoss()
        >>> sure = loss([[[[1.0]]]], [[[[0.9]]]])
        >>> wrong = loss([[[[1.0]]]], [[[[0.1]]]])
        >>> bool(wrong > 100 * sure), float(loss([[[[-1.0]]]], [[[[0.1]]]]))
        (True, 0.0)
    """

    def call(self, y_true, y_pred):
        """(B,) from (B, h, w, 1) targets 1, 0 or -1 and probabilities."""
        epsilon = keras.config.epsilon()
        p = ops.clip(ops.cast(y_pred, "float32"), epsilon, 1 - epsilon)
        target = ops.cast(y_true, "float32")
        found = _POSITIVE * (1 - p) ** _GAMMA * -ops.log(p)
        empty = p**_GAMMA * -ops.log(1 - p)
        cells = ops.where(target < 0, 0.0, ops.where(target > 0, found, empty))
        return ops.mean(cells, axis=(1, 2, 3))
