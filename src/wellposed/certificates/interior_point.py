"""The semidefinite program behind Lipschitz bounds in diagonal metrics, by an interior-point method of its own.

For H = I − W, M(λ) = ΛH + HᵀΛ and G = UUᵀ it finds the least t = γ² with

    S(λ, t) = M(λ) − CᵀC − ΛGΛ/t ⪰ 0,

the Schur complement of Condition 2 of Revay, Wang & Manchester (2020). The derivative of S along λ_i has rank two, so gradient
and Hessian of the barrier −log det S − r·log t, r the rank of G, are a few products of n × n matrices: no semidefinite program
of the size of the input is ever formed. What it returns proves nothing; `wellposed.certificates.diagonal_metric` does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_CENTRED = 0.7  # Newton decrement at which a point counts as near the central path
_SHARE = 0.9  # of the way to the optimum, as the tangent of the central path has it
_LARGEST_STEPS = 400


@dataclass(frozen=True)
class Point:
    """A point with S(λ, t) ≻ 0.

    Attributes:
        multipliers: λ, shape (n,).
        square: t.
        steps: Newton steps that it took.
        gap: how much of ``square`` may be above the optimum, as a fraction.
    """

    multipliers: Tensor
    square: float
    steps: int
    gap: float


def minimise(
    displacement: Tensor, gram: Tensor, output: Tensor, metric: Tensor, *, rank: int, tolerance: float = 1e-6
) -> Point | None:
    """The least t, to a relative tolerance; all arguments float64.

    Args:
        displacement: H, shape (n, n).
        gram: G, shape (n, n).
        output: C, shape (outputs, n).
        metric: positive λ with M(λ) ≻ 0 to start from, shape (n,).
        rank: of G.
        tolerance: relative gap to the optimum at which to stop.

    Returns:
        None where M(λ) is not positive definite at the start, or C or U is zero.
    """
    size = len(displacement)
    seen = float(torch.linalg.matrix_norm(output, 2))
    driven = float(torch.linalg.eigvalsh(gram)[-1]) ** 0.5 if size else 0.0
    if not (seen > 0.0 and driven > 0.0 and math.isfinite(seen * driven)):
        return None
    barrier = _Barrier(displacement, gram / driven**2, output.t() @ output / seen**2, rank)
    start = barrier.interior(metric)
    if start is None:
        return None
    multipliers, square = start
    parameter = size + rank  # of the barrier: its gap is this over the weight of the objective
    weight = parameter / square
    steps = 0
    while steps < _LARGEST_STEPS:
        steps += 1
        gradient, factor, scale = barrier.derivatives(multipliers, square)
        direction, decrement = _newton(gradient, factor, scale, weight)
        if decrement < _CENTRED:
            if parameter / weight <= tolerance * square:
                break
            # Along the tangent of the central path, which is nearly straight as a function of 1/weight.
            tangent = scale * torch.cholesky_solve(scale[:, None] * _last(scale)[:, None], factor)[:, 0]
            share = _SHARE
            while share > 0.1:
                trial = multipliers - share * weight * tangent[:-1], square - share * weight * float(tangent[-1])
                if math.isfinite(barrier.value(*trial, 0.0)):
                    break
                share *= 0.8
            multipliers, square = trial if share > 0.1 else (multipliers, square)
            weight = weight / (1.0 - share) if share > 0.1 else 2.0 * weight
            continue
        found = barrier.search(multipliers, square, direction, decrement, weight)
        if found is None:  # at the limit of float64
            break
        multipliers, square = found
    gap = parameter / (weight * square)
    return Point(multipliers * seen**2, square * (seen * driven) ** 2, steps, gap)


class _Barrier:
    def __init__(self, displacement: Tensor, gram: Tensor, outputs: Tensor, rank: int) -> None:
        self.displacement, self.gram, self.outputs, self.rank = displacement, gram, outputs, rank

    def matrix(self, multipliers: Tensor, square: float) -> Tensor:
        """S(λ, t)."""
        half = multipliers[:, None] * self.displacement
        return half + half.t() - self.outputs - multipliers[:, None] * self.gram * multipliers / square

    def interior(self, metric: Tensor) -> tuple[Tensor, float] | None:
        """A multiple of a metric, and a t, well inside: S ⪰ M(λ)/4."""
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

    def derivatives(self, multipliers: Tensor, square: float) -> tuple[Tensor, Tensor, Tensor]:
        """Of the barrier: its gradient, the Cholesky factor of its scaled Hessian, and the scale; λ first, then t."""
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
        scale = torch.cat([multipliers, multipliers.new_tensor([t])])
        scaled = scale[:, None] * hessian * scale
        factor, failed = torch.linalg.cholesky_ex(scaled)
        if int(failed):
            scaled.diagonal().add_(1e-10 * scaled.diagonal().mean())
            factor = torch.linalg.cholesky_ex(scaled)[0]
        return gradient, factor, scale

    def value(self, multipliers: Tensor, square: float, weight: float) -> float:
        """The objective with a weight plus the barrier; infinite outside."""
        if square <= 0.0 or bool((multipliers <= 0.0).any()):
            return math.inf
        factor, failed = torch.linalg.cholesky_ex(self.matrix(multipliers, square))
        if int(failed):
            return math.inf
        determinant = 2.0 * float(factor.diagonal().log().sum())
        return weight * square - determinant - self.rank * math.log(square)

    def search(
        self, multipliers: Tensor, square: float, direction: Tensor, decrement: float, weight: float
    ) -> tuple[Tensor, float] | None:
        """The first point along a direction, from the full step on, that lowers the barrier function enough."""
        before, length = self.value(multipliers, square, weight), 1.0
        while length > 1e-8:
            trial = multipliers + length * direction[:-1], square + length * float(direction[-1])
            if self.value(*trial, weight) < before - 0.05 * length * decrement**2:
                return trial
            length *= 0.6
        return None


def _newton(gradient: Tensor, factor: Tensor, scale: Tensor, weight: float) -> tuple[Tensor, float]:
    """Newton's direction for the objective with a weight plus the barrier, and its decrement."""
    whole = gradient.clone()
    whole[-1] += weight
    direction = -scale * torch.cholesky_solve((scale * whole)[:, None], factor)[:, 0]
    return direction, max(-float(whole @ direction), 0.0) ** 0.5


def _last(like: Tensor) -> Tensor:
    """The last unit vector: the gradient of the objective t."""
    unit = torch.zeros_like(like)
    unit[-1] = 1.0
    return unit
