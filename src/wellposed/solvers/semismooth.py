"""Equilibria of z = σ(Wz + q) by a semismooth Newton method with the slopes of each sample, made global by a homotopy.

A step solves (I − DW)d = σ(Wz + q) − z for the slopes D at z; where σ is piecewise linear, it is exact once the pieces are known.
Full steps may go in circles. Then z = σ(tWz + q) is followed from t = 0, where z = σ(q): what makes the equation at t = 1 well
posed makes it well posed for all t before, so that the solution moves along a Lipschitz path, and steps in t are halved until
Newton's method follows (Ortega & Rheinboldt 1970, Section 7.5).
"""

from __future__ import annotations

import torch
from torch import Tensor

from wellposed.numerics.euclidean import euclidean
from wellposed.numerics.linear_algebra import solve
from wellposed.solvers.local_bound import chunk_of
from wellposed.solvers.problem import AffineProblem

_FULL_STEPS = 20  # before a path is followed
_PATH_STEPS = 10  # of Newton's method at each point of a path
_POINTS = 200  # of a path, at most
_ON_PATH = 1e-9  # residual, relative to the value, of points on a path


def newton(problem: AffineProblem, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Equilibria as exact as float64 gives them.

    Args:
        problem: in float64.
        start: shape (batch, *state), float64.
        steps: limit on the Newton steps of each sample.

    Returns:
        The best values found, and the number of steps each took.
    """
    matrix = problem.operator.dense()
    values, counts = torch.empty_like(start), torch.zeros(len(start), dtype=torch.int64, device=start.device)
    for rows in torch.arange(len(start), device=start.device).split(chunk_of(len(matrix))):
        chosen = problem.select(rows)
        run = _Newton(matrix, chosen.offset.flatten(1), chosen, start[rows])
        values[rows], counts[rows] = run.solve(steps)
    return values, counts


class _Newton:
    """The equations of some samples, flattened: W is a matrix, and ``share`` the t of each sample."""

    def __init__(self, matrix: Tensor, offset: Tensor, problem: AffineProblem, start: Tensor) -> None:
        self.matrix, self.offset, self.problem, self.shape = matrix, offset, problem, start.shape
        self.start = torch.where(torch.isfinite(start.flatten(1)), start.flatten(1), 0.0)
        self.identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)

    def solve(self, steps: int) -> tuple[Tensor, Tensor]:
        whole = self.start.new_ones(len(self.start))
        value, residual, used = self.polished(self.start, whole, min(steps, _FULL_STEPS))
        missed = ~(residual <= _ON_PATH * (1.0 + euclidean(value)))
        counts = torch.full_like(whole, used, dtype=torch.int64)
        if bool(missed.any()) and steps > _FULL_STEPS:
            again, further, taken = self._followed(steps - used)
            better = missed & (further < residual)
            value = torch.where(better[:, None], again, value)
            counts = torch.where(missed, counts + taken, counts)
        return value.reshape(self.shape), counts

    def polished(self, value: Tensor, share: Tensor, steps: int) -> tuple[Tensor, Tensor, int]:
        """The iterate of least residual among some full steps, that residual, and how many steps were taken."""
        best, least = value, torch.full_like(share, torch.inf)
        for step in range(steps + 1):
            driven = share[:, None] * torch.mm(value, self.matrix.t()) + self.offset
            image = self._of(self.problem.activation, driven)
            residual = image - value
            size = euclidean(residual)
            better = size < least
            best, least = torch.where(better[:, None], value, best), torch.where(better, size, least)
            settled = least <= 1e-15 * euclidean(best)
            stuck = ~better & (least <= 1e-12 * (1.0 + euclidean(best)))
            if step == steps or bool((settled | stuck).all()):
                break
            slopes = self._of(self.problem.activation.derivative, driven)
            system = self.identity - (share[:, None] * slopes)[:, :, None] * self.matrix
            value = value + solve(system, residual[:, :, None]).squeeze(2)
            value = torch.where(torch.isfinite(value), value, best)
        return best, least, step

    def _of(self, function: object, driven: Tensor) -> Tensor:
        assert callable(function)
        found: Tensor = function(driven.reshape(self.shape))
        return found.flatten(1)

    def _followed(self, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """The ends of the paths from t = 0, their residuals, and how many steps were taken."""
        value = self._of(self.problem.activation, self.offset)
        share = value.new_zeros(len(value))
        length = torch.full_like(share, 0.25)
        taken = torch.zeros(len(value), dtype=torch.int64, device=value.device)
        for _ in range(_POINTS):
            ahead = (share + length).clamp_max(1.0)
            tried, residual, used = self.polished(value, ahead, _PATH_STEPS)
            moving = (share < 1.0) & (taken < steps)
            reached = moving & (residual <= _ON_PATH * (1.0 + euclidean(tried)))
            value = torch.where(reached[:, None], tried, value)
            share = torch.where(reached, ahead, share)
            length = torch.where(reached, 2.0 * length, 0.5 * length)
            taken = torch.where(moving, taken + used, taken)
            if not bool(((share < 1.0) & (taken < steps) & (length > 1e-12)).any()):
                break
        value, residual, _ = self.polished(value, torch.ones_like(share), 2)
        return value, torch.where(share == 1.0, residual, torch.inf), taken
