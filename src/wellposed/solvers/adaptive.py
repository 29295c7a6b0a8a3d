"""Picard iteration while it converges well, else Anderson acceleration while that is faster."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import check, checked_fields
from wellposed.guarantee import Guarantee
from wellposed.solvers.anderson import Anderson, AndersonIteration
from wellposed.solvers.base import PATIENCE, Iteration, Solver
from wellposed.solvers.problem import Problem

# Rates are observed after so many steps, and again at every doubling; each is that of the steps since the last time.
_FIRST_REVIEW = 8
# Anderson's rate is observed for as many steps at first, and if that was not worth it once more, for twice as many.
_TRIALS = 2
# A step of Anderson takes about as long as 1 + 256/n + 0.3 steps of a dense map of n features, at most so many.
_DEAREST, _DENSE, _LEAST = 4.0, 256.0, 1.3
# What Anderson's rate is hoped to be: it is not tried where that would not be worth its steps.
_HOPED = 0.7
# Where Picard's residuals grow, Anderson's at least fall.
_FALLING = 0.999


@checked_fields
@dataclass(frozen=True)
class Adaptive(Solver):
    """Picard while its observed rate is good, else Anderson acceleration where that is faster.

    The rate is that of the largest relative residual of the batch. Both ways are observed, and the other one is taken where it
    was faster, counting what a step costs: of small states, a step of Anderson costs several of Picard.

    Args:
        rate: Anderson acceleration is tried where residuals fall by less than this factor per step.
        memory: number of previous differences mixed in, as in `Anderson`; nothing is kept before.
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
    rowwise: tuple[str, ...] = ("point", "image", "_then")
    patience = 3 * PATIENCE  # as what one way has lost, the other may have to make good first
    _least: Tensor  # residuals of each sample's best iterate so far, as those of Anderson's go up and down

    def __init__(self, problem: Problem, guarantee: Guarantee | None, start: Tensor, options: Adaptive) -> None:
        self.problem, self.guarantee, self._options = problem, guarantee, options
        self.point = self.image = start
        self._dear = min(_LEAST + _DENSE / max(start[0].numel(), 1), _DEAREST)
        self._slow = max(options.rate, _HOPED ** (1.0 / self._dear))
        self._then = start.new_zeros(start.shape[0])  # residuals at the step `_since`
        self._plain_rate = self._mixed_rate = 0.0  # as last observed; zero before that
        self._grows = False  # whether a residual did at that time, but for rounding, by Picard
        self._floor = torch.finfo(start.dtype).eps ** (2 / 3)
        self._steps, self._since, self._review = 0, _FIRST_REVIEW // 2, _FIRST_REVIEW
        self._mixes, self._trials = False, 0
        self.algorithm = "Picard"

    @override
    def advance(self) -> None:
        if self._mixes:
            super().advance()
            self._least = torch.fmin(self._least, self._size)
        else:
            self.point = self.image
            self.image = self.problem.evaluate(self.point)
        self._steps += 1
        if self._steps == self._since:
            self._then = self.residual_norm()
        elif self._steps == self._review:
            self._judge_rates()

    def _judge_rates(self) -> None:
        now, steps = self._least if self._mixes else self.residual_norm(), self._steps
        size = torch.maximum(self.norm(self.image), self.norm(self.point))
        relative = (torch.stack((self._then, now)) / size).nan_to_num_(nan=0.0, posinf=0.0)
        grown = (now >= self._then) & (relative[1] > self._floor)
        before, after, grows = torch.cat((relative.amax(1), grown.any()[None])).tolist()
        rate = (after / before) ** (1.0 / (steps - self._since)) if before > 0.0 else 0.0
        if self._mixes:
            self._mixed_rate = rate
        else:
            self._plain_rate, self._grows = rate, bool(grows)
        plain, mixed = self._plain_rate, self._mixed_rate
        worth = self._trials > 0 and plain > self._slow and mixed <= plain**self._dear
        mixes = mixed < _FALLING if self._grows else worth
        self._then, self._since, self._review = now, steps, 2 * steps
        if not mixes and not self._mixes and self._trials < _TRIALS and plain > self._slow ** (0.5**self._trials):
            mixes, self._review = True, steps + (_FIRST_REVIEW << self._trials)
            self._trials += 1
        if mixes and not self._mixes:
            self._begin_mixing()
        if self._mixes and not mixes:  # from the last point that was accepted
            shape = self.image.shape
            self.image, self.point = self._kept_image.view(shape), (self._kept_image - self._kept_residual).view(shape)
        self._mixes = mixes

    def _begin_mixing(self) -> None:
        point, image, size = self.point, self.image, self.residual_norm()
        AndersonIteration.__init__(self, self.problem, self.guarantee, image, Anderson(self._options.memory))
        self.rowwise = (*AndersonIteration.rowwise, "_then", "_least")
        self._least = size
        self.point, self._size, self._reference, self._taken = point, size, size, 1
        self._seen = self._kept_image
        self._residual = self._kept_residual = (image - point).reshape(self._residual.shape)
        self.algorithm = "Picard, then Anderson"

    @override
    def residual_norm(self) -> Tensor:
        return super().residual_norm() if self._mixes else self.norm(self.image - self.point)
