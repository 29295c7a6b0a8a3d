"""The differentiable solve: one autograd function for all equations, its own derivative included."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.guarantee import Guarantee
from wellposed.implicit.evaluation import Evaluation
from wellposed.implicit.gradient import Settings
from wellposed.numerics.euclidean import euclidean
from wellposed.numerics.linear_algebra import full_precision
from wellposed.numerics.positional import PositionalFunction
from wellposed.solvers.a_posteriori import ExactOffset, certify, prepared
from wellposed.solvers.base import Solver
from wellposed.solvers.continuation import ITERATIONS, can_continue, finished
from wellposed.solvers.iterate import Outcome, iterate
from wellposed.solvers.problem import Problem
from wellposed.solvers.solution import Report


class Equation(ABC):
    """A fixed-point equation with named tensors: what `Implicit` needs to solve and differentiate it."""

    settings: Settings
    adjoint_reports: list[Report]
    reports: list[Report]
    evaluations: list[Evaluation]

    @abstractmethod
    def solve(self, start: Tensor | None, tensors: Sequence[Tensor]) -> Outcome:
        """Solve for plain tensors, without a graph."""

    def refined(self, outcome: Outcome, tensors: Sequence[Tensor]) -> Outcome:
        """The outcome, for an equation that will be differentiated; by default as it is."""
        return outcome

    @abstractmethod
    def unrolled(self, start: Tensor | None, tensors: Sequence[Tensor], steps: int) -> Tensor:
        """The solver's own iterations, with their graph."""

    @abstractmethod
    def step(self, value: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        """One application of the map, with its graph."""

    @abstractmethod
    def pull_back(
        self, value: Tensor, tensors: Sequence[Tensor], cotangent: Tensor, needed: Sequence[bool],
        evaluation: Evaluation | None = None,
    ) -> list[Tensor | None]:  # fmt: skip
        """Cotangents of the tensors for a cotangent of the solution.

        Args:
            value: the solution.
            tensors: the equation's tensors.
            cotangent: of the solution.
            needed: which tensors need a cotangent.
            evaluation: what the forward pass left in ``evaluations``.
        """

    @abstractmethod
    def push_forward(self, value: Tensor, tensors: Sequence[Tensor], tangents: Sequence[Tensor | None]) -> Tensor:
        """Tangent of the solution for tangents of the tensors."""

    @abstractmethod
    def batched(
        self, size: int, start: tuple[Tensor | None, int | None], tensors: list[tuple[Tensor, int | None]]
    ) -> tuple[Tensor, ...]:
        """The outputs of `Implicit` when tensors have an extra batch dimension at the given place (None: they don't)."""

    def differentiable_value(self, start: Tensor | None, *tensors: Tensor) -> Tensor:
        """The solution as a differentiable function of the tensors."""
        return Implicit.apply(self, start, *tensors)[0]

    def run(
        self, start: Tensor | None, tensors: Sequence[Tensor], diagnose: Callable[[], None] | None = None
    ) -> tuple[Tensor, Report]:
        """Solve and attach the gradient that the settings name.

        Args:
            start: first iterate, or None for zero.
            tensors: the equation's tensors.
            diagnose: called on failure, to raise a more telling error than non-convergence if it knows one.

        Returns:
            The value, with its graph, and the report of the forward solve.
        """
        gradient = self.settings.gradient
        tracked = torch.is_grad_enabled() or any_wrapped(tensors)
        if gradient.is_implicit and tracked:
            if torch._C._are_functorch_transforms_active():
                value, codes, residual, steps, bound = Implicit.apply(self, start, *tensors)
                known = bound if self.settings.certified else None
                report = Report(codes, residual, steps, known, self.reports[-1].algorithm)
            else:
                value = ImplicitValue.apply(self, start, *tensors)
                report = self.reports[-1]
        else:
            plain = [tensor.detach() if tensor.requires_grad else tensor for tensor in tensors]
            outcome = self.solve(None if start is None else start.detach(), plain)
            value, report = outcome.value, outcome.report
            if tracked:
                steps = max(int(report.steps.max()) if report.steps.numel() else 1, 1)
                attached = gradient.attached(self, value, steps, start, tensors)
                moved = value + (attached - attached.detach())  # the report is about this value
                value = torch.where(attached.detach().isfinite(), moved, value)
        if not any_wrapped([report.status_codes]):
            report.complain(self.settings.on_failure, self.settings.name, diagnose)
        return value, report


class Implicit(PositionalFunction):
    """Outputs: value, status codes, residual, steps, error bound (empty where there is none)."""

    @staticmethod
    @override
    def forward(equation: Equation, start: Tensor | None, *tensors: Tensor) -> tuple[Tensor, ...]:
        return _outputs(_solved(equation, start, tensors))

    @staticmethod
    @override
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        equation, _, *tensors = inputs
        ctx.equation = equation
        ctx.evaluation = equation.evaluations.pop() if equation.evaluations else None
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(output[0], *tensors)
        ctx.save_for_forward(output[0], *tensors)

    @staticmethod
    @override
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        if cotangents[0] is None:
            return None, None, *(None for _ in ctx.saved_tensors[1:])
        value, *tensors = ctx.saved_tensors
        with full_precision(value.device):
            needed = ctx.needs_input_grad[2:]
            gradients = ctx.equation.pull_back(value, tensors, cotangents[0], needed, ctx.evaluation)
        return None, None, *gradients

    @staticmethod
    @override
    def jvp(ctx: Any, *tangents: Any) -> Any:
        value, *tensors = ctx.saved_tensors
        with full_precision(value.device):
            return ctx.equation.push_forward(value, tensors, tangents[2:]), None, None, None, None

    @staticmethod
    @override
    def vmap(info: Any, in_dims: tuple[Any, ...], equation: Equation, start: Tensor | None, *tensors: Tensor) -> Any:
        outputs = equation.batched(info.batch_size, (start, in_dims[1]), list(zip(tensors, in_dims[2:], strict=True)))
        return outputs, (0,) * len(outputs)


class ImplicitValue(Implicit):
    """`Implicit` with the value as its only output, for calls outside of transforms."""

    @staticmethod
    @override
    def forward(equation: Equation, start: Tensor | None, *tensors: Tensor) -> Tensor:  # type: ignore[override]
        return _solved(equation, start, tensors).value

    @staticmethod
    @override
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # type: ignore[override]
        Implicit.setup_context(ctx, inputs, (output,))

    @staticmethod
    @override
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return Implicit.jvp(ctx, *tangents)[0]


def _solved(equation: Equation, start: Tensor | None, tensors: Sequence[Tensor]) -> Outcome:
    """The outcome of an equation that may be differentiated, whose report it keeps."""
    outcome = equation.refined(equation.solve(start, tensors), tensors)
    equation.reports.append(outcome.report)
    return outcome


def settled(value: Tensor, batch_dims: int = 1) -> Outcome:
    """The outcome for a value that was found before, when it was judged; of its error nothing is said again."""
    codes = torch.zeros(value.shape[:batch_dims], dtype=torch.int8, device=value.device)
    nothing = torch.full_like(codes, torch.inf, dtype=torch.float64)
    return Outcome(value, Report(codes, nothing, codes.long(), nothing.clone()))


def _outputs(outcome: Outcome) -> tuple[Tensor, ...]:
    report = outcome.report
    bound = report.residual.new_empty(0) if report.error_bound is None else report.error_bound
    return outcome.value, report.status_codes, report.residual, report.steps, bound


def any_wrapped(tensors: Sequence[Tensor]) -> bool:
    """Whether any tensor belongs to a ``torch.func`` transform."""
    return any(map(torch._C._functorch.is_functorch_wrapped_tensor, tensors))


def solve_problem(
    problem: Problem,
    guarantee: Guarantee | None,
    settings: Settings,
    start: Tensor | None,
    like: Tensor,
    exact_offset: Callable[[], ExactOffset] | None = None,
    offset: Tensor | None = None,
) -> Outcome:
    """Solve for plain tensors, and certify the result where the settings say so; only then is anything proved."""
    rtol, least = settings.tolerance.resolve(like.dtype)
    atol: float | Tensor = least
    if settings.offset_share > 0.0 and offset is not None:
        atol = euclidean(offset).mul_(settings.offset_share * rtol).add_(least)
    stopping = guarantee if guarantee is None or settings.certified else guarantee.estimated()
    if stopping is not None:
        start = stopping.start(like) if start is None else stopping.project(start)
    continued = settings.continued and can_continue(problem, guarantee)
    most = min(settings.max_steps, ITERATIONS) if continued else settings.max_steps
    proof = prepared(problem, guarantee, exact_offset) if settings.certified and guarantee is not None else None
    outcome = iterate(
        problem,
        settings.solver,
        stopping,
        start,
        like,
        rtol=rtol,
        atol=atol,
        max_steps=most,
        proof=None if settings.sharpened else proof,
    )
    if guarantee is None:
        return outcome
    left = settings.max_steps - most
    if not settings.certified:
        if not left or stopping is None:
            return outcome
        splitting = settings.solver.reflected_step(stopping) if stopping.stops_by_changes else None
        return finished(outcome, problem, guarantee, rtol=rtol, atol=atol, steps=left, splitting=splitting)
    return certify(
        outcome, problem, settings.solver, guarantee, proof, rtol=rtol, atol=atol, max_steps=most, continued=left,
    )  # fmt: skip


def run_steps(
    problem: Problem, guarantee: Guarantee | None, solver: Solver, start: Tensor | None, like: Tensor, steps: int
) -> Tensor:
    """A fixed number of the solver's iterations, with their graph if gradients are enabled."""
    if guarantee is not None:
        guarantee = guarantee.estimated()
        start = guarantee.start(like) if start is None else guarantee.project(start)
    iteration = solver.bind(problem, guarantee, start, like)
    for _ in range(steps):
        iteration.advance()
    return iteration.observe()


def with_leading_batch(tensor: Tensor, place: int | None, size: int) -> Tensor:
    """The tensor with its extra batch dimension in front, repeated if it has none."""
    return tensor.expand(size, *tensor.shape) if place is None else tensor.movedim(place, 0)


def one_by_one(
    equation: Equation, size: int, start: tuple[Tensor | None, int | None], tensors: list[tuple[Tensor, int | None]]
) -> tuple[Tensor, ...]:
    """The outputs of `Implicit` for every slice along the extra batch dimension, stacked."""

    def at(tensor: Tensor | None, place: int | None, index: int) -> Tensor | None:
        return tensor if tensor is None or place is None else tensor.select(place, index)

    results = [
        Implicit.apply(equation, at(*start, index), *(at(tensor, place, index) for tensor, place in tensors))
        for index in range(size)
    ]
    return tuple(torch.stack(column) for column in zip(*results, strict=True))
