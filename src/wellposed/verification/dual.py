"""The dual of the relaxation: the matrix F(θ) of some multipliers θ, for one problem or for several of one shape."""

from __future__ import annotations

import copy
import functools
from typing import Self

import torch
from torch import Tensor

from wellposed.verification.relaxation import Relaxed


class Dual:
    """F(θ) = F₀ + Σθ_i F_i as a combination of products of a few linear forms.

    Args:
        problem: with p uncertain units and s ranges.

    Attributes:
        forms: z/u and y/(−l) of the units, the ranges over their widths, and one; shape (*, 2p + s + 1, size).
        objective: F₀, shape (*, size, size).
        signed: which multipliers must be positive, boolean, shape (2 + 4p + s,); θ is in the order of `Multipliers`.
        mask: the same as zeros and ones, by which entries are picked several times as fast.
        inputs: places of ξ among the variables.
        parameter: of the barrier of F(θ) ≻ 0 and of θ: its gap to the optimum is about this over the weight of t.
    """

    def __init__(self, problem: Relaxed) -> None:
        p, s, size = (part.shape[-1] for part in (problem.lower, problem.widths, problem.objective))
        self.p, self.s = p, s
        self.inputs = slice(p, size - 1)
        one = torch.eye(size, dtype=torch.float64, device="cpu")
        scaled = (
            one[:p] / problem.upper[..., None],
            (one[:p] - problem.preactivations) / -problem.lower[..., None],
            problem.ranges / problem.widths[..., None],
        )
        self.forms = torch.cat([*scaled, one[-1:].expand(*problem.lower.shape[:-1], 1, size)], -2)
        first, second, self.chart = _products(p, s)
        self.place = first * self.forms.shape[-2] + second
        self.signed = torch.ones(len(self.chart), dtype=torch.bool, device="cpu")
        self.signed[0] = False
        self.signed[2 + 2 * p : 2 + 3 * p] = False
        self.mask = self.signed.double()
        self.parameter = size + int(self.signed.sum())
        offset = problem.objective.new_zeros(*problem.objective.shape, size)
        offset[..., -1] = 0.5 * problem.objective
        self.objective = offset + offset.mT

    def __getitem__(self, rows: Tensor) -> Self:
        """That of some of several problems."""
        found = copy.copy(self)
        found.forms, found.objective = self.forms.index_select(0, rows), self.objective.index_select(0, rows)
        return found

    def combination(self, theta: Tensor, *, sizes: bool = False) -> Tensor:
        """Coefficients of the products of forms, as symmetric matrices over the forms; or the sums of their terms' sizes."""
        weights = theta.abs() @ self.chart.abs() if sizes else theta @ self.chart
        rows, lead = self.forms.shape[-2], theta.shape[:-1]
        grid = theta.new_zeros(*lead, rows * rows)
        grid = grid.index_copy_(-1, self.place, weights[..., :-1]).view(*lead, rows, rows)
        return (grid + grid.mT).mul_(0.5)

    def matrix(self, theta: Tensor) -> Tensor:
        """F."""
        return self.change(theta).add_(self.objective)

    def change(self, theta: Tensor) -> Tensor:
        """F without F₀."""
        found = self.forms.mT @ (self.combination(theta) @ self.forms)
        found.diagonal(dim1=-2, dim2=-1)[..., self.inputs].add_(theta[..., 1, None])
        return found

    def highest(self, theta: Tensor) -> Tensor:
        """The largest t for the other multipliers, shape (*); NaN where there is none, or it is lost to rounding."""
        rest = theta.clone()
        rest[..., 0] = 0.0
        found = self.matrix(rest)
        factor, failed = torch.linalg.cholesky_ex(found[..., :-1, :-1])
        reach = torch.linalg.solve_triangular(factor, found[..., :-1, -1:], upper=False)[..., 0]
        highest = found[..., -1, -1] - reach.square().sum(-1)
        positive = (rest[..., self.signed] > 0.0).all(-1)
        return torch.where(positive & (failed == 0) & torch.isfinite(highest), highest, torch.nan)

    def _traces(self, table: Tensor, identity: Tensor) -> Tensor:
        """Traces of matrices with all F_i, from their tables of the forms and their traces over ξ."""
        return torch.cat([table.flatten(-2).index_select(-1, self.place), identity[..., None]], -1) @ self.chart.t()

    def along(self, symmetric: Tensor) -> Tensor:
        """Traces of symmetric matrices with all F_i."""
        identity = symmetric.diagonal(dim1=-2, dim2=-1)[..., self.inputs].sum(-1)
        return self._traces((self.forms @ symmetric) @ self.forms.mT, identity)

    def _by_one_factor(self, table: Tensor, dim: int) -> Tensor:
        """Entries of a table of forms at the first of two factors whose product's symmetric part is F_i, but for κ's identity."""
        z, y, x, one = table.split([self.p, self.p, self.s, 1], dim)
        return torch.cat([one, one, z, y, z, *[one] * self.p, x], dim)

    def _by_other_factor(self, table: Tensor) -> Tensor:
        """Products of a table of forms with the second factor of every F_i, in the place of its last dimension."""
        z, y, x, one = table.split([self.p, self.p, self.s, 1], -1)
        away = z - one
        return torch.cat([-one, -one, away, y - one, -y, away + y, x - one], -1)

    def curvature(self, first: Tensor, second: Tensor) -> Tensor:
        """Traces of F_i·first·F_j·second, for two symmetric matrices, by sums of products of entries of two tables."""
        moved = torch.stack([first, second]) @ self.forms.mT
        table = moved.mT @ self.forms.mT  # symmetric
        picked = self._by_one_factor(table, -2)
        left, mixed = self._by_one_factor(picked, -1), self._by_other_factor(picked)
        right = self._by_other_factor(self._by_other_factor(table).mT)
        found = mixed[0] * mixed[1].mT
        found = found + found.mT
        found.addcmul_(left[0], right[1]).addcmul_(right[0], left[1]).mul_(0.25)
        across = moved[..., self.inputs, :]
        reached = across[0].mT @ across[1]
        identity = (first[..., self.inputs, self.inputs] * second[..., self.inputs, self.inputs]).sum((-2, -1))
        of_ball = self._traces(0.5 * (reached + reached.mT), identity)
        found[..., 1, :] += of_ball
        found[..., :, 1] += of_ball
        found[..., 1, 1] -= identity
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
