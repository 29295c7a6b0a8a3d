"""Multipliers to start from, inside of where the dual of the semidefinite relaxation is a barrier."""

from __future__ import annotations

import torch
from torch import Tensor

from wellposed.verification.dual import Dual, Inside

_BALLS = tuple(10.0 ** (power / 2) for power in range(-10, 9))  # of the ball, over those of units and ranges


def feasible(dual: Dual) -> Inside:
    """Multipliers inside: the bound in a diagonal metric λ, moved inside, at the best scale and ratio to that of the ball.

    Raises:
        ArithmeticError: none were found, for lack of digits.
    """
    problem, p = dual.problem, dual.p
    size = float((problem.objective[:p].abs() * dual.u).sum() + problem.objective[dual.inputs].norm())
    size = max(size, 1e-9 * (1.0 + abs(float(problem.objective[-1]))), 1e-150)
    for shape in (_of_metric(dual), dual.signed.double()):  # without the metric F is positive definite at every scale
        shape = shape / max(float(shape[2:].abs().amax()), 1e-300) if p + dual.s else shape
        found = dual.at(_best_scale(dual, shape, size))
        if found is not None:
            return found
    raise ArithmeticError("the numbers of this relaxation are too far apart for float64")


def _best_scale(dual: Dual, shape: Tensor, size: float) -> Tensor:
    """The multiple s > 0 of a direction, with some multiplier of the ball, that lets t be largest.

    F is sM + O with the objective O in its last row only. Without that row, M = LLᵀ, and with the last rows m of M and o of O
    through L⁻¹, t is at most s(m̂ − ‖m‖²) + ô − 2m·o − ‖o‖²/s.
    """
    shape = shape.clone()
    shape[0] = shape[1] = 0.0
    matrix = dual.change(shape)
    balls = torch.tensor(_BALLS, dtype=torch.float64, device="cpu")
    grid = matrix[:-1, :-1].repeat(len(balls), 1, 1)
    grid.diagonal(dim1=1, dim2=2)[:, dual.inputs] += balls[:, None]
    factors, failed = torch.linalg.cholesky_ex(grid)
    last = torch.stack([matrix[:-1, -1], dual.objective[:-1, -1]], 1).expand(len(balls), -1, -1)
    own, goal = torch.linalg.solve_triangular(factors, last, upper=False).unbind(2)
    falling = (balls - matrix[-1, -1] + own.square().sum(1)).clamp_min(1e-300)
    pulled = goal.square().sum(1)
    highest = -2.0 * ((own * goal).sum(1) + (falling * pulled).sqrt())
    best = int(torch.where((failed == 0) & torch.isfinite(highest), highest, -torch.inf).argmax())
    shape[1] = balls[best]
    scale = float((pulled[best] / falling[best]).sqrt())
    return shape * min(max(scale, 1e-6 * size), 1e6 * size)


def _of_metric(dual: Dual) -> Tensor:
    """The multipliers that the bound in a diagonal metric λ is, a little inside; without those of t and of the ball.

    The constraint Δz(Δv − Δz) ≥ 0 of that bound is y₀z + z₀y − zy ≥ 0 around (z₀, y₀), whose linear terms are at most those of
    z(u − z) and y(−l − y).
    """
    problem, p = dual.problem, dual.p
    shape = torch.zeros(len(dual.signed), dtype=torch.float64, device="cpu")
    shape[2 : 2 + p] = problem.metric * problem.complement * dual.u
    shape[2 + p : 2 + 2 * p] = problem.metric * problem.state * dual.r
    shape[2 + 2 * p : 2 + 3 * p] = -problem.metric * dual.u * dual.r
    shape[2 + 4 * p :] = problem.range_metric
    least = 1e-3 * float(shape[2:].abs().amax()) if p + dual.s else 0.0
    shape[2:][dual.signed[2:]] += least if least > 0.0 else 1.0
    return shape
