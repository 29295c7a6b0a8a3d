"""Multipliers of the semidefinite relaxation by an interior-point method on it and its dual, which proves nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.verification.dual import Dual
from wellposed.verification.feasible import feasible
from wellposed.verification.primal_dual import Iterate, Newton
from wellposed.verification.relaxation import Multipliers, Relaxed

_HURRY = 0.4  # times the weight of t whose central point is as far from the optimum as the start
_LARGEST_STEPS = 60
_FEASIBLE = 1e-3  # share of what was missing of the primal at the start, up to which its objective counts
_TOLERANCE = 1e-4  # relative gap at which to stop, where the sign of the bound stays open


def minimise(
    problems: Sequence[Relaxed],
    *,
    targets: Sequence[float] | None = None,
    tolerance: float = _TOLERANCE,
    give_up: float = 0.0,
) -> list[Multipliers | None]:
    """The largest lower bounds of the objectives that the relaxation gives; None where numbers are too far apart for float64.

    Args:
        problems: the forms, of one shape.
        targets: for each problem, stop as soon as the bound is above this; None to go on to the tolerance.
        tolerance: relative to the size of a bound.
        give_up: the tolerance as soon as a bound cannot come above its target.
    """
    if not problems:
        return []
    with torch.inference_mode():  # where operations on small matrices cost less
        problem = Relaxed.stack(problems)
        dual = Dual(problem)
        goals = problem.lower.new_tensor([math.inf] * len(problems) if targets is None else targets)
        best = _searched(dual, *_begin(problem, dual), goals, tolerance, max(tolerance, give_up))
        return _multipliers(dual, best)


@dataclass
class _Best:
    """The last iterate of every search with F ≻ 0; bounds are −∞ where none was."""

    theta: Tensor
    moments: Tensor
    bounds: Tensor
    reachable: Tensor


def _begin(problem: Relaxed, dual: Dual) -> tuple[Iterate, Tensor]:
    """The iterates to start from, as far from the optimum as an input of the region suggests, and which of them there are."""
    theta, highest = feasible(problem, dual)
    somewhere = (problem.objective[:, : dual.p] * problem.state).sum(-1) + problem.objective[:, -1]
    missing = (somewhere - highest).abs().clamp_min(1e-12)
    return Iterate.start(dual, theta, highest, _HURRY * dual.parameter / missing), torch.isfinite(highest)


def _searched(dual: Dual, at: Iterate, begun: Tensor, goals: Tensor, tolerance: float, hopeless: float) -> _Best:
    """Steps until bounds are above their goals, or within a tolerance of an optimum: another one if that is below the goal."""
    best = _Best(
        at.theta.clone(), at.moments.clone(), torch.full_like(goals, -math.inf), torch.full_like(goals, math.inf)
    )
    left, going = torch.arange(len(goals), device="cpu"), begun
    for _ in range(_LARGEST_STEPS):
        factor, failed = torch.linalg.cholesky_ex(at.matrix)
        going = going & (failed == 0)  # else at the limit of float64
        if not bool(going.all()):
            rows = torch.nonzero(going)[:, 0]
            at, dual, left, factor = at[rows], dual[rows], left[rows], factor[rows]
        newton = Newton(dual, at, torch.cholesky_inverse(factor).mT)
        reachable = torch.where(at.missing < _FEASIBLE, at.theta[:, 0] + newton.gap, math.inf)
        reachable = torch.minimum(reachable, best.reachable[left])
        best.theta[left], best.moments[left] = at.theta, at.moments
        best.bounds[left], best.reachable[left] = newton.highest, reachable
        goal = goals[left]
        near = torch.where(reachable < goal, hopeless, tolerance) * (newton.highest.abs() + 1e-12)
        rows = torch.nonzero((newton.highest <= goal) & (reachable - newton.highest > near))[:, 0]
        if not len(rows):
            break
        if len(rows) < len(left):
            newton, left = newton[rows], left[rows]
        at, dual = newton.step(), newton.dual
        going = at.missing.new_tensor([min(lengths) for lengths in at.lengths]) > 0.0
    return best


def _multipliers(dual: Dual, best: _Best) -> list[Multipliers | None]:
    """The iterates, and the optima of the relaxations that go with them."""
    theta = best.theta
    theta[:, 0] = best.bounds
    moments = best.moments / best.moments[:, -1:, -1:]
    mean = (dual.forms[:, : 2 * dual.p] @ moments[:, :, -1:])[..., 0].clamp_min(0.0)
    tau = theta[:, 2 + 2 * dual.p : 2 + 3 * dual.p]
    conflict = tau.abs() * mean[:, : dual.p] * mean[:, dual.p :]
    direction, squares = moments[:, dual.inputs, -1], moments[:, dual.inputs, dual.inputs]
    found = zip(theta, best.bounds.tolist(), best.reachable.tolist(), direction, conflict, squares, strict=True)
    return [
        Multipliers(values=values, bound=bound, reachable=reachable, direction=along, conflict=paid, squares=square)
        if math.isfinite(bound)
        else None
        for values, bound, reachable, along, paid, square in found
    ]
