"""Differentiating through a solve by the implicit function theorem.

One `torch.autograd.Function` serves every equation and every order of derivative. At z* = F(z*, θ) a cotangent g gives
``y = g + (∂F/∂z)ᵀ y``: again a fixed-point equation, with the same guarantee, which the backward pass hands to the same
function. Its own derivatives are therefore known too, in reverse and in forward mode, and under ``torch.func``.

Where only first derivatives are asked for, the recursion is cut short: affine layers solve the adjoint directly with the
transposed factorisation of the forward pass, other maps reuse one retained graph.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from wellposed.activations import Activation, DiagonalLinear
from wellposed.autograd import PositionalFunction
from wellposed.errors import InputError, check, checked_fields
from wellposed.guarantee import Guarantee
from wellposed.linear_algebra import directional_derivative
from wellposed.operators import Operator
from wellposed.solvers.base import Solver
from wellposed.solvers.evidence import ExactOffset, certify
from wellposed.solvers.iterate import Outcome, iterate
from wellposed.solvers.problem import AffineProblem, MapProblem, Problem
from wellposed.solvers.solution import Report, Tolerance, check_on_failure


class Gradient(ABC):
    """How to differentiate through a solve."""


@checked_fields
@dataclass(frozen=True)
class Exact(Gradient):
    """The implicit function theorem: exact up to the tolerance of the adjoint solve, constant memory.

    Args:
        solver: for the adjoint equation; None for the solver of the forward pass.
        rtol: relative tolerance of the adjoint state; None for that of the forward pass.
        max_steps: step limit of the adjoint solve; None for that of the forward pass.
    """

    solver: Solver | None = None
    rtol: float | None = None
    max_steps: int | None = None


@checked_fields
@dataclass(frozen=True)
class Phantom(Gradient):
    """Backpropagation through a few damped steps from the solution (Geng et al. 2021): cheap and biased.

    Args:
        steps: number of steps.
        damping: weight of the new value in each step, in (0, 1].
    """

    steps: int = 5
    damping: float = 0.5

    def __post_init__(self) -> None:
        check(self.steps >= 1, "steps", self.steps, "must be at least 1")
        check(0.0 < self.damping <= 1.0, "damping", self.damping, "must lie in (0, 1]")


@checked_fields
@dataclass(frozen=True)
class JacobianFree(Gradient):
    """Backpropagation through a single step (Fung et al. 2022): the cheapest, and biased."""


@checked_fields
@dataclass(frozen=True)
class Unrolled(Gradient):
    """Backpropagation through the iterations themselves: memory grows with their number."""


@dataclass(frozen=True)
class Settings:
    """Everything about a solve that is not a tensor."""

    solver: Solver
    tolerance: Tolerance
    max_steps: int
    on_failure: str
    gradient: Gradient = field(default_factory=Exact)
    certified: bool = False
    name: str = "fixed-point solve"

    def __post_init__(self) -> None:
        check(self.max_steps >= 1, "max_steps", self.max_steps, "must be at least 1")
        check_on_failure(self.on_failure)

    def adjoint(self, dtype: torch.dtype) -> Settings:
        """Settings of the adjoint equation: the tolerance is purely relative, gradients have no natural scale."""
        exact = self.gradient if isinstance(self.gradient, Exact) else Exact()
        rtol = self.tolerance.resolve(dtype)[0] if exact.rtol is None else exact.rtol
        return replace(
            self,
            solver=self.solver if exact.solver is None else exact.solver,
            tolerance=Tolerance(rtol=rtol, atol=0.0),
            max_steps=self.max_steps if exact.max_steps is None else exact.max_steps,
            gradient=Exact(),
            name=self.name if self.name.startswith("adjoint") else f"adjoint of the {self.name}",
        )


class Equation(ABC):
    """A fixed-point equation with named tensors: what `_Implicit` needs to solve and differentiate it."""

    settings: Settings
    adjoint_reports: list[Report]

    @abstractmethod
    def solve(self, start: Tensor | None, tensors: Sequence[Tensor]) -> Outcome:
        """Solve for plain tensors, without a graph."""

    @abstractmethod
    def unrolled(self, start: Tensor | None, tensors: Sequence[Tensor], steps: int) -> Tensor:
        """The solver's own iterations, with their graph."""

    @abstractmethod
    def step(self, value: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        """One application of the map, with its graph."""

    @abstractmethod
    def pull_back(
        self, value: Tensor, tensors: Sequence[Tensor], cotangent: Tensor, needed: Sequence[bool]
    ) -> list[Tensor | None]:
        """Cotangents of the tensors for a cotangent of the solution."""

    @abstractmethod
    def push_forward(self, value: Tensor, tensors: Sequence[Tensor], tangents: Sequence[Tensor | None]) -> Tensor:
        """Tangent of the solution for tangents of the tensors."""

    @abstractmethod
    def batched(
        self, size: int, start: tuple[Tensor | None, int | None], tensors: list[tuple[Tensor, int | None]]
    ) -> tuple[Tensor, ...]:
        """The outputs of `_Implicit` when tensors have an extra batch dimension at the given place (None: they don't)."""

    def differentiable_value(self, start: Tensor | None, *tensors: Tensor) -> Tensor:
        """The solution as a differentiable function of the tensors."""
        return _Implicit.apply(self, start, *tensors)[0]

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
        tracked = torch.is_grad_enabled() or _any_wrapped(tensors)
        if isinstance(gradient, Exact) and tracked:
            value, codes, residual, steps, bound = _Implicit.apply(self, start, *tensors)
            report = Report(codes, residual, steps, bound if self.settings.certified else None)
        else:
            plain = [tensor.detach() for tensor in tensors]
            outcome = self.solve(None if start is None else start.detach(), plain)
            value, report = outcome.value, outcome.report
            if tracked:
                value = self._attach(gradient, value, report, start, tensors)
        if not _any_wrapped([report.status_codes]):
            report.complain(self.settings.on_failure, self.settings.name, diagnose)
        return value, report

    def _attach(
        self, gradient: Gradient, value: Tensor, report: Report, start: Tensor | None, tensors: Sequence[Tensor]
    ) -> Tensor:
        if isinstance(gradient, Unrolled):
            return self.unrolled(start, tensors, max(int(report.steps.max()) if report.steps.numel() else 1, 1))
        if isinstance(gradient, JacobianFree):
            gradient = Phantom(steps=1, damping=1.0)
        if not isinstance(gradient, Phantom):
            raise InputError(f"gradient={gradient!r}: expected Exact, Phantom, JacobianFree or Unrolled")
        for _ in range(gradient.steps):
            value = torch.lerp(value, self.step(value, tensors), gradient.damping)
        return value


class _Implicit(PositionalFunction):
    """Outputs: value, status codes, residual, steps, error bound (empty where there is none)."""

    @staticmethod
    def forward(equation: Equation, start: Tensor | None, *tensors: Tensor) -> tuple[Tensor, ...]:
        return _outputs(equation.solve(start, tensors))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        equation, _, *tensors = inputs
        ctx.equation = equation
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(output[0], *tensors)
        ctx.save_for_forward(output[0], *tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        if cotangents[0] is None:
            return None, None, *(None for _ in ctx.saved_tensors[1:])
        value, *tensors = ctx.saved_tensors
        gradients = ctx.equation.pull_back(value, tensors, cotangents[0], ctx.needs_input_grad[2:])
        return None, None, *gradients

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        value, *tensors = ctx.saved_tensors
        return ctx.equation.push_forward(value, tensors, tangents[2:]), None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], equation: Equation, start: Tensor | None, *tensors: Tensor) -> Any:
        outputs = equation.batched(info.batch_size, (start, in_dims[1]), list(zip(tensors, in_dims[2:], strict=True)))
        return outputs, (0,) * len(outputs)


