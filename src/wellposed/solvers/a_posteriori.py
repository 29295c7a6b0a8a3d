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
from wellposed.numerics.euclidean import euclidean
from wellposed.numerics.outward import enlarged
from wellposed.solvers.base import Solver
from wellposed.solvers.continuation import continuation, taking
from wellposed.solvers.iterate import Outcome, iterate
from wellposed.solvers.problem import AffineProblem, Problem
from wellposed.solvers.proof import Proof, evaluation_error, hidden_by, lost_by
from wellposed.solvers.solution import Status


@dataclass(frozen=True, eq=False, repr=False)
class ExactOffset(Brief):
    """The offset q in float64, shape (batch, *state), with a bound (batch,) on the Euclidean norm of its own error."""

    value: Tensor
    error: Tensor


def prepared(problem: Problem, guarantee: Guarantee, exact_offset: Callable[[], ExactOffset] | None) -> Proof | None:
    """What proofs about solves of a problem are made of; None for a general map, whose evaluation can be made no more exact.

    Args:
        problem: the map.
        guarantee: the guarantee of the map.
        exact_offset: recomputes the offset of an affine problem more exactly than ``problem.offset``; without it, that
            offset is taken to be what the user meant.
    """
    given = problem.affine()
    if given is None or not len(given.offset):
        return None
    if exact_offset is None:
        value = given.offset.double()
        exact = ExactOffset(value, torch.zeros(len(value), dtype=value.dtype, device=value.device))
    else:
        exact = exact_offset()
    operator = given.operator.in_float64()
    accurate = AffineProblem(operator, exact.value, given.activation.to(torch.float64))
    return Proof(accurate, given.operator, guarantee.on(operator), exact.error.double())


@torch.no_grad()
def certify(
    outcome: Outcome,
    problem: Problem,
    solver: Solver,
    guarantee: Guarantee,
    proof: Proof | None,
    *,
    rtol: float,
    atol: float | Tensor,
    max_steps: int,
    continued: int = 0,
) -> Outcome:
    """Give every sample of an outcome its error bound, and the status that this bound deserves.

    Args:
        outcome: result of `iterate` for the problem, solver, guarantee and tolerances given here.
        problem: the map.
        solver: the algorithm, for samples that must go on in float64.
        guarantee: the guarantee of the map.
        proof: what `prepared` gave.
        rtol: relative tolerance.
        atol: absolute tolerance, or one per sample.
        max_steps: limit for the continuation.
        continued: limit on the Newton steps of samples that are left; zero for none.
    """
    if outcome.value.shape[0] == 0:
        empty = outcome.report.residual.double()
        return dataclasses.replace(outcome, report=dataclasses.replace(outcome.report, error_bound=empty))
    if outcome.report.error_bound is not None:  # proved by the loop
        return outcome
    if proof is None:
        return _certify_map(outcome, problem, guarantee, rtol, atol)
    run = _Certification(outcome, proof, rtol, atol)
    run.iterate_again(solver, max_steps)
    if continued:
        run.go_on(continued)
    found = _conclude(run.outcome, run.value, run.residual, run.bound, run.hidden, rtol, atol)
    codes = found.report.status_codes  # float64 has done what it can for a sample that is at its rounding floor
    codes = codes.masked_fill(codes == Status.STALLED.code, Status.ROUNDING.code)
    return dataclasses.replace(found, report=dataclasses.replace(found.report, status_codes=codes))


