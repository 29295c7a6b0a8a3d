"""The dual of the relaxation: the matrix F(θ) of some multipliers θ, and the barrier of those where it is positive definite."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.verification.relaxation import Relaxed


@dataclass(frozen=True, eq=False, repr=False)
class Inside:
    """Multipliers where F is positive definite but for its last row, which t decides.

    Attributes:
        theta: θ, with zero in the place of t.
        highest: the largest t for them.
        barrier: −log det of F without its last row, less the logarithms of the multipliers that must be positive.
        factor: the Cholesky factor of F without its last row.
        reach: the last row of F, through the inverse of the factor.
    """

    theta: Tensor
    highest: float
    barrier: float
    factor: Tensor
    reach: Tensor

    def __repr__(self) -> str:
        return f"Inside(highest={self.highest:.6g})"


class Dual:
    """F(θ) = F₀ + Σθ_i F_i as a combination of products of a few linear forms.

    Args:
        problem: with p uncertain units and s ranges.

    Attributes:
        forms: z/u and y/(−l) of the units, the ranges over their widths, and one; shape (2p + s + 1, size).
        signed: which multipliers must be positive, boolean, shape (2 + 4p + s,); θ is in the order of `Multipliers`.
        inputs: places of ξ among the variables.
        parameter: of the barrier: its gap to the optimum is about this over the weight of t.
    """

    def __init__(self, problem: Relaxed) -> None:
        p, s, size = len(problem.lower), len(problem.widths), problem.objective.numel()
        self.problem, self.p, self.s, self.size = problem, p, s, size
        self.inputs = slice(p, size - 1)
        one = torch.eye(size, dtype=torch.float64, device="cpu")
        states = one[:p]
        self.u, self.r, self.w = problem.upper, -problem.lower, problem.widths
        scaled = (
            states / self.u[:, None],
            (states - problem.preactivations) / self.r[:, None],
            problem.ranges / self.w[:, None],
        )
        self.forms = torch.cat([*scaled, one[-1:]])
        self.first, self.second, self.chart = _products(p, s)
        self.signed = torch.ones(len(self.chart), dtype=torch.bool, device="cpu")
        self.signed[0] = False
        self.signed[2 + 2 * p : 2 + 3 * p] = False
        self.parameter = size + int(self.signed.sum())
        offset = 0.5 * torch.outer(problem.objective, one[-1])
        self.objective = offset + offset.t()

    def combination(self, theta: Tensor, *, sizes: bool = False) -> Tensor:
        """Coefficients of the products of forms, as a symmetric matrix over the forms; or the sums of their terms' sizes."""
        weights = theta.abs() @ self.chart.abs() if sizes else theta @ self.chart
        rows = len(self.forms)
        grid = torch.zeros(rows, rows, dtype=torch.float64, device="cpu")
        grid[self.first, self.second] = weights[:-1]
        return 0.5 * (grid + grid.t())

    def matrix(self, theta: Tensor) -> Tensor:
        """F."""
        found = self.objective + self.forms.t() @ (self.combination(theta) @ self.forms)
        found.diagonal()[self.inputs] += theta[1]
        return found

    def at(self, theta: Tensor) -> Inside | None:
        """What the barrier needs of these multipliers, whatever their t; None outside."""
        positive = theta[self.signed]
        if not float(positive.min()) > 0.0:
            return None
        rest = theta.clone()
        rest[0] = 0.0
        found = self.matrix(rest)
        factor, failed = torch.linalg.cholesky_ex(found[:-1, :-1])
        if int(failed):
            return None
        reach = torch.linalg.solve_triangular(factor, found[:-1, -1:], upper=False)[:, 0]
        highest = float(found[-1, -1]) - float(reach.square().sum())
        barrier = -2.0 * float(factor.diagonal().log().sum()) - float(positive.log().sum())
        return Inside(rest, highest, barrier, factor, reach) if math.isfinite(highest) else None

    def _charted(self, rows: Tensor) -> Tensor:
        """The chart times a matrix whose rows are about the products, by its few entries."""
        sizes = [1, *[self.p] * 5, self.s, self.s, 1]
        one, zz, yy, z, y, zy, xx, x, identity = rows.split(sizes)
        return torch.cat([-one, identity - one, zz - z, yy - y, -zy, z + y - one, xx - x])

    def derivatives(self, inside: Inside, weight: float) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        """Gradient of the barrier, factor of its scaled Hessian with the scale, and F⁻¹; None at the limit of float64.

        With the weight of t, the barrier is least along t at 1/weight below the highest. Each F_i is a few products of forms, so
        that traces of their products are products of entries of one table.
        """
        theta = inside.theta
        lower = torch.zeros(self.size, self.size, dtype=torch.float64, device="cpu")
        lower[:-1, :-1], lower[-1, :-1] = inside.factor, inside.reach
        lower[-1, -1] = weight**-0.5
        inverse = torch.cholesky_inverse(lower)
        moved = self.forms @ inverse
        table = moved @ self.forms.t()
        reach = moved[:, self.inputs]
        reached = reach @ reach.t()
        block = inverse[self.inputs, self.inputs]
        first, second = self.first, self.second
        products = len(first)
        traces = torch.empty(products + 1, dtype=torch.float64, device="cpu")
        traces[:-1] = table[first, second]
        traces[-1] = block.diagonal().sum()
        by_first = table[first].t().contiguous()
        crossed = by_first[second]
        hessian = torch.empty(products + 1, products + 1, dtype=torch.float64, device="cpu")
        hessian[:-1, :-1] = by_first[first] * table[second].t().contiguous()[second]
        hessian[:-1, :-1].addcmul_(crossed, crossed.t()).mul_(0.5)
        hessian[:-1, -1] = hessian[-1, :-1] = reached[first, second]
        hessian[-1, -1] = block.square().sum()
        gradient = -(self.chart @ traces)
        full = self._charted(self._charted(hessian).t().contiguous())
        inverse_theta = 1.0 / theta[self.signed]
        gradient[self.signed] -= inverse_theta
        full.diagonal()[self.signed] += inverse_theta.square()
        factored = _factored(full)
        return None if factored is None else (gradient, *factored, inverse)