def _outputs(outcome: Outcome) -> tuple[Tensor, ...]:
    report = outcome.report
    bound = report.residual.new_empty(0) if report.error_bound is None else report.error_bound
    return outcome.value, report.status_codes, report.residual, report.steps, bound


def _any_wrapped(tensors: Sequence[Tensor]) -> bool:
    """Whether any tensor belongs to a ``torch.func`` transform."""
    return any(torch._C._functorch.is_functorch_wrapped_tensor(tensor) for tensor in tensors)


def _solve(
    problem: Problem,
    guarantee: Guarantee | None,
    settings: Settings,
    start: Tensor | None,
    like: Tensor,
    exact_offset: Callable[[], ExactOffset] | None = None,
) -> Outcome:
    rtol, atol = settings.tolerance.resolve(like.dtype)
    outcome = iterate(
        problem, settings.solver, guarantee, start, like, rtol=rtol, atol=atol, max_steps=settings.max_steps
    )
    if guarantee is None or not settings.certified:
        return outcome
    return certify(
        outcome, problem, settings.solver, guarantee,
        rtol=rtol, atol=atol, max_steps=settings.max_steps, exact_offset=exact_offset,
    )  # fmt: skip


@dataclass(frozen=True)
class AffineEquation(Equation):
    """``z = σ(Wz + q)``; its tensors are those of W, then q of shape (batch, *state), then those of σ.

    Attributes:
        operator: W, as a structure whose tensors are replaced by those given.
        activation: σ, likewise.
        guarantee: what is known of W, likewise.
        settings: how to solve.
        exact_offset: see `certify`.
        adjoint_reports: where backward passes leave how their solves went.
    """

    operator: Operator
    activation: Activation
    guarantee: Guarantee | None
    settings: Settings
    exact_offset: Callable[[], ExactOffset] | None = None
    adjoint_reports: list[Report] = field(default_factory=list)

    def _parts(self, tensors: Sequence[Tensor]) -> tuple[Operator, Tensor, Activation]:
        count = len(self.operator.tensors)
        activation = self.activation.rebuild(tuple(tensors[count + 1 :]))
        return self.operator.rebuild(tuple(tensors[:count])), tensors[count], activation

    def solve(self, start: Tensor | None, tensors: Sequence[Tensor]) -> Outcome:  # noqa: D102
        operator, offset, activation = self._parts(tensors)
        guarantee = None if self.guarantee is None else self.guarantee.on(operator)
        problem = AffineProblem(operator, offset, activation)
        return _solve(problem, guarantee, self.settings, start, offset, self.exact_offset)

    def unrolled(self, start: Tensor | None, tensors: Sequence[Tensor], steps: int) -> Tensor:  # noqa: D102
        operator, offset, activation = self._parts(tensors)
        guarantee = None if self.guarantee is None else self.guarantee.on(operator)
        problem = AffineProblem(operator, offset, activation)
        return _unroll(problem, guarantee, self.settings.solver, start, offset, steps)

    def step(self, value: Tensor, tensors: Sequence[Tensor]) -> Tensor:  # noqa: D102
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
        diagonal = DiagonalLinear(slopes, binary=activation.binary_slopes)
        return AffineEquation(operator, diagonal, self.guarantee, settings, None, self.adjoint_reports)

    def pull_back(  # noqa: D102
        self, value: Tensor, tensors: Sequence[Tensor], cotangent: Tensor, needed: Sequence[bool]
    ) -> list[Tensor | None]:
        operator, offset, activation = self._parts(tensors)
        count = len(operator.tensors)
        # y = J(g + Wᵀy): the same equation, with the transpose for W, g for q and multiplication by J for σ.
        adjoint = self._linearised(operator, activation, value, offset, transposed=True)
        backwards = adjoint.operator
        unknowns = (*backwards.tensors, cotangent, *adjoint.activation.tensors)
        if torch.is_grad_enabled() or _any_wrapped(unknowns):
            adjoint_state = adjoint.differentiable_value(None, *unknowns)
        else:
            outcome = adjoint.solve(None, unknowns)
            adjoint_state = outcome.value
            self.adjoint_reports.append(outcome.report)
            outcome.report.complain(self.settings.on_failure, adjoint.settings.name)
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

    def push_forward(  # noqa: D102
        self, value: Tensor, tensors: Sequence[Tensor], tangents: Sequence[Tensor | None]
    ) -> Tensor:
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

    def batched(  # noqa: D102
        self, size: int, start: tuple[Tensor | None, int | None], tensors: list[tuple[Tensor, int | None]]
    ) -> tuple[Tensor, ...]:
        count = len(self.operator.tensors)
        if any(place is not None for _, place in tensors[:count]):
            return _one_by_one(self, size, start, tensors)
        rows = [_leading(tensor, place, size) for tensor, place in tensors[count:]]
        flat = [row.flatten(0, 1) for row in rows]
        first = None if start[0] is None else _leading(start[0], start[1], size).flatten(0, 1)
        # The exact offset belongs to the unbatched call; a certified solve inside vmap certifies its own offset.
        equation = replace(self, exact_offset=None)
        outputs = _Implicit.apply(equation, first, *(tensor for tensor, _ in tensors[:count]), *flat)
        return tuple(output.reshape(size, -1 if output.numel() else 0, *output.shape[1:]) for output in outputs)


