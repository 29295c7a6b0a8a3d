"""Multipliers of the semidefinite relaxation by an interior-point method on its dual, which proves nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.verification.dual import Dual, Inside
from wellposed.verification.feasible import feasible
from wellposed.verification.relaxation import Multipliers, Relaxed

_CENTRED = 0.6  # Newton decrement at which a point counts as near the central path
_SHARE = 0.9  # of the way to the optimum, as the tangent of the central path has it
_HURRY = 8.0  # times the weight of t whose central point is as far from the optimum as the start
_LARGEST_STEPS = 60
_TOLERANCE = 1e-4  # relative gap at which to stop, where the sign of the bound stays open


def minimise(
    problem: Relaxed,
    *,
    target: float | None = None,
    tolerance: float = _TOLERANCE,
    give_up: float = 0.0,
    initial: Multipliers | None = None,
) -> Multipliers:
    """The largest lower bound of the objective that the relaxation gives.

    Args:
        problem: the forms.
        target: stop as soon as the bound is above this; None to go on to the tolerance.
        tolerance: relative to the size of the bound.
        give_up: the tolerance as soon as the bound cannot come above the target.
        initial: where to start, the solution of a problem of the same shape.

    Raises:
        ArithmeticError: the numbers are too far apart for float64.
    """
    path = _CentralPath(Dual(problem), initial)
    for _ in range(_LARGEST_STEPS):
        step = path.newton()
        if step is None or (target is not None and path.highest > target):
            break
        if step.decrement >= _CENTRED:
            if not path.centre(step):
                break
            continue
        gap = path.gap()
        path.reachable = min(path.reachable, path.highest + gap)
        hopeless = target is not None and path.reachable < target
        if gap <= max(tolerance, give_up if hopeless else 0.0) * (abs(path.highest) + 1e-12):
            break
        path.follow(step)
    return path.multipliers()


@dataclass(frozen=True, eq=False, repr=False)
class _Newton:
    """Newton's direction at a point with its decrement, and the tangent of the central path; shapes of the multipliers."""

    direction: Tensor
    decrement: float
    tangent: Tensor

    def __repr__(self) -> str:
        return f"Newton(decrement={self.decrement:.3g})"


class _CentralPath:
    """Multipliers on their way to the optimum, with the weight of t in the sum of it and the barrier.

    Attributes:
        reachable: no multipliers give more than about this.
    """

    def __init__(self, dual: Dual, initial: Multipliers | None) -> None:
        self._dual, problem = dual, dual.problem
        found = None if initial is None else dual.at(initial.values)
        self._at = feasible(dual) if found is None else found
        somewhere = float(problem.objective[: dual.p] @ problem.state + problem.objective[-1])  # in the region
        away = somewhere if initial is None else min(somewhere, initial.reachable)
        missing = max(away - self.highest, 1e-3 * abs(somewhere - self.highest), 1e-12)
        self._weight = _HURRY * dual.parameter / missing
        self.reachable = math.inf
        self._length = 1.0
        self._inverse: Tensor | None = None

    @property
    def highest(self) -> float:
        """The largest t for the other multipliers."""
        return self._at.highest

    def newton(self) -> _Newton | None:
        """The step from here; None at the limit of float64."""
        # Along t the barrier has its least value here; holding that on to every step takes away the stiffest direction.
        found = self._dual.derivatives(self._at, self._weight)
        if found is None:
            return None
        gradient, factor, scale, self._inverse = found
        right = torch.zeros(len(scale), 2, dtype=torch.float64, device="cpu")
        right[:, 0] = -gradient
        right[0, 0] += self._weight
        right[0, 1] = 1.0
        solved = scale[:, None] * torch.cholesky_solve(scale[:, None] * right, factor)
        direction, tangent = solved.unbind(1)
        decrement = max(float(right[:, 0] @ direction), 0.0) ** 0.5
        return _Newton(direction, decrement, tangent) if math.isfinite(decrement) else None

    def _value(self, at: Inside) -> float:
        return at.barrier - self._weight * at.highest

    def centre(self, step: _Newton) -> bool:
        """Move towards the central path by a long step that does enough; False where none does."""
        before, length = self._value(self._at), min(1.0, 2.0 * self._length)
        while length > 1e-8:
            trial = self._dual.at(self._at.theta + length * step.direction)
            if trial is not None and self._value(trial) < before - 0.05 * length * step.decrement**2:
                self._at, self._length = trial, length
                return True
            length *= 0.6
        return False

    def gap(self) -> float:
        """How much of the optimum may be missing, at a point near the central path."""
        return (self._dual.parameter + 2.0 * self._dual.parameter**0.5) / self._weight

    def follow(self, step: _Newton) -> None:
        """Move along the tangent of the central path, and give t the weight that belongs to the point there."""
        share = _SHARE
        while share > 0.1:
            trial = self._dual.at(self._at.theta + share * self._weight * step.tangent)
            if trial is not None:
                self._weight /= 1.0 - share
                self._at = trial
                return
            share *= 0.7
        self._weight *= 2.0

    def multipliers(self) -> Multipliers:
        """The point, and the optimum of the relaxation that goes with it."""
        dual, inverse = self._dual, self._inverse
        theta = self._at.theta.clone()
        theta[0] = self.highest
        if inverse is None:  # nothing to be seen of the primal: the middle of the region
            inverse = torch.zeros(dual.size, dual.size, dtype=torch.float64, device="cpu")
            inverse[-1, -1] = 1.0
        moments = inverse / inverse[-1, -1]
        mean = dual.forms[: 2 * dual.p] @ moments[:, -1]
        tau = theta[2 + 2 * dual.p : 2 + 3 * dual.p]
        return Multipliers(
            values=theta, bound=self.highest, reachable=self.reachable, direction=moments[dual.inputs, -1],
            conflict=tau.abs() * mean[: dual.p].clamp_min(0.0) * mean[dual.p :].clamp_min(0.0),
            squares=moments[dual.inputs, dual.inputs],
        )  # fmt: skip
