"""Forward–backward splitting z ← J_α((1 − α)z + α(Wz + q)), J_α the activation's resolvent at step α."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wellposed.errors import check, checked_fields
from wellposed.guarantee import Guarantee
from wellposed.solvers.base import Iteration, Solver, affine, step_size
from wellposed.solvers.problem import AffineProblem, Problem


@checked_fields
@dataclass(frozen=True)
class ForwardBackward(Solver):
    """Needs no factorisation; converges for steps below 2m/‖I − W‖² when I − W ⪰ mI.

    Args:
        step: α, or None for the one that the guarantee proves best: m/‖I − W‖² for monotone layers, 1/(1 − W_ii) for each
            coordinate under a log-norm bound.
    """

    step: float | None = None
    algorithm: ClassVar[str] = "forward_backward"

    def __post_init__(self) -> None:
        check(self.step is None or 0.0 < self.step < float("inf"), "step", self.step, "must be positive and finite")

    def bind(self, problem: Problem, guarantee: Guarantee | None, start: Tensor | None, like: Tensor) -> Iteration:  # noqa: D102
        alpha = step_size(self, guarantee, self.step)
        problem = affine(problem, self)
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