@dataclass(frozen=True)
class MapEquation(Equation):
    """``z = f(z, *args)`` for a function of states and tensors, both with ``batch_dims`` leading batch dimensions.

    Attributes:
        function: takes and returns one tensor of shape (*batch, n), then the tensors.
        settings: how to solve.
        guarantee: what is known of f, or None.
        like: an example of the state, for its shape.
        batch_dims: leading dimensions that index independent samples.
        batched_tensors: which tensors have one row per sample and so can be restricted to some samples; None if unknown.
        check_captured: look for tensors that need a gradient but were captured by the function.
        linear: the function is affine in the state, as adjoint equations are.
        adjoint_reports: where backward passes leave how their solves went.
    """

    function: Callable[..., Tensor]
    settings: Settings
    guarantee: Guarantee | None
    batch_dims: int = 1
    batched_tensors: tuple[bool, ...] | None = None
    check_captured: bool = False
    linear: bool = False
    adjoint_reports: list[Report] = field(default_factory=list)

    def _problem(self, lead: torch.Size, tensors: Sequence[Tensor]) -> MapProblem:
        function = self.function
        pending = [self.check_captured]

        def of(tensors: Sequence[Tensor], batch: torch.Size) -> Callable[[Tensor], Tensor]:
            if len(batch) == 1 and not pending[0]:  # nothing to rearrange, and no operations to spend on it
                return lambda state: function(state, *tensors)

            def rows_map(state: Tensor) -> Tensor:
                shaped = state.reshape(*batch, *state.shape[1:])
                if pending[0]:
                    pending[0] = False
                    return _probe(function, shaped, tensors).reshape(state.shape)
                return function(shaped, *tensors).reshape(state.shape)

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

    def solve(self, start: Tensor | None, tensors: Sequence[Tensor]) -> Outcome:  # noqa: D102
        example, lead, rest = self._unpack(tensors)
        like = example.flatten(0, self.batch_dims - 1)
        first = None if start is None else start.flatten(0, self.batch_dims - 1)
        outcome = _solve(self._problem(lead, rest), self.guarantee, self.settings, first, like)
        return Outcome(outcome.value.reshape(example.shape), outcome.report.reshape(lead))

    def unrolled(self, start: Tensor | None, tensors: Sequence[Tensor], steps: int) -> Tensor:  # noqa: D102
        example, lead, rest = self._unpack(tensors)
        like = example.flatten(0, self.batch_dims - 1)
        first = None if start is None else start.flatten(0, self.batch_dims - 1)
        problem = replace(self, check_captured=False)._problem(lead, rest)
        return _unroll(problem, self.guarantee, self.settings.solver, first, like, steps).reshape(example.shape)

    def step(self, value: Tensor, tensors: Sequence[Tensor]) -> Tensor:  # noqa: D102
        return self.function(value, *tensors[1:])

    def _linear(self, function: Callable[..., Tensor], dtype: torch.dtype) -> MapEquation:
        return MapEquation(
            function, self.settings.adjoint(dtype), self.guarantee, self.batch_dims, linear=True,
            adjoint_reports=self.adjoint_reports,
        )  # fmt: skip

    def pull_back(  # noqa: D102
        self, value: Tensor, tensors: Sequence[Tensor], cotangent: Tensor, needed: Sequence[bool]
    ) -> list[Tensor | None]:
        rest = tensors[1:]
        if torch.is_grad_enabled() or _any_wrapped([cotangent, value, *rest]):
            return [None, *self._pull_back_recursively(value, rest, cotangent)]
        return [None, *self._pull_back_retained(value, rest, cotangent, needed[1:])]

    def _pull_back_recursively(self, value: Tensor, rest: Sequence[Tensor], cotangent: Tensor) -> list[Tensor | None]:
        function = self.function

        def adjoint(state: Tensor, v: Tensor, z: Tensor, *parameters: Tensor) -> Tensor:
            return v + torch.func.vjp(lambda at: function(at, *parameters), z)[1](state)[0]

        linear = self._linear(adjoint, value.dtype)
        state = linear.differentiable_value(None, torch.zeros_like(cotangent), cotangent, value, *rest)
        return list(torch.func.vjp(lambda *parameters: function(value, *parameters), *rest)[1](state))

    def _pull_back_retained(
        self, value: Tensor, rest: Sequence[Tensor], cotangent: Tensor, needed: Sequence[bool]
    ) -> list[Tensor | None]:
        with torch.enable_grad():
            point = value.detach().requires_grad_()
            leaves = [t.detach().requires_grad_() if need else t.detach() for t, need in zip(rest, needed, strict=True)]
            image = self.function(point, *leaves)

        def adjoint(state: Tensor, v: Tensor) -> Tensor:
            return v + torch.autograd.grad(image, point, state, retain_graph=True)[0]

        if image.requires_grad and image is not point:
            linear = self._linear(adjoint, value.dtype)
            outcome = linear.solve(None, (torch.zeros_like(cotangent), cotangent))
            self.adjoint_reports.append(outcome.report)
            outcome.report.complain(self.settings.on_failure, linear.settings.name)
            wanted = [leaf for leaf in leaves if leaf.requires_grad]
            found = iter(torch.autograd.grad(image, wanted, outcome.value, allow_unused=True)) if wanted else iter(())
            return [next(found) if leaf.requires_grad else None for leaf in leaves]
        return [None] * len(leaves)

    def push_forward(  # noqa: D102
        self, value: Tensor, tensors: Sequence[Tensor], tangents: Sequence[Tensor | None]
    ) -> Tensor:
        function, rest = self.function, tuple(tensors[1:])
        filled = tuple(torch.zeros_like(t) if d is None else d for t, d in zip(rest, tangents[1:], strict=True))
        change = directional_derivative(lambda *parameters: function(value, *parameters), rest, filled)

        def linear(state: Tensor, shift: Tensor, z: Tensor, *parameters: Tensor) -> Tensor:
            return shift + directional_derivative(lambda at: function(at, *parameters), (z,), (state,))

        equation = self._linear(linear, value.dtype)
        return equation.differentiable_value(None, torch.zeros_like(value), change, value, *rest)

    def batched(  # noqa: D102
        self, size: int, start: tuple[Tensor | None, int | None], tensors: list[tuple[Tensor, int | None]]
    ) -> tuple[Tensor, ...]:
        places = tuple(None if place is None else 0 for _, place in tensors[1:])
        function = torch.func.vmap(self.function, in_dims=(0, *places))
        moved = [tensor if place is None else tensor.movedim(place, 0) for tensor, place in tensors[1:]]
        example = _leading(*tensors[0], size)
        first = None if start[0] is None else _leading(start[0], start[1], size)
        equation = replace(self, function=function, batch_dims=self.batch_dims + 1, batched_tensors=None)
        return _Implicit.apply(equation, first, example, *moved)


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


def _unroll(
    problem: Problem, guarantee: Guarantee | None, solver: Solver, start: Tensor | None, like: Tensor, steps: int
) -> Tensor:
    iteration = solver.bind(problem, guarantee, start, like)
    for _ in range(steps):
        iteration.advance()
    return iteration.observe()


def _leading(tensor: Tensor, place: int | None, size: int) -> Tensor:
    """The tensor with its extra batch dimension in front, repeated if it has none."""
    return tensor.expand(size, *tensor.shape) if place is None else tensor.movedim(place, 0)


def _one_by_one(
    equation: Equation, size: int, start: tuple[Tensor | None, int | None], tensors: list[tuple[Tensor, int | None]]
) -> tuple[Tensor, ...]:
    def at(tensor: Tensor | None, place: int | None, index: int) -> Tensor | None:
        return tensor if tensor is None or place is None else tensor.select(place, index)

    results = [
        _Implicit.apply(equation, at(*start, index), *(at(tensor, place, index) for tensor, place in tensors))
        for index in range(size)
    ]
    return tuple(torch.stack(column) for column in zip(*results, strict=True))