class _Certification:
    """Values of the working precision with their residuals and bounds, as they are sharpened."""

    def __init__(self, outcome: Outcome, proof: Proof, rtol: float, atol: float | Tensor) -> None:
        self.outcome, self.rtol, self.atol, self.dtype = outcome, rtol, atol, outcome.value.dtype
        self.problem, self.promise, self.offset_error = proof.problem, proof.promise, proof.offset_error
        found = _refine(outcome.value.double(), self.problem, self.promise, self.offset_error, self.dtype)
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
        if (
            not isinstance(self.atol, Tensor) and self.atol == 0.0
        ):  # states that are exactly zero, though their bounds are not
            left &= ~(self.outcome.report.converged & (euclidean(self.value) == 0.0))
        if not bool(left.any()):
            return
        rows = left.nonzero().squeeze(1)
        start, errors = self.value[rows].double(), self.offset_error[rows]
        problem = self.problem.select(rows)
        found = continuation(problem, self.promise, start, errors, steps)
        codes, finite = self.outcome.report.status_codes.clone(), torch.isfinite(found.residual)
        reason = torch.where(found.settled, Status.ROUNDING.code, Status.MAX_STEPS.code).to(codes)
        codes[rows] = torch.where(finite, reason, codes[rows])
        report = dataclasses.replace(self.outcome.report, status_codes=codes)
        self.outcome = taking(dataclasses.replace(self.outcome, report=report), rows, found.steps)
        # Where no bound is any good, a value that solves the equation better is one to prefer.
        nearer = found.residual < euclidean(problem.evaluate(start) - start).nan_to_num(nan=math.inf)
        moved = enlarged(self.bound[rows] + euclidean(found.value - start), 2)
        bound = torch.fmin(found.bound, moved)  # the old value may be none
        better = (found.bound < self.bound[rows]) | (finite & ~torch.isfinite(self.bound[rows])) | nearer
        rows, kept = rows[better], better.nonzero().squeeze(1)
        self.value[rows] = found.value[kept].to(self.dtype)
        apart = euclidean(self.value[rows].double() - found.value[kept])
        self.bound[rows] = enlarged(bound[kept] + apart, 2)
        self.residual[rows] = found.residual[kept].to(self.residual.dtype)
        self.hidden[rows] = self.hidden[rows].nan_to_num(nan=0.0, posinf=0.0)  # that of a value that is gone


def _certify_map(
    outcome: Outcome, problem: Problem, guarantee: Guarantee, rtol: float, atol: float | Tensor
) -> Outcome:
    """What `certify` does for a general map, whose evaluation can be made no more exact than it is."""
    image = problem.evaluate(outcome.value)
    bound = guarantee.error_bound(outcome.value, image)
    hidden = hidden_by(guarantee, image, torch.full_like(bound, lost_by(image)))
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
    if isinstance(step, float) and step == 1.0:
        u, value = through, image
    else:
        u = torch.lerp(point, through, step)
        value = accurate.activation.resolvent(u, step)
    size = euclidean(value)
    # `value` is σ of some number within this of output + (u − output)/step, see `Activation.defect`.
    evaluation = evaluation_error(accurate.activation, euclidean(u), size, point[0].numel()) / least
    through = accurate.operator.affine(value, accurate.offset)
    defect = accurate.activation.defect(value, through, u, step)
    rounding = promise.rounding(accurate.operator, size, euclidean(accurate.offset)) + offset_error + evaluation
    rounded = value.to(dtype)
    bound = promise.defect_bound(defect, euclidean(defect) + rounding) + evaluation
    if dtype != torch.float64:
        bound = bound + euclidean(rounded.double() - value)
    bound = enlarged(bound, point[0].numel() + 6)
    amplified = 2.0 + accurate.operator.norm_upper_bound() + (1.0 if scaling is None else 1.0 / float(scaling.amin()))
    lost = (1.0 + size) * (lost_by(rounded) * amplified / min(least, 1.0))
    hidden = hidden_by(promise, defect, lost)
    return rounded, euclidean(image - point), bound + hidden, hidden


def _conclude(
    outcome: Outcome, value: Tensor, residual: Tensor, bound: Tensor, hidden: Tensor, rtol: float, atol: float | Tensor
) -> Outcome:
    report = outcome.report
    size = euclidean(value).to(bound.dtype)
    usable = torch.isfinite(bound) & torch.isfinite(size)
    if not bool(usable.all()):
        value = torch.where(usable.reshape(-1, *([1] * (value.ndim - 1))), value, outcome.value)
        bound, size = torch.where(usable, bound, math.inf), euclidean(value).to(bound.dtype)
    within = (bound <= atol + rtol * size + hidden) & torch.isfinite(size) & torch.isfinite(bound)
    short = report.converged & ~within
    if not isinstance(atol, Tensor) and atol == 0.0:  # a state that is exactly zero, though its bound is not
        short &= (size > 0.0) | ~torch.isfinite(size)
    met = ~report.converged & within
    codes = report.status_codes.masked_fill(short, Status.STALLED.code).masked_fill(met, Status.CONVERGED.code)
    residual = residual.to(report.residual.dtype)
    report = dataclasses.replace(report, status_codes=codes, residual=residual, error_bound=bound)
    return dataclasses.replace(outcome, value=value, report=report)
