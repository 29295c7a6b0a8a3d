"""From a numerical result to a rigorous error bound.

The bound of a guarantee holds in exact arithmetic. Here it is evaluated with its rounding errors, for affine layers in
float64 whatever the working precision, after one more step, which also sharpens the value. Samples whose
working-precision result does not meet the tolerance by this stricter measure are continued in float64, and what is still left
there goes on by Newton's method, see `wellposed.solvers.continuation`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.guarantee import Guarantee
from wellposed.numerics.brief import Brief
from wellposed.numerics.euclidean import euclidean, underflow
from wellposed.numerics.outward import UNIT, enlarged, unit_of
from wellposed.solvers.base import Solver
from wellposed.solvers.continuation import continuation, taking
from wellposed.solvers.iterate import Outcome, iterate
from wellposed.solvers.problem import AffineProblem, Problem
from wellposed.solvers.solution import Status


@dataclass(frozen=True, eq=False, repr=False)
class ExactOffset(Brief):
    """The offset q in float64, shape (batch, *state), with a bound (batch,) on the Euclidean norm of its own error."""

    value: Tensor
    error: Tensor


@torch.no_grad()
def certify(
    outcome: Outcome,
    problem: Problem,
    solver: Solver,
    guarantee: Guarantee,
    *,
    rtol: float,
    atol: float | Tensor,
    max_steps: int,
    exact_offset: Callable[[], ExactOffset] | None = None,
    continued: int = 0,
    sharpened: bool = True,
) -> Outcome:
    """Give every sample of an outcome its error bound, and the status that this bound deserves.

    Args:
        outcome: result of `iterate` for the problem, solver, guarantee and tolerances given here.
        problem: the map.
        solver: the algorithm, for samples that must go on in float64.
        guarantee: the guarantee of the map.
        rtol: relative tolerance.
        atol: absolute tolerance, or one per sample.
        max_steps: limit for the continuation.
        exact_offset: recomputes the offset of an affine problem more exactly than ``problem.offset``; without it, that
            offset is taken to be what the user meant.
        continued: limit on the Newton steps of samples that are left; zero for none.
        sharpened: whether to take the step in float64 where bounds are within the tolerance without it.
    """
    if outcome.value.shape[0] == 0:
        empty = outcome.report.residual.double()
        return dataclasses.replace(outcome, report=dataclasses.replace(outcome.report, error_bound=empty))
    given = problem.affine()
    if given is None:
        return _certify_map(outcome, problem, guarantee, rtol, atol)
    if exact_offset is None:
        exact = ExactOffset(given.offset.double(), torch.zeros_like(outcome.report.residual, dtype=torch.float64))
    else:
        exact = exact_offset()
    accurate = AffineProblem(given.operator.in_float64(), exact.value, given.activation.to(torch.float64))
    promise = guarantee.on(accurate.operator)
    proved = None if sharpened else _as_it_is(outcome, accurate, promise, exact.error.double(), rtol, atol)
    if proved is not None:
        return proved
    run = _Certification(outcome, accurate, promise, exact.error.double(), rtol, atol)
    run.iterate_again(solver, max_steps)
    if continued:
        run.go_on(continued)
    found = _conclude(run.outcome, run.value, run.residual, run.bound, run.hidden, rtol, atol)
    codes = found.report.status_codes  # float64 has done what it can for a sample that is at its rounding floor
    codes = codes.masked_fill(codes == Status.STALLED.code, Status.ROUNDING.code)
    return dataclasses.replace(found, report=dataclasses.replace(found.report, status_codes=codes))


def _as_it_is(
    outcome: Outcome, accurate: AffineProblem, promise: Guarantee, offset_error: Tensor, rtol: float,
    atol: float | Tensor,
) -> Outcome | None:  # fmt: skip
    """The outcome with the bounds of its values as they are, where one evaluation in float64 proves all of them.

    For projections onto cones, where rounding to the working precision leads out of no cone, so that values are σ of themselves.
    """
    activation, report = accurate.activation, outcome.report
    if not (activation.is_own_resolvent and activation.homogeneous) or bool(report.status_codes.any()):
        return None
    projected = activation(outcome.value)
    value, operator = projected.double(), accurate.operator
    exact = activation.defect(value, operator.affine(value, accurate.offset), value, 1.0)
    defect, residual, size = exact.to(projected), euclidean(exact), euclidean(value)
    rounding = promise.rounding(operator, size, euclidean(accurate.offset)) + offset_error
    if projected.dtype != torch.float64:
        rounding += 2.0 * unit_of(projected.dtype) * residual
    bound = enlarged(promise.defect_bound(defect, residual + rounding), value[0].numel() + 8)
    hidden = _hidden(promise, defect, (1.0 + size) * (_lost(projected) * (3.0 + operator.norm_upper_bound())))
    bound += hidden
    within = (bound <= (atol + rtol * size).add_(hidden)) & torch.isfinite(size)
    if not bool(within.all()):
        return None
    report = dataclasses.replace(report, residual=residual.to(report.residual.dtype), error_bound=bound)
    return Outcome(projected, report)


class _Certification:
    """Values of the working precision with their residuals and bounds, as they are sharpened."""

    def __init__(
        self, outcome: Outcome, problem: AffineProblem, promise: Guarantee, offset_error: Tensor, rtol: float,
        atol: float | Tensor,
    ) -> None:  # fmt: skip
        self.outcome, self.problem, self.promise, self.offset_error = outcome, problem, promise, offset_error
        self.rtol, self.atol, self.dtype = rtol, atol, outcome.value.dtype
        found = _refine(outcome.value.double(), problem, promise, offset_error, self.dtype)
        self.value, self.residual, self.bound, self.hidden = found

    def _limit(self) -> Tensor:
        return self.atol + self.rtol * euclidean(self.value) + self.hidden

    def iterate_again(self, solver: Solver, max_steps: int) -> None:
        """Continue samples in float64 that the working precision has finished, or left at its rounding floor, or left at all."""
        limit = self._limit()
        codes = self.outcome.report.status_codes
        ended = self.outcome.report.converged | (codes == Status.STALLED.code)
        if self.dtype != torch.float64:
            ended |= (codes == Status.MAX_STEPS.code) | (codes == Status.DIVERGED.code)
        short = ended & (self.bound > limit)
        if not bool(short.any()):
            return
        rows = short.nonzero().squeeze(1)
        # Bound and residual shrink together, so the factor by which the bound misses its limit is what the solver owes.
        owed = 0.5 * float((limit / self.bound)[rows].nan_to_num(nan=0.0).amin())
        own = self.atol[rows] if isinstance(self.atol, Tensor) else self.atol
        largest = self.rtol + float(own.max() if isinstance(own, Tensor) else own)
        owed = max(owed, torch.finfo(torch.float64).eps / largest) if largest > 0.0 else 1.0
        problem, start = self.problem.select(rows), self.value[rows].double()
        again = iterate(
            problem, solver, self.promise, start, start, rtol=owed * self.rtol, atol=owed * own, max_steps=max_steps
        )
        refined = _refine(again.value, problem, self.promise, self.offset_error[rows], self.dtype)
        self.value[rows], self.residual[rows], self.bound[rows], self.hidden[rows] = refined
        self.outcome = taking(self.outcome, rows, again.report.steps)

    def go_on(self, steps: int) -> None:
        """Continue samples that are still not within their limits by Newton's method."""
        left = ~(self.bound <= self._limit())
        left &= ~(
            self.outcome.report.converged & (euclidean(self.value) == 0.0)
        )  # exactly zero, though its bound is not
        if not bool(left.any()):
            return
        rows = left.nonzero().squeeze(1)
        start, errors = self.value[rows].double(), self.offset_error[rows]
        found = continuation(self.problem.select(rows), self.promise, start, errors, steps)
        codes, finite = self.outcome.report.status_codes.clone(), torch.isfinite(found.residual)
        reason = torch.where(found.settled, Status.ROUNDING.code, Status.MAX_STEPS.code).to(codes)
        codes[rows] = torch.where(finite, reason, codes[rows])
        report = dataclasses.replace(self.outcome.report, status_codes=codes)
        self.outcome = taking(dataclasses.replace(self.outcome, report=report), rows, found.steps)
        better = (found.bound < self.bound[rows]) | (finite & ~torch.isfinite(self.bound[rows]))
        rows, kept = rows[better], better.nonzero().squeeze(1)
        self.value[rows] = found.value[kept].to(self.dtype)
        apart = euclidean(self.value[rows].double() - found.value[kept])
        self.bound[rows] = enlarged(found.bound[kept] + apart, 2)
        self.residual[rows] = found.residual[kept].to(self.residual.dtype)


