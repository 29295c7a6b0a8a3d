"""One step of a primal-dual method for the semidefinite relaxation: multipliers θ with F(θ) ≻ 0, and moments X ≻ 0 of the primal.

The primal wants the trace of X with F_i, and a slack s_i ≥ 0 where θ_i must be positive, to be zero together, and the last entry
of X to be one; then the objective's mean under X is at least every t. Steps follow XF = μI and s_iθ_i = μ as μ goes to zero (the
direction of Helmberg, Rendl, Vanderbei & Wolkowicz 1996, corrected as by Mehrotra 1992). Several problems of one shape take their
steps together, each of its own length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from wellposed.bounds.search.step_lengths import longest
from wellposed.verification.dual import Dual

_FIRST_LENGTHS = (0.5, 0.5)  # as they are guessed


@dataclass(frozen=True, eq=False, repr=False)
class Iterate:
    """Where the searches are.

    Attributes:
        theta: θ, shape (batch, multipliers).
        matrix: F(θ), shape (batch, size, size).
        moments: X, shape (batch, size, size).
        slack: s, shape (batch, multipliers), one where θ has any sign.
        missing: what the traces and slacks of the primal are off by, as a share of the start, shape (batch,).
        lengths: of the last steps in the dual and in the primal.
    """

    theta: Tensor
    matrix: Tensor
    moments: Tensor
    slack: Tensor
    missing: Tensor
    lengths: list[tuple[float, float]]

    @classmethod
    def start(cls, dual: Dual, theta: Tensor, highest: Tensor, weight: Tensor) -> Self:
        """The iterate with XF = I/weight, at the t where the last entry of X is one.

        Args:
            dual: of the problems.
            theta: θ, shape (batch, multipliers), but for its t.
            highest: the largest t for it, shape (batch,).
            weight: shape (batch,).
        """
        theta = theta.clone()
        theta[:, 0] = highest - 1.0 / weight
        matrix = dual.matrix(theta)
        moments = torch.cholesky_inverse(torch.linalg.cholesky_ex(matrix)[0]) / weight[:, None, None]
        slack = torch.where(dual.signed, 1.0 / (weight[:, None] * theta), 1.0)
        return cls(theta, matrix, moments, slack, torch.ones_like(weight), [_FIRST_LENGTHS] * len(weight))

    def __getitem__(self, rows: Tensor) -> Self:
        """Some of the searches."""
        names = ("theta", "matrix", "moments", "slack", "missing")
        parts = {name: getattr(self, name).index_select(0, rows) for name in names}
        return type(self)(**parts, lengths=[self.lengths[k] for k in rows.tolist()])


class Newton:
    """The equations of a step.

    Args:
        dual: of the problems.
        at: where F ≻ 0 and X ≻ 0.
        inverse: of F, shape (batch, size, size).

    Attributes:
        dual: of the problems.
        gap: tr XF + Σs_iθ_i, by which t is below the optimum once nothing of the primal is missing, shape (batch,).
        highest: the largest t for the other multipliers, shape (batch,).
    """

    def __init__(self, dual: Dual, at: Iterate, inverse: Tensor) -> None:
        self.dual, self._at, self._inverse = dual, at, inverse
        self.gap = (at.moments * at.matrix).sum((-2, -1)) + (at.slack * at.theta) @ dual.mask
        self.highest = at.theta[:, 0] + 1.0 / inverse[:, -1, -1]

    def __getitem__(self, rows: Tensor) -> Newton:
        """Those of some of the problems."""
        return Newton(self.dual[rows], self._at[rows], self._inverse.index_select(0, rows))

    def _factor(self) -> Tensor:
        """Of the matrices of the equations; not finite where one is not positive definite."""
        dual, at = self.dual, self._at
        matrix = dual.curvature(at.moments, self._inverse)
        diagonal = matrix.diagonal(dim1=-2, dim2=-1)
        diagonal.add_(torch.where(dual.signed, at.slack / at.theta, 0.0))
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if bool(failed.any()):
            diagonal.mul_(torch.where(failed == 0, 1.0, 1.0 + 1e-9)[:, None])
            factor, failed = torch.linalg.cholesky_ex(matrix)
            factor[failed != 0] = torch.nan
        return factor

    def step(self) -> Iterate:
        """The next iterate; where there is none, a length of it is zero, and nothing else of it holds."""
        factor = self._factor()
        dual, at, inverse = self.dual, self._at, self._inverse
        reciprocal = torch.where(dual.signed, 1.0 / at.theta, 0.0)
        shares = [min(max((1.0 - min(lengths)) ** 2, 1e-3), 0.8) for lengths in at.lengths]
        centre = (self.gap.new_tensor(shares) * (self.gap / dual.parameter))[:, None]

        def solve(right: Tensor) -> Tensor:
            return torch.cholesky_solve(right[..., None], factor)[..., 0]

        right = torch.zeros_like(at.theta)
        right[:, 0] = 1.0
        first = solve(right)
        turned = dual.change(first) @ inverse
        predicted = _symmetric(at.moments @ turned).add_(at.moments).neg_()
        second = _symmetric(predicted @ turned)
        grown = first * reciprocal
        crossed = -at.slack * (1.0 + grown) * grown
        aim = centre[..., None] * inverse - second
        right += dual.along(aim) + centre * reciprocal - crossed
        direction = solve(right)
        change = dual.change(direction)
        moments = _symmetric(at.moments @ change @ inverse).add_(at.moments).sub_(aim).neg_()
        grown = direction * reciprocal
        slack = centre * reciprocal - at.slack * (1.0 + grown) - crossed
        rooms = torch.stack([_room(-grown), _room(-slack / at.slack * dual.mask)])
        return self._moved(direction, change, moments, slack, rooms)

    def _moved(self, direction: Tensor, change: Tensor, moments: Tensor, slack: Tensor, rooms: Tensor) -> Iterate:
        """The iterate as far along a direction as θ, F, X and s stay well inside."""
        at = self._at
        of_dual, of_primal = zip(*at.lengths, strict=True)
        firsts = longest(of_dual, rooms[0].tolist(), _line(at.matrix, change))
        seconds = longest(of_primal, rooms[1].tolist(), _line(at.moments, moments))
        lengths = list(zip(firsts, seconds, strict=True))
        one, two = rooms.new_tensor([firsts, seconds]) * rooms.new_tensor([_kept(pair) for pair in lengths])
        return Iterate(
            torch.addcmul(at.theta, direction, one[:, None]), torch.addcmul(at.matrix, change, one[:, None, None]),
            torch.addcmul(at.moments, moments, two[:, None, None]),
            torch.where(self.dual.signed, torch.addcmul(at.slack, slack, two[:, None]), 1.0), at.missing * (1.0 - two), lengths,
        )  # fmt: skip


def _line(matrix: Tensor, change: Tensor) -> Callable[[list[int], list[float]], Tensor]:
    """Some of several matrices, shape (batch, n, n), after steps of some lengths."""

    def moved(rows: list[int], lengths: list[float]) -> Tensor:
        start, along = matrix, change
        if len(rows) < len(matrix):
            places = torch.tensor(rows, device="cpu")
            start, along = matrix.index_select(0, places), change.index_select(0, places)
        return torch.addcmul(start, along, matrix.new_tensor(lengths)[:, None, None])

    return moved


def _kept(lengths: tuple[float, float]) -> float:
    """The share of these lengths that a step is."""
    return 0.99 if min(lengths) > 0.9 else 0.95


def _room(falls: Tensor) -> Tensor:
    """The largest steps, at most one, that leave values positive which a step of one makes fall by these shares of them."""
    return (0.999 / falls.amax(-1).clamp_min(1e-300)).clamp_max(1.0)


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.mT).mul_(0.5)
