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
# A sample goes back to Picard for good where a step of Anderson is not worth so many of Picard.
_SPEED_UP = 2.0


@checked_fields
@dataclass(frozen=True)
class Adaptive(Solver):
    """Picard while its observed rate is good, else Anderson acceleration where that is faster; each sample on its own.

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
    rowwise: tuple[str, ...] = ("point", "image", "_then", "_accelerated", "_plain_rate")

    def __init__(self, problem: Problem, guarantee: Guarantee | None, start: Tensor, options: Adaptive) -> None:
        self.problem, self.guarantee, self._options = problem, guarantee, options
        self.point = self.image = start
        self._then = start.new_full(
            (start.shape[0],), torch.inf
        )  # residual when half of the steps to the review were done
        self._accelerated = torch.zeros_like(self._then, dtype=torch.bool)
        self._plain_rate = self._then  # of those that were ever accelerated, before that; else infinite
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
        if not self._mixes and bool(
            (now <= self._options.rate**half * self._then).all()
        ):  # the common case: all is well
            self._then, self._review = now, 2 * self._review
            return
        rate = (now / self._then) ** (1.0 / half)
        useless = (self._plain_rate < 1.0) & ~(rate <= self._plain_rate**_SPEED_UP)
        slow = (self._plain_rate == torch.inf) & (rate > self._options.rate)
        self._plain_rate = torch.where(slow, rate, self._plain_rate)
        self._accelerated = (self._accelerated & ~useless) | slow
        self._then, self._review = now, 2 * self._review
        mixes = bool(self._accelerated.any())
        if mixes and not self._mixes:
            self._begin_mixing()
        self._mixes = mixes

    def _begin_mixing(self) -> None:
        point, image, size = self.point, self.image, self.residual_norm()
        AndersonIteration.__init__(self, self.problem, self.guarantee, image, Anderson(self._options.memory))
        self.rowwise = (*AndersonIteration.rowwise, "_then", "_accelerated", "_plain_rate")
        self.point, self._size, self._reference, self._taken = point, size, size, 1
        self._residual = self._kept_residual = (image - point).reshape(self._residual.shape)
        self.algorithm = "Picard, then Anderson"

    @override
    def residual_norm(self) -> Tensor:
        return super().residual_norm() if self._mixes else self.norm(self.image - self.point)

    @override
    def _accepts(self, size: Tensor) -> Tensor:
        return super()._accepts(size) | ~self._accelerated

    @override
    def _weights(self, residual: Tensor) -> Tensor:
        return super()._weights(residual) * self._accelerated[:, None, None]
