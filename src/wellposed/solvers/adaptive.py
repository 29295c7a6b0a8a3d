"""Picard iteration of the samples for which it converges well, Anderson acceleration of the others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import check, checked_fields
from wellposed.guarantee import Guarantee
from wellposed.solvers.anderson import Anderson, AndersonIteration
from wellposed.solvers.base import Iteration, Solver
from wellposed.solvers.problem import Problem

# Rates are looked at after so many steps, and again at every doubling; each is that of the steps since half of them.
_FIRST_REVIEW = 8


@checked_fields
@dataclass(frozen=True)
class Adaptive(Solver):
    """Picard while its observed rate is good, else Anderson acceleration with its safeguard; each sample on its own.

    Args:
        rate: a sample whose residual falls by less than this factor per step is accelerated from then on.
        memory: number of previous differences mixed in, as in `Anderson`; nothing is kept while no sample needs it.
    """

    rate: float = 0.85
    memory: int = 5

    def __post_init__(self) -> None:
        check(0.0 < self.rate <= 1.0, "rate", self.rate, "must lie in (0, 1]")
        check(self.memory >= 1, "memory", self.memory, "must be at least 1")

    @override
    def bind(self, problem: Problem, guarantee: Guarantee | None, start: Tensor | None, like: Tensor) -> Iteration:
        return _AdaptiveIteration(problem, guarantee, torch.zeros_like(like) if start is None else start, self)


class _AdaptiveIteration(AndersonIteration):
    rowwise: tuple[str, ...] = ("point", "image", "_then", "_accelerated")

    def __init__(self, problem: Problem, guarantee: Guarantee | None, start: Tensor, options: Adaptive) -> None:
        self.problem, self.guarantee, self._options = problem, guarantee, options
        self.point = self.image = start
        self._then = start.new_full(
            (start.shape[0],), torch.inf
        )  # residual when half of the steps to the review were done
        self._accelerated = torch.zeros_like(self._then, dtype=torch.bool)
        self._steps, self._review, self._mixes = 0, _FIRST_REVIEW, False
        self.algorithm = "Picard"

    @override
    def advance(self) -> None:
        if self._mixes:
            super().advance()
        else:
            self.point = self.image
            self.image = self.problem.evaluate(self.point)
        self._steps += 1
        if 2 * self._steps == self._review:
            self._then = self.residual_norm()
        elif self._steps == self._review:
            self._judge_rates()

    def _judge_rates(self) -> None:
        now, half = self.residual_norm(), self._review // 2
        self._then, slow = now, now > self._then * self._options.rate**half
        self._accelerated = self._accelerated | slow
        self._review *= 2
        if not self._mixes and bool(slow.any()):
            self._begin_mixing()

    def _begin_mixing(self) -> None:
        point, image, size = self.point, self.image, self.residual_norm()
        AndersonIteration.__init__(self, self.problem, self.guarantee, image, Anderson(self._options.memory))
        self.rowwise = (*AndersonIteration.rowwise, "_then", "_accelerated")
        self.point, self._size, self._reference, self._taken = point, size, size, 1
        self._residual = self._kept_residual = (image - point).reshape(self._residual.shape)
        self._mixes, self.algorithm = True, "Picard, then Anderson"

    @override
    def residual_norm(self) -> Tensor:
        return super().residual_norm() if self._mixes else self.norm(self.image - self.point)

    @override
    def _accepts(self, size: Tensor) -> Tensor:
        return super()._accepts(size) | ~self._accelerated

    @override
    def _weights(self, residual: Tensor) -> Tensor:
        return super()._weights(residual) * self._accelerated[:, None, None]
