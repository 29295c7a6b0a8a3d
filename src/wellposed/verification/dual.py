"""The dual of the relaxation: the matrix F(θ) of some multipliers θ, and the barrier of those where it is positive definite."""

from __future__ import annotations

import functools
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
        mask: the same as zeros and ones, by which entries are picked several times as fast.
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
        first, second, self.chart = _products(p, s)
        self.place = first * len(self.forms) + second
        self.one_factor = _first_factors(p, s)
        self.signed = torch.ones(len(self.chart), dtype=torch.bool, device="cpu")
        self.signed[0] = False
        self.signed[2 + 2 * p : 2 + 3 * p] = False
        self.mask = self.signed.double()
        self.parameter = size + int(self.signed.sum())
        offset = 0.5 * torch.outer(problem.objective, one[-1])
        self.objective = offset + offset.t()

    def combination(self, theta: Tensor, *, sizes: bool = False) -> Tensor:
        """Coefficients of the products of forms, as a symmetric matrix over the forms; or the sums of their terms' sizes."""
        weights = theta.abs() @ self.chart.abs() if sizes else theta @ self.chart
        rows = len(self.forms)
        grid = torch.zeros(rows * rows, dtype=torch.float64, device="cpu")
        grid = grid.index_copy_(0, self.place, weights[:-1]).view(rows, rows)
        return (grid + grid.t()).mul_(0.5)

    def matrix(self, theta: Tensor) -> Tensor:
        """F."""
        return self.change(theta).add_(self.objective)

    def change(self, theta: Tensor) -> Tensor:
        """F without F₀."""
        found = self.forms.t() @ (self.combination(theta) @ self.forms)
        found.diagonal()[self.inputs].add_(theta[1])
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

    def _traces(self, table: Tensor, identity: Tensor) -> Tensor:
        """Traces of a matrix with all F_i, from its table of the forms and its trace over ξ."""
        return self.chart @ torch.cat([torch.take(table, self.place), identity[None]])

    def along(self, symmetric: Tensor) -> Tensor:
        """Traces of a symmetric matrix with all F_i."""
        return self._traces((self.forms @ symmetric) @ self.forms.t(), symmetric.diagonal()[self.inputs].sum())

    def _by_other_factor(self, table: Tensor) -> Tensor:
        """Products of a table of forms with the second factor of every F_i, in the place of its last dimension."""
        z, y, x, one = table.split([self.p, self.p, self.s, 1], -1)
        away = z - one
        return torch.cat([-one, -one, away, y - one, -y, away + y, x - one], -1)

    def curvature(self, first: Tensor, second: Tensor) -> Tensor:
        """Traces of F_i·first·F_j·second, for two symmetric matrices, by sums of products of entries of two tables."""
        moved = torch.stack([first, second]) @ self.forms.t()
        table = moved.mT @ self.forms.t()  # symmetric
        picked = table.index_select(1, self.one_factor)
        left, mixed = picked.index_select(2, self.one_factor), self._by_other_factor(picked)
        right = self._by_other_factor(self._by_other_factor(table).mT)
        found = mixed[0] * mixed[1].t()
        found = found + found.t()
        found.addcmul_(left[0], right[1]).addcmul_(right[0], left[1]).mul_(0.25)
        reached = moved[0, self.inputs].t() @ moved[1, self.inputs]
        identity = (first[self.inputs, self.inputs] * second[self.inputs, self.inputs]).sum()
        of_ball = self._traces(0.5 * (reached + reached.t()), identity)
        found[1] += of_ball
        found[:, 1] += of_ball
        found[1, 1] -= identity
        return found


@functools.lru_cache(maxsize=64)
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


@functools.lru_cache(maxsize=64)
def _first_factors(p: int, s: int) -> Tensor:
    """The first of the two factors whose product's symmetric part is F_i, but for the identity in that of κ, as a place.

    The second one is in `Dual._by_other_factor`.

    Returns:
        Places among the forms, shape (multipliers,).
    """
    z, y, x, one = torch.arange(2 * p + s + 1, device="cpu").split([p, p, s, 1])
    return torch.cat([one, one, z, y, z, one.expand(p), x])
