"""Which score a heat-map explains: a class, or abnormal minus normal of one body part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from mura_utils.errors import UserError
from mura_utils.labels import ABNORMAL, NORMAL, body_part, join


@dataclass(frozen=True)
class Target:
    """What is explained: for each image a weighted sum of the logits.

    Attributes:
        weights: (N, K) float32, the weight of each class's logit in each image's score.
    """

    weights: np.ndarray

    def score(self, rows: slice, copies: int = 1) -> Callable[[tf.Tensor], tf.Tensor]:
        """Score function for tf-keras-vis: logits of these rows, each `copies` times -> scores."""
        weights = tf.constant(np.repeat(self.weights[rows], copies, axis=0))
        return lambda logits: tf.reduce_sum(tf.cast(logits, tf.float32) * weights, axis=-1)


def class_target(indices: Sequence[int], classes: Sequence[str]) -> Target:
    """Explain the logit of one class for each image.

    A class such as Abnormal-ELBOW says two things, and its logit mostly explains the anatomy: a
    heat-map over the whole elbow is no sign of the finding. For that, see `contrast_target`.

    Args:
        indices: (N,) positions in `classes`, for instance of the predicted labels.
        classes: K labels, in the order of the model's outputs.

    Raises:
        UserError: a position is out of range.

    Example:
        >>> class_target([1], ["Abnormal-HAND", "Normal-HAND"]).weights
        array([[0., 1.]], dtype=float32)
    """
    _check_indices(indices, classes)
    return Target(np.eye(len(classes), dtype=np.float32)[np.asarray(indices)])


def contrast_target(indices: Sequence[int], classes: Sequence[str]) -> Target:
    """Explain abnormal against normal of the same body part, for each image.

    The score is the logit of Abnormal-X minus that of Normal-X, so that what speaks for the body
    part in both alike cancels. The sign is the same whichever of the two was predicted: heat is
    what speaks for "abnormal". Where the model has only one of the two, its logit is all there is,
    with the same sign (see `alone`).

    Args:
        indices: (N,) positions in `classes`; only their body part matters.
        classes: K labels, in the order of the model's outputs.

    Raises:
        UserError: a position is out of range.

    Example:
        >>> contrast_target([1], ["Abnormal-HAND", "Normal-HAND", "Normal-WRIST"]).weights
        array([[ 1., -1.,  0.]], dtype=float32)
    """
    _check_indices(indices, classes)
    position = {label: k for k, label in enumerate(classes)}
    weights = np.zeros((len(indices), len(classes)), np.float32)
    for row, index in enumerate(indices):
        part = body_part(classes[index])
        for label, weight in ((join(ABNORMAL, part), 1), (join(NORMAL, part), -1)):
            if label in position:
                weights[row, position[label]] = weight
    return Target(weights)


def alone(label: str, classes: Sequence[str]) -> bool:
    """Whether a model has no class for the opposite of a label, such as Normal-HAND.

    Example:
        >>> alone("Abnormal-HAND", ["Abnormal-HAND", "Abnormal-WRIST", "Normal-WRIST"])
        True
    """
    return any(join(kind, body_part(label)) not in classes for kind in (ABNORMAL, NORMAL))


def _check_indices(indices: Sequence[int], classes: Sequence[str]) -> None:
    for index in indices:
        if not 0 <= index < len(classes):
            raise UserError(
                f"Class index {index} is out of range: the model has {len(classes)} classes, 0 to "
                f"{len(classes) - 1}."
            )
