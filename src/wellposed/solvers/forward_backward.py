"""Forward–backward splitting z ← J_α((1 − α)z + α(Wz + q)), J_α the activation's resolvent at step α."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import checked_fields
from wellposed.guarantee import Guarantee, Plan
from wellposed.numerics.euclidean import euclidean
from wellposed.solvers.base import Iteration
from wellposed.solvers.problem import AffineProblem, Problem
from wellposed.solvers.splitting import Splitting

# The contraction a step that is believed until the first look has shown it; looks cost little.
_FIRST_RATE = 0.2


@checked_fields
@dataclass(frozen=True)
class ForwardBackward(Splitting):
    """Needs no factorisation; converges for steps below 2m/‖I − W‖² when I − W ⪰ mI.

    Args:
        step: α, or None for the one that the guarantee proves best: m/‖I − W‖² for monotone layers, 1/(1 − W_ii) for each
            coordinate under a log-norm bound.
    """

    @override
    def plan(self, guarantee: Guarantee) -> Plan | None:
        return guarantee.forward_backward_plan(self.step)

    @override
    def bind(self, problem: Problem, guarantee: Guarantee | None, start: Tensor | None, like: Tensor) -> Iteration:
        alpha = self.step_under(guarantee)
        problem = self.affine(problem)
        scaling = problem.operator.scaling
        if scaling is not None and not isinstance(alpha, Tensor):  # as for every splitting
            alpha = alpha * scaling
        return _ForwardBackwardIteration(problem, start, like, alpha)


class _ForwardBackwardIteration(Iteration):
    rowwise = ("point", "_inner", "_value")
    image_is_free = False
    problem: AffineProblem

    def __init__(self, problem: AffineProblem, start: Tensor | None, like: Tensor, alpha: float | Tensor) -> None:
        self.problem = problem
        self._alpha = alpha
        self.point = self._inner = torch.zeros_like(like) if start is None else start
        self._value: Tensor | None = problem.offset if start is None else None

    def _through(self) -> Tensor:
        """W·point + q, formed when it is needed: whoever proves the value takes another."""
        if self._value is None:
            self._value = self.problem.operator.affine(self.point, self.problem.offset)
        return self._value

    def advance(self) -> None:
        self._inner = torch.lerp(self.point, self._through(), self._alpha)
        self.point = self.problem.activation.resolvent(self._inner, self._alpha)
        self._value = None

    def select(self, rows: Tensor) -> None:
        self._through()
        super().select(rows)

    def observe(self) -> Tensor:
        return self.point

    def judge(self, guarantee: Guarantee | None) -> tuple[Tensor, Tensor, Tensor]:
        # z = J_α(u) solves the equation exactly for q + defect. ‖defect‖ also bounds ‖f(z) − z‖.
        defect = self.problem.activation.defect(self.point, self._through(), self._inner, self._alpha)
        residual = euclidean(defect)
        return self.point, residual, residual if guarantee is None else guarantee.defect_bound(defect, residual)

    def predicted_rate(self) -> float:
        return _FIRST_RATE
