"""Forward–backward splitting z ← J_α((1 − α)z + α(Wz + q)), J_α the activation's resolvent at step α."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import checked_fields
from wellposed.guarantee import Guarantee, Plan
from wellposed.solvers.base import Iteration
from wellposed.solvers.problem import AffineProblem, Problem
from wellposed.solvers.splitting import Splitting


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
        return _ForwardBackwardIteration(problem, torch.zeros_like(like) if start is None else start, alpha)


class _ForwardBackwardIteration(Iteration):
    rowwise = ("point", "image", "_value")
    problem: AffineProblem

    def __init__(self, problem: AffineProblem, start: Tensor, alpha: float | Tensor) -> None:
        self.problem = problem
        self._alpha = alpha
        self._set(start)

    def _set(self, point: Tensor) -> None:
        self.point = point
        self._value = self.problem.operator.affine(point, self.problem.offset)
        self.image = self.problem.activation(self._value)

    def advance(self) -> None:
        inner = torch.lerp(self.point, self._value, self._alpha)
        self._set(self.problem.activation.resolvent(inner, self._alpha))
