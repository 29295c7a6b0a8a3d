"""Averaged (Krasnosel'skii–Mann) iteration z ← (1 − t)·z + t·f(z): converges when f is nonexpansive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wellposed.errors import check, checked_fields
from wellposed.guarantee import Guarantee
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
    algorithm: ClassVar[str] = "averaged"

    def __post_init__(self) -> None:
        check(self.damping is None or 0.0 < self.damping <= 1.0, "damping", self.damping, "must lie in (0, 1]")

    def bind(self, problem: Problem, guarantee: Guarantee | None, start: Tensor | None, like: Tensor) -> Iteration:  # noqa: D102
        plan = None if guarantee is None else guarantee.plan(self.algorithm)
        damping: float | Tensor = 0.5 if plan is None else plan.step
        if self.damping is not None:
            damping = self.damping
        return _AveragedIteration(problem, torch.zeros_like(like) if start is None else start, damping)


class _AveragedIteration(Iteration):
    def __init__(self, problem: Problem, start: Tensor, damping: float | Tensor) -> None:
        self.problem = problem
        self.point = self.image = start
        self._damping = damping

    def advance(self) -> None:
        self.point = torch.lerp(self.point, self.image, self._damping)
        self.image = self.problem.evaluate(self.point)
