"""How far a dense equilibrium moves with its offset, with the multipliers by which a checker proves it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wellposed.bounds.diagonal_metric import DenseMetricProblem
from wellposed.guarantee.monotone import proved_monotonicity
from wellposed.numerics.outward import REPRODUCIBLE

_LARGEST = 256  # state for which a search for the best metric is worth its time
_ROUNDINGS = 300  # more than a checker counts for entries that may have been folded


def proved_sensitivity(matrix: Tensor, metric: Tensor) -> tuple[float, Tensor]:
    """A Euclidean Lipschitz constant of q ↦ z = σ(Wz + q), slopes of σ in [0, 1], and multipliers that prove it.

    Args:
        matrix: W, shape (n, n).
        metric: a diagonal metric in which W is well posed, shape (n,).
    """
    stored, eye = matrix.detach().double().cpu(), torch.eye(len(matrix), dtype=torch.float64, device="cpu")
    found = DenseMetricProblem(stored, eye, metric, roundings=_ROUNDINGS).bound(eye) if len(eye) <= _LARGEST else None
    if found is not None:
        return found.value, found.multipliers
    distortion = math.sqrt(float(metric.max() / metric.min()))
    constant = distortion / proved_monotonicity(stored, metric) * REPRODUCIBLE
    return constant, metric * constant / math.sqrt(float(metric.max() * metric.min()))
