"""Semismooth Newton with the dense Jacobian of every sample: for small states and hard problems."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import checked_fields
from wellposed.guarantee import Guarantee
from wellposed.numerics.linear_algebra import solve
from wellposed.solvers.base import Iteration, Solver
from wellposed.solvers.newton_step import NewtonIteration
from wellposed.solvers.problem import Problem


@checked_fields
@dataclass(frozen=True)
class Newton(Solver):
    """Quadratic near the solution, finite for piecewise linear maps; n² numbers per sample, n³ work a step."""

    @override
    def bind(self, problem: Problem, guarantee: Guarantee | None, start: Tensor | None, like: Tensor) -> Iteration:
        return _DenseNewtonIteration(problem, guarantee, torch.zeros_like(like) if start is None else start)


class _DenseNewtonIteration(NewtonIteration):
    def direction(self, point: Tensor, residual: Tensor) -> Tensor:
        jacobian = self.problem.jacobian(point)
        identity = torch.eye(jacobian.shape[1], dtype=jacobian.dtype, device=jacobian.device)
        return solve(identity - jacobian, residual.reshape(point.shape[0], -1, 1)).reshape(point.shape)
