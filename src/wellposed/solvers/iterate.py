"""The loop that every algorithm runs in: per-sample stopping, freezing, retirement and failure.

Each sample stops on its own: when its error bound (with a guarantee) or its residual (without) is within tolerance. A
finished sample's value is never touched again, and once at least half of the batch is finished the rest goes on alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.guarantee import Guarantee
from wellposed.norms import euclidean
from wellposed.solvers.base import Solver
from wellposed.solvers.problem import Problem
from wellposed.solvers.solution import Report, Status

# A residual that has not fallen for this many looks is at its floor, or growing.
_PATIENCE = 30
# The same, where looks are spaced by the predicted rate and so far apart.
_FLAT_LOOKS = 4


@dataclass(frozen=True)
class Outcome:
    """The value of a solve and how it went."""

    value: Tensor
    report: Report


@torch.no_grad()
def iterate(
    problem: Problem,
    solver: Solver,
    guarantee: Guarantee | None,
    start: Tensor | None,
    like: Tensor,
    *,
    rtol: float,
    atol: float,
    max_steps: int,
) -> Outcome:
    """Run an algorithm until every sample is finished.

    Args:
        problem: the map.
        solver: the algorithm and its options.
        guarantee: turns residuals into error bounds; None to stop on residuals.
        start: first iterate, shape (batch, *state), or None for zero.
        like: a tensor of the state's shape, dtype and device.
        rtol: relative tolerance, see `Tolerance`.
        atol: absolute tolerance.
        max_steps: limit on the iterations of each sample.
    """
    return _Loop(problem, solver, guarantee, start, like, rtol, atol, max_steps).run()


class _Loop:
    """The state of one run. Tensors named ``live_*`` have a row per sample still in the batch."""

    def __init__(
        self,
        problem: Problem,
        solver: Solver,
        guarantee: Guarantee | None,
        start: Tensor | None,
        like: Tensor,
        rtol: float,
        atol: float,
        max_steps: int,
    ) -> None:
        self.guarantee, self.rtol, self.atol, self.max_steps = guarantee, rtol, atol, max_steps
        self.iteration = solver.bind(problem, guarantee, start, like)
        self.start, self.like = start, like
        batch = like.shape[0]
        self.rows: Tensor | None = None  # which sample each live row is; None while all are live
        self.live_best: Tensor | None = None  # best value so far, the start until there is one
        self.live_least = like.new_full((batch,), math.inf)  # its residual
        self.live_ratio: Tensor | float = 1.0  # error bound over `change`, learnt at each look
        self.live_stale: Tensor | None = None  # looks since the residual last fell
        self.live_open: Tensor | None = None  # rows not finished; None while all are open
        self.live_atol: Tensor | float = atol  # −inf for finished rows that had to stay in the batch
        self.value: Tensor | None = None
        self.residual = like.new_full((batch,), math.inf)
        self.status = torch.full((batch,), Status.MAX_STEPS.code, dtype=torch.int8, device=like.device)
        self.steps = torch.full((batch,), max_steps, dtype=torch.int64, device=like.device)

    def run(self) -> Outcome:
        if self.like.numel() == 0:
            return self._outcome(torch.zeros_like(self.like))
        if self.iteration.image_is_free:
            self._run_checking_every_step()
        else:
            self._run_checking_when_due()
        return self._outcome(self.value if self.value is not None else torch.zeros_like(self.like))

    def _outcome(self, value: Tensor) -> Outcome:
        return Outcome(value, Report(self.status, self.residual, self.steps, None))

    def _run_checking_every_step(self) -> None:
        iteration = self.iteration
        for step in range(1, self.max_steps + 1):
            iteration.advance()
            change = iteration.change()
            limit = iteration.scale().mul_(self.rtol).add_(self.live_atol)
            error = change if isinstance(self.live_ratio, float) else change * self.live_ratio
            falling = (change < self.live_least) & (error > limit)
            if step < self.max_steps and bool(falling.all()):  # the common case: nothing to do but go on
                self.live_least, self.live_best = change, iteration.image
                continue
            if self._look(step, change, error <= limit):
                return

    def _run_checking_when_due(self) -> None:
        """For algorithms that must pay for the residual: look when the observed rate says that it is time."""
        iteration = self.iteration
        due, rate = 2, 0.5
        previous: tuple[int, float] | None = None
        least_worst, flat = math.inf, 0
        for step in range(1, self.max_steps + 1):
            iteration.advance()
            if step < due and step < self.max_steps:
                continue
            change = iteration.change()
            limit = iteration.scale().mul_(self.rtol).add_(self.atol)
            if isinstance(self.live_ratio, float):
                error = change * (rate / (1.0 - rate))
            else:
                error = change * self.live_ratio
            open_error = error if self.live_open is None else error.where(self.live_open, 0.0)
            # 0/0 is a finished or zero sample: nothing remains to be done for it.
            worst = float((open_error / limit).nan_to_num(nan=0.0 if self.atol == 0.0 else math.inf).amax())
            if previous is not None and 0.0 < worst < math.inf and previous[1] > 0.0:
                rate = min(max((worst / previous[1]) ** (1.0 / (step - previous[0])), 0.01), 0.99)
            wait = math.ceil(math.log(worst) / -math.log(rate)) if 1.0 < worst < math.inf else 0
            retire = wait > max(4, step // 2) and self.iteration.problem.selectable and bool((error <= limit).any())
            flat = 0 if worst < 0.9 * least_worst else flat + 1
            least_worst = min(least_worst, worst)
            give_up = flat >= _FLAT_LOOKS
            if wait == 0 or retire or give_up or step == self.max_steps:
                candidates = error <= limit if retire and not give_up else torch.ones_like(limit, dtype=torch.bool)
                if self._look(step, change, candidates, give_up=give_up):
                    return
                least_worst, flat = math.inf, 0
                previous, wait = None, max(wait, 1)
            else:
                previous = (step, worst)
            # A prediction from one pair of looks is a guess: never sleep past a doubling of the work done.
            due = step + min(max(wait, 1), max(step, 1))

    def _look(self, step: int, change: Tensor, candidates: Tensor, *, give_up: bool = False) -> bool:
        """Judge the candidates by their bound, retire what is finished; True when nothing is left."""
        point, image = self.iteration.observe()
        residual = euclidean(image - point)
        limit = self.atol + self.rtol * euclidean(image)
        bound = residual if self.guarantee is None else self.guarantee.error_bound(point, image)
        opened = torch.ones_like(candidates) if self.live_open is None else self.live_open
        finite = torch.isfinite(change) & torch.isfinite(residual)
        improved = finite & (change < self.live_least)
        if self.live_best is None:
            self.live_best = torch.zeros_like(image) if self.start is None else self._live(self.start)
        self.live_best = _rowwise_where(improved, image, self.live_best)
        self.live_stale = improved.logical_not().long() + (0 if self.live_stale is None else self.live_stale * ~improved)
        floor = torch.finfo(change.dtype).eps ** (1 / 3)
        self.live_least = torch.where(improved, change, self.live_least)
        done = opened & candidates & (bound <= limit)
        tired = torch.ones_like(done) if give_up else self.live_stale >= _PATIENCE
        codes = torch.full_like(self.live_stale, Status.MAX_STEPS.code, dtype=torch.int8)
        codes[tired] = Status.STALLED.code
        codes[tired & (self.live_least > floor * euclidean(image))] = Status.DIVERGED.code
        codes[~finite] = Status.NONFINITE.code
        codes[done] = Status.CONVERGED.code
        last = step >= self.max_steps
        finished = opened if last else opened & (done | tired | ~finite)
        learnt = (bound / change).clamp_min(torch.finfo(change.dtype).tiny)
        learnt = torch.where(torch.isfinite(learnt), learnt, 1.0)
        old = torch.ones_like(learnt) if isinstance(self.live_ratio, float) else self.live_ratio
        self.live_ratio = torch.where(candidates, learnt, old)
        if bool(finished.any()):
            self._finish(step, finished, done, image, residual, codes)
            opened = opened & ~finished
            return self._shrink(opened)
        return False

    def _finish(self, step: int, finished: Tensor, done: Tensor, image: Tensor, residual: Tensor, codes: Tensor) -> None:
        assert self.live_best is not None  # set by _look
        value = _rowwise_where(done, image, self.live_best)
        residual = torch.where(done, residual, self.live_least)
        if self.value is None and self.rows is None and bool(finished.all()):
            self.value, self.residual, self.status = value, residual, codes
            self.steps = torch.full_like(self.steps, step)
            return
        if self.value is None:
            self.value = torch.zeros_like(self.like)
        into = torch.arange(len(finished), device=finished.device) if self.rows is None else self.rows
        into = into[finished]
        self.value[into] = value[finished]
        self.residual[into] = residual[finished]
        self.status[into] = codes[finished]
        self.steps[into] = step

    def _shrink(self, opened: Tensor) -> bool:
        """Leave out finished samples where that pays; True when none is open."""
        count = int(opened.sum())
        self.live_open = opened
        if count == 0:
            return True
        if not self.iteration.problem.selectable or 2 * count > len(opened):
            # Finished rows must not call for attention again.
            self.live_least = torch.where(opened, self.live_least, math.inf)
            self.live_atol = torch.where(opened, self.atol, -math.inf).to(self.live_least)
            return False
        keep = opened.nonzero().squeeze(1)
        self.rows = keep if self.rows is None else self.rows[keep]
        self.iteration.select(keep)
        for name in ("live_best", "live_least", "live_ratio", "live_stale"):
            setattr(self, name, getattr(self, name)[keep])
        self.live_open, self.live_atol = None, self.atol
        return False

    def _live(self, value: Tensor) -> Tensor:
        return value if self.rows is None else value[self.rows]


def _rowwise_where(condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(condition.reshape(-1, *([1] * (yes.ndim - 1))), yes, no)