def _factored(hessian: Tensor) -> tuple[Tensor, Tensor] | None:
    """The Cholesky factor of a Hessian with a diagonal of ones, raised a little if rounding left it indefinite, and its scale."""
    scale = hessian.diagonal().clamp_min(1e-300).rsqrt()
    scaled = scale[:, None] * hessian * scale
    factor, failed = torch.linalg.cholesky_ex(scaled)
    if int(failed):
        scaled.diagonal().add_(1e-9)
        factor, failed = torch.linalg.cholesky_ex(scaled)
    return None if int(failed) else (factor, scale)


def _products(p: int, s: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which forms are multiplied with each other, and how much of each product every multiplier adds to F.

    The forms are z/u and y/(−l) of p units, s ranges over their widths, and one.

    Returns:
        Places of the two factors, shape (products,) each, and the coefficients, shape (multipliers, products + 1), whose last
        column belongs to the identity on ξ.
    """
    z, y, x = (
        torch.arange(p, device="cpu"),
        torch.arange(p, 2 * p, device="cpu"),
        torch.arange(2 * p, 2 * p + s, device="cpu"),
    )
    one = torch.tensor([2 * p + s], device="cpu")
    first = torch.cat([one, z, y, z, y, z, x, x])
    second = torch.cat([one, z, y, one.expand(p), one.expand(p), y, x, one.expand(s)])
    chart = torch.zeros(2 + 4 * p + s, len(first) + 1, dtype=torch.float64, device="cpu")
    k, j = torch.arange(p, device="cpu"), torch.arange(s, device="cpu")
    at = {name: 1 + i * p + k for i, name in enumerate(("zz", "yy", "z", "y", "zy"))}
    rho, pi, tau, eta = (2 + i * p + k for i in range(4))
    chart[0, 0] = -1.0
    chart[1, 0], chart[1, -1] = -1.0, 1.0
    chart[rho, at["zz"]], chart[rho, at["z"]] = 1.0, -1.0
    chart[pi, at["yy"]], chart[pi, at["y"]] = 1.0, -1.0
    chart[tau, at["zy"]] = -1.0
    chart[eta, 0], chart[eta, at["z"]], chart[eta, at["y"]] = -1.0, 1.0, 1.0
    chart[2 + 4 * p + j, 1 + 5 * p + j], chart[2 + 4 * p + j, 1 + 5 * p + s + j] = 1.0, -1.0
    return first, second, chart
