"""The loop that every algorithm runs in: per-sample stopping, freezing, retirement and failure.

Each sample stops on its own, when its error bound is within tolerance. A finished sample's value is never touched again, and
once at least half of the batch is finished the rest goes on alone. Where only residuals are judged, `residual_loop` takes over.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wellposed.errors import InputError
from wellposed.guarantee import Guarantee
from wellposed.numerics.euclidean import euclidean, rowwise_where, working_norm
from wellposed.solvers.base import Iteration, Solver
from wellposed.solvers.looking import by_changes, first_look, rate_near, rate_seen, wait
from wellposed.solvers.problem import Problem
from wellposed.solvers.proof import Proof
from wellposed.solvers.residual_loop import ResidualLoop
from wellposed.solvers.solution import Outcome as Outcome
from wellposed.solvers.solution import Report, Status

# A residual that has not fallen for this many looks, where looks are far apart.
_SPACED_PATIENCE = 5
# Where a proof costs as much as several steps, looks come when it is likely to succeed: at this share of the tolerance.
_AIM = 0.7
# As many steps as a proof of a foreseen value is taken to be worth: most are worth two, those of convolutions less.
_FORESIGHT = 1.5
# While residuals are free they are measured at least this often.
_SPACING = 8
# From here on, spaced looks also come at every doubling of the steps, to retire what is finished.
_FIRST_DOUBLING = 16


def iterate(
    problem: Problem,
    solver: Solver,
    guarantee: Guarantee | None,
    start: Tensor | None,
    like: Tensor,
    *,
    rtol: float,
    atol: float | Tensor,
    max_steps: int,
    proof: Proof | None = None,
) -> Outcome:
    """Run an algorithm until every sample is finished.

    Args:
        problem: the map.
        solver: the algorithm and its options.
        guarantee: turns residuals into error bounds; None to stop on residuals.
        start: first iterate, shape (batch, *state), or None for zero.
        like: a tensor of the state's shape, dtype and device.
        rtol: relative tolerance, see `Tolerance`.
        atol: absolute tolerance, or one per sample, shape (batch,), float64.
        max_steps: limit on the iterations of each sample.
        proof: judges values in float64 where looking is expensive anyway; the outcome has its bounds where they are all within
            the tolerance.

    Raises:
        InputError: under ``torch.jit.trace``, which keeps the operations of one input for all.
    """
    if torch.is_grad_enabled():
        with torch.no_grad():
            return iterate(
                problem, solver, guarantee, start, like, rtol=rtol, atol=atol, max_steps=max_steps, proof=proof
            )
    if torch._C._is_tracing():
        raise InputError(
            "torch.jit.trace: would freeze the number of iterations that this input needs; trace "
            "wellposed.deployable(model, steps), or write a file by wellposed.export"
        )
    if like.shape[0] == 0:
        none = torch.zeros(0, dtype=torch.int64, device=like.device)
        return Outcome(like.clone(), Report(none.to(torch.int8), none.double(), none, None, type(solver).__name__))
    iteration = solver.bind(problem, guarantee, start, like)
    iteration.algorithm = iteration.algorithm or type(solver).__name__
    if guarantee is None and iteration.image_is_free:
        return ResidualLoop(iteration, start, like, rtol, atol, max_steps).run()
    return _Loop(iteration, guarantee, start, like, rtol, atol, max_steps, proof).run()


class _Loop:
    """The state of one run. Tensors named ``live_*`` have a row per sample still in the batch."""

    def __init__(
        self,
        iteration: Iteration,
        guarantee: Guarantee | None,
        start: Tensor | None,
        like: Tensor,
        rtol: float,
        atol: float | Tensor,
        max_steps: int,
        proof: Proof | None,
    ) -> None:
        # A value that is exactly zero has no relative error: where nothing else is allowed, other looks see that.
        self.iteration, self.proof = iteration, proof if isinstance(atol, Tensor) or atol > 0.0 else None
        self.guarantee, self.rtol, self.atol, self.max_steps = guarantee, rtol, atol, max_steps
        self.start, self.like = start, like
        self.outcome: Outcome | None = None
        self.rows: Tensor | None = None  # which sample each live row is; None while all are live
        self.live_open: Tensor | None = None  # rows not finished; None while all are open
        self.live_best: Tensor | None = None  # best value so far, the start until there is one
        self.live_least: Tensor | None = None  # its residual
        self.live_stale: Tensor | None = None  # looks since the residual last fell
        self.live_ratio: Tensor | None = None  # error bound over residual, learnt at each look
        self.live_atol: Tensor | float = atol  # −inf for finished rows that had to stay in the batch

    def run(self) -> Outcome:
        if self.iteration.image_is_free:
            self._run_looking_when_needed()
        else:
            self._run_looking_when_due()
        assert self.outcome is not None  # every run ends in a look that finishes all
        report, algorithm = self.outcome.report, self.iteration.algorithm
        if report.algorithm == algorithm:
            return self.outcome
        return Outcome(self.outcome.value, dataclasses.replace(report, algorithm=algorithm))

    @property
    def all_open(self) -> bool:
        """Whether no sample has been finished or judged by itself."""
        return self.outcome is None and self.live_open is None

    def _blank(self) -> Outcome:
        """An outcome to be filled in as samples finish."""
        batch, device = self.like.shape[0], self.like.device
        codes = torch.zeros(batch, dtype=torch.int8, device=device)
        steps = torch.zeros(batch, dtype=torch.int64, device=device)
        return Outcome(torch.zeros_like(self.like), Report(codes, codes.double(), steps, None))

    def _run_looking_when_needed(self) -> None:
        """For algorithms whose residual is free: look when it says that something happened.

        While residuals fall they are measured when the first sample can be done, by the observed rate.
        """
        iteration, device = self.iteration, self.like.device
        least, ratio = np.full(self.like.shape[0], math.inf), None
        atol, due = _on_host(self.live_atol), 2 if self.start is None else 1
        previous: tuple[int, float] | None = None
        rate, ahead, untried = 0.0, 1.0, self.proof is not None
        gained = _FORESIGHT if self.guarantee is not None and self.guarantee.is_concave else 1.0
        for step in range(1, self.max_steps + 1):
            iteration.advance()
            if step < min(due, self.max_steps):
                continue
            norms = working_norm(iteration.image - iteration.point), working_norm(iteration.image)
            residual, size = _on_host(torch.stack(norms))
            with np.errstate(all="ignore"):  # infinities are looked at closely
                limit = size * self.rtol + atol
                error = residual if ratio is None else residual * ratio
                nearest = float((error / limit).min())
            candidates = error <= limit
            if previous is not None:
                rate = rate_seen(nearest, previous[1], step - previous[0])
                # A proof takes a step more, which brings values nearer, and so does foresight.
                ahead = max(1.0, _AIM / rate**gained) if untried else 1.0
            if self.proof is not None and self.all_open and bool((error <= ahead * limit).all()):
                value, change, bound, off = self.proof.stepped(self._foreseen(rate), self.rtol, self.atol)
                if bool((off <= 1.0).all()):
                    self._end(step, value, change, bound)
                    return
                untried = False
            if step < self.max_steps and not candidates.any() and bool((residual < least).all()):
                least, self.live_best = residual, iteration.image
                due = step + 1
                if previous is not None:
                    due = step + max(1, min(wait(nearest, ahead, rate), _SPACING))
                previous = (step, nearest)
                continue
            previous = None
            self.live_least = torch.from_numpy(least).to(device)
            if self._look(step, torch.from_numpy(candidates).to(device))[0]:
                return
            assert self.live_least is not None and self.live_ratio is not None  # set by thorough looks
            least, ratio, atol = _on_host(self.live_least), _on_host(self.live_ratio), _on_host(self.live_atol)

    def _foreseen(self, rate: float) -> Tensor:
        """Where the iteration is going: what is left falls at the rate, in one direction where the map is concave and increases.

        Args:
            rate: at which it was seen to fall; zero for unknown.
        """
        image, guarantee = self.iteration.image, self.guarantee
        if guarantee is None or not guarantee.is_concave:
            return image
        return guarantee.project(torch.lerp(self.iteration.point, image, 1.0 / (1.0 - rate)))

    def _run_looking_when_due(self) -> None:
        """For algorithms that must pay for the residual: look when the observed rate says that it is time.

        Before the first look it is predicted, which is good enough to decide when to look and decides nothing else.
        """
        iteration = self.iteration
        rate = rate_near(iteration.predicted_rate())
        due = 1  # with a start, which may be close already
        if self.start is None:
            wanted = self.rtol + (self.atol if isinstance(self.atol, float | int) else 0.0)
            if self.proof is not None and self.proof.is_direct:
                wanted *= _AIM / self.proof.sensitivity
            due = first_look(rate, wanted, cheap=iteration.is_cheap)
        previous: tuple[int, float] | None = None
        worst, stuck, doubling = (
            math.inf,
            False,
            _FIRST_DOUBLING if self.proof is None and not iteration.is_cheap else max(_FIRST_DOUBLING, 2 * due),
        )
        for step in range(1, self.max_steps + 1):
            iteration.advance()
            if step < min(due, doubling, self.max_steps):
                continue
            finished, worst = self._look_or_prove(step, thorough=stuck or step >= min(doubling, self.max_steps))
            if finished:
                return
            if previous is not None:
                stuck = not worst < previous[1]
                rate = rate_seen(worst, previous[1], step - previous[0])
            previous = (step, worst)
            due = step + max(1, min(wait(worst, 1.0 if self.proof is None else _AIM, rate), step))
            if step >= doubling:
                doubling *= 2

    def _look_or_prove(self, step: int, *, thorough: bool) -> tuple[bool, float]:
        """As `_look` at all samples, by the proof where there is one and nothing is to be retired, or by a glance."""
        if thorough or self.outcome is not None:
            return self._look(step, None, thorough=thorough)
        if self.proof is None or not self.proof.is_direct:
            return self._glance(step) or self._look(step, None, thorough=False)
        value = self.iteration.observe()
        residual, bound, ratio = self.proof.errors(value, self.rtol, self.atol)
        worst = float(ratio.amax())
        if worst <= 1.0:
            return self._end(step, value, residual, bound)
        return (False, worst) if worst < math.inf else self._look(step, None)

    def _glance(self, step: int) -> tuple[bool, float] | None:
        """As `_look` at all samples, by norms in the working precision; None where these cannot tell."""
        like, guarantee = self.like, self.guarantee
        if guarantee is None or not guarantee.stops_by_changes or like.device.type != "cpu" or not self.all_open:
            return None
        changes = self.iteration.changes(working_norm)
        if changes is None:
            return None
        value = self.iteration.observe()
        worst = by_changes(*changes, working_norm(value), self.rtol, self.atol, like.dtype, self.iteration.window())
        if worst is None:
            return None
        return self._end(step, value, changes[0], None) if worst <= 1.0 else (False, worst)

    def _look(self, step: int, candidates: Tensor | None, *, thorough: bool = True) -> tuple[bool, float]:
        """Judge the candidates (None: all) by their error bound and retire what is finished.

        Without ``thorough``, nothing is retired unless all of it is finished or something is not finite.

        Returns:
            Whether nothing is left, and the largest ratio of error bound to limit among what is left.
        """
        image, residual, bound = self.iteration.judge(self.guarantee)
        limit = euclidean(image).mul_(self.rtol).add_(self.atol)
        ratio = bound / limit
        if self.live_open is not None:
            ratio = ratio.where(self.live_open, 0.0)
        worst, most = torch.stack((ratio, limit)).amax(1).tolist()
        if self.all_open and worst <= 1.0 and most < math.inf:  # the common end
            return self._end(step, image, residual, None)
        if not thorough and step < self.max_steps and 1.0 < worst < math.inf:
            return False, worst
        within = bound <= limit.nan_to_num_(posinf=-1.0)  # infinity is not within infinity
        if image.dtype == torch.float64:  # whose norms can underflow
            within &= (limit > 0.0) | (image == 0).flatten(1).all(1)
        if self.all_open and bool(within.all()):  # zeros that may have no error
            return self._end(step, image, residual, None)
        return self._sort_out(step, candidates, image, residual, bound, limit, within)

    def _end(self, step: int, value: Tensor, residual: Tensor, bound: Tensor | None) -> tuple[bool, float]:
        """All samples have converged at once."""
        codes = torch.zeros_like(residual, dtype=torch.int8)  # the code of CONVERGED
        steps = torch.full_like(codes, step, dtype=torch.int64)
        self.outcome = Outcome(value, Report(codes, residual, steps, bound, self.iteration.algorithm))
        return True, 0.0

    def _sort_out(
        self, step: int, candidates: Tensor | None, image: Tensor, residual: Tensor, bound: Tensor, limit: Tensor,
        within: Tensor,
    ) -> tuple[bool, float]:  # fmt: skip
        every = torch.ones_like(within)
        opened = every if self.live_open is None else self.live_open
        candidates = every if candidates is None else candidates
        least = torch.full_like(residual, math.inf) if self.live_least is None else self.live_least
        stale = torch.zeros_like(residual) if self.live_stale is None else self.live_stale
        best = self.live_best
        if best is None:
            best = torch.zeros_like(image) if self.start is None else self.start
        finite = torch.isfinite(residual) & torch.isfinite(bound)
        improved = finite & (residual < least)
        self.live_best = best = rowwise_where(improved, image, best)
        self.live_least = least = torch.where(improved, residual, least)
        self.live_stale = stale = torch.where(improved, 0.0, stale + 1.0)
        done = opened & candidates & within
        tired = stale >= (self.iteration.patience if self.iteration.image_is_free else _SPACED_PATIENCE)
        finished = opened if step >= self.max_steps else opened & (done | tired | ~finite)
        codes = torch.full_like(stale, Status.MAX_STEPS.code, dtype=torch.int8)
        far = least > torch.finfo(residual.dtype).eps ** (1 / 3) * euclidean(best)
        codes[tired] = Status.STALLED.code
        codes[tired & far] = Status.DIVERGED.code
        codes[~finite] = Status.NONFINITE.code
        codes[done] = Status.CONVERGED.code
        learnt = bound / residual
        learnt = torch.where(torch.isfinite(learnt), learnt, 1.0)
        self.live_ratio = learnt if self.live_ratio is None else torch.where(candidates, learnt, self.live_ratio)
        if bool(finished.any()):
            value = rowwise_where(done, image, best)
            self._record(step, finished, value, torch.where(done, residual, least), codes)
            opened = opened & ~finished
            if self._shrink(opened):
                return True, 0.0
        ratio = torch.where(opened, bound / limit, 0.0).nan_to_num(nan=0.0)
        return False, float(ratio.amax())

    def _record(self, step: int, finished: Tensor, value: Tensor, residual: Tensor, codes: Tensor) -> None:
        if self.outcome is None:
            self.outcome = self._blank()
        into = finished.nonzero().squeeze(1) if self.rows is None else self.rows[finished]
        self.outcome.value[into] = value[finished]
        self.outcome.report.residual[into] = residual[finished]
        self.outcome.report.status_codes[into] = codes[finished]
        self.outcome.report.steps[into] = step

    def _shrink(self, opened: Tensor) -> bool:
        """Leave out finished samples where that pays; True when none is open."""
        count = int(opened.sum())
        self.live_open = opened
        if count == 0:
            return True
        assert self.live_best is not None and self.live_least is not None  # set by _sort_out
        assert self.live_stale is not None and self.live_ratio is not None
        if not self.iteration.problem.selectable or 2 * count > len(opened):
            # Finished rows must not call for attention again.
            self.live_least = torch.where(opened, self.live_least, math.inf)
            self.live_atol = torch.where(opened, self.atol, -math.inf).to(self.live_least)
            return False
        keep = opened.nonzero().squeeze(1)
        self.rows = keep if self.rows is None else self.rows[keep]
        self.iteration.select(keep)
        self.live_best, self.live_least = self.live_best[keep], self.live_least[keep]
        self.live_stale, self.live_ratio = self.live_stale[keep], self.live_ratio[keep]
        if isinstance(self.atol, Tensor):
            self.atol = self.atol[keep]
        self.live_open, self.live_atol = torch.ones_like(keep, dtype=torch.bool), self.atol
        return False


def _on_host(numbers: Tensor | float) -> np.ndarray[Any, np.dtype[Any]]:
    """One number per sample, where operations on a few of them cost a fraction of torch's; float64."""
    return np.asarray(numbers.cpu() if isinstance(numbers, Tensor) else numbers, np.float64)
