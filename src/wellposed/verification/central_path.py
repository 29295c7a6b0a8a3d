"""Multipliers of the semidefinite relaxation by an interior-point method on it and its dual, which proves nothing."""

from __future__ import annotations

import math

from wellposed.verification.dual import Dual
from wellposed.verification.feasible import feasible
from wellposed.verification.primal_dual import Iterate, Newton
from wellposed.verification.relaxation import Multipliers, Relaxed

_HURRY = 0.4  # times the weight of t whose central point is as far from the optimum as the start
_LARGEST_STEPS = 60
_FEASIBLE = 1e-3  # share of what was missing of the primal at the start, up to which its objective counts
_TOLERANCE = 1e-4  # relative gap at which to stop, where the sign of the bound stays open


def minimise(
    problem: Relaxed,
    *,
    target: float | None = None,
    tolerance: float = _TOLERANCE,
    give_up: float = 0.0,
) -> Multipliers:
    """The largest lower bound of the objective that the relaxation gives.

    Args:
        problem: the forms.
        target: stop as soon as the bound is above this; None to go on to the tolerance.
        tolerance: relative to the size of the bound.
        give_up: the tolerance as soon as the bound cannot come above the target.

    Raises:
        ArithmeticError: the numbers are too far apart for float64.
    """
    dual = Dual(problem)
    at = _begin(dual)
    best, highest, reachable = at, -math.inf, math.inf
    lengths = 0.5, 0.5
    for _ in range(_LARGEST_STEPS):
        newton = Newton.at(dual, at)
        if newton is None:
            break
        best, highest = at, newton.highest
        if at.missing < _FEASIBLE:
            reachable = min(reachable, float(at.theta[0]) + newton.gap)
        if target is not None and highest > target:
            break
        hopeless = target is not None and reachable < target
        goal = max(tolerance, give_up if hopeless else 0.0) * (abs(highest) + 1e-12)
        if reachable - highest <= goal:
            break
        moved = newton.step(lengths)
        if moved is None:
            break
        at, lengths = moved
    return _multipliers(dual, best, highest, reachable)


def _begin(dual: Dual) -> Iterate:
    """The iterate to start from, as far from the optimum as an input of the region suggests."""
    problem = dual.problem
    inside = feasible(dual)
    somewhere = float(problem.objective[: dual.p] @ problem.state + problem.objective[-1])
    missing = max(abs(somewhere - inside.highest), 1e-12)
    return Iterate.start(dual, inside, _HURRY * dual.parameter / missing)


def _multipliers(dual: Dual, at: Iterate, highest: float, reachable: float) -> Multipliers:
    """The iterate, and the optimum of the relaxation that goes with it."""
    theta = at.theta.clone()
    theta[0] = highest
    moments = at.moments / at.moments[-1, -1]
    mean = dual.forms[: 2 * dual.p] @ moments[:, -1]
    tau = theta[2 + 2 * dual.p : 2 + 3 * dual.p]
    return Multipliers(
        values=theta, bound=highest, reachable=reachable, direction=moments[dual.inputs, -1],
        conflict=tau.abs() * mean[: dual.p].clamp_min(0.0) * mean[dual.p :].clamp_min(0.0),
        squares=moments[dual.inputs, dual.inputs],
    )  # fmt: skip
