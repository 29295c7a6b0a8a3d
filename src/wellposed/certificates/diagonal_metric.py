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
from torch import Tensor

from wellposed.certificates.interior_point import minimise
from wellposed.guarantee.componentwise import Componentwise
from wellposed.guarantee.monotone import StronglyMonotone
from wellposed.layers.equilibrium import Equilibrium
from wellposed.operators.dense import Dense
from wellposed.verified import gamma as rounding_constant
from wellposed.verified import is_positive_semidefinite, to_float64


@dataclass(frozen=True)
class DiagonalBound:
    """A proved bound.

    Attributes:
        value: γ.
        multipliers: λ, float64, shape (n,): with them `AffineBlock.proves` the value.
    """

    value: float
    multipliers: Tensor


class AffineBlock:
    """The stored numbers of one layer z = σ(Wz + Ux + b).

    Args:
        matrix: W, shape (n, n).
        input_weight: U, shape (n, inputs).
        metric: where to start: a positive λ for which M(λ) is positive definite.
    """

    def __init__(self, matrix: Tensor, input_weight: Tensor, metric: Tensor) -> None:
        self._weight = to_float64(matrix, "W")
        driven = to_float64(input_weight, "U")
        self._displacement = np.eye(len(self._weight)) - self._weight
        self._gram = driven @ driven.T
        self._absolute_gram = np.abs(driven) @ np.abs(driven).T
        self._inputs = driven.shape[1]
        self._metric = metric

    def proves(self, output: Tensor, multipliers: Tensor, value: float) -> bool:
        """Whether x ↦ C z* is proved to be Lipschitz with this constant, rounding included.

        Args:
            output: C, shape (outputs, n).
            multipliers: λ, shape (n,).
            value: γ.
        """
        usable = bool(torch.isfinite(multipliers).all() and (multipliers > 0.0).all())
        if not (0.0 < value < math.inf) or not usable:
            return False
        seen, scale = to_float64(output, "C"), to_float64(multipliers, "multipliers")
        # Entries err by this much, relative to the sums of the absolute values of their terms.
        rounding = rounding_constant(max(len(seen), self._inputs) + 12)
        half = scale[:, None] * self._displacement
        size = scale[:, None] * (np.abs(self._weight) + np.eye(len(scale)))
        condition, terms = half + half.T, size + size.T
        if not is_positive_semidefinite(condition, rounding * float(terms.sum(axis=1).max())):
            return False
        through, reach = (scale[:, None] * part * scale for part in (self._gram, self._absolute_gram))
        square = value * value
        test = condition - seen.T @ seen - through / square
        terms = terms + np.abs(seen).T @ np.abs(seen) + reach / square
        return is_positive_semidefinite(test, rounding * float(terms.sum(axis=1).max()))

    def bound(self, output: Tensor, start: Tensor | None = None) -> DiagonalBound | None:
        """A nearly least proved constant of x ↦ C z*, or None where none could be proved.

        Args:
            output: C, shape (outputs, n).
            start: multipliers to start from, such as those of another C.
        """
        exact = torch.from_numpy(to_float64(output, "C"))
        point = minimise(
            torch.from_numpy(self._displacement), torch.from_numpy(self._gram), exact,
            self._metric if start is None else start, rank=min(self._inputs, len(self._weight)),
        )  # fmt: skip
        if point is None:
            return None
        slack = 1e-10
        while slack < 1e-2:
            value = math.sqrt(point.square) * (1.0 + slack)
            if self.proves(exact, point.multipliers, value):
                return DiagonalBound(value * (1.0 + 1e-9), point.multipliers)  # room for another machine's rounding
            slack *= 8.0
        return None


def affine_block(layer: Equilibrium) -> AffineBlock | None:
    """The numbers of a layer that the theorem is about, or None if it is about another kind of layer.

    Convolutions are left out: their matrices have the size of the image.
    """
    if not layer.activation.is_monotone or type(layer.injection).__name__ not in ("Linear", "ScaledLinear"):
        return None
    with torch.no_grad():
        operator, guarantee = layer.materialise()
        if not isinstance(operator, Dense):
            return None
        matrix = operator.dense().detach().double().cpu()
        metric = torch.ones(len(matrix), dtype=torch.float64)
        if isinstance(guarantee, StronglyMonotone) and operator.metric is not None:
            metric = operator.metric.double().cpu()
        elif type(guarantee) is Componentwise:
            metric = _metric_of_majorant(matrix)
        return AffineBlock(matrix, layer.injection.weight.detach(), metric)


def _metric_of_majorant(matrix: Tensor) -> Tensor:
    """w/v for positive v, w with Av > 0 and Aᵀw > 0, A = I − M(W): then diag(w/v)·A has a positive definite symmetric part."""
    size = len(matrix)
    magnitude = matrix.abs().fill_diagonal_(0.0)
    comparison = torch.diag(1.0 - matrix.diagonal()) - magnitude
    ones = torch.ones(size, 1, dtype=torch.float64)
    right = torch.linalg.solve_ex(comparison, ones)[0][:, 0]
    left = torch.linalg.solve_ex(comparison.t(), ones)[0][:, 0]
    ratio: Tensor = left / right
    return ratio if bool((ratio > 0.0).all()) else ones[:, 0]
