"""Averaged (Krasnosel'skii–Mann) iteration z ← (1 − t)·z + t·f(z): converges when f is nonexpansive."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import check, checked_fields
from wellposed.guarantee import Guarantee, Plan
from wellposed.solvers.base import Iteration, Solver
from wellposed.solvers.problem import Problem


@checked_fields
@dataclass(frozen=True)
class Averaged(Solver):
    """Damped iteration of the map.

    Args:
        damping: the weight t of the new value, in (0, 1]; None for the one that the guarantee proves best, else 0.5.
    """

    damping: float | None = None

    def __post_init__(self) -> None:
        check(self.damping is None or 0.0 < self.damping <= 1.0, "damping", self.damping, "must lie in (0, 1]")

    @override
    def plan(self, guarantee: Guarantee) -> Plan | None:
        return guarantee.averaged_plan(self.damping)

    @override
    def bind(self, problem: Problem, guarantee: Guarantee | None, start: Tensor | None, like: Tensor) -> Iteration:
        damping: float | Tensor | None = self.damping
        if damping is None:
            plan = None if guarantee is None else self.plan(guarantee)
            damping = 0.5 if plan is None else plan.step
        return _AveragedIteration(problem, torch.zeros_like(like) if start is None else start, damping)


class _AveragedIteration(Iteration):
    def __init__(self, problem: Problem, start: Tensor, damping: float | Tensor) -> None:
        self.problem = problem
        self.point = self.image = start
        self._damping = damping

    def advance(self) -> None:
        self.point = torch.lerp(self.point, self.image, self._damping)
        self.image = self.problem.evaluate(self.point)
