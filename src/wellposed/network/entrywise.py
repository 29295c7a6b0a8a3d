"""How far single entries move: a nonnegative matrix K with |Δy| ≤ K|Δx| for every step of a network, as products with vectors.

For NEMON K is A⁻¹|U| with A = I − M(W) (Jafarpour et al. 2021, sharpened), for positive concave layers the exact (I − DW)⁻¹D|U|.
A being an M-matrix, a vector y with Ay ≥ s ≥ 0 is above A⁻¹s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import CertificateError
from wellposed.guarantee.componentwise import Comparison
from wellposed.numerics.outward import TINY, enlarged, enlarged_sum, rounding_constant


class EntrywiseStep(ABC):
    """One step.

    Attributes:
        inputs: how many entries it takes.
        outputs: how many entries it gives.
        matrix: W of a linear map, with its signs, shape (outputs, inputs), float64; None for other steps.
    """

    inputs: int
    outputs: int
    matrix: Tensor | None = None

    @abstractmethod
    def ahead(self, reached: Tensor) -> Tensor:
        """How far the entries behind the step move at most, where those before it move by at most ``reached``; rounded up."""

    @abstractmethod
    def back(self, rows: Tensor) -> Tensor:
        """``rows·K``, rounded up, for nonnegative rows, shape (rows, entries behind the step)."""


class LinearStep(EntrywiseStep):
    """Multiplication by a matrix, K = |W|.

    Args:
        weight: W, shape (outputs, inputs), float64.
        roundings: how many roundings of float64 its entries may be off.
    """

    def __init__(self, weight: Tensor, roundings: int = 0) -> None:
        self.matrix, (self.outputs, self.inputs) = weight, weight.shape
        self._absolute = enlarged(weight.abs(), roundings)

    @override
    def ahead(self, reached: Tensor) -> Tensor:
        return enlarged_sum(self._absolute @ reached, self.inputs) + TINY

    @override
    def back(self, rows: Tensor) -> Tensor:
        return enlarged_sum(rows @ self._absolute, rows.shape[1]) + TINY * rows.any(1, keepdim=True).double()


class DivisionStep(EntrywiseStep):
    """Division of every entry by a positive number.

    Args:
        divisor: shape (entries,), float64.
    """

    def __init__(self, divisor: Tensor) -> None:
        self._divisor, self.inputs, self.outputs = divisor, len(divisor), len(divisor)

    @override
    def ahead(self, reached: Tensor) -> Tensor:
        return enlarged(reached / self._divisor, 1)

    @override
    def back(self, rows: Tensor) -> Tensor:
        return enlarged(rows / self._divisor, 1)


class SolveStep(EntrywiseStep):
    """The equilibrium as a function of its offset, K = A⁻¹D.

    Args:
        comparison: A, D and an upper bound of A⁻¹.
    """

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison
        self.inputs = self.outputs = len(comparison.scale)

    @override
    def ahead(self, reached: Tensor) -> Tensor:
        driven = enlarged(self._comparison.scale * reached, 1) + TINY
        return self._above(driven, backwards=False)

    @override
    def back(self, rows: Tensor) -> Tensor:
        moved = torch.stack([self._above(row, backwards=True) for row in rows])
        return enlarged(moved * self._comparison.scale, 1) + TINY * rows.any(1, keepdim=True).double()

    def _above(self, wanted: Tensor, *, backwards: bool) -> Tensor:
        """A vector y ≥ 0 with Ay ≥ wanted, or Aᵀy, rounding included, near the least one."""
        inverse, matrix, sizes = (part.t() if backwards else part for part in self._comparison.matrices)
        rounding = 32.0 * rounding_constant(3 * len(inverse) + 1024)
        slack = 1e-12
        while slack < 1.0:
            larger = torch.mv(inverse, wanted * (1.0 + slack) + slack * wanted.amax())
            if bool((torch.mv(matrix, larger) - rounding * torch.mv(sizes, larger) >= wanted).all()):
                return larger
            slack *= 4.0
        raise CertificateError("W: the sensitivity could not be bounded in these numbers; use float64")
