"""Picard iteration z ← f(z): converges when f contracts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import checked_fields
from wellposed.guarantee import Guarantee, Plan
from wellposed.solvers.base import Iteration, Solver
from wellposed.solvers.problem import Problem


@checked_fields
@dataclass(frozen=True)
class Picard(Solver):
    """Plain iteration of the map. One evaluation a step, two states of memory."""

    @override
    def plan(self, guarantee: Guarantee) -> Plan | None:
        return guarantee.picard_plan()

    @override
    def bind(self, problem: Problem, guarantee: Guarantee | None, start: Tensor | None, like: Tensor) -> Iteration:
        return _PicardIteration(problem, torch.zeros_like(like) if start is None else start)


class _PicardIteration(Iteration):
    def __init__(self, problem: Problem, start: Tensor) -> None:
        self.problem = problem
        self.point = self.image = start

    def advance(self) -> None:
        self.point = self.image
        self.image = self.problem.evaluate(self.point)
