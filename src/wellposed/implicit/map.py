"""Equations ``z = f(z, *args)`` of any function."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import InputError
from wellposed.guarantee import Guarantee
from wellposed.implicit.equation import (
    Equation,
    Implicit,
    any_wrapped,
    run_steps,
    settled,
    solve_problem,
    with_leading_batch,
)
from wellposed.implicit.evaluation import Evaluation
from wellposed.implicit.gradient import Settings
from wellposed.implicit.lift import lift_of, lowered
from wellposed.numerics.linear_algebra import directional_derivative
from wellposed.solvers.iterate import Outcome
from wellposed.solvers.problem import MapProblem
from wellposed.solvers.solution import Report

# One of these words is in every error of torch about an operation that has no derivative.
_REFUSALS = ("grad", "backward", "differentia")


@dataclass(frozen=True, eq=False, kw_only=True)
class MapEquation(Equation):
    """``z = f(z, *args)`` for a function of states and tensors, both with ``batch_dims`` leading batch dimensions.

    Attributes:
        function: takes and returns one tensor of shape (*batch, n), then the tensors.
        settings: how to solve.
        guarantee: what is known of f, or None.
        batch_dims: leading dimensions that index independent samples.
        batched_tensors: which tensors have one row per sample and so can be restricted to some samples; None if unknown.
        check_captured: look for tensors that need a gradient but were captured by the function.
        linear: the function is affine in the state, with its first argument for an offset, as in adjoint equations.
        known: the solution, if it was found before.
        adjoint_reports: where backward passes leave how their solves went.
        reports: where forward passes leave how their solves went.
        evaluations: where a forward pass leaves its evaluation for backward passes, if it has one for them.
    """

    function: Callable[..., Tensor]
    settings: Settings
    guarantee: Guarantee | None
    batch_dims: int = 1
    batched_tensors: tuple[bool, ...] | None = None
    check_captured: bool = False
    linear: bool = False
    known: Tensor | None = None
    adjoint_reports: list[Report] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)

    def _problem(self, lead: torch.Size, tensors: Sequence[Tensor]) -> MapProblem:
        function = self.function
        pending = [self.check_captured]

        def of(tensors: Sequence[Tensor], batch: torch.Size) -> Callable[[Tensor], Tensor]:
            def rows_map(state: Tensor) -> Tensor:
                flat = len(batch) == 1  # nothing to rearrange, and no operations to spend on it
                shaped = state if flat else state.reshape(*batch, *state.shape[1:])
                if pending[0]:
                    pending[0] = False
                    image = _probe(function, shaped, tensors)
                else:
                    image = function(shaped, *tensors)
                return image if flat else image.reshape(state.shape)

            return rows_map

        select = None
        which = self.batched_tensors
        if which is not None and len(lead) == 1:

            def select(rows: Tensor) -> Callable[[Tensor], Tensor]:
                chosen = [t[rows] if per_row else t for t, per_row in zip(tensors, which, strict=True)]
                return of(chosen, rows.shape)

        return MapProblem(of(tensors, lead), select, self.linear)

    def _unpack(self, tensors: Sequence[Tensor]) -> tuple[Tensor, torch.Size, Sequence[Tensor]]:
        example, *rest = tensors
        return example, example.shape[: self.batch_dims], rest

    @override
    def solve(self, start: Tensor | None, tensors: Sequence[Tensor]) -> Outcome:
        if self.known is not None:
            return settled(self.known, self.batch_dims)
        example, lead, rest = self._unpack(tensors)
        offset = rest[0] if self.linear else None
        problem = self._problem(lead, rest)
        if len(lead) == 1:  # nothing to rearrange
            return solve_problem(problem, self.guarantee, self.settings, start, example, offset=offset)
        like, first, offset = (
            None if part is None else part.flatten(0, self.batch_dims - 1) for part in (example, start, offset)
        )
        assert like is not None
        outcome = solve_problem(problem, self.guarantee, self.settings, first, like, offset=offset)
        return Outcome(outcome.value.reshape(example.shape), outcome.report.reshape(lead))

    @override
    def refined(self, outcome: Outcome, tensors: Sequence[Tensor]) -> Outcome:
        """Where Picard's iteration converged by itself, one step more, whose graph serves the next backward pass."""
        report = outcome.report
        alone = self.guarantee is None and self.known is None and not self.linear and report.algorithm == "Picard"
        if not alone or any_wrapped([outcome.value, *tensors]) or bool(report.status_codes.any()):
            return outcome
        rest = tensors[1:]
        if not any(tensor.requires_grad for tensor in rest):
            return outcome
        evaluation = Evaluation(self.function, outcome.value, rest, [tensor.requires_grad for tensor in rest])
        try:
            image = evaluation.image()
        except InputError:  # there is no graph of this map: backward passes will say so, if there are any
            return outcome
        except RuntimeError as error:
            if not any(word in str(error) for word in _REFUSALS):  # too little memory, or a fault of the map
                raise
            return outcome
        if not math.isfinite(
            float(image.detach().sum())
        ):  # a map that leads away from where it was found to stand still
            return outcome
        self.evaluations.append(evaluation)
        return Outcome(image, report)

    @override
    def unrolled(self, start: Tensor | None, tensors: Sequence[Tensor], steps: int) -> Tensor:
        example, lead, rest = self._unpack(tensors)
        like = example.flatten(0, self.batch_dims - 1)
        first = None if start is None else start.flatten(0, self.batch_dims - 1)
        problem = replace(self, check_captured=False)._problem(lead, rest)
        return run_steps(problem, self.guarantee, self.settings.solver, first, like, steps).reshape(example.shape)

    @override
    def step(self, value: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        return self.function(value, *tensors[1:])

    def _linear(self, function: Callable[..., Tensor], dtype: torch.dtype, *, transposed: bool) -> MapEquation:
        guarantee = self.guarantee
        if guarantee is not None:
            guarantee = guarantee.transposed() if transposed else guarantee.linearised()
        return MapEquation(
            function=function, settings=self.settings.adjoint(dtype), guarantee=guarantee, batch_dims=self.batch_dims,
            linear=True, adjoint_reports=self.adjoint_reports,
        )  # fmt: skip

    @override
    def pull_back(
        self, value: Tensor, tensors: Sequence[Tensor], cotangent: Tensor, needed: Sequence[bool],
        evaluation: Evaluation | None = None,
    ) -> list[Tensor | None]:  # fmt: skip
        rest = tensors[1:]
        if torch.is_grad_enabled() or any_wrapped([cotangent, value, *rest]):
            return [None, *self._pull_back_recursively(value, rest, cotangent)]
        evaluation = evaluation or Evaluation(self.function, value, rest, needed[1:])
        return [None, *self._pull_back_retained(evaluation, cotangent)]

    def _lift_of(self, cotangent: Tensor) -> Tensor | None:
        """What `lift_of` gives for each sample, whatever number of dimensions they are numbered by."""
        batch, state = cotangent.shape[: self.batch_dims], cotangent.shape[self.batch_dims :]
        lift = lift_of(cotangent.reshape(batch.numel(), *state))
        return None if lift is None else lift.reshape(*batch, *(1 for _ in state))

    def _pull_back_recursively(self, value: Tensor, rest: Sequence[Tensor], cotangent: Tensor) -> list[Tensor | None]:
        function = self.function

        def adjoint(state: Tensor, v: Tensor, z: Tensor, *parameters: Tensor) -> Tensor:
            return v + torch.func.vjp(lambda at: function(at, *parameters), z)[1](state)[0]

        linear = self._linear(adjoint, value.dtype, transposed=True)
        lift = self._lift_of(cotangent)
        lifted = cotangent if lift is None else cotangent * lift
        state = linear.differentiable_value(None, torch.zeros_like(cotangent), lifted, value, *rest)
        state = state if lift is None else state / lift
        return list(torch.func.vjp(lambda *parameters: function(value, *parameters), *rest)[1](state))

    def _pull_back_retained(self, evaluation: Evaluation, cotangent: Tensor) -> list[Tensor | None]:
        point, leaves, image = evaluation.taken()

        def adjoint(state: Tensor, v: Tensor) -> Tensor:
            return v + torch.autograd.grad(image, point, state, retain_graph=True)[0]

        if image.requires_grad and image is not point:
            linear = self._linear(adjoint, point.dtype, transposed=True)
            lift = self._lift_of(cotangent)
            lifted = cotangent if lift is None else cotangent * lift
            outcome = linear.solve(lifted, (lifted, lifted))
            self.adjoint_reports.append(lowered(outcome.report, lift))
            outcome.report.complain(self.settings.on_failure, linear.settings.name)
            state = outcome.value if lift is None else outcome.value / lift
            wanted = [leaf for leaf in leaves if leaf.requires_grad]
            parts = iter(torch.autograd.grad(image, wanted, state, allow_unused=True) if wanted else ())
            return [next(parts) if leaf.requires_grad else None for leaf in leaves]
        return [None] * len(leaves)

    @override
    def push_forward(self, value: Tensor, tensors: Sequence[Tensor], tangents: Sequence[Tensor | None]) -> Tensor:
        function, rest = self.function, tuple(tensors[1:])
        filled = tuple(torch.zeros_like(t) if d is None else d for t, d in zip(rest, tangents[1:], strict=True))
        change = directional_derivative(lambda *parameters: function(value, *parameters), rest, filled)

        def linear(state: Tensor, shift: Tensor, z: Tensor, *parameters: Tensor) -> Tensor:
            return shift + directional_derivative(lambda at: function(at, *parameters), (z,), (state,))

        equation = self._linear(linear, value.dtype, transposed=False)
        return equation.differentiable_value(None, torch.zeros_like(value), change, value, *rest)

    @override
    def batched(
        self, size: int, start: tuple[Tensor | None, int | None], tensors: list[tuple[Tensor, int | None]]
    ) -> tuple[Tensor, ...]:
        if self.linear:  # the offset sets each sample's tolerance, so it needs one per sample
            tensors = [tensors[0], (with_leading_batch(*tensors[1], size), 0), *tensors[2:]]
        places = tuple(None if place is None else 0 for _, place in tensors[1:])
        function = torch.func.vmap(self.function, in_dims=(0, *places))
        moved = [tensor if place is None else tensor.movedim(place, 0) for tensor, place in tensors[1:]]
        example = with_leading_batch(*tensors[0], size)
        first = None if start[0] is None else with_leading_batch(start[0], start[1], size)
        equation = replace(self, function=function, batch_dims=self.batch_dims + 1, batched_tensors=None, known=None)
        *outputs, bound = Implicit.apply(equation, first, example, *moved)
        return *outputs, bound if bound.numel() else bound.expand(size, 0)  # an empty one has the extra dimension too


def _probe(function: Callable[..., Tensor], state: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """The first evaluation, watched for gradients that would be lost."""
    with torch.enable_grad():
        image = function(state.detach(), *(tensor.detach() for tensor in tensors))
    if image.requires_grad:
        raise InputError(
            "f: it captures a tensor that requires a gradient, which an implicit gradient cannot see; pass that tensor "
            "in args (or pass a torch.nn.Module as f, whose parameters are found by themselves), or call under no_grad"
        )
    return image.detach()
