"""Constants from ℓ∞ by ellipsoids around the unit ball, in the best diagonal metric: the bound ``"ellipsoids"``.

‖Δx‖_∞ ≤ 1 implies Σ d_i Δx_i² ≤ Σ d_i, and the best diagonal metric for the input map U·diag(d)^−½ bounds what follows; d moves
towards where the bound is least. Single outputs and margins are numbers, on which all norms agree.
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.bounds.diagonal_metric import DenseMetricProblem
from wellposed.bounds.metric_inequality import DiagonalBound, MetricInequality
from wellposed.bounds.tail_method import FlatTailMethod
from wellposed.bounds.tail_problem import LARGEST_OUTPUT
from wellposed.numerics.outward import enlarged, reduced

_ROUNDS = 12  # of the weights d
_POWER = 0.25  # of the ratio of moments by which they move, at first
_MISSES = 3  # rounds in a row that are not worth it, after which there are no more
_ENOUGH = 1e-4  # relative improvement below which another round is not worth it
_SCALED = 3  # roundings of a root, its reciprocal and a product


class EllipsoidMetricProblem(MetricInequality):
    """The stored numbers of one layer z = σ(Wz + Ux + b), and constants of x ↦ C z* from ℓ∞ to the Euclidean norm.

    Args:
        matrix: W, shape (n, n), float64.
        weight: U, shape (n, inputs), float64.
        metric: a positive λ in which W is well posed.
        roundings: how many roundings of float64 the entries of U may be off.
    """

    def __init__(self, matrix: Tensor, weight: Tensor, metric: Tensor, roundings: int = 0) -> None:
        self._matrix, self._weight, self._metric = matrix, weight, metric
        self._roundings = roundings + _SCALED

    def _within(self, shares: Tensor) -> DenseMetricProblem:
        """The layer as a function of the ellipsoid's own coordinates."""
        scaled = self._weight * shares.rsqrt()
        return DenseMetricProblem(self._matrix, scaled, self._metric, roundings=self._roundings)

    @override
    def proves(self, output: Tensor, multipliers: Tensor, value: float, shares: Tensor | None = None) -> bool:
        if shares is None or shares.shape != self._weight.shape[1:] or not shares.is_floating_point():
            return False
        if not bool(torch.isfinite(shares).all() and (shares > 0.0).all()):
            return False
        reach = math.sqrt(float(shares.double().sum()))
        return self._within(shares.double()).proves(output, multipliers, reduced(value / reach, len(shares) + 2))

    @override
    def bound(self, output: Tensor, start: Tensor | None = None, deadline: float = math.inf) -> DiagonalBound | None:
        shares = torch.ones(self._weight.shape[1], dtype=torch.float64, device="cpu")
        found = self._within(shares).bound(output, None, deadline)
        if found is None:
            return None
        best, power, misses = _around(found, shares), _POWER, 0
        for _ in range(_ROUNDS):
            if misses == _MISSES or time.monotonic() >= deadline:
                break
            trial_shares = self._moved(found, shares, power)
            trial = self._within(trial_shares).bound(output, None, deadline)
            around = best if trial is None else _around(trial, trial_shares)
            improved = best.value - around.value
            misses = misses + 1 if improved < _ENOUGH * best.value else 0
            if trial is None or not improved > 0.0:
                power *= 0.5  # it went too far
            else:
                best, found, shares = around, trial, trial_shares
        return best

    def _moved(self, found: DiagonalBound, shares: Tensor, power: float) -> Tensor:
        """d·(mean of x_i²)^power at the optimum, which all have one mean where d is best."""
        assert found.dual is not None
        driven = found.multipliers[:, None] * self._weight / shares
        squares = ((found.dual @ driven) * driven).sum(0).clamp_min(0.0)
        moved = shares * (squares / squares.mean()).clamp(1e-4, 1e4) ** power
        return (moved / moved.mean()).clamp_min(1e-4)


def _around(found: DiagonalBound, shares: Tensor) -> DiagonalBound:
    """The constant from the unit ball of ℓ∞ that follows from one within an ellipsoid around it."""
    value = enlarged(found.value * math.sqrt(float(shares.sum())), len(shares) + 2)
    return DiagonalBound(value, found.multipliers, shares)


class Ellipsoids(FlatTailMethod):
    """The best diagonal metric over ellipsoids around the unit ball of ℓ∞, for every output and every class margin."""

    name, norms = "ellipsoids", ("inf",)
    reason = "best diagonal metric, by ellipsoids around the unit ball of ℓ∞"
    inequality, reading = EllipsoidMetricProblem, LARGEST_OUTPUT
