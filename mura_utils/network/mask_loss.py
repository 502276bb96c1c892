"""The loss that teaches an attention map where findings are."""

from __future__ import annotations

import keras
from keras import ops

_POSITIVE = 20.0  # weight of a cell with a finding: such cells are about one in a hundred
_GAMMA = 2.0
_SHARE = 0.05  # weight of the second part: it begins near log(400), the first below 1


class MaskLoss(keras.losses.Loss):
    """What a sigmoid map gets wrong of a mask: cell by cell, and where its weight lies.

    Cell by cell: focal binary cross-entropy. Cells that are right already count little (Lin et al.
    2017, "Focal Loss", equation 4), so that neither the many empty cells nor the sure ones drown
    the few that matter.

    Where its weight lies: minus the logarithm of the share of attention inside the mask, where a
    cell's attention is its odds p / (1 - p) over the sum of all (the softmax of the logits, which
    the head ``pooled`` pools with). Cells compete here, so that the map becomes sharp.

    Where the target is -1, it is unknown and counts nothing; an empty mask has no second part.

    Example:
        >>> loss, mask = MaskLoss(), [[[[1.0], [0.0]]]]
        >>> right, wrong = loss(mask, [[[[0.9], [0.1]]]]), loss(mask, [[[[0.1], [0.9]]]])
        >>> bool(wrong > 30 * right), float(loss([[[[-1.0]]]], [[[[0.1]]]]))
        (True, 0.0)
    """

    def call(self, y_true, y_pred):
        """(B,) from (B, h, w, 1) targets 1, 0 or -1 and probabilities."""
        epsilon = keras.config.epsilon()
        p = ops.clip(ops.cast(y_pred, "float32"), epsilon, 1 - epsilon)
        target = ops.cast(y_true, "float32")
        inside = target > 0
        found = _POSITIVE * (1 - p) ** _GAMMA * -ops.log(p)
        empty = p**_GAMMA * -ops.log(1 - p)
        cells = ops.where(target < 0, 0.0, ops.where(inside, found, empty))
        odds = p / (1 - p)
        share = _over_cells(ops.sum, ops.where(inside, odds, 0.0)) / _over_cells(ops.sum, odds)
        elsewhere = ops.where(_over_cells(ops.any, inside), -ops.log(share + epsilon), 0.0)
        return _over_cells(ops.mean, cells) + _SHARE * elsewhere


def _over_cells(reduce, maps):
    """(B,) from (B, h, w, 1)."""
    return reduce(maps, axis=(1, 2, 3))
