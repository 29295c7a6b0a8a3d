"""A proof of errors from one evaluation in float64, for values that are exactly σ of something.

Values of projections onto cones are: rounding to the working precision leads out of no cone, so that σ(value) = value. Then
``value = σ(W·value + q + defect)`` with a defect that float64 gives with its rounding, and the guarantee bounds the error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from wellposed.activations import Activation
from wellposed.guarantee import Guarantee
from wellposed.numerics.brief import Brief
from wellposed.numerics.euclidean import euclidean, underflow
from wellposed.numerics.outward import UNIT, enlarged, unit_of
from wellposed.operators import Operator
from wellposed.solvers.problem import AffineProblem

# Numbers of states that are judged at a time on the CPU: for more, the system would clear new memory at every look.
_PART = 100_000


@dataclass(frozen=True, eq=False, repr=False)
class Proof(Brief):
    """What proofs about a solve are made of.

    Attributes:
        problem: the equation in float64.
        given: its operator, the same numbers in the working precision.
        promise: the guarantee of its operator.
        offset_error: bound on the Euclidean norm of the error of ``problem.offset``, shape (batch,), float64.
    """

    problem: AffineProblem
    given: Operator
    promise: Guarantee
    offset_error: Tensor

    @property
    def is_direct(self) -> bool:
        """Whether `errors` is for the activation of the problem."""
        return self.problem.activation.is_own_resolvent and self.problem.activation.homogeneous

    @property
    def sensitivity(self) -> float:
        """About how many times the size of a defect the bound of an error is, by its size alone; one at least."""
        return max(1.0, self.promise.size_factor(self.problem.offset))

    def errors(self, value: Tensor, rtol: float, atol: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The size of the defect of each sample's value, a bound of its error, and that bound over what is allowed.

        The bound needs no more than the size of the defect, unless one that is made of its entries is wanted for the tolerance.

        Args:
            value: σ of something, shape (batch, *state), in the working precision.
            rtol: relative tolerance.
            atol: absolute tolerance, or one per sample.
        """
        return self._by_parts(Proof._errors, value, rtol, atol)

    def _by_parts(
        self, judge: Callable[..., tuple[Tensor, ...]], states: Tensor, rtol: float, atol: float | Tensor
    ) -> Any:
        """What ``judge(proof, states, rtol, atol)`` says, one value for each sample, of a few samples at a time."""
        count = max(1, _PART // max(1, states[0].numel()))
        if len(states) <= count or not states.is_cpu:
            return judge(self, states, rtol, atol)
        found = []
        for first in range(0, len(states), count):
            rows = slice(first, first + count)
            part = replace(self, problem=self.problem.select(rows), offset_error=self.offset_error[rows])
            found.append(judge(part, states[rows], rtol, atol[rows] if isinstance(atol, Tensor) else atol))
        return tuple(map(torch.cat, zip(*found, strict=True)))

    def _errors(self, value: Tensor, rtol: float, atol: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        problem, promise, entries = self.problem, self.promise, value[0].numel()
        operator, accurate = problem.operator, value.double()
        exact = problem.activation.defect(accurate, operator.affine(accurate, problem.offset), accurate, 1.0)
        residual, size = euclidean(exact), euclidean(accurate)
        most = residual + promise.rounding(operator, size, euclidean(problem.offset)) + self.offset_error
        lost = (1.0 + size) * (lost_by(value) * (3.0 + operator.norm_upper_bound()))
        hidden = hidden_by(promise, exact, lost)
        bound = enlarged(promise.size_bound(exact, most), entries + 8) + hidden
        limit = (rtol * size).add_(atol).add_(hidden)
        ratio = bound / limit
        if not bool((ratio <= 1.0).all()):
            # Small by cancellation, entries lose little in the working precision.
            lower = 0.0 if value.dtype == torch.float64 else 2.0 * unit_of(value.dtype)
            sharp = enlarged(promise.defect_bound(exact.to(value), most + lower * residual), entries + 8) + hidden
            bound = torch.minimum(bound, sharp)
            ratio = bound / limit
        return residual, bound, ratio

    def stepped(self, point: Tensor, rtol: float, atol: float | Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One application of the map in float64, rounded to the working precision, and what `errors` gives of that value.

        σ(Wz + q) solves the equation for the offset q + W(z − σ(Wz + q)). The size is that of the step.

        Args:
            point: z, shape (batch, *state), in the working precision.
            rtol: relative tolerance.
            atol: absolute tolerance, or one per sample.
        """
        return self._by_parts(Proof._stepped, point, rtol, atol)

    def _stepped(self, point: Tensor, rtol: float, atol: float | Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        problem, promise, entries = self.problem, self.promise, point[0].numel()
        operator, start = problem.operator, point.double()
        image = problem.activation(operator.affine(start, problem.offset))
        value, change = image.to(point), start - image
        size, step, norm = euclidean(image), euclidean(change), operator.norm_upper_bound()
        before, offset = size + step, euclidean(problem.offset)
        evaluation = evaluation_error(problem.activation, norm * before + offset, size, entries)
        rounding = promise.rounding(operator, before, offset) + self.offset_error + evaluation
        away = euclidean(value - image) + evaluation
        hidden = hidden_by(promise, image, (1.0 + size) * (lost_by(value) * (4.0 + 2.0 * norm)))
        limit = (rtol * size).add_(atol).add_(hidden)
        sized = promise.step_bound(step, rounding)
        if sized is not None:
            bound = enlarged(sized + away, entries + 8) + hidden
            ratio = bound / limit
            if bool((ratio <= 1.0).all()):
                return value, step, bound, ratio
        # Small by cancellation, the change loses little in the working precision, in the product neither.
        moved = self.given.apply(change.to(point))
        lower = 0.0 if point.dtype == torch.float64 else 2.0 * unit_of(point.dtype) * norm
        most = euclidean(moved) + (promise.rounding(self.given, step, step) + lower * step) + rounding
        bound = enlarged(promise.defect_bound(moved, most) + away, entries + 8) + hidden
        return value, step, bound, bound / limit


def evaluation_error(activation: Activation, inside: Tensor, outside: Tensor, entries: int) -> Tensor:
    """How far a number whose σ was found may be from one whose σ is exactly that, in float64; one value per sample.

    Args:
        activation: σ.
        inside: norms of what σ was taken of.
        outside: norms of what was found.
        entries: of a state.
    """
    absolute = 0.0 if activation.homogeneous else entries**0.5
    return (inside + outside + absolute) * (16.0 * UNIT)


def lost_by(image: Tensor) -> float:
    """What underflow takes from one evaluation of a map with states of this shape and dtype, in the Euclidean norm."""
    entries = image[0].numel()
    return underflow(image.dtype, entries, entries)


def hidden_by(guarantee: Guarantee, like: Tensor, lost: Tensor) -> Tensor:
    """By how much losses to underflow can move an equilibrium and a value; no relative error counts them."""
    return guarantee.size_bound(like, lost) + lost
