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
        damping: the weight t of the new value, in (0, 1].
    """

    damping: float = 0.5
    algorithm: ClassVar[str] = "averaged"

    def __post_init__(self) -> None:
        check(0.0 < self.damping <= 1.0, "damping", self.damping, "must lie in (0, 1]")

    def bind(self, problem: Problem, guarantee: Guarantee | None, start: Tensor | None, like: Tensor) -> Iteration:  # noqa: D102
        return _AveragedIteration(problem, torch.zeros_like(like) if start is None else start, self.damping)


class _AveragedIteration(Iteration):
    def __init__(self, problem: Problem, start: Tensor, damping: float) -> None:
        self.problem = problem
        self.point = self.image = start
        self._damping = damping

    def advance(self) -> None:
        self.point = torch.lerp(self.point, self.image, self._damping)
        self.image = self.problem.evaluate(self.point)
