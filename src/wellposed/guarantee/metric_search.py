"""A diagonal metric in which a given W is well posed (Revay, Wang & Manchester 2020, Theorem 1): searched for, and proved.

For slopes in [0, 1] there is one equilibrium if ``ΛW`` has a symmetric part below Λ for some diagonal Λ > 0.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from wellposed.guarantee.base import Guarantee
from wellposed.numerics.outward import rounding_constant
from wellposed.numerics.verified import all_within_are_semidefinite, to_float64

_STEPS = 200  # of Newton's method
_SHORTEST = 1e-9  # step that is tried
_GAP = 1e-7  # relative to the size of I − W: a least s that close to zero counts as none


def proves_well_posed(matrix: Tensor, metric: Tensor) -> bool:
    """Whether Λ(I − W) + (I − W)ᵀΛ ≻ 0 is proved for stored numbers, rounding included."""
    weight, scale = to_float64(matrix, "W"), to_float64(metric, "metric")
    half = scale[:, None] * (np.eye(len(weight)) - weight)
    terms = scale[:, None] * (np.abs(weight) + np.eye(len(weight)))
    errors = rounding_constant(8) * (terms + terms.T)
    return bool((scale > 0.0).all()) and all_within_are_semidefinite(half + half.T, errors)


def known_metric(matrix: Tensor, guarantee: Guarantee | None) -> Tensor | None:
    """The diagonal metric that a guarantee knows of W, or else one that is found, float64 on the CPU; None where none is.

    Args:
        matrix: W, float64, shape (n, n).
        guarantee: what is promised of W, if anything.
    """
    known = None if guarantee is None else guarantee.diagonal_metric()
    return find_metric(matrix) if known is None else known.detach().double().cpu()


def find_metric(matrix: Tensor, start: Tensor | None = None) -> Tensor | None:
    """A diagonal Λ in which W is proved to be well posed, or None.

    Minimises s subject to M(λ) + sI ⪰ 0, λ > 0 and Σλ < 2n by an interior-point method, until s is below zero.

    Args:
        matrix: W, float64, shape (n, n).
        start: a metric to try first, shape (n,).
    """
    size = len(matrix)
    displacement = torch.eye(size, dtype=torch.float64, device="cpu") - matrix
    balanced = 1.0 / displacement.diagonal()
    for metric in (torch.ones(size, dtype=torch.float64, device="cpu"), balanced, start):
        if metric is not None and bool(torch.isfinite(metric).all()) and proves_well_posed(matrix, metric):
            return metric.double().cpu()
    scale = float(torch.linalg.matrix_norm(displacement, 2))
    if scale == 0.0:
        return None
    barrier = _Barrier(displacement / scale)
    point, weight = barrier.start(), 1.0
    for _ in range(_STEPS):
        found = barrier.newton(point, weight)
        if found is None:  # lost to rounding
            return None
        direction, decrement = found
        if decrement < 0.5:
            gap = (2.0 * size + 1.0) / weight
            shift = float(point[-1])
            if shift < 0.0 and proves_well_posed(matrix, point[:-1]):
                return point[:-1]
            if shift - 2.0 * gap > 0.0 or gap < _GAP:
                return None
            weight *= 5.0
            continue
        before, length = barrier.value(point, weight), 1.0
        while not barrier.value(point + length * direction, weight) < before - 0.05 * length * decrement**2:
            length *= 0.6
            if length <= _SHORTEST:
                return None
        point = point + length * direction
    return None


class _Barrier:
    """``weight·s − log det(M(λ) + sI) − Σ log λ − log(2n − Σλ)`` with M(λ) = ΛH + HᵀΛ, at points (λ, s) of shape (n + 1,).

    Args:
        h: H, shape (n, n), of norm one.
    """

    def __init__(self, h: Tensor) -> None:
        self._h = h

    def start(self) -> Tensor:
        """Ones, and an s that makes the matrix positive definite."""
        shift = 1.0 - torch.linalg.eigvalsh(self._h + self._h.t())[0]
        return torch.cat([torch.ones(len(self._h), dtype=torch.float64, device="cpu"), shift.reshape(1)])

    def _room(self, point: Tensor) -> float:
        return 2.0 * len(self._h) - float(point[:-1].sum())

    def _factor(self, point: Tensor) -> Tensor | None:
        half = point[:-1, None] * self._h
        matrix = half + half.t()
        matrix.diagonal().add_(point[-1])
        factor, failed = torch.linalg.cholesky_ex(matrix)
        return None if int(failed) else factor

    def value(self, point: Tensor, weight: float) -> float:
        """The barrier, infinite outside of its domain."""
        room = self._room(point)
        factor = None if room <= 0.0 or bool((point[:-1] <= 0.0).any()) else self._factor(point)
        if factor is None:
            return math.inf
        logarithms = 2.0 * float(factor.diagonal().log().sum()) + float(point[:-1].log().sum()) + math.log(room)
        return weight * float(point[-1]) - logarithms

    def newton(self, point: Tensor, weight: float) -> tuple[Tensor, float] | None:
        """Newton's direction and decrement; None where the matrix is not positive definite in these numbers."""
        factor = self._factor(point)
        if factor is None:
            return None
        h, multipliers, room, size = self._h, point[:-1], self._room(point), len(self._h)
        inverse = torch.cholesky_inverse(factor)
        through, square = h @ inverse, inverse @ inverse
        gradient = torch.cat(
            [-2.0 * (h * inverse).sum(1) - 1.0 / multipliers + 1.0 / room, (weight - inverse.trace()).reshape(1)]
        )
        hessian = gradient.new_empty(size + 1, size + 1)
        hessian[:size, :size] = 2.0 * (through * through.t() + inverse * (through @ h.t())) + 1.0 / room**2
        hessian[:size, :size].diagonal().add_(multipliers**-2.0)
        hessian[:size, size] = hessian[size, :size] = 2.0 * (h * square).sum(1)
        hessian[size, size] = square.trace()
        direction = -torch.linalg.solve_ex(hessian, gradient[:, None])[0][:, 0]
        return direction, max(-float(gradient @ direction), 0.0) ** 0.5
