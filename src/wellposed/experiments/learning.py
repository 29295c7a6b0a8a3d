"""Whether a classifier has learned anything, which every table must say: what is certified of a constant means nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
        if self.classes_named == 1:
            return "Its predictions are constant: it has learned nothing, and whatever is certified of it says nothing."
        if self.error >= self.majority_error:
            return "It errs no less often than whoever always names the commonest class."
        return ""


def learned(predictions: Tensor, labels: Tensor) -> Learned:
    """Judge predictions.

    Args:
        predictions: classes, shape (samples,).
        labels: the true ones, shape (samples,), at least one.
    """
    commonest = float(torch.bincount(labels).max()) / len(labels)
    return Learned(float((predictions != labels).double().mean()), 1.0 - commonest, len(predictions.unique()))
