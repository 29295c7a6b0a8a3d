"""The inequality of `metric_inequality` for a W that is a matrix, proved by one verified Cholesky factorisation of each side.

C may be one row difference of a head: then γ is a constant of a class margin.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from wellposed.bounds.metric_inequality import DiagonalBound, MetricInequality, least_proved
from wellposed.bounds.search.primal_dual import PrimalDualSearch
from wellposed.guarantee.metric_search import known_metric
from wellposed.layers.equilibrium import Equilibrium
from wellposed.numerics.outward import rounding_constant
from wellposed.numerics.verified import all_within_are_semidefinite, near_one, to_float64

_SLACK = 1e-10
_SMALLEST, _LARGEST = 1e-100, 1e100  # of scaled numbers, whose products then neither under- nor overflow
_LOST = 1e-307  # above what one product loses to underflow
_RELATIVE = 1e-290  # above which roundings of products and quotients are relative


class DenseMetricProblem(MetricInequality):
    """The stored numbers of one layer z = σ(Wz + Ux + b).

    Args:
        matrix: W, shape (n, n).
        input_weight: U, shape (n, inputs).
        metric: where to start: a positive λ for which M(λ) is positive definite.
        roundings: how many roundings of float64 the entries of U may be off.
    """

    def __init__(self, matrix: Tensor, input_weight: Tensor, metric: Tensor, *, roundings: int = 0) -> None:
        self._weight = to_float64(matrix, "W")
        small, self._exponent = near_one(input_weight, "U")  # U is 2 to that power times this
        driven = small.numpy()
        identity = np.eye(len(self._weight))
        self._displacement, self._sizes = identity - self._weight, identity + np.abs(self._weight)
        self._gram = driven @ driven.T
        self._absolute_gram = np.abs(driven) @ np.abs(driven).T
        self._inputs, self._roundings, self._metric = driven.shape[1], roundings, metric

    @cached_property
    def _search(self) -> PrimalDualSearch:
        return PrimalDualSearch(
            torch.from_numpy(self._displacement), torch.from_numpy(self._gram), self._metric.double()
        )

    @override
    def proves(self, output: Tensor, multipliers: Tensor, value: float, shares: Tensor | None = None) -> bool:
        fits = multipliers.shape == (len(self._weight),) and output.shape[1:] == multipliers.shape
        usable = fits and bool(torch.isfinite(multipliers).all() and (multipliers > 0.0).all())
        if not (0.0 < value < math.inf) or not usable or not bool(torch.isfinite(output).all()):
            return False
        # Scaling C, λ and γ by powers of two is exact, changes nothing, and keeps their squares in range.
        small, exponent = near_one(output, "C")
        seen = small.numpy()
        scale = np.ldexp(to_float64(multipliers, "multipliers"), -2 * exponent)
        value = math.ldexp(value, -exponent - self._exponent) if abs(exponent + self._exponent) < 1000 else 0.0
        if not (_SMALLEST < value < _LARGEST and scale.min() > _SMALLEST and scale.max() < _LARGEST):
            return False
        # So many roundings, relative to the sums of the absolute values of their terms, are in an entry of CᵀC, with two of each
        # factor and two subtractions; and in one of ΛUUᵀΛ/γ² with five operations. One more covers the rounding of those sums.
        rounding = rounding_constant(max(len(seen) + 6, self._inputs + 2 * self._roundings + 5) + 1)
        half = scale[:, None] * self._displacement
        size = scale[:, None] * self._sizes
        condition, terms = half + half.T, size + size.T
        if not all_within_are_semidefinite(condition, rounding * terms):
            return False
        through, reach = (scale[:, None] * part * scale for part in (self._gram, self._absolute_gram))
        square = value * value
        test = condition - seen.T @ seen - through / square
        terms = terms + np.abs(seen).T @ np.abs(seen) + reach / square
        # What products of the smallest entries lose to underflow, as often as they occur in an entry.
        lost = _LOST * (len(seen) + self._inputs) * (1.0 + (scale.max() / value) ** 2)
        return all_within_are_semidefinite(test, rounding * terms + lost)

    def inside(self, found: DiagonalBound, share: float) -> DiagonalBound:
        """A constant with multipliers that are a share of the way inside the condition; at an optimum these may be on its edge.

        Args:
            found: what `bound` found, or its search.
            share: in (0, 1).
        """
        square = math.ldexp(found.value, -self._exponent) ** 2 / (1.0 - share)
        multipliers = found.multipliers + share * square * self._search.inside
        return replace(found, value=found.value / math.sqrt(1.0 - share) * (1.0 + _SLACK), multipliers=multipliers)

    @override
    def bound(self, output: Tensor, start: Tensor | None = None, deadline: float = math.inf) -> DiagonalBound | None:
        seen, exponent = near_one(output, "C")
        point = self._search.least_square(seen, deadline)
        if point is None or abs(exponent) > 500 or abs(exponent + self._exponent) > 1000:
            return None

        def claimed(least: float, multipliers: Tensor) -> DiagonalBound:
            value = math.ldexp(least, exponent + self._exponent)
            return DiagonalBound(value, torch.from_numpy(np.ldexp(multipliers.numpy(), 2 * exponent)), None, point.dual)

        def at_the_point(slack: float) -> DiagonalBound:
            return claimed(math.sqrt(point.square) * (1.0 + slack), point.multipliers)

        def inside(share: float) -> DiagonalBound:
            return self.inside(claimed(math.sqrt(point.square), point.multipliers), share)

        def proves(found: DiagonalBound) -> bool:
            return self.proves(output, found.multipliers, found.value)

        # Where few directions of the input and of C matter, M is singular at the optimum, and no larger γ would help.
        return least_proved(at_the_point, proves, slack=_SLACK) or least_proved(inside, proves, slack=_SLACK)


def dense_metric_problem(layer: Equilibrium, std: Tensor | None = None) -> DenseMetricProblem | None:
    """The numbers of a layer that the theorem is about, or None if it is about another kind of layer.

    Convolutions are left out: their matrices have the size of the image.

    Args:
        layer: the layer.
        std: of a normalisation before it, which U is divided by, float64, shape (inputs,); None for none.
    """
    driven = layer.injection.matrix()
    if not layer.activation.is_monotone or driven is None:
        return None
    with torch.no_grad():
        operator, guarantee = layer.materialise()
        stored = operator.matrix()
        if stored is None:
            return None
        matrix = stored.detach().double().cpu()
        metric = known_metric(matrix, guarantee)
        if metric is None:
            return None
        weight, roundings = driven.cpu().weight, driven.roundings
        if std is None:
            return DenseMetricProblem(matrix, weight, metric, roundings=roundings)
        divided = weight / std
        if bool(((divided.abs() < _RELATIVE) & (weight != 0.0)).any()):
            return None
        return DenseMetricProblem(matrix, divided, metric, roundings=roundings + 1)
