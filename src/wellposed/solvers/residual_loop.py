"""The loop for solves that are judged by residuals, in working precision, at steps where these may be small enough.

A look waits for the device, so it comes when the observed rate says that samples can be done. Each sample is judged by its own
residual. One that is within its tolerance goes on with the others, which costs nothing and makes it more exact, until at least
half of the batch is finished and the map can be restricted to the rest. What is one number per sample is kept on the host, as
numpy arrays. Norms whose squares could under- or overflow are taken again by `euclidean`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wellposed.numerics.euclidean import euclidean, rowwise_where, trusted_range, working_norm
from wellposed.solvers.base import Iteration
from wellposed.solvers.looking import rate_seen, wait
from wellposed.solvers.solution import Outcome, Report, Status

# A look comes at least this often.
_SPACING = 8
# So many candidates in a row may be rejected, as they are not finite.
_REJECTIONS = 4
# The code of a sample that is not finished.
_OPEN = -1

Array = np.ndarray[Any, np.dtype[Any]]


class ResidualLoop:
    """The state of one run. Whatever is named ``live_*`` has a row per sample still in the batch.

    Args:
        iteration: the algorithm, bound to its problem.
        start: first iterate, shape (batch, *state), or None for zero.
        like: a tensor of the state's shape, dtype and device.
        rtol: relative tolerance, see `Tolerance`.
        atol: absolute tolerance, or one per sample.
        max_steps: limit on the iterations of each sample.
    """

    def __init__(
        self,
        iteration: Iteration,
        start: Tensor | None,
        like: Tensor,
        rtol: float,
        atol: float | Tensor,
        max_steps: int,
    ) -> None:
        self.iteration, self.start, self.like = iteration, start, like
        self.rtol, self.max_steps = rtol, max_steps
        batch = like.shape[0]
        self.value: Tensor | None = None  # of what has left the batch; None while nothing has
        self.codes, self.steps = np.zeros(batch, np.int8), np.zeros(batch, np.int64)
        self.residual = np.zeros(batch)
        self.live_atol: Any = atol.cpu().numpy() if isinstance(atol, Tensor) else atol
        self.range = trusted_range(like.dtype)
        self.plain = True  # no sample has failed or left, and all norms were in the trusted range
        self.some_done = False  # a sample was within its tolerance, or got worse
        self.live_rows = np.arange(batch)  # which sample each live row is
        self.live_codes = np.full(batch, _OPEN, np.int8)
        self.live_kept = torch.zeros_like(like) if start is None else start  # the value of each sample so far
        self.live_least = np.full(batch, math.inf)  # its residual
        self.live_steps = np.zeros(batch, np.int64)  # the step that it is of
        self.live_lost = np.zeros(batch, np.int64)  # at how many looks in a row its residual was not finite
        self.looked = 0  # the step of the last look
        self.ratio = math.inf  # the largest of residual to limit at that step
        self._use(working_norm)

    def _use(self, norm: Callable[[Tensor], Tensor]) -> None:
        self.norm = self.iteration.norm = norm

    def run(self) -> Outcome:
        """Iterate until every sample is finished."""
        with np.errstate(all="ignore"):
            due = 1
            for step in range(1, self.max_steps + 1):
                self.iteration.advance()
                if step == due or step == self.max_steps:
                    waiting = self._look(step)
                    if not waiting:
                        break
                    due = step + waiting
        assert self.value is not None  # the last step finishes all
        device = self.like.device
        codes, residual, steps = (
            torch.from_numpy(array).to(device) for array in (self.codes, self.residual, self.steps)
        )
        return Outcome(self.value, Report(codes, residual, steps, None, self.iteration.algorithm))

    def _look(self, step: int) -> int:
        """Judge this step; returns how many more to take before the next look, zero where all are finished."""
        residual, limit = self._measured()
        ratio = residual / limit
        if self.plain and not self.some_done and step < self.max_steps:
            worst = float(np.maximum.reduce(ratio))
            if worst <= 1.0:
                self.value, self.residual = self.iteration.image, residual.astype(np.float64)
                self.steps.fill(step)  # the codes are those of CONVERGED
                return 0
            if np.minimum.reduce(ratio) > 1.0 and np.logical_and.reduce(residual < self.live_least):
                self.live_kept, self.live_least = self.iteration.image, residual
                self.live_steps = np.full(len(residual), step)
                return self._wait(step, worst)
        self.some_done = True
        self._keep(step, residual, residual <= limit)
        finished = self.live_codes != _OPEN
        self.plain &= not (self.live_codes > Status.CONVERGED.code).any()
        left, worst = int((~finished).sum()), float(ratio.max(where=~finished, initial=0.0))
        if not left or (2 * left <= len(finished) and self.iteration.problem.selectable):
            self.plain = False
            self._leave_out(finished)
        return self._wait(step, worst) if left else 0

    def _measured(self) -> tuple[Array, Array]:
        """Residuals and their limits at this step; an impossible limit is −1."""
        image = self.iteration.image
        numbers = torch.stack((self.iteration.residual_norm(), self.norm(image))).cpu().numpy()
        residual, size = numbers
        limit = size * self.rtol + self.live_atol
        low, high = self.range
        if self.plain and low < np.minimum.reduce(numbers, None) and np.maximum.reduce(numbers, None) < high:
            return residual, limit
        self.plain = False
        if self.norm is working_norm:
            larger = np.maximum(residual, limit)
            if low < larger.min() and larger.max() < high:
                return residual, limit
            self._use(euclidean)  # squares were out of range somewhere
            size = euclidean(image).cpu().numpy()
            residual = euclidean(image - self.iteration.point).cpu().numpy()
            limit = size * self.rtol + self.live_atol
        return residual, self._possible(limit, size)

    def _possible(self, limit: Array, size: Array) -> Array:
        """The limits, −1 where they are no numbers, infinite, or zero by underflow."""
        possible = limit < math.inf
        if self.like.dtype == torch.float64:
            possible &= (limit > 0.0) | (size == 0.0)
        return np.where(possible, limit, -1.0)

    def _keep(self, step: int, residual: Array, within: Array) -> None:
        """Keep the iterates that are within their tolerance or better than before, and say which samples are finished."""
        codes, every = self.live_codes, step >= self.max_steps
        opened, converged = codes == _OPEN, Status.CONVERGED.code
        better = (opened & within) | ((opened | ((codes == converged) & within)) & (residual < self.live_least))
        if better.any():
            image = self.iteration.image
            self.live_kept = image if better.all() else self._chosen(better, image, self.live_kept)
        self.live_least = np.where(better, residual, self.live_least)
        self.live_steps = np.where(better, step, self.live_steps)
        lost = ~np.isfinite(residual)
        self.live_lost = np.where(lost, self.live_lost + 1, 0)
        failed = lost & (every | (self.live_lost > _REJECTIONS))
        tired = step - self.live_steps >= self.iteration.patience
        stuck = np.zeros_like(tired)
        if (tired & opened).any():
            floor = torch.finfo(self.like.dtype).eps ** (1 / 3)
            stuck = self.live_least <= floor * euclidean(self.live_kept).cpu().numpy()
        for rows, status in (
            (every, Status.MAX_STEPS), (tired & stuck, Status.STALLED), (tired & ~stuck, Status.DIVERGED),
            (failed, Status.NONFINITE), (within, Status.CONVERGED),
        ):  # fmt: skip
            codes[opened & rows] = status.code
        self.live_steps[opened & (codes > converged)] = step

    def _leave_out(self, finished: Array) -> None:
        """Store what is finished, and go on with the others alone, if there are any."""
        into, whole = self.live_rows[finished], bool(finished.all())
        self.codes[into], self.steps[into] = self.live_codes[finished], self.live_steps[finished]
        self.residual[into] = self.live_least[finished]
        if self.value is None:
            self.value = self.live_kept if whole and self.live_kept is not self.start else self.live_kept.clone()
        else:
            device = self.like.device
            rows, chosen = (torch.from_numpy(places).to(device) for places in (into, finished))
            self.value[rows] = self.live_kept[chosen]
        if whole:
            return
        keep = torch.from_numpy((~finished).nonzero()[0]).to(self.like.device)
        self.iteration.select(keep)
        self.live_kept = self.live_kept[keep]
        for name in ("rows", "codes", "least", "steps", "lost"):
            setattr(self, f"live_{name}", getattr(self, f"live_{name}")[~finished])
        if isinstance(self.live_atol, np.ndarray):
            self.live_atol = self.live_atol[~finished]

    def _wait(self, step: int, worst: float) -> int:
        """Steps until the largest ratio of residual to limit, of the samples that are not finished, may be one.

        Args:
            step: of this look.
            worst: that ratio now.
        """
        before, since = self.ratio, step - self.looked
        self.ratio, self.looked = worst, step
        if not worst > 1.0 or step == 1:  # nothing can be said
            return 1
        if worst == math.inf:
            return _SPACING
        return min(max(wait(worst, 1.0, rate_seen(worst, before, since)), 1), _SPACING)

    def _chosen(self, rows: Array, yes: Tensor, no: Tensor) -> Tensor:
        return rowwise_where(torch.from_numpy(rows).to(self.like.device), yes, no)
