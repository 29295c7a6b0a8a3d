"""The barrier of `interior_point` for any W, as n × n matrices."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.bounds.search.interior_point import Barrier, Point, minimise

_GAP = 1e-6  # to the optimum, relative, at which the search stops


def least_square(displacement: Tensor, gram: Tensor, output: Tensor, metric: Tensor, *, rank: int) -> Point | None:
    """The least t = γ² and its metric; all arguments float64.

    Args:
        displacement: H, shape (n, n).
        gram: G, shape (n, n).
        output: C, shape (outputs, n).
        metric: positive λ with M(λ) = ΛH + HᵀΛ ≻ 0 to start from, shape (n,).
        rank: of G.

    Returns:
        None where M(λ) is not positive definite at the start, or C or U is zero.
    """
    size = len(displacement)
    seen = float(torch.linalg.matrix_norm(output, 2))
    driven = float(torch.linalg.eigvalsh(gram)[-1]) ** 0.5 if size else 0.0
    if not (seen > 0.0 and driven > 0.0 and math.isfinite(seen * driven)):
        return None
    barrier = DenseBarrier(displacement, gram / driven**2, output.t() @ output / seen**2, rank)
    point = minimise(barrier, metric, tolerance=_GAP)
    if point is None:
        return None
    return Point(point.multipliers * seen**2, point.square * (seen * driven) ** 2, point.steps, point.gap)


class DenseBarrier(Barrier):
    """For H, G, CᵀC of shape (n, n).

    Args:
        displacement: H.
        gram: G.
        outputs: CᵀC.
        rank: of G.
    """

    def __init__(self, displacement: Tensor, gram: Tensor, outputs: Tensor, rank: int) -> None:
        self.displacement, self.gram, self.outputs, self.rank = displacement, gram, outputs, rank
        self.parameter = float(len(displacement) + rank)

    def matrix(self, multipliers: Tensor, square: float) -> Tensor:
        """S(λ, t)."""
        half = multipliers[:, None] * self.displacement
        return half + half.t() - self.outputs - multipliers[:, None] * self.gram * multipliers / square

    @override
    def interior(self, metric: Tensor) -> tuple[Tensor, float] | None:
        """Where S ⪰ M(λ)/4."""
        half = metric[:, None] * self.displacement
        factor, failed = torch.linalg.cholesky_ex(half + half.t())
        if int(failed):
            return None
        seen = torch.linalg.solve_triangular(factor, self.outputs, upper=False)
        seen = torch.linalg.solve_triangular(factor, seen.t(), upper=False)
        through = torch.linalg.solve_triangular(factor, metric[:, None] * self.gram * metric, upper=False)
        through = torch.linalg.solve_triangular(factor, through.t(), upper=False)
        # CᵀC ⪯ a·M and ΛGΛ ⪯ b·M: with λ scaled by 2a, CᵀC ⪯ M/2 and, at t = 8ab, ΛGΛ/t ⪯ M/4.
        largest = [float(torch.linalg.eigvalsh(0.5 * (part + part.t()))[-1]) for part in (seen, through)]
        scale = 2.0 * largest[0]
        return metric * scale, 4.0 * scale * largest[1]

    @override
    def derivatives(self, multipliers: Tensor, square: float) -> tuple[Tensor, Tensor]:
        size, t, r = len(multipliers), square, float(self.rank)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(self.matrix(multipliers, t)))  # X
        weighed = self.gram * multipliers  # GΛ
        rows = self.displacement - weighed / t  # K: dS/dλ_i = e_i k_iᵀ + k_i e_iᵀ
        through = rows @ inverse
        pushed = (inverse * multipliers) @ weighed / t**2  # X·dS/dt
        moved = pushed @ inverse
        gradient = multipliers.new_empty(size + 1)
        gradient[:size] = -2.0 * (rows * inverse).sum(1)
        trace = float(pushed.diagonal().sum())
        gradient[size] = -trace - r / t
        hessian = multipliers.new_empty(size + 1, size + 1)
        hessian[:size, :size] = 2.0 * (through * through.t() + inverse * (through @ rows.t() + self.gram / t))
        mixed = 2.0 * (rows * moved).sum(1) - 2.0 * (weighed * inverse).sum(1) / t**2
        hessian[:size, size] = hessian[size, :size] = mixed
        hessian[size, size] = float((pushed * pushed.t()).sum()) + 2.0 * trace / t + r / t**2
        return gradient, hessian

    @override
    def value(self, multipliers: Tensor, square: float) -> float:
        factor, failed = torch.linalg.cholesky_ex(self.matrix(multipliers, square))
        if int(failed):
            return math.inf
        return -2.0 * float(factor.diagonal().log().sum()) - self.rank * math.log(square)
