"""Newton–Krylov: the Newton equation solved by GMRES from directional derivatives only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import check, checked_fields
from wellposed.guarantee import Guarantee
from wellposed.solvers.base import Iteration, Solver
from wellposed.solvers.gmres import gmres
from wellposed.solvers.newton_step import NewtonIteration
from wellposed.solvers.problem import Problem


@checked_fields
@dataclass(frozen=True)
class NewtonKrylov(Solver):
    """Newton without a Jacobian matrix.

    Args:
        krylov_steps: directional derivatives per Newton step; extra memory is krylov_steps + 1 states.
        forcing: relative residual at which the inner solve stops.
    """

    krylov_steps: int = 20
    forcing: float = 1e-2

    def __post_init__(self) -> None:
        check(self.krylov_steps >= 1, "krylov_steps", self.krylov_steps, "must be at least 1")
        check(0.0 < self.forcing < 1.0, "forcing", self.forcing, "must lie in (0, 1)")

    @override
    def bind(self, problem: Problem, guarantee: Guarantee | None, start: Tensor | None, like: Tensor) -> Iteration:
        return _NewtonKrylovIteration(problem, guarantee, torch.zeros_like(like) if start is None else start, self)


class _NewtonKrylovIteration(NewtonIteration):
    def __init__(self, problem: Problem, guarantee: Guarantee | None, start: Tensor, options: NewtonKrylov) -> None:
        super().__init__(problem, guarantee, start)
        self._options = options

    def direction(self, point: Tensor, residual: Tensor) -> Tensor:
        def displacement(vector: Tensor) -> Tensor:
            return vector - self.problem.tangent(point, vector.reshape(point.shape)).reshape(vector.shape)

        rows = residual.reshape(point.shape[0], -1)
        steps = min(self._options.krylov_steps, rows.shape[1])
        return gmres(displacement, rows, steps, self._options.forcing).reshape(point.shape)
