"""Equations ``z = σ(Wz + q)``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from operator import is_not

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.activations import Activation, DiagonalLinear
from wellposed.guarantee import Guarantee
from wellposed.implicit.equation import (
    Equation,
    Implicit,
    any_wrapped,
    one_by_one,
    run_steps,
    settled,
    solve_problem,
    with_leading_batch,
)
from wellposed.implicit.evaluation import Evaluation
from wellposed.implicit.gradient import Settings
from wellposed.implicit.lift import lift_of, lowered
from wellposed.operators import Operator
from wellposed.solvers.a_posteriori import ExactOffset
from wellposed.solvers.iterate import Outcome
from wellposed.solvers.problem import AffineProblem
from wellposed.solvers.solution import Report


@dataclass(frozen=True, eq=False, kw_only=True)
class AffineEquation(Equation):
    """``z = σ(Wz + q)``; its tensors are the tensors of W, then q of shape (batch, *state), then the tensors of σ.

    Attributes:
        operator: W, as a structure whose tensors are replaced by those given.
        activation: σ, as a structure whose tensors are replaced by those given.
        guarantee: what is known of W, whatever tensors are given.
        settings: how to solve.
        exact_offset: see `certify`.
        known: the solution, if it was found before.
        adjoint_reports: where backward passes leave how their solves went.
        reports: where forward passes leave how their solves went.
        evaluations: none, as backward passes need none.
        formed: W as it was last made of given tensors, which a backward pass with the same ones takes with its factorisation.
    """

    operator: Operator
    activation: Activation
    guarantee: Guarantee | None
    settings: Settings
    exact_offset: Callable[[], ExactOffset] | None = None
    known: Tensor | None = None
    adjoint_reports: list[Report] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    formed: list[Operator] = field(default_factory=list)

    def _parts(self, tensors: Sequence[Tensor]) -> tuple[Operator, Tensor, Activation]:
        count = len(self.operator.tensors)
        activation = self.activation.rebuild(tuple(tensors[count + 1 :]))
        if torch.is_grad_enabled():  # what was formed without a graph has none
            return self.operator.rebuild(tuple(tensors[:count])), tensors[count], activation
        if not self.formed or any(map(is_not, self.formed[0].tensors, tensors)):
            self.formed[:] = [self.operator.rebuild(tuple(tensors[:count]))]
        return self.formed[0], tensors[count], activation

    def _promised(self, operator: Operator) -> Guarantee | None:
        return self.guarantee if self.guarantee is None or operator is self.operator else self.guarantee.on(operator)

    @override
    def solve(self, start: Tensor | None, tensors: Sequence[Tensor]) -> Outcome:
        if self.known is not None:
            return settled(self.known)
        operator, offset, activation = self._parts(tensors)
        problem = AffineProblem(operator, offset, activation)
        guarantee = self._promised(operator)
        return solve_problem(problem, guarantee, self.settings, start, offset, self.exact_offset, offset)

    @override
    def unrolled(self, start: Tensor | None, tensors: Sequence[Tensor], steps: int) -> Tensor:
        operator, offset, activation = self._parts(tensors)
        problem = AffineProblem(operator, offset, activation)
        guarantee = self._promised(operator)
        return run_steps(problem, guarantee, self.settings.solver, start, offset, steps)

    @override
    def step(self, value: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        operator, offset, activation = self._parts(tensors)
        return activation(operator.affine(value, offset))

    def _linearised(
        self, operator: Operator, activation: Activation, value: Tensor, offset: Tensor, *, transposed: bool
    ) -> AffineEquation:
        slopes = activation.derivative_at_output(value)
        if slopes is None:
            slopes = activation.derivative(operator.affine(value, offset))
        if transposed:
            operator = operator.transpose()
        settings = self.settings.adjoint(value.dtype)
        guarantee = None if self.guarantee is None else self.guarantee.linearised()
        diagonal = DiagonalLinear(slopes, binary=activation.binary_slopes)
        return AffineEquation(
            operator=operator, activation=diagonal, guarantee=guarantee, settings=settings,
            adjoint_reports=self.adjoint_reports, formed=[operator],
        )  # fmt: skip

    @override
    def pull_back(
        self, value: Tensor, tensors: Sequence[Tensor], cotangent: Tensor, needed: Sequence[bool],
        evaluation: Evaluation | None = None,
    ) -> list[Tensor | None]:  # fmt: skip
        operator, offset, activation = self._parts(tensors)
        count = len(operator.tensors)
        # y = J(g + Wᵀy): the same equation, with the transpose for W, g for q and multiplication by J for σ.
        adjoint = self._linearised(operator, activation, value, offset, transposed=True)
        backwards = adjoint.operator
        lift = lift_of(cotangent)
        driven = cotangent if lift is None else cotangent * lift
        unknowns = (*backwards.tensors, driven, *adjoint.activation.tensors)
        if torch.is_grad_enabled() or any_wrapped(unknowns):
            adjoint_state = adjoint.differentiable_value(None, *unknowns)
        else:
            outcome = adjoint.solve(None, unknowns)
            adjoint_state = outcome.value
            self.adjoint_reports.append(lowered(outcome.report, lift))
            outcome.report.complain(self.settings.on_failure, adjoint.settings.name)
        if lift is not None:
            adjoint_state = adjoint_state / lift
        gradients: list[Tensor | None] = [None] * len(tensors)
        if any(needed[:count]):
            gradients[:count] = operator.tensor_gradients(adjoint_state, value)
        gradients[count] = adjoint_state
        if any(needed[count + 1 :]):
            pre_activation = operator.affine(value, offset)
            gradients[count + 1 :] = activation.tensor_gradients(
                pre_activation, backwards.affine(adjoint_state, cotangent)
            )
        return gradients

    @override
    def push_forward(self, value: Tensor, tensors: Sequence[Tensor], tangents: Sequence[Tensor | None]) -> Tensor:
        operator, offset, activation = self._parts(tensors)
        count = len(operator.tensors)
        filled = [torch.zeros_like(t) if d is None else d for t, d in zip(tensors, tangents, strict=True)]
        change = operator.tensor_tangent(tuple(filled[:count]), value) + filled[count]
        linear = self._linearised(operator, activation, value, offset, transposed=False)
        if activation.tensors:
            # dz = J(W dz + change) + dσ; shifting by dσ = J·s needs a division, so solve for dz − dσ instead.
            direct = activation.tensor_tangent(operator.affine(value, offset), tuple(filled[count + 1 :]))
            change = change + operator.apply(direct)
            return direct + linear.differentiable_value(None, *operator.tensors, change, *linear.activation.tensors)
        return linear.differentiable_value(None, *operator.tensors, change, *linear.activation.tensors)

    @override
    def batched(
        self, size: int, start: tuple[Tensor | None, int | None], tensors: list[tuple[Tensor, int | None]]
    ) -> tuple[Tensor, ...]:
        count = len(self.operator.tensors)
        if any(place is not None for _, place in tensors[:count]):
            return one_by_one(replace(self, exact_offset=None, known=None), size, start, tensors)
        rows = [with_leading_batch(tensor, place, size) for tensor, place in tensors[count:]]
        flat = [row.flatten(0, 1) for row in rows]
        first = None if start[0] is None else with_leading_batch(start[0], start[1], size).flatten(0, 1)
        # The exact offset belongs to the unbatched call; a certified solve inside vmap certifies its own offset.
        equation = replace(self, exact_offset=None, known=None)
        outputs = Implicit.apply(equation, first, *(tensor for tensor, _ in tensors[:count]), *flat)
        return tuple(output.reshape(size, -1 if output.numel() else 0, *output.shape[1:]) for output in outputs)
