"""One step of a primal-dual method for the semidefinite relaxation: multipliers θ with F(θ) ≻ 0, and moments X ≻ 0 of the primal.

The primal wants the trace of X with F_i, and a slack s_i ≥ 0 where θ_i must be positive, to be zero together, and the last entry
of X to be one; then the objective's mean under X is at least every t. Steps follow XF = μI and s_iθ_i = μ as μ goes to zero (the
direction of Helmberg, Rendl, Vanderbei & Wolkowicz 1996, corrected as by Mehrotra 1992).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.bounds.search.primal_dual_step import longest
from wellposed.verification.dual import Dual, Inside


@dataclass(frozen=True, eq=False, repr=False)
class Iterate:
    """Where the search is.

    Attributes:
        theta: θ, shape (multipliers,).
        matrix: F(θ).
        moments: X.
        slack: s, shape (multipliers,), one where θ has any sign.
        missing: what the traces and slacks of the primal are off by, as a share of the start.
    """

    theta: Tensor
    matrix: Tensor
    moments: Tensor
    slack: Tensor
    missing: float

    @classmethod
    def start(cls, dual: Dual, inside: Inside, weight: float) -> Iterate:
        """The iterate with XF = I/weight, at the t where the last entry of X is one."""
        theta = inside.theta.clone()
        theta[0] = inside.highest - 1.0 / weight
        matrix = dual.matrix(theta)
        moments = torch.cholesky_inverse(torch.linalg.cholesky_ex(matrix)[0]) / weight
        slack = torch.where(dual.signed, 1.0 / (weight * theta), 1.0)
        return cls(theta, matrix, moments, slack, 1.0)


class Newton:
    """The equations of a step.

    Attributes:
        gap: tr XF + Σs_iθ_i, by which t is below the optimum once nothing of the primal is missing.
        highest: the largest t for the other multipliers.
    """

    def __init__(self, dual: Dual, at: Iterate, inverse: Tensor) -> None:
        self._dual, self._at, self._inverse = dual, at, inverse
        self.gap = float((at.moments * at.matrix).sum()) + float(torch.dot(at.slack * dual.mask, at.theta))
        self.highest = float(at.theta[0]) + 1.0 / float(inverse[-1, -1])

    @classmethod
    def at(cls, dual: Dual, at: Iterate) -> Newton | None:
        """The equations there; None at the limit of float64."""
        factor, failed = torch.linalg.cholesky_ex(at.matrix)
        return None if int(failed) else cls(dual, at, torch.cholesky_inverse(factor))

    def _factor(self) -> tuple[Tensor, Tensor] | None:
        """Of the scaled matrix of the equations, with its scale; None where it is not positive definite."""
        dual, at = self._dual, self._at
        matrix = dual.curvature(at.moments, self._inverse)
        matrix.diagonal().add_(torch.where(dual.signed, at.slack / at.theta, 0.0))
        scale = matrix.diagonal().clamp_min(1e-300).rsqrt()
        matrix.mul_(scale).mul_(scale[:, None])
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if int(failed):
            matrix.diagonal().add_(1e-9)
            factor, failed = torch.linalg.cholesky_ex(matrix)
        return None if int(failed) else (factor, scale)

    def step(self, guesses: tuple[float, float]) -> tuple[Iterate, tuple[float, float]] | None:
        """The next iterate, and the lengths of its steps in the dual and in the primal; None where there is none.

        Args:
            guesses: of the lengths.
        """
        solved = self._factor()
        if solved is None:
            return None
        factor, scale = solved
        dual, at, inverse = self._dual, self._at, self._inverse
        signed = dual.signed
        reciprocal = torch.where(signed, 1.0 / at.theta, 0.0)
        mean = self.gap / dual.parameter
        centre = min(max((1.0 - min(guesses)) ** 2, 1e-3), 0.8) * mean

        def solve(right: Tensor) -> Tensor:
            return scale * torch.cholesky_solve((scale * right)[:, None], factor)[:, 0]

        right = torch.zeros_like(at.theta)
        right[0] = 1.0
        first = solve(right)
        turned = dual.change(first) @ inverse
        predicted = _symmetric(at.moments @ turned).add_(at.moments).neg_()
        second = _symmetric(predicted @ turned)
        slack_predicted = -at.slack * (1.0 + first * reciprocal)
        crossed = slack_predicted * first * reciprocal
        right += dual.along(centre * inverse - second) + centre * reciprocal - crossed
        direction = solve(right)
        change = dual.change(direction)
        moved = (
            _symmetric(at.moments @ change @ inverse).add_(at.moments).add_(second).sub_(inverse, alpha=centre).neg_()
        )
        slack_moved = centre * reciprocal - at.slack * (1.0 + direction * reciprocal) - crossed
        rooms = _room(-direction * reciprocal), _room(-slack_moved / at.slack * dual.mask)
        return self._moved(direction, change, moved, slack_moved, guesses, rooms)

    def _moved(
        self, direction: Tensor, change: Tensor, moments: Tensor, slack: Tensor, guesses: tuple[float, float],
        rooms: tuple[float, float],
    ) -> tuple[Iterate, tuple[float, float]] | None:  # fmt: skip
        """The iterate as far along a direction as θ, F, X and s stay well inside."""
        at, signed = self._at, self._dual.signed
        first = longest(guesses[0], at.matrix, change, largest=rooms[0])
        second = longest(guesses[1], at.moments, moments, largest=rooms[1])
        if first is None or second is None:
            return None
        kept = 0.99 if min(first, second) > 0.9 else 0.95
        one, two = kept * first, kept * second
        slack = torch.where(signed, at.slack + two * slack, 1.0)
        found = Iterate(
            at.theta + one * direction, at.matrix + one * change, at.moments + two * moments, slack, at.missing * (1.0 - two)
        )  # fmt: skip
        return found, (first, second)


def _room(falls: Tensor) -> float:
    """The largest step, at most one, that leaves values positive which a step of one makes fall by these shares of them."""
    return min(1.0, 0.999 / max(float(falls.max()), 1e-300))


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.t()).mul_(0.5)
