"""Samples that an iteration has not brought to their equilibrium: Newton's method in float64, with a bound for each value."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.guarantee import Guarantee
from wellposed.numerics.brief import Brief
from wellposed.numerics.euclidean import euclidean, working_norm
from wellposed.solvers.iterate import Outcome
from wellposed.solvers.local_bound import local_bound
from wellposed.solvers.looking import blurred
from wellposed.solvers.problem import AffineProblem, Problem
from wellposed.solvers.semismooth import further_step, newton
from wellposed.solvers.solution import Status

ITERATIONS = 300  # of the algorithm that the guarantee prefers, before Newton's method takes over
_SETTLED = 1e-9  # residual, relative to the value
_LARGEST = 1024  # state for which matrices of the state's size are formed


@dataclass(frozen=True, eq=False, repr=False)
class Continued(Brief):
    """Where Newton's method has arrived; one row or entry per sample, in float64.

    Attributes:
        value: shape (batch, *state).
        residual: ‖σ(Wz + q) − z‖₂ there.
        bound: on the Euclidean distance of the value from the equilibrium; infinite where none is proved.
        settled: whether there is nothing left to gain by more steps.
        steps: how many were taken.
    """

    value: Tensor
    residual: Tensor
    bound: Tensor
    settled: Tensor
    steps: Tensor


def can_continue(problem: Problem, guarantee: Guarantee | None) -> bool:
    """Whether `continuation` is for problems like this one: affine ones with one equilibrium, of moderate size."""
    known = problem.affine()
    return known is not None and guarantee is not None and math.prod(known.operator.state_shape) <= _LARGEST


@torch.no_grad()
def continuation(
    problem: AffineProblem, guarantee: Guarantee, start: Tensor, offset_error: Tensor, steps: int
) -> Continued:
    """Go on from some values by Newton's method, and bound the errors of what it gives.

    Args:
        problem: in float64.
        guarantee: that there is one equilibrium.
        start: shape (batch, *state), float64.
        offset_error: bound on the Euclidean norm of the error of ``problem.offset``, shape (batch,), float64.
        steps: limit on the Newton steps of each sample.
    """
    value, counts = newton(problem, start, steps)
    value = guarantee.project(value)
    through = problem.operator.affine(value, problem.offset)
    residual = euclidean(problem.activation(through) - value)
    bound = local_bound(problem, value, offset_error)
    # A concave map may have other equilibria, but not as near as that to a value well inside of its domain.
    inside = value.flatten(1).amin(1) > bound
    bound = torch.where(inside, bound, math.inf) if guarantee.is_concave else bound
    size = euclidean(value)
    # A large W amplifies the rounding of the value itself to a large residual; that of saturated units is seen by nobody.
    felt = problem.offset * problem.activation.derivative(through)
    least = 2.0 * problem.operator.rounding(size, euclidean(felt))
    settled = residual <= torch.maximum(_SETTLED * (1.0 + size), least)
    return Continued(value, residual, bound, settled, counts)


@torch.no_grad()
def finished(
    outcome: Outcome, problem: Problem, guarantee: Guarantee, *, rtol: float, atol: float | Tensor, steps: int,
    splitting: float | None,
) -> Outcome:  # fmt: skip
    """An outcome whose samples that were not reached, or that rounding may have blurred, have gone on by Newton's method.

    Args:
        outcome: result of `iterate`.
        problem: the map, for which `can_continue` holds.
        guarantee: the guarantee of the map.
        rtol: relative tolerance.
        atol: absolute tolerance, or one per sample.
        steps: limit on the Newton steps of each sample.
        splitting: the step of the splitting that led to the outcome, if one did.
    """
    given = problem.affine()
    if given is None or steps < 1:
        return outcome
    missed = left = ~outcome.report.converged
    if splitting is not None:
        size = working_norm(outcome.value)
        left = missed | blurred(splitting, working_norm(given.offset), size, (size * rtol + atol).to(size))
    if not bool(left.any()):
        return outcome
    rows, dtype = left.nonzero().squeeze(1), outcome.value.dtype
    accurate = AffineProblem(given.operator.in_float64(), given.offset.double(), given.activation.to(torch.float64))
    accurate = accurate.select(rows)
    start, no_error = outcome.value[rows].double(), torch.zeros_like(rows, dtype=torch.float64)
    found = continuation(accurate, guarantee.on(accurate.operator), start, no_error, steps)
    value, report = outcome.value.clone(), outcome.report
    rounded = found.value.to(dtype)
    known = atol[rows] if isinstance(atol, Tensor) else atol
    limit = known + rtol * euclidean(rounded) - euclidean(rounded.double() - found.value)
    met = found.bound <= limit
    if not bool(met.all()):  # forward passes and adjoint equations carry no proof: an estimate will do
        met |= found.settled & (further_step(accurate, found.value) <= limit)
    before = euclidean(accurate.evaluate(start) - start).nan_to_num(nan=math.inf)
    fell = met | (found.residual < before)
    value[rows[fell]] = rounded[fell]
    codes, residual = report.status_codes.clone(), report.residual.clone()
    codes[rows[~met & ~missed[rows]]] = Status.STALLED.code
    codes[rows[met]] = Status.CONVERGED.code
    residual[rows[fell]] = found.residual[fell].to(residual.dtype)
    report = dataclasses.replace(report, status_codes=codes, residual=residual)
    return taking(dataclasses.replace(outcome, value=value, report=report), rows, found.steps)


def taking(outcome: Outcome, rows: Tensor, further: Tensor) -> Outcome:
    """An outcome with further steps of some samples."""
    steps = outcome.report.steps.clone()
    steps[rows] += further
    return dataclasses.replace(outcome, report=dataclasses.replace(outcome.report, steps=steps))