def _certify_map(
    outcome: Outcome, problem: Problem, guarantee: Guarantee, rtol: float, atol: float | Tensor
) -> Outcome:
    """What `certify` does for a general map, whose evaluation can be made no more exact than it is."""
    image = problem.evaluate(outcome.value)
    bound = guarantee.error_bound(outcome.value, image)
    hidden = _hidden(guarantee, image, torch.full_like(bound, _lost(image)))
    return _conclude(outcome, image, euclidean(image - outcome.value), bound + hidden, hidden, rtol, atol)


def _refine(
    point: Tensor, accurate: AffineProblem, promise: Guarantee, offset_error: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One forward–backward step in float64 rounded to the working dtype; the residual before it, and the bound after.

    The last result is the part of the bound that is for underflow.

    The step is one at which I − W does not amplify: a plain application of the map would, by up to ‖W‖/m.
    """
    suggested = promise.suggested_step()
    scaling = accurate.operator.scaling
    step: float | Tensor = 1.0 if suggested is None else min(suggested, 1.0)
    step = step if scaling is None else step * scaling
    least = float(step.amin()) if isinstance(step, Tensor) else step
    through = accurate.operator.affine(point, accurate.offset)
    image = accurate.activation(through)
    u = torch.lerp(point, through, step)
    value = accurate.activation.resolvent(u, step)
    # `value` is σ of some number within this of output + (u − output)/step, see `Activation.defect`.
    absolute = 0.0 if accurate.activation.homogeneous else point[0].numel() ** 0.5
    size = euclidean(value)
    evaluation = (euclidean(u) + size + absolute) * (16.0 * UNIT / least)
    through = accurate.operator.affine(value, accurate.offset)
    defect = accurate.activation.defect(value, through, u, step)
    rounding = promise.rounding(accurate.operator, size, euclidean(accurate.offset)) + offset_error + evaluation
    rounded = value.to(dtype)
    bound = promise.defect_bound(defect, euclidean(defect) + rounding) + evaluation
    if dtype != torch.float64:
        bound = bound + euclidean(rounded.double() - value)
    bound = enlarged(bound, point[0].numel() + 6)
    amplified = 2.0 + accurate.operator.norm_upper_bound() + (1.0 if scaling is None else 1.0 / float(scaling.amin()))
    lost = (1.0 + size) * (_lost(rounded) * amplified / min(least, 1.0))
    hidden = _hidden(promise, defect, lost)
    return rounded, euclidean(image - point), bound + hidden, hidden


def _lost(image: Tensor) -> float:
    """What underflow takes from one evaluation of a map with states of this shape and dtype, in the Euclidean norm."""
    entries = image[0].numel()
    return underflow(image.dtype, entries, entries)


def _hidden(guarantee: Guarantee, like: Tensor, lost: Tensor) -> Tensor:
    """By how much losses to underflow can move an equilibrium and a value; no relative error counts them."""
    return guarantee.size_bound(like, lost) + lost


def _conclude(
    outcome: Outcome, value: Tensor, residual: Tensor, bound: Tensor, hidden: Tensor, rtol: float, atol: float | Tensor
) -> Outcome:
    report = outcome.report
    size = euclidean(value).to(bound.dtype)
    usable = torch.isfinite(bound) & torch.isfinite(size)
    if not bool(usable.all()):
        value = torch.where(usable.reshape(-1, *([1] * (value.ndim - 1))), value, outcome.value)
        bound, size = torch.where(usable, bound, math.inf), euclidean(value).to(bound.dtype)
    within = (bound <= atol + rtol * size + hidden) & torch.isfinite(size)
    short = report.converged & ~within
    if not isinstance(atol, Tensor) and atol == 0.0:  # a state that is exactly zero, though its bound is not
        short &= (size > 0.0) | ~torch.isfinite(size)
    met = ~report.converged & within
    codes = report.status_codes.masked_fill(short, Status.STALLED.code).masked_fill(met, Status.CONVERGED.code)
    residual = residual.to(report.residual.dtype)
    report = dataclasses.replace(report, status_codes=codes, residual=residual, error_bound=bound)
    return dataclasses.replace(outcome, value=value, report=report)
