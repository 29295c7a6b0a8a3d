"""Whether a network has learned anything, which every table must say: what is certified of a constant means nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.data import Classification

NO_ANSWER = -1  # in the place of a prediction
_ROUNDING = 1e-12  # of shares


@dataclass(frozen=True)
class Learned:
    """Predictions of a classifier, against whoever always names the commonest class.

    Attributes:
        error: fraction of misclassified inputs.
        majority_error: fraction that whoever always names the commonest class of these inputs gets wrong.
        classes_named: how many classes the predictions name.
    """

    error: float
    majority_error: float
    classes_named: int

    @property
    def remark(self) -> str:
        """A sentence about a classifier that has learned nothing; else empty."""
        if not self.classes_named:
            return "It answers for no input, and nothing is certified of it."
        if self.classes_named == 1:
            return "Its predictions are constant: it has learned nothing, and whatever is certified of it says nothing."
        if self.error >= self.majority_error - _ROUNDING:
            return f"{Classification.unlearned[0].upper()}{Classification.unlearned[1:]}."
        return ""


def learned(predictions: Tensor, labels: Tensor) -> Learned:
    """Judge predictions.

    Args:
        predictions: classes, or `NO_ANSWER`, which is an error and names no class; shape (samples,).
        labels: the true ones, shape (samples,), at least one.
    """
    commonest = int(torch.bincount(labels).max())
    wrong = int((predictions != labels).sum())
    named = len(predictions[predictions != NO_ANSWER].unique())
    return Learned(wrong / len(labels), (len(labels) - commonest) / len(labels), named)
