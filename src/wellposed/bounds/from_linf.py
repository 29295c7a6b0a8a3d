"""Constants from ℓ∞ to the Euclidean norm by ellipsoids around the unit ball, in the best diagonal metric.

‖Δx‖_∞ ≤ 1 implies Σ d_i Δx_i² ≤ Σ d_i, and the best diagonal metric for the input map U·diag(d)^−½ bounds what follows; d moves
towards where the bound is least. As everywhere, the search only proposes; see `diagonal_metric` for the proof.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.bounds.diagonal_metric import DenseMetricProblem

_ROUNDS = 6  # of the weights d


@dataclass(frozen=True, eq=False)
class EllipsoidBound:
    """A proved constant.

    Attributes:
        value: an upper bound of the Euclidean norm of C·Δz over ‖Δx‖_∞ ≤ 1.
        multipliers: λ, shape (n,).
        shares: d, shape (inputs,).
    """

    value: float
    multipliers: Tensor
    shares: Tensor


class EllipsoidMetricProblem:
    """The stored numbers of one layer z = σ(Wz + Ux + b).

    Args:
        matrix: W, shape (n, n), float64.
        weight: U, shape (n, inputs), float64.
        metric: a positive λ in which W is well posed.
    """

    def __init__(self, matrix: Tensor, weight: Tensor, metric: Tensor) -> None:
        self._matrix, self._weight, self._metric = matrix, weight, metric
        self._ball = DenseMetricProblem(matrix, weight, metric)

    def bound(self, rows: Tensor) -> EllipsoidBound | None:
        """The best bound of x ↦ C z* that was found and proved, or None.

        Args:
            rows: C, shape (outputs, n).
        """
        start = self._ball.bound(rows)
        if start is None:
            return None
        inputs = self._weight.shape[1]
        multipliers, shares, square = start.multipliers, torch.ones(inputs, dtype=torch.float64), start.value**2
        best = EllipsoidBound(start.value * math.sqrt(inputs) * (1.0 + 1e-12), multipliers, shares)
        for _ in range(_ROUNDS):
            shares = self._moved(rows, multipliers, square, shares)
            found = DenseMetricProblem(self._matrix, self._weight * shares.rsqrt(), self._metric).bound(
                rows, multipliers
            )
            if found is None:
                break
            multipliers, square = found.multipliers, found.value**2
            # Scaling U rounds its entries once more; sums over d round too.
            value = found.value * math.sqrt(float(shares.sum())) * (1.0 + 1e-11)
            improved = best.value - value
            if improved > 0.0:
                best = EllipsoidBound(value, multipliers, shares)
            if improved < 1e-2 * best.value:
                break
        return best

    def _moved(self, rows: Tensor, multipliers: Tensor, square: float, shares: Tensor) -> Tensor:
        """d·(mean of x_i²)^¼ at the optimum, which all have one mean where d is best."""
        weight, matrix = self._weight, self._matrix
        half = multipliers[:, None] * (torch.eye(len(matrix), dtype=torch.float64) - matrix)
        driven = multipliers[:, None] * weight
        test = half + half.t() - rows.t() @ rows - (driven / shares) @ driven.t() / square
        values, vectors = torch.linalg.eigh(0.5 * (test + test.t()))
        floor = 1e-7 * float(values[-1])
        state = vectors / values.clamp_min(floor).sqrt()
        squares = ((driven.t() @ state) / shares[:, None]).square().sum(1)
        found = shares * (squares / squares.mean()).clamp(1e-4, 1e4) ** 0.25
        return (found / found.mean()).clamp_min(1e-4)
