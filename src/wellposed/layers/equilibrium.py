"""The layer: an input map, a constrained operator, an activation and a solver."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.activations import Activation
from wellposed.activations import activation as activation_named
from wellposed.constraints.base import Constraint
from wellposed.constraints.factorisations import is_transformed
from wellposed.errors import CertificateError, InputError, check, checked_options
from wellposed.guarantee import Guarantee
from wellposed.implicit import AffineEquation, Settings
from wellposed.implicit.columns import ColumnStep
from wellposed.layers.constrained import ConstrainedLayer
from wellposed.layers.inputs import check_finite, check_numbers, check_samples, check_start, diagnose, in_precision_of
from wellposed.layers.options import SolveOptions
from wellposed.maps.base import AffineMap, InputMap
from wellposed.maps.checks import require_kind
from wellposed.maps.linear import LinearMap, input_map
from wellposed.numerics.euclidean import euclidean
from wellposed.numerics.linear_algebra import full_precision
from wellposed.numerics.outward import next_up
from wellposed.numerics.uncompiled import uncompiled
from wellposed.operators import Operator
from wellposed.solvers import solver_for
from wellposed.solvers.a_posteriori import ExactOffset
from wellposed.solvers.solution import Report, Solution

# By how many units in the last place, of its bound and of its size, an input map may differ from what its numbers say, before it
# is taken to compute something else; a guess, which no proof rests on.
_AGREEMENT = 8.0, 64.0
_DTYPES = torch.float32, torch.float64


class Equilibrium(ConstrainedLayer):
    """``z* = σ(W z* + U x + b)``: the layer's value is the equilibrium of its constrained operator.

    Args:
        injection: an `InputMap` from inputs of shape (*, in_features) to (*, state_features): U and b; or a `torch.nn.Linear`,
            which becomes one.
        constraint: free parameters of W, with their theorem.
        activation: a name or an `Activation`; its slopes must suit the constraint's theorem.
        options: see `SolveOptions`.

    Attributes:
        injections: the classes of input maps that the theorem of the layer is about.
        outputs: the classes of output and direct maps.
        constraints: the classes of constraints.
    """

    injection: InputMap
    injections: ClassVar[tuple[type[nn.Module], ...]] = (LinearMap,)
    outputs: ClassVar[tuple[type[AffineMap], ...]] = ()
    constraints: ClassVar[tuple[type[Constraint], ...]] = (Constraint,)

    @checked_options
    def __init__(
        self,
        injection: nn.Module,
        constraint: Constraint,
        *,
        activation: str | Activation = "relu",
        **options: Unpack[SolveOptions],
    ) -> None:
        super().__init__(constraint, **options)
        self.injection = input_map(injection)
        found, wanted = math.prod(self.state_shape), self.state_features
        check(found == wanted, "injection.out_features", found, f"must equal the constraint's {wanted} state features")
        self.activation = activation_named(activation)
        constraint.require_activation(self.activation)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, input_map(value) if name == "injection" else value)

    def check_parts(self) -> None:
        """Raise an error if a part was replaced by one that the theorem of this layer is not about."""
        require_kind("injection", self.injection, self.injections)
        require_kind("constraint", self.constraint, self.constraints)
        for name, part in self._output_maps():
            require_kind(name, part, self.outputs)
        self.constraint.require_activation(self.activation)
        self._check_shapes()

    def _output_maps(self) -> list[tuple[str, AffineMap]]:
        """The output map and the direct map, where the layer has them, with their names."""
        named = (("output", self.output), ("direct", self.direct))
        return [(name, part) for name, part in named if part is not None]

    def _check_shapes(self) -> None:
        self.injection.check_numbers("injection")
        size, taken = self.state_features, self.injection.output_shape
        if math.prod(taken) != size:
            raise CertificateError(f"injection: gives offsets of shape {taken}; the layer has {size} state features")
        for name, part in self._output_maps():
            part.check_numbers(name)
            given = self.state_shape if name == "output" else self.input_shape
            if part.input_shape != given or part.output_shape != self.value_shape:
                raise CertificateError(
                    f"{name}: maps {part.input_shape} to {part.output_shape}; the layer needs {given} to {self.value_shape}"
                )

    @property
    def in_features(self) -> int:
        """Number of input features."""
        return math.prod(self.input_shape)

    @property
    @override
    def input_shape(self) -> tuple[int, ...]:
        return self.injection.input_shape

    @property
    @override
    def state_shape(self) -> tuple[int, ...]:
        return self.injection.output_shape

    def injection_norm(self) -> float:
        """Proved upper bound of ‖U‖₂ for the stored numbers."""
        return self.injection.norm_bound()

    @override
    def lipschitz(self) -> tuple[float, str]:
        """‖U‖₂ times what the guarantee proves for the offset."""
        with torch.no_grad():
            guarantee = self.guarantee()
        injection, sensitivity = self.injection_norm(), guarantee.offset_lipschitz()
        value = next_up(injection * sensitivity)
        return value, f"‖U‖₂ = {injection:.6g} times {sensitivity:.6g}, by {guarantee.lipschitz_theorem}"

    @override
    @uncompiled
    def state(self, x: Tensor) -> Tensor:
        given = self._plain_input(x) if self.training and torch.is_grad_enabled() else None
        if given is None:
            return self._run(x, None, certified=False)[0]
        formed = self.materialise()
        columns = self._columns(*formed)
        found = None if columns is None else columns.value(x, *given)
        if found is not None:
            return found
        return self._run(x, None if columns is None else columns.reached, certified=False, formed=formed)[0]

    @override
    def state_again(self, x: Tensor, known: Tensor) -> Tensor:
        return self._run(x, None, certified=False, known=known if self.gradient.is_implicit else None)[0]

    @override
    @checked_options
    @uncompiled
    def solve(self, x: Tensor, z0: Tensor | None = None) -> Solution[Tensor]:
        """The equilibrium with its evidence: per-sample status, steps, and a rigorous bound on the error of the value.

        The bound counts every rounding error on the way from the stored input, input map and bias, and from W as it was
        formed, to the value; it is evaluated in float64, and samples that need it are finished in float64. Under
        ``torch.func.vmap`` it takes U x + b as computed for exact.

        Args:
            x: shape (*, *input_shape).
            z0: first iterate of shape (*, *state_shape), to warm-start from a nearby solution.
        """
        return self._solution(x, z0, sharpened=False)

    @override
    @uncompiled
    def sharpened(self, x: Tensor) -> Solution[Tensor]:
        return self._solution(x, None, sharpened=True)

    def _solution(self, x: Tensor, z0: Tensor | None, *, sharpened: bool) -> Solution[Tensor]:
        """What `_run` finds, arranged in the batch shape of the input."""
        value, report, adjoint_reports = self._run(x, z0, certified=True, sharpened=sharpened)
        lead = value.shape[: value.ndim - len(self.state_shape)]
        report = report if len(lead) == 1 else report.reshape(lead)
        return Solution(*report.fields(), report.algorithm, value=value, adjoint_reports=adjoint_reports)

    def _plain_input(self, x: Tensor) -> tuple[Tensor, Tensor | None] | None:
        """U and b, where a step of training asks for the state of plain rows x, and nothing special is wanted; else None."""
        given, gradient = self.injection.product(), self.gradient
        if given is None or not gradient.is_implicit or gradient.solver is not None or self.activation.tensors:
            return None
        weight = given[0]
        if not (
            x.is_cpu
            and x.layout == torch.strided
            and weight.is_cpu
            and x.dtype == weight.dtype
            and weight.dtype in _DTYPES
        ):
            return None
        return None if x.shape[1:] != weight.shape[1:] or not len(x) or is_transformed((x, weight)) else given

    def _columns(self, operator: Operator, guarantee: Guarantee | None) -> ColumnStep | None:
        """How a step of training solves the equation, where W is a matrix that changes; else None."""
        matrix = operator.matrix()
        if matrix is None or not matrix.requires_grad or operator.scaling is not None or guarantee is None:
            return None
        stopping, solver, gradient = guarantee.estimated(), self.solver or solver_for(guarantee), self.gradient
        step = solver.reflected_step(stopping) if stopping.stops_by_changes else None
        if step is None:
            return None
        rtol, atol = self.tolerance.resolve(matrix.dtype)
        return ColumnStep(
            operator=operator, activation=self.activation, step=step, rtol=rtol, atol=atol,
            adjoint_rtol=rtol if gradient.rtol is None else gradient.rtol,
            most=min(self.max_steps, gradient.max_steps or self.max_steps),
            equation=lambda: self._equation(operator, guarantee),
        )  # fmt: skip

    def _equation(
        self,
        operator: Operator,
        guarantee: Guarantee | None,
        *,
        certified: bool = False,
        sharpened: bool = False,
        exact_offset: Callable[[], ExactOffset] | None = None,
        known: Tensor | None = None,
    ) -> AffineEquation:
        """What the layer solves, with its options."""
        settings = Settings(
            solver=self.solver or solver_for(guarantee),
            tolerance=self.tolerance,
            max_steps=self.max_steps,
            on_failure=self.on_failure,
            gradient=self.gradient,
            certified=certified,
            sharpened=sharpened,
            continued=self.solver is None,
            name=f"solve of {type(self).__name__}",
        )
        return AffineEquation(
            operator=operator, activation=self.activation, guarantee=guarantee, settings=settings,
            exact_offset=exact_offset, known=known, formed=[operator],
        )  # fmt: skip

    def _run(
        self,
        x: Tensor,
        z0: Tensor | None,
        *,
        certified: bool,
        sharpened: bool = False,
        known: Tensor | None = None,
        formed: tuple[Operator, Guarantee | None] | None = None,
    ) -> tuple[Tensor, Report, list[Report]]:
        """The equilibrium, how the solve went, sample after sample, and where backward passes leave how theirs did."""
        x, injection = in_precision_of(self, x), self.injection
        shape, stored = injection.input_shape, injection.stored
        check_samples(x, shape)
        check_numbers(x, stored)
        lead = x.shape[: x.ndim - len(shape)]
        if z0 is not None:
            check_start(z0, (*lead, *self.state_shape), stored.dtype)
        with full_precision(x.device):
            rows = x if len(lead) == 1 else x.reshape(-1, *shape)
            operator, guarantee = self._in_use() if formed is None else formed
            proved = certified and guarantee is not None
            offset, exact = self._offset(rows, once=not sharpened) if proved else (injection(rows), None)
            equation = self._equation(
                operator, guarantee, certified=proved, sharpened=sharpened, exact_offset=exact,
                known=None if known is None else known.reshape(-1, *self.state_shape),
            )  # fmt: skip
            start = None if z0 is None else z0.reshape(-1, *self.state_shape)
            check_finite(self, x, offset)
            if injection.positive_part is not None or len(shape) > 1:  # which may read less than all of x, or bound it
                check_finite(self, x, x)
            unknowns = (*operator.tensors, offset, *self.activation.tensors)
            try:
                value, report = equation.run(start, unknowns, lambda: diagnose(self, x, offset))
            except InputError:
                diagnose(self, x, offset)  # knows the parameter's name, if it is a matter of NaN or infinity
                raise
        return value if len(lead) == 1 else value.reshape(*lead, *self.state_shape), report, equation.adjoint_reports

    def _offset(self, rows: Tensor, *, once: bool) -> tuple[Tensor, Callable[[], ExactOffset]]:
        """U x + b in the working precision, and what gives it in float64 with its error.

        Args:
            rows: shape (batch, *input_shape).
            once: compute it in float64 alone, where nobody asks for a graph and the input map computes what its numbers say.
        """
        stored = self.injection.stored
        once = once and not torch.is_grad_enabled() and not is_transformed((rows, stored))
        if not once or not self.injection.computes_numbers:
            offset = self.injection(rows)
            return offset, lambda: self._checked_offset(rows, offset)
        exact = self.injection.exact(rows)
        return exact.value.to(stored.dtype), lambda: exact

    def _checked_offset(self, rows: Tensor, offset: Tensor) -> ExactOffset:
        """U x + b with its error, which the offset that the input map gave must agree with."""
        exact = self.injection.exact(rows)
        if torch._C._functorch.is_functorch_wrapped_tensor(offset):
            return exact
        eps = torch.finfo(offset.dtype).eps
        size = 1.0 + self.injection.cancelled() + euclidean(exact.value)
        of_error, of_size = _AGREEMENT
        allowed = of_error * exact.error * eps / torch.finfo(torch.float64).eps + of_size * eps * size
        if bool((euclidean(offset.detach().double() - exact.value) > allowed).any()):
            raise CertificateError(
                f"injection: {type(self.injection).__name__} gives something else than its weight and bias say, so that nothing "
                "is known of the error; was its forward replaced, or a hook registered?"
            )
        return exact

    @override
    def extra_repr(self) -> str:
        return f"activation={self.activation!r}, solver={self.solver!r}"
