"""The loop for solves that are judged by residuals: every step measured in working precision, looked at in groups.

A look waits for the device, so it comes when the observed rate says that samples can be done, and judges all steps since the
last one. Each sample ends at the first step at which its residual is within tolerance, whenever that was looked at and
whoever else is in the batch. Norms whose squares could under- or overflow are taken again by `euclidean`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from wellposed.numerics.euclidean import euclidean, trusted_range, working_norm
from wellposed.solvers.base import Iteration
from wellposed.solvers.solution import Outcome, Report, Status

# A residual that has not fallen for this many steps is at its floor, or grows, or goes in circles.
PATIENCE = 30
# A look comes at least this often; so many states are kept between looks.
_WINDOW = 5
# Rates of convergence are taken to be within these limits when the next look is planned.
_LEAST_RATE, _LARGEST_RATE = 0.02, 0.98


class ResidualLoop:
    """The state of one run. Tensors named ``live_*`` have a row per sample still in the batch.

    Args:
        iteration: the algorithm, bound to its problem.
        start: first iterate, shape (batch, *state), or None for zero.
        like: a tensor of the state's shape, dtype and device.
        rtol: relative tolerance, see `Tolerance`.
        atol: absolute tolerance, or one per sample.
        max_steps: limit on the iterations of each sample.
    """

    def __init__(
        self, iteration: Iteration, start: Tensor | None, like: Tensor, rtol: float, atol: float | Tensor, max_steps: int
    ) -> None:
        self.rtol, self.live_atol, self.max_steps, self.like = rtol, atol, max_steps, like
        self.iteration = iteration
        self.outcome: Outcome | None = None  # filled as samples finish
        self.rows: Tensor | None = None  # which sample each live row is; None while all are live
        self.live_open: Tensor | None = None  # rows not finished; None while all are open
        self.live_best = torch.zeros_like(like) if start is None else start  # the value of the least residual so far
        self.live_least: Tensor | None = None  # that residual
        self.live_stale: Tensor | None = None  # steps since then; None for none
        self._use(working_norm)
        self._begin_group()

    def _use(self, norm: Callable[[Tensor], Tensor]) -> None:
        self.norm = self.iteration.norm = norm

    def _begin_group(self) -> None:
        self.images: list[Tensor] = []
        self.residuals: list[Tensor] = []
        self.sizes: list[Tensor] = []

    def run(self) -> Outcome:
        """Iterate until every sample is finished."""
        due, before = 2, math.nan  # the ratio of residual to limit at the last look
        for step in range(1, self.max_steps + 1):
            self.iteration.advance()
            self.images.append(self.iteration.image)
            self.residuals.append(self.iteration.residual_norm())
            self.sizes.append(self.norm(self.iteration.image))
            if step < min(due, self.max_steps):
                continue
            taken = len(self.images)
            left = self._look(step)
            if left is None:
                break
            first, last = left
            rate = _rate(last, first, taken - 1) if math.isnan(before) else _rate(last, before, taken)
            due, before = step + _wait(last, rate), last
            self._begin_group()
        assert self.outcome is not None  # the last step finishes all
        return self.outcome

    def _look(self, step: int) -> tuple[float, float] | None:
        """Judge the steps since the last look.

        Returns:
            The largest ratios of residual to limit, at the first and at the last of these steps, among the samples that are
            left; None where none is.
        """
        residuals, limits = self._measured()
        within = residuals <= limits
        if self.live_open is not None:
            within &= self.live_open
        ended = within.any(0)
        if self.outcome is None and bool(ended.all()):  # the common end
            codes = torch.zeros_like(ended, dtype=torch.int8)  # the code of CONVERGED
            steps, residual = _first(within, residuals, step)
            self.outcome = Outcome(self._value_within(within), Report(codes, residual, steps, None))
            return None
        falls = residuals[-1] < (math.inf if self.live_least is None else self.live_least)
        eventful = ended | ~falls
        if self.live_open is not None:
            eventful &= self.live_open
        ratios = residuals[:: max(len(residuals) - 1, 1)] / limits[:: max(len(residuals) - 1, 1)]
        if step < self.max_steps and not bool(eventful.any()):
            self.live_least, self.live_best, self.live_stale = residuals[-1], self.images[-1], None
            opened = self.live_open
        else:
            opened = self._sort_out(step, residuals, within, ended)
            if not bool(opened.any()):
                return None
            self._leave_out(opened)
        largest = (ratios if opened is None else ratios.where(opened, 0.0)).amax(1).tolist()
        return largest[0], largest[-1]

    def _measured(self) -> tuple[Tensor, Tensor]:
        """Residuals and their limits, a row per step since the last look; an impossible limit is −1."""
        residuals, sizes = torch.stack(self.residuals), torch.stack(self.sizes)
        limits = sizes.mul(self.rtol).add_(self.live_atol)
        if self.norm is not working_norm:
            return residuals, self._possible(limits, sizes)
        larger = torch.maximum(residuals, limits)
        low, high = trusted_range(self.like.dtype)
        least, largest = torch.aminmax(larger)
        if low < float(least) and float(largest) < high:
            return residuals, limits
        # Squares were out of range somewhere: there, the last step is measured again, and earlier ones count as failed.
        self._use(euclidean)
        trusted = (larger > low) & (larger < high)
        residuals, limits = residuals.double().where(trusted, math.inf), limits.double().where(trusted, -1.0)
        size = euclidean(self.iteration.image)
        limit = self._possible(size.mul(self.rtol).add_(self.live_atol), size)
        residuals[-1] = torch.where(trusted[-1], residuals[-1], self.iteration.residual_norm())
        limits[-1] = torch.where(trusted[-1], limits[-1], limit)
        return residuals, limits

    def _possible(self, limits: Tensor, sizes: Tensor) -> Tensor:
        """The limits, −1 where they are no numbers, infinite, or zero by underflow."""
        limits = limits.nan_to_num_(nan=-1.0, posinf=-1.0)
        return limits if self.like.dtype != torch.float64 else limits.where((limits > 0.0) | (sizes == 0.0), -1.0)

    def _value_within(self, within: Tensor) -> Tensor:
        """The value at each sample's first step within its limit; the last value where there is none."""
        value = self.images[-1]
        for image, rows, some in reversed(list(zip(self.images, within, within.any(1).tolist(), strict=True))):
            if some and image is not value:
                value = rowwise_where(rows, image, value)
        return value

    def _sort_out(self, step: int, residuals: Tensor, within: Tensor, ended: Tensor) -> Tensor:
        """Record what is finished, and keep the best iterates of the rest; returns which rows are still open."""
        opened = torch.ones_like(ended) if self.live_open is None else self.live_open
        if self.live_least is None:
            self.live_least = torch.full_like(residuals[-1], math.inf)
        if self.live_stale is None:
            self.live_stale = torch.zeros_like(ended, dtype=torch.int64)
        low, place = residuals.nan_to_num(nan=math.inf).min(0)
        improved = low < self.live_least
        for index, image in enumerate(self.images):
            self.live_best = rowwise_where(improved & (place == index), image, self.live_best)
        self.live_least = torch.where(improved, low.to(self.live_least), self.live_least)
        self.live_stale = torch.where(improved, len(self.images) - 1 - place, self.live_stale + len(self.images))
        failed, tired = ~torch.isfinite(residuals[-1]), self.live_stale >= PATIENCE
        finished = opened & (ended | failed | tired) if step < self.max_steps else opened
        codes = torch.full_like(ended, Status.MAX_STEPS.code, dtype=torch.int8)
        far = self.live_least > torch.finfo(self.like.dtype).eps ** (1 / 3) * euclidean(self.live_best)
        for rows, status in (
            (tired & ~far, Status.STALLED), (tired & far, Status.DIVERGED), (failed, Status.NONFINITE),
            (ended, Status.CONVERGED),
        ):  # fmt: skip
            codes = codes.masked_fill(rows, status.code)
        if bool(finished.any()):
            steps, residual = _first(within, residuals, step)
            value = rowwise_where(ended, self._value_within(within), self.live_best)
            residual = torch.where(ended, residual, self.live_least.double())
            self._record(finished, value, residual, steps.where(ended, step), codes)
        return opened & ~finished

    def _record(self, finished: Tensor, value: Tensor, residual: Tensor, steps: Tensor, codes: Tensor) -> None:
        if self.outcome is None:  # what is not finished is overwritten when it is
            self.outcome = Outcome(value, Report(codes, residual, steps, None))
            return
        report = self.outcome.report
        into = finished.nonzero().squeeze(1) if self.rows is None else self.rows[finished]
        self.outcome.value[into] = value[finished]
        report.residual[into] = residual[finished]
        report.status_codes[into] = codes[finished]
        report.steps[into] = steps[finished]

    def _leave_out(self, opened: Tensor) -> None:
        """Go on without the finished samples where at least half are and the map can be restricted."""
        self.live_open = opened
        if not self.iteration.problem.selectable or 2 * int(opened.sum()) > len(opened):
            return
        keep = opened.nonzero().squeeze(1)
        self.rows = keep if self.rows is None else self.rows[keep]
        self.iteration.select(keep)
        self.live_best, self.live_open = self.live_best[keep], None
        self.live_least = None if self.live_least is None else self.live_least[keep]
        self.live_stale = None if self.live_stale is None else self.live_stale[keep]
        if isinstance(self.live_atol, Tensor):
            self.live_atol = self.live_atol[keep]


def _first(within: Tensor, residuals: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """The step at which each sample first was within its limit, and its residual there, if it ever was."""
    place = within.to(torch.int8).argmax(0)
    return place + (step + 1 - len(within)), residuals.gather(0, place[None])[0].double()


def _rate(new: float, old: float, steps: int) -> float:
    """The factor per step of a quantity that went from one value to another, within limits."""
    ratio = new / old if old > 0.0 and math.isfinite(new) else 1.0
    return min(max(max(ratio, 0.0) ** (1.0 / max(steps, 1)), _LEAST_RATE), _LARGEST_RATE)


def _wait(ratio: float, rate: float) -> int:
    """Steps until a look may find that the ratio of residual to limit is one."""
    if not ratio > 1.0:  # nothing can be said
        return 1
    return _WINDOW if ratio == math.inf else min(max(math.ceil(math.log(ratio) / -math.log(rate)), 1), _WINDOW)


def rowwise_where(condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Whole samples of one tensor where a condition of shape (batch,) holds, of another elsewhere."""
    return torch.where(condition.reshape(-1, *([1] * (yes.ndim - 1))), yes, no)
