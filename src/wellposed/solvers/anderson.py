"""Anderson acceleration (type II), one small least-squares problem per sample.

Differences of residuals are kept in a ring, scaled to unit length, with the matrix of their inner products, of which a step
renews one row: nothing depends on the scale of the problem (an absolute ridge turns mixing into averaging as soon as
residuals are small), and a ridge relative to unit length keeps directions out that are lost in rounding. A candidate whose
residual grew is rejected: the sample mixes again from its last accepted point, now knowing more, and after a second
rejection takes a Picard step with an empty history.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import check, checked_fields
from wellposed.guarantee import Guarantee
from wellposed.solvers.base import Iteration, Solver
from wellposed.solvers.problem import Problem

# A candidate whose residual grew more than this is rejected.
_TOLERATED_GROWTH = 2.0
# The ridge is this multiple of the unit roundoff where no other is asked for.
_RIDGE = 4.0


@checked_fields
@dataclass(frozen=True)
class Anderson(Solver):
    """Anderson acceleration with safeguard.

    Args:
        memory: number of previous differences mixed in; extra memory is 2·memory states.
        dependence: a difference counts little when less than this fraction of its length is new; None for 2·eps^(1/2).
    """

    memory: int = 5
    dependence: float | None = None

    def __post_init__(self) -> None:
        check(self.memory >= 1, "memory", self.memory, "must be at least 1")
        fraction = self.dependence is None or 0.0 <= self.dependence < 1.0
        check(fraction, "dependence", self.dependence, "must lie in [0, 1)")

    @override
    def bind(self, problem: Problem, guarantee: Guarantee | None, start: Tensor | None, like: Tensor) -> Iteration:
        return AndersonIteration(problem, guarantee, torch.zeros_like(like) if start is None else start, self)


class AndersonIteration(Iteration):
    """Anderson acceleration under way."""

    rowwise: tuple[str, ...] = (
        "point", "image", "_next", "_seen", "_residual", "_size", "_residuals", "_images", "_products", "_known",
        "_kept_image", "_kept_residual", "_reference", "_rejections",
    )  # fmt: skip

    def __init__(self, problem: Problem, guarantee: Guarantee | None, start: Tensor, options: Anderson) -> None:
        self.problem, self.guarantee = problem, guarantee
        eps = torch.finfo(start.dtype).eps
        rows = _flat(start)
        batch, memory = rows.shape[0], options.memory
        ridge = _RIDGE * eps if options.dependence is None else max(options.dependence**2, eps)
        small = torch.promote_types(start.dtype, torch.float32)  # in which small systems can be factorised
        self._ridge = torch.eye(memory, dtype=small, device=start.device) * ridge
        self._tiny, self._taken = torch.finfo(start.dtype).tiny, 0
        self.point = self.image = self._next = start
        self._seen = self._residual = self._kept_residual = self._kept_image = rows
        self._residuals = rows.new_zeros(batch, memory, rows.shape[1])  # differences, of unit length
        self._images = torch.zeros_like(self._residuals)  # differences of images, over the same lengths
        self._products = self._ridge.repeat(batch, 1, 1)  # inner products of the first, with the ridge
        self._known = torch.ones(
            batch, 1, memory, dtype=small, device=rows.device
        )  # zero for differences that no longer count
        self._size = self._reference = rows.new_full((batch,), torch.inf)  # residual of the last accepted point
        self._rejections = torch.zeros(batch, dtype=torch.int64, device=rows.device)  # in a row
        self._flawless = rows.device.type == "cpu"  # nothing was rejected yet, as far as it costs little to know

    @override
    def advance(self) -> None:
        previous_image, previous_residual = self._seen, self._residual
        self.point = self._next
        self.image = self.problem.evaluate(self.point)
        self._seen, self._residual = _flat(self.image), _flat(self.image - self.point)
        self._size = self.norm(self._residual)
        self._taken += 1
        accepted = self._size <= _TOLERATED_GROWTH * self._reference
        self._flawless = self._flawless and bool(accepted.all())
        if not self._flawless:  # what is not finite tells nothing, neither now nor at the next step
            finite = self._size.isfinite()
            self._residual = torch.where(finite[:, None], self._residual, self._kept_residual)
            self._seen = torch.where(finite[:, None], self._seen, self._kept_image)
            accepted = (accepted | (self._rejections >= 2)) & finite
        if self._taken > 1:  # a secant is as good from a rejected point as from an accepted one
            self._remember(self._residual - previous_residual, self._seen - previous_image)
        self._safeguard(accepted)
        if self._taken == 1:
            self._next = self.image
            return
        mixed = torch.baddbmm(self._kept_image[:, None], self._weights(self._kept_residual), self._images, alpha=-1)
        self._next = self.admitted(mixed.view(self.image.shape))

    @override
    def residual_norm(self) -> Tensor:
        return self._size

    def _safeguard(self, accepted: Tensor) -> None:
        """Keep what was accepted, and empty histories after a second rejection."""
        if self._flawless:
            self._kept_residual, self._kept_image, self._reference = self._residual, self._seen, self._size
            return
        self._rejections = (self._rejections + 1) * ~accepted
        self._reference = torch.where(accepted, self._size, self._reference)
        wide = accepted[:, None]
        self._kept_residual = torch.where(wide, self._residual, self._kept_residual)
        self._kept_image = torch.where(wide, self._seen, self._kept_image)
        keep = (self._rejections < 2)[:, None, None]
        self._known = self._known * keep
        self._products = torch.where(keep, self._products, self._ridge)

    def _remember(self, residual: Tensor, image: Tensor) -> None:
        slot = (self._taken - 2) % len(self._ridge)
        scale = self.norm(residual).clamp_min(self._tiny).reciprocal_().to(residual.dtype)[:, None]
        scaled = residual * scale
        self._residuals = _replaced(self._residuals, slot, scaled)
        self._images = _replaced(self._images, slot, image * scale)
        row = torch.bmm(scaled[:, None], self._residuals.mT).to(self._ridge.dtype)
        if not self._flawless:
            self._known = _replaced(self._known.mT, slot, torch.ones_like(scale, dtype=self._known.dtype)).mT
            row = row * self._known
        row = (row + self._ridge[slot]).squeeze(1)
        self._products = _replaced(_replaced(self._products, slot, row).mT, slot, row)

    def _weights(self, residual: Tensor) -> Tensor:
        """The multiples of the differences of images to subtract, shape (batch, 1, memory)."""
        right = torch.bmm(residual[:, None], self._residuals.mT)  # many times as fast as with a column on the right
        right = right.to(self._ridge.dtype)
        factor, failed = torch.linalg.cholesky_ex(self._products)
        if self._flawless and not bool(failed.any()):
            return torch.cholesky_solve(right.mT, factor).mT.to(residual.dtype)
        weights = torch.cholesky_solve((right * self._known).mT, factor).mT.masked_fill(
            (failed != 0)[:, None, None], 0.0
        )
        return weights.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).to(residual.dtype)


def _flat(state: Tensor) -> Tensor:
    return state if state.ndim == 2 else state.reshape(state.shape[0], -1)


def _replaced(ring: Tensor, slot: int, newest: Tensor) -> Tensor:
    """The ring with one entry replaced: in its own memory, but where a graph needs the old one."""
    if torch.is_grad_enabled():
        ring = ring.clone()
    ring.select(1, slot).copy_(newest)
    return ring
