"""Multipliers to start from, inside of where the dual of the semidefinite relaxation is a barrier."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from wellposed.verification.dual import Dual

_SCALES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # of the multipliers of units and ranges
_BALLS = (1e-3, 1e-2, 1e-1, 1.0)  # of the multiplier of the ball
_REFINEMENTS = (2.0, 1.4)  # of the best of them


class _Trial(NamedTuple):
    """The t that is best for some multipliers, −∞ outside, with their scale and that of the ball."""

    highest: float
    scale: float
    ball: float
    theta: Tensor


def feasible(dual: Dual) -> Tensor:
    """Multipliers inside: the bound in a diagonal metric λ, at the best of a few scales, moved inside.

    Raises:
        ArithmeticError: none were found, for lack of digits.
    """
    problem, p = dual.problem, dual.p
    size = float((problem.objective[:p].abs() * dual.u).sum() + problem.objective[dual.inputs].norm())
    size = max(size, 1e-9 * (1.0 + abs(float(problem.objective[-1]))), 1e-150)
    for shape in (_of_metric(dual), dual.signed.double()):  # without the metric F is positive definite at every scale
        reference = size / max(float(shape[2:].abs().amax()), 1e-300) if p + dual.s else 1.0
        best = _best([_trial(dual, shape, scale * reference, ball * size) for scale in _SCALES for ball in _BALLS])
        if best.highest == -math.inf:
            continue
        for factor in _REFINEMENTS:
            changes = ((factor, 1.0), (1.0 / factor, 1.0), (1.0, factor), (1.0, 1.0 / factor))
            best = _best([best, *(_trial(dual, shape, best.scale * a, best.ball * b) for a, b in changes)])
        return best.theta
    raise ArithmeticError("the numbers of this relaxation are too far apart for float64")


def _trial(dual: Dual, shape: Tensor, scale: float, ball: float) -> _Trial:
    theta = shape * scale
    theta[1] = ball
    theta[0] = highest = dual.highest(theta)[0]
    return _Trial(highest if math.isfinite(highest) else -math.inf, scale, ball, theta)


def _best(trials: list[_Trial]) -> _Trial:
    return max(trials, key=lambda trial: trial.highest)


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
