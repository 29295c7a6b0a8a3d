"""The loop for solves that are judged by residuals: steps measured in working precision, looked at in groups.

A look waits for the device, so it comes when the observed rate says that samples can be done, and judges the steps since the
last one: all of them, or of cheap iterations the first and every second one. Each sample ends at the first of these steps at
which its residual is within tolerance, whenever that was looked at and whoever else is in the batch. What is one number per
sample is kept on the host, as numpy arrays. Norms whose squares could under- or overflow are taken again by `euclidean`.
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
from wellposed.solvers.solution import Outcome, Report, Status

# A residual that has not fallen for this many steps is at its floor, or grows, or goes in circles.
PATIENCE = 30
# A look comes at least this often.
_SPACING = 8
# So many states are kept at most while some samples of the batch are done and the others are about to be.
_WINDOW = 8
# Rates of convergence are taken to be within these limits when the next look is planned.
_LEAST_RATE, _LARGEST_RATE = 0.02, 0.98

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
        self.iteration, self.rtol, self.max_steps, self.like = iteration, rtol, max_steps, like
        batch = like.shape[0]
        self.value: Tensor | None = None  # of what is finished; None while nothing is
        self.codes, self.steps = np.zeros(batch, np.int8), np.zeros(batch, np.int64)
        self.residual = np.zeros(batch)
        self.live_atol: Any = atol.cpu().numpy() if isinstance(atol, Tensor) else atol
        self.range = trusted_range(like.dtype)
        self.plain = True  # every sample is open, and all norms were within the trusted range
        self.live_rows = np.arange(batch)  # which sample each live row is
        self.live_open = np.ones(batch, np.bool_)  # which are not finished
        self.live_best = torch.zeros_like(like) if start is None else start  # the value of the least residual so far
        self.live_least = np.full(batch, math.inf)  # that residual
        self.live_stale: Array | int = 0  # steps since then
        self._use(working_norm)
        self.last = 0  # the last step of the group before
        self._begin_group(0, None)

    def _use(self, norm: Callable[[Tensor], Tensor]) -> None:
        self.norm = self.iteration.norm = norm

    def _begin_group(self, last: int, before: float | None) -> None:
        self.last = last
        self.before = before  # the largest ratio of residual to limit at that step
        self.judged: list[int] = []  # the steps of this group
        self.images: list[Tensor] = []
        self.residuals: list[Tensor] = []
        self.sizes: list[Tensor] = []

    def run(self) -> Outcome:
        """Iterate until every sample is finished."""
        with np.errstate(all="ignore"):
            iteration, most, due = self.iteration, self.max_steps, 2
            for step in range(1, most + 1):
                iteration.advance()
                if step % iteration.judged_every and 1 < step < most:
                    continue
                image = iteration.image
                self.judged.append(step)
                self.images.append(image)
                self.residuals.append(iteration.residual_norm())
                self.sizes.append(self.norm(image))
                if step >= due or step == most:
                    wait = self._look(step)
                    if not wait:
                        break
                    due = step + wait - (step + wait) % iteration.judged_every  # rather too early than too late
        assert self.value is not None  # the last step finishes all
        device = self.like.device
        codes, residual, steps = (
            torch.from_numpy(array).to(device) for array in (self.codes, self.residual, self.steps)
        )
        return Outcome(self.value, Report(codes, residual, steps, None, self.iteration.algorithm))

    def _look(self, step: int) -> int:
        """Judge the steps of this group; returns how many more to take before the next look, zero where all are finished."""
        residuals, limits = self._measured()
        if self.plain and step < self.max_steps:
            wait = self._look_briefly(step, residuals, limits)
            if wait is not None:
                return wait
        self.plain = False
        within = residuals <= limits
        ended = np.asarray(within.any(0)) & self.live_open
        left = self.live_open & ~ended
        if not left.any():
            self._record(step, residuals, within, self.live_open, 0, None)  # the code of CONVERGED
            return 0
        largest = (residuals / limits).max(1, where=left, initial=0.0)
        wait = self._wait(largest)
        if step < self.max_steps and bool((residuals[-1] < self.live_least)[left].all()):  # all is well
            if not ended.any():
                self.live_least, self.live_best, self.live_stale = residuals[-1], self.images[-1], 0
                self._begin_group(step, float(largest[-1]))
                return wait
            if len(self.images) + wait / self.iteration.judged_every <= _WINDOW:  # the group goes on for the others
                return wait
        finished, codes = self._sorted_out(step, residuals, ended)
        if finished.any():
            self._record(step, residuals, within & finished, finished, codes, self.live_best)
            self._leave_out(self.live_open & ~finished)
        self._begin_group(step, float(largest[-1]))
        return wait if self.live_open.any() else 0

    def _look_briefly(self, step: int, residuals: Array, limits: Array) -> int | None:
        """As `_look`, where all samples are open and, of this group, none is done or all are by its last step; else None."""
        ratios = residuals / limits
        largest = np.maximum.reduce(ratios, 1)
        if largest[-1] <= 1.0 and (len(ratios) == 1 or np.minimum.reduce(ratios[:-1], None) > 1.0):
            self.value, self.residual = self.images[-1], residuals[-1].astype(np.float64)
            self.steps.fill(step)  # the codes are those of CONVERGED
            return 0
        if np.minimum.reduce(ratios, None) > 1.0 and np.logical_and.reduce(residuals[-1] < self.live_least):
            wait = self._wait(largest)
            self.live_least, self.live_best = residuals[-1], self.images[-1]
            self._begin_group(step, float(largest[-1]))
            return wait
        return None

    def _measured(self) -> tuple[Array, Array]:
        """Residuals and their limits, a row per step of this group; an impossible limit is −1."""
        count = len(self.images)
        numbers = torch.stack([*self.residuals, *self.sizes]).cpu().numpy()
        residuals, sizes = numbers[:count], numbers[count:]
        limits = sizes * self.rtol + self.live_atol
        low, high = self.range
        if self.plain and low < np.minimum.reduce(numbers, None) and np.maximum.reduce(numbers, None) < high:
            return residuals, limits
        self.plain = False
        if self.norm is not working_norm:
            return residuals, self._possible(limits, sizes)
        larger = np.maximum(residuals, limits)
        if low < larger.min() and larger.max() < high:
            return residuals, limits
        trusted = (low < larger) & (larger < high)
        # Squares were out of range somewhere: there, the last step is measured again, and earlier ones count as failed.
        self._use(euclidean)
        size = euclidean(self.images[-1]).cpu().numpy()
        residual = euclidean(self.images[-1] - self.iteration.point).cpu().numpy()
        limit = size * self.rtol + self.live_atol
        residuals, limits = np.where(trusted, residuals, math.inf), np.where(trusted, limits, -1.0)
        residuals[-1] = np.where(trusted[-1], residuals[-1], residual)
        limits[-1] = np.where(trusted[-1], limits[-1], self._possible(limit, size))
        sizes = np.concatenate([sizes[:-1], size[None]])
        self.residuals, self.sizes = (list(torch.from_numpy(a).to(self.like.device)) for a in (residuals, sizes))
        return residuals, limits

    def _possible(self, limits: Array, sizes: Array) -> Array:
        """The limits, −1 where they are no numbers, infinite, or zero by underflow."""
        possible = limits < math.inf
        if self.like.dtype == torch.float64:
            possible &= (limits > 0.0) | (sizes == 0.0)
        return np.where(possible, limits, -1.0)

    def _sorted_out(self, step: int, residuals: Array, ended: Array) -> tuple[Array, Array]:
        """Keep the best iterates of this group; returns which samples are finished, and how they fared."""
        known = np.where(np.isfinite(residuals), residuals, math.inf)
        place = known.argmin(0)
        low = np.take_along_axis(known, place[None], 0)[0]
        improved = low < self.live_least
        for index, image in enumerate(self.images):
            rows = improved & (place == index)
            if rows.any():
                self.live_best = image if rows.all() else self._chosen(rows, image, self.live_best)
        self.live_least = np.where(improved, low, self.live_least)
        self.live_stale = np.where(
            improved, step - np.asarray(self.judged)[place], self.live_stale + (step - self.last)
        )
        failed, tired = ~np.isfinite(residuals[-1]), self.live_stale >= PATIENCE
        floor = torch.finfo(self.like.dtype).eps ** (1 / 3)
        stuck = np.zeros_like(tired)
        if tired.any():
            stuck = self.live_least <= floor * euclidean(self.live_best).cpu().numpy()
        codes = np.full(len(ended), Status.MAX_STEPS.code, np.int8)
        for rows, status in (
            (tired & stuck, Status.STALLED), (tired & ~stuck, Status.DIVERGED), (failed, Status.NONFINITE),
            (ended, Status.CONVERGED),
        ):  # fmt: skip
            codes[rows] = status.code
        every = step >= self.max_steps
        return self.live_open & (ended | failed | tired | every), codes

    def _record(
        self, step: int, residuals: Array, within: Array, finished: Array, codes: Array | int, otherwise: Tensor | None
    ) -> None:
        """Store what is finished: the first value within the limit, or else ``otherwise``, which is None where all are within."""
        place = within.argmax(0)
        steps, found = np.asarray(self.judged)[place], residuals[place, np.arange(len(place))]
        if otherwise is None:
            value, first = self.images[-1], int(place.min())
        else:
            value, first, ended = otherwise, 0, within.any(0)
            steps, found = np.where(ended, steps, step), np.where(ended, found, self.live_least)
            place = np.where(ended, place, -1)
        for index in range(first, int(place.max()) + 1):
            rows = place == index
            if rows.all():
                value = self.images[index]
            elif rows.any() and self.images[index] is not value:
                value = self._chosen(rows, self.images[index], value)
        into = self.live_rows[finished]
        self.codes[into] = codes if isinstance(codes, int) else codes[finished]
        self.steps[into], self.residual[into] = steps[finished], found[finished]
        if self.value is None:
            self.value = value.clone() if value is otherwise else value
        else:
            device = self.like.device
            self.value[torch.from_numpy(into).to(device)] = value[torch.from_numpy(finished).to(device)]

    def _leave_out(self, opened: Array) -> None:
        """Go on without the finished samples where at least half are and the map can be restricted."""
        self.live_open = opened
        if not self.iteration.problem.selectable or not 0 < 2 * opened.sum() <= len(opened):
            return
        keep = torch.from_numpy(opened.nonzero()[0]).to(self.like.device)
        self.iteration.select(keep)
        self.live_best = self.live_best[keep]
        self.live_rows, self.live_least = self.live_rows[opened], self.live_least[opened]
        if isinstance(self.live_stale, np.ndarray):
            self.live_stale = self.live_stale[opened]
        if isinstance(self.live_atol, np.ndarray):
            self.live_atol = self.live_atol[opened]
        self.live_open = opened[opened]

    def _wait(self, largest: Array) -> int:
        """Steps until the largest of the ratios of residual to limit, given for the steps of this group, may be one."""
        first, last = float(largest[0]), float(largest[-1])
        if not last > 1.0:  # nothing can be said
            return 1
        if last == math.inf:
            return _SPACING
        before, since = (first, self.judged[0]) if self.before is None else (self.before, self.last)
        steps = self.judged[-1] - since
        ratio = last / before if before > 0.0 and steps > 0 else math.nan
        rate = min(max(ratio, 0.0) ** (1.0 / max(steps, 1)), _LARGEST_RATE) if math.isfinite(ratio) else _LARGEST_RATE
        rate = max(rate, _LEAST_RATE)
        return min(max(math.ceil(math.log(last) / -math.log(rate)), 1), _SPACING)

    def _chosen(self, rows: Array, yes: Tensor, no: Tensor) -> Tensor:
        return rowwise_where(torch.from_numpy(rows).to(self.like.device), yes, no)
