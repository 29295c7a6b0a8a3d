"""Multipliers to start from, inside of where the dual of the semidefinite relaxation is a barrier."""

from __future__ import annotations

import torch
from torch import Tensor

from wellposed.verification.dual import Dual
from wellposed.verification.relaxation import Relaxed

_BALLS = tuple(10.0 ** (power / 2) for power in range(-10, 9))  # of the ball, over those of units and ranges


def feasible(problem: Relaxed, dual: Dual) -> tuple[Tensor, Tensor]:
    """Multipliers inside: the bound in a diagonal metric λ, moved inside, at the best scale and ratio to that of the ball.

    Args:
        problem: several of one shape, in the first dimension.
        dual: of these.

    Returns:
        θ, shape (*, multipliers), with zero in the place of t, and the largest t for it, shape (*); NaN where none was found, for
        lack of digits.
    """
    size = (problem.objective[..., : dual.p].abs() * problem.upper).sum(-1)
    size = size + problem.objective[..., dual.inputs].norm(dim=-1)
    size = torch.maximum(size, 1e-9 * (1.0 + problem.objective[..., -1].abs())).clamp_min(1e-150)
    theta = _best_scale(dual, _of_metric(problem, dual), size)
    highest = dual.highest(theta)
    if bool(highest.isnan().any()):  # without the metric F is positive definite at every scale
        other = _best_scale(dual, dual.mask.expand_as(theta), size)
        theta = torch.where(highest.isnan()[..., None], other, theta)
        highest = dual.highest(theta)
    return theta, highest


def _best_scale(dual: Dual, shape: Tensor, size: Tensor) -> Tensor:
    """The multiple s > 0 of a direction, with some multiplier of the ball, that lets t be largest.

    F is sM + O with the objective O in its last row only. Without that row, M = LLᵀ, and with the last rows m of M and o of O
    through L⁻¹, t is at most s(m̂ − ‖m‖²) + ô − 2m·o − ‖o‖²/s.
    """
    shape = shape.clone()
    shape[..., :2] = 0.0
    if dual.p + dual.s:
        shape = shape / shape.abs().amax(-1, keepdim=True).clamp_min(1e-300)
    matrix = dual.change(shape)
    balls = torch.tensor(_BALLS, dtype=torch.float64, device="cpu")
    grid = matrix[..., None, :-1, :-1].repeat(1, len(balls), 1, 1)
    grid.diagonal(dim1=-2, dim2=-1)[..., dual.inputs] += balls[:, None]
    factors, failed = torch.linalg.cholesky_ex(grid)
    last = torch.stack([matrix[..., :-1, -1], dual.objective[..., :-1, -1]], -1)[..., None, :, :]
    reached = torch.linalg.solve_triangular(factors, last.expand(*factors.shape[:-1], 2), upper=False)
    own, goal = reached.unbind(-1)
    falling = (balls - matrix[..., -1:, -1] + own.square().sum(-1)).clamp_min(1e-300)
    pulled = goal.square().sum(-1)
    highest = -2.0 * ((own * goal).sum(-1) + (falling * pulled).sqrt())
    best = torch.where((failed == 0) & torch.isfinite(highest), highest, -torch.inf).argmax(-1, keepdim=True)
    shape[..., 1] = balls[best[..., 0]]
    scale = (pulled.gather(-1, best) / falling.gather(-1, best)).sqrt()
    return shape * torch.minimum(torch.maximum(scale, 1e-6 * size[..., None]), 1e6 * size[..., None])


def _of_metric(problem: Relaxed, dual: Dual) -> Tensor:
    """The multipliers that the bound in a diagonal metric λ is, a little inside; without those of t and of the ball.

    The constraint Δz(Δv − Δz) ≥ 0 of that bound is y₀z + z₀y − zy ≥ 0 around (z₀, y₀), whose linear terms are at most those of
    z(u − z) and y(−l − y).
    """
    metric, up, down = problem.metric, problem.upper, -problem.lower
    none = torch.zeros_like(metric)
    of_units = metric * problem.complement * up, metric * problem.state * down, -metric * up * down, none
    shape = torch.cat([none.new_zeros(*none.shape[:-1], 2), *of_units, problem.range_metric], -1)
    least = 1e-3 * shape.abs().amax(-1, keepdim=True)
    return shape + torch.where(least > 0.0, least, 1.0) * dual.mask
