"""The globalisation that both Newton methods share: halve the step while the residual does not fall, then fall back."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.guarantee import Guarantee
from wellposed.numerics.euclidean import euclidean
from wellposed.solvers.base import Iteration
from wellposed.solvers.problem import Problem

_HALVINGS = 6


class NewtonIteration(Iteration):
    """Newton on f(z) − z = 0; each step evaluates the map once and each sample keeps its own step length."""

    rowwise = ("point", "image", "_base", "_direction", "_picard", "_length", "_least", "_next")

    def __init__(self, problem: Problem, guarantee: Guarantee | None, start: Tensor) -> None:
        self.problem, self.guarantee = problem, guarantee
        self.point = self.image = self._base = self._picard = self._next = start
        self._direction = torch.zeros_like(start)
        self._length = start.new_ones(start.shape[0])
        self._least = start.new_full((start.shape[0],), torch.inf)

    @abstractmethod
    def direction(self, point: Tensor, residual: Tensor) -> Tensor:
        """An approximate solution d of (I − J)·d = residual, J the Jacobian of the map at ``point``."""

    @override
    def advance(self) -> None:
        self.point = self._next
        self.image = self.problem.evaluate(self.point)
        residual = self.image - self.point
        size = euclidean(residual)
        fell = (size < self._least) | (self._length < 0.5**_HALVINGS)  # a fallback step is always taken
        if self.guarantee is not None and self.guarantee.is_concave:
            fell = torch.isfinite(size)
        wide = fell.reshape(-1, *([1] * (self.image.ndim - 1)))
        self._base = torch.where(wide, self.point, self._base)
        self._picard = torch.where(wide, self.image, self._picard)
        self._least = torch.where(fell, size, self._least)
        if bool(fell.any()):
            direction = self.direction(self.point, residual)
            direction = torch.where(torch.isfinite(direction), direction, residual)
            self._direction = torch.where(wide, direction, self._direction)
        self._length = torch.where(fell, 1.0, 0.5 * self._length)
        trial = self._base + self._length.reshape(wide.shape) * self._direction
        exhausted = (self._length < 0.5**_HALVINGS).reshape(wide.shape)
        self._next = self.admitted(torch.where(exhausted, self._picard, trial))
