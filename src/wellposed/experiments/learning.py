"""Whether a network has learned anything, which every table must say: what is certified of a constant means nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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
            return "It errs no less often than whoever always names the commonest class."
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


@dataclass(frozen=True)
class Estimated:
    """Estimates of numbers, against whoever always names their means.

    Attributes:
        error: root of the mean squared error.
        mean_error: that of whoever always names the means of the wanted numbers.
        is_constant: whether all estimates are the same.
    """

    error: float
    mean_error: float
    is_constant: bool

    @property
    def remark(self) -> str:
        """A sentence about a network that has learned nothing; else empty."""
        if self.is_constant:
            return "Its estimates are constant: it has learned nothing, and whatever is certified of it says nothing."
        if self.error >= self.mean_error * (1.0 - _ROUNDING):
            return f"It errs no less than whoever always names the mean, whose root mean squared error is {self.mean_error:.4g}."
        return ""


def estimated(estimates: Tensor, wanted: Tensor) -> Estimated:
    """Judge estimates.

    Args:
        estimates: shape (samples, outputs), at least one sample.
        wanted: the true numbers, of the same shape.
    """
    found, truth = estimates.double(), wanted.double()
    error, mean_error = ((values - truth).square().mean().sqrt() for values in (found, truth.mean(0)))
    return Estimated(float(error), float(mean_error), len(found) > 1 and bool((found == found[0]).all()))


def as_part(remark: str) -> list[str]:
    """A sentence as a part of a line: none where it is empty."""
    return [remark[0].lower() + remark[1:].removesuffix(".")] if remark else []
