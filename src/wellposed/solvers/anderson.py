"""Anderson acceleration (type II), one small least-squares problem per sample.

The least squares are solved by QR, newest difference first, on columns of unit length: nothing depends on the scale of the
problem (an absolute ridge turns mixing into averaging as soon as residuals are small), and differences that add nothing
new are left out. A candidate whose residual grew is rejected: the sample mixes again from its last accepted point, now
knowing more, and after a second rejection takes a Picard step with an empty history.
"""

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

# A candidate whose residual grew more than this is rejected.
_TOLERATED_GROWTH = 2.0


@checked_fields
@dataclass(frozen=True)
class Anderson(Solver):
    """Anderson acceleration with safeguard.

    Args:
        memory: number of previous differences mixed in; extra memory is 2·memory states.
        dependence: a difference is left out when less than this fraction of its length is new; None for eps^(3/4).
    """

    memory: int = 5
    dependence: float | None = None

    def __post_init__(self) -> None:
        check(self.memory >= 1, "memory", self.memory, "must be at least 1")
        fraction = self.dependence is None or 0.0 <= self.dependence < 1.0
        check(fraction, "dependence", self.dependence, "must lie in [0, 1)")

    @override
    def bind(self, problem: Problem, guarantee: Guarantee | None, start: Tensor | None, like: Tensor) -> Iteration:
        return _AndersonIteration(problem, guarantee, torch.zeros_like(like) if start is None else start, self)


class _AndersonIteration(Iteration):
    rowwise = (
        "point", "image", "_next", "_residual", "_residuals", "_images", "_kept_image", "_kept_residual", "_reference",
        "_rejections",
    )  # fmt: skip

    def __init__(self, problem: Problem, guarantee: Guarantee | None, start: Tensor, options: Anderson) -> None:
        self.problem, self.guarantee = problem, guarantee
        self._dependence = torch.finfo(start.dtype).eps ** 0.75 if options.dependence is None else options.dependence
        rows = start.reshape(start.shape[0], -1)
        self.point = self.image = self._next = self._kept_image = start
        self._residual = self._kept_residual = torch.zeros_like(rows)
        self._residuals = rows.new_zeros(rows.shape[0], options.memory, rows.shape[1])
        self._images = torch.zeros_like(self._residuals)
        self._reference = rows.new_full((rows.shape[0],), torch.inf)  # residual of the last accepted point
        self._rejections = torch.zeros(rows.shape[0], dtype=torch.int64, device=rows.device)  # in a row
        self._started = False

    def advance(self) -> None:
        previous_image = self.image
        self.point = self._next
        self.image = self.problem.evaluate(self.point)
        batch = self.image.shape[0]
        residual = (self.image - self.point).reshape(batch, -1)
        size = euclidean(residual)
        if self._started:  # a secant is as good from a rejected point as from an accepted one
            self._residuals = _pushed(self._residuals, residual - self._residual)
            self._images = _pushed(self._images, (self.image - previous_image).reshape(batch, -1))
        self._started = True
        self._residual = residual
        accepted = (size <= _TOLERATED_GROWTH * self._reference) | (self._rejections >= 2)
        self._rejections = torch.where(accepted, 0, self._rejections + 1)
        wide = accepted.reshape(-1, *([1] * (self.image.ndim - 1)))
        self._kept_image = torch.where(wide, self.image, self._kept_image)
        self._kept_residual = torch.where(accepted[:, None], residual, self._kept_residual)
        self._reference = torch.where(accepted, size, self._reference)
        fallback = self._rejections >= 2
        if bool(fallback.any()):
            self._residuals = self._residuals * ~fallback[:, None, None]
        self._next = self.admitted(self._kept_image - self._correction(self._kept_residual).reshape(self.image.shape))

    def _correction(self, residual: Tensor) -> Tensor:
        length = euclidean(self._residuals.flatten(0, 1)).reshape(self._residuals.shape[:2])
        usable = (length > 0) & torch.isfinite(length) & torch.isfinite(self._images).all(2)
        scale = torch.where(usable, length, 1.0).reciprocal()[:, :, None].to(residual)
        columns = torch.where(usable[:, :, None], self._residuals * scale, 0.0)
        images = torch.where(usable[:, :, None], self._images * scale, 0.0)
        frame, triangle = torch.linalg.qr(columns.mT)
        width = triangle.shape[1]  # the memory may exceed the size of the state: then the oldest are left out
        new = triangle.diagonal(dim1=1, dim2=2).abs() > self._dependence
        triangle = torch.where(
            new[:, :, None], triangle[:, :, :width], torch.eye(width, dtype=triangle.dtype, device=triangle.device)
        )
        right = torch.where(new, (frame.mT @ residual[:, :, None]).squeeze(2), 0.0)
        weights = torch.linalg.solve_triangular(triangle, right[:, :, None], upper=True)
        return torch.nan_to_num((weights * images[:, :width]).sum(1), nan=0.0, posinf=0.0, neginf=0.0)


def _pushed(history: Tensor, newest: Tensor) -> Tensor:
    return torch.cat([newest[:, None], history[:, :-1]], 1)
