"""Lipschitz bounds of an equilibrium layer and the linear map after it, in the best diagonal metric.

Revay, Wang & Manchester (2020), Theorem 2, for weights that need not have been made for it: for any W, U, C and any activation
with slopes in [0, 1], x ↦ C z*(x) is γ-Lipschitz if ``M(λ) − CᵀC − ΛUUᵀΛ/γ² ⪰ 0`` and M(λ) = Λ(I − W) + (I − W)ᵀΛ ≻ 0 for some
λ > 0. λ comes from `interior_point`, but could come from anywhere; the proof for the stored numbers is one verified Cholesky
factorisation of each of the two matrices. C may be one row difference of a head: then γ is a constant of a class margin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from wellposed.bounds.dense_barrier import least_square
from wellposed.guarantee.metric_search import known_metric
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.plain import is_plain
from wellposed.layers.prescribed_bound import ScaledLinear
from wellposed.numerics.outward import rounding_constant
from wellposed.numerics.verified import is_positive_semidefinite, near_one, to_float64


@dataclass(frozen=True, eq=False)
class DiagonalBound:
    """A proved bound.

    Attributes:
        value: γ.
        multipliers: λ, float64, shape (n,): with them `DenseMetricProblem.proves` the value.
    """

    value: float
    multipliers: Tensor


class DenseMetricProblem:
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
        self._displacement = np.eye(len(self._weight)) - self._weight
        self._gram = driven @ driven.T
        self._absolute_gram = np.abs(driven) @ np.abs(driven).T
        self._inputs = driven.shape[1]
        self._metric = metric
        self._terms = self._inputs + 3 * roundings  # in the error of an entry of UUᵀ

    def proves(self, output: Tensor, multipliers: Tensor, value: float) -> bool:
        """Whether x ↦ C z* is proved to be Lipschitz with this constant, rounding included.

        Args:
            output: C, shape (outputs, n).
            multipliers: λ, shape (n,).
            value: γ.
        """
        fits = multipliers.shape == (len(self._weight),) and output.shape[1:] == multipliers.shape
        usable = fits and bool(torch.isfinite(multipliers).all() and (multipliers > 0.0).all())
        if not (0.0 < value < math.inf) or not usable or not bool(torch.isfinite(output).all()):
            return False
        # Scaling C, λ and γ by powers of two is exact, changes nothing, and keeps their squares in range.
        small, exponent = near_one(output, "C")
        seen = small.numpy()
        scale = np.ldexp(to_float64(multipliers, "multipliers"), -2 * exponent)
        value = math.ldexp(value, -exponent - self._exponent) if abs(exponent + self._exponent) < 1000 else 0.0
        in_range = 1e-100 < value < 1e100 and scale.min() > 1e-100 and scale.max() < 1e100
        if not in_range:
            return False
        # Entries err by this much, relative to the sums of the absolute values of their terms.
        rounding = rounding_constant(max(len(seen), self._terms) + 12)
        half = scale[:, None] * self._displacement
        size = scale[:, None] * (np.abs(self._weight) + np.eye(len(scale)))
        condition, terms = half + half.T, size + size.T
        if not is_positive_semidefinite(condition, rounding * float(terms.sum(axis=1).max())):
            return False
        through, reach = (scale[:, None] * part * scale for part in (self._gram, self._absolute_gram))
        square = value * value
        test = condition - seen.T @ seen - through / square
        terms = terms + np.abs(seen).T @ np.abs(seen) + reach / square
        # What products of the smallest entries lose to underflow, as often as they occur.
        lost = 1e-307 * len(scale) * (len(seen) + self._inputs) * (1.0 + (scale.max() / value) ** 2)
        return is_positive_semidefinite(test, rounding * float(terms.sum(axis=1).max()) + lost)

    def bound(self, output: Tensor, start: Tensor | None = None) -> DiagonalBound | None:
        """A nearly least proved constant of x ↦ C z*, or None where none could be proved.

        Args:
            output: C, shape (outputs, n).
            start: multipliers to start from, such as those of another C.
        """
        seen, exponent = near_one(output, "C")
        point = least_square(
            torch.from_numpy(self._displacement), torch.from_numpy(self._gram), seen,
            self._metric if start is None else start, rank=min(self._inputs, len(self._weight)),
        )  # fmt: skip
        if point is None or abs(exponent) > 500 or abs(exponent + self._exponent) > 1000:
            return None
        multipliers = torch.from_numpy(np.ldexp(point.multipliers.numpy(), 2 * exponent))
        slack = 1e-10
        while slack < 1e-2:
            value = math.ldexp(math.sqrt(point.square) * (1.0 + slack), exponent + self._exponent)
            if self.proves(output, multipliers, value):
                return DiagonalBound(value * (1.0 + 1e-9), multipliers)  # room for another machine's rounding
            slack *= 8.0
        return None


def dense_metric_problem(layer: Equilibrium, std: Tensor | None = None) -> DenseMetricProblem | None:
    """The numbers of a layer that the theorem is about, or None if it is about another kind of layer.

    Convolutions are left out: their matrices have the size of the image.

    Args:
        layer: the layer.
        std: of a normalisation before it, which U is divided by, float64, shape (inputs,); None for none.
    """
    plain = is_plain(layer.injection, nn.Linear) or is_plain(layer.injection, ScaledLinear)
    if not layer.activation.is_monotone or not plain:
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
        weight = layer.injection.weight.detach()
        if std is None:
            return DenseMetricProblem(matrix, weight, metric)
        divided = weight.double().cpu() / std
        if bool(((divided.abs() < 1e-290) & (weight != 0.0).cpu()).any()):  # whose rounding is not relative
            return None
        return DenseMetricProblem(matrix, divided, metric, roundings=1)
