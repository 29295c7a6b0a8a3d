"""The path of equilibria of z = σ((Wz + q)/s), as s falls to one from where the map hardly depends on z.

What promises one equilibrium of z = σ(Wz + q) promises one for W/s and q/s with every s ≥ 1: I − W/s is a mean of I and
I − W, and a measure of W, or a spectral radius, falls with s. In pre-activations v = (Wz + q)/s the equation is
sv = Wσ(v) + q, which has the slopes of σ where the iterate is: where units saturate, a step of Newton's method does not lead
out of the range of σ, and the path has no corner where a unit comes to saturate. A few dozen steps lead along it for W of any
size, where moving the offset instead takes some for each unit that saturates on the way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wellposed.numerics.linear_algebra import solve
from wellposed.solvers.flat_problem import FlatProblem

_STEPS = 12  # of Newton's method at each point of the path
_CLOSE = 1e-9  # relative residual at which points count as found
_STALLED = 1.0 - 1e-6  # a factor so close to one leads nowhere


def follow_temperature(problem: FlatProblem, steps: int) -> tuple[Tensor, Tensor]:
    """The end of the path for each sample, or the last point of it that was found, and how many steps were taken.

    Args:
        problem: with a smooth activation.
        steps: limit on the Newton steps of each sample.

    Returns:
        States of shape (batch, n), and numbers of shape (batch,).
    """
    batch = len(problem.offset)
    # At the norm of W the map does not expand.
    heat = problem.offset.new_full((batch,), max(1.0, float(torch.linalg.matrix_norm(problem.matrix))))
    driven = problem.offset / heat[:, None]
    taken = torch.zeros(batch, dtype=torch.int64, device=heat.device)
    factor, begun, ended = torch.full_like(heat, 0.5), taken > 0, taken > 0
    while True:
        moving = ~ended & (taken < steps) & (factor < _STALLED) & torch.isfinite(heat)
        if not bool(moving.any()):
            return problem.image(driven), taken
        ahead = torch.where(begun, (heat * factor).clamp_min(1.0), heat)
        tried, found, used = _equilibria(problem, driven, ahead)
        reached = moving & found
        driven = torch.where(reached[:, None], tried, driven)
        heat = torch.where(reached, ahead, torch.where(moving & ~begun, 4.0 * heat, heat))
        # After a success shares fall faster, after a failure slower.
        factor = torch.where(reached, factor**1.5, torch.where(begun, factor**0.4, factor)).clamp_min(0.05)
        begun, ended = begun | reached, ended | (reached & (ahead == 1.0))
        taken = torch.where(moving, taken + used, taken)


def _equilibria(problem: FlatProblem, driven: Tensor, heat: Tensor) -> tuple[Tensor, Tensor, int]:
    """Pre-activations of equilibria at these s, as far as Newton's method finds them, which it has, and its steps."""
    heat, step = heat[:, None], 0
    identity = torch.eye(driven.shape[1], dtype=driven.dtype, device=driven.device)
    sizes, offsets = problem.matrix.abs().t(), problem.offset.abs()
    for step in range(_STEPS + 1):
        value = problem.image(driven)
        residual = torch.addmm(problem.offset, value, problem.matrix.t()) - heat * driven
        # Entry by entry: large offsets of some units say nothing of the others.
        limits = torch.addmm(offsets + (heat * driven).abs(), value.abs(), sizes) * _CLOSE
        found = (residual.abs() <= limits).all(1)
        if step == _STEPS or bool(found.all()):
            break
        system = heat[:, :, None] * identity - problem.matrix * problem.slopes(driven)[:, None, :]
        driven = driven + solve(system, residual[:, :, None]).squeeze(2)
    return driven, found & torch.isfinite(driven).all(1), step
