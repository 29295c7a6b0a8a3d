"""Broyden's good method on f(z) − z = 0, one bounded rank-``memory`` inverse Jacobian per sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import check, checked_fields
from wellposed.guarantee import Guarantee
from wellposed.numerics.euclidean import euclidean
from wellposed.solvers.base import Iteration, Solver
from wellposed.solvers.problem import Problem

# A step that more than doubles the residual is undone.
_TOLERATED_GROWTH = 2.0


@checked_fields
@dataclass(frozen=True)
class Broyden(Solver):
    """Quasi-Newton with bounded memory: the inverse Jacobian starts over when its memory is full.

    Args:
        memory: rank of the kept update; extra memory is 2·memory states.
    """

    memory: int = 10

    def __post_init__(self) -> None:
        check(self.memory >= 1, "memory", self.memory, "must be at least 1")

    @override
    def bind(self, problem: Problem, guarantee: Guarantee | None, start: Tensor | None, like: Tensor) -> Iteration:
        return _BroydenIteration(problem, guarantee, torch.zeros_like(like) if start is None else start, self.memory)


class _BroydenIteration(Iteration):
    # The inverse Jacobian of f(z) − z is kept as −I + Σ u vᵀ; zero rows are an empty memory.
    rowwise = ("point", "image", "_next", "_residual", "_left", "_right", "_used", "_accepted", "_reference", "_forced")

    def __init__(self, problem: Problem, guarantee: Guarantee | None, start: Tensor, memory: int) -> None:
        self.problem, self.guarantee = problem, guarantee
        rows = start.reshape(start.shape[0], -1)
        self.point = self.image = self._next = self._accepted = start
        self._residual = torch.full_like(rows, torch.nan)
        self._left = rows.new_zeros(rows.shape[0], memory, rows.shape[1])
        self._right = torch.zeros_like(self._left)
        self._used = torch.zeros(rows.shape[0], dtype=torch.int64, device=rows.device)
        self._reference = rows.new_full((rows.shape[0],), torch.inf)
        self._forced = torch.zeros_like(self._reference, dtype=torch.bool)  # a fallback step is always taken

    def advance(self) -> None:
        moved = (self._next - self.point).reshape(self.point.shape[0], -1)
        self.point = self._next
        self.image = self.problem.evaluate(self.point)
        residual = (self.image - self.point).reshape(moved.shape)
        size = euclidean(residual)
        good = (size <= _TOLERATED_GROWTH * self._reference) | self._forced
        self._update(moved, residual - self._residual, good)
        wide = good.reshape(-1, *([1] * (self.image.ndim - 1)))
        self._accepted = torch.where(wide, self.image, self._accepted)
        self._reference = torch.where(good, size, self._reference)
        self._forced = ~good
        self._residual = torch.where(good[:, None], residual, torch.nan)
        step = -self._inverse(residual)
        self._next = self.admitted(torch.where(wide, self.point + step.reshape(self.point.shape), self._accepted))

    def _inverse(self, vector: Tensor) -> Tensor:
        inner = (self._right @ vector[:, :, None]).squeeze(2)
        return torch.einsum("bm,bmn->bn", inner, self._left) - vector

    def _update(self, moved: Tensor, change: Tensor, good: Tensor) -> None:
        memory = self._left.shape[1]
        # The update does not depend on the common scale of both, and products of tiny differences would underflow.
        scale = 1.0 / euclidean(change).clamp_min(torch.finfo(change.dtype).tiny)[:, None]
        moved, change = (moved * scale).to(moved), (change * scale).to(change)
        inner = (self._left @ moved[:, :, None]).squeeze(2)
        row = torch.einsum("bm,bmn->bn", inner, self._right) - moved  # movedᵀ · inverse
        denominator = (row * change).sum(1, keepdim=True)
        column = (moved - self._inverse(change)) / denominator
        usable = good & torch.isfinite(column).all(1) & torch.isfinite(row).all(1) & (denominator[:, 0] != 0.0)
        full = self._used >= memory
        empty = (full | ~good)[:, None, None]
        left = torch.where(empty, 0.0, self._left)
        right = torch.where(empty, 0.0, self._right)
        self._used = torch.where(empty[:, 0, 0], 0, self._used)
        store = usable & ~full
        rows = torch.arange(len(store), device=store.device)
        slot = self._used.clamp_max(memory - 1)
        left[rows, slot] = torch.where(store[:, None], column, left[rows, slot])
        right[rows, slot] = torch.where(store[:, None], row, right[rows, slot])
        self._left, self._right = left, right
        self._used = self._used + store.long()
