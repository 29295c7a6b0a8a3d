"""The layer: an injection, a constrained operator, an activation and a solver."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Self, Unpack

import torch
from torch import Tensor, nn

from wellposed.activations import Activation
from wellposed.activations import activation as activation_named
from wellposed.constraints.base import Constraint
from wellposed.errors import CertificateError, GuaranteeError, InputError, check, checked_options
from wellposed.guarantee import Guarantee
from wellposed.implicit import AffineEquation, Settings
from wellposed.layers.implicit_layer import ImplicitLayer
from wellposed.layers.maps import check_map, require_kind
from wellposed.layers.options import SolveOptions
from wellposed.numerics.euclidean import euclidean, product_underflow
from wellposed.numerics.linear_algebra import full_precision
from wellposed.numerics.verified import spectral_norm_upper_bound
from wellposed.operators import Operator
from wellposed.solvers import solver_for
from wellposed.solvers.a_posteriori import ExactOffset
from wellposed.solvers.solution import Solution


class Equilibrium(ImplicitLayer):
    """``z* = σ(W z* + U x + b)``: the layer's value is the equilibrium of its constrained operator.

    Args:
        injection: maps inputs of shape (*, in_features) to (*, state_features): U and b; as `torch.nn.Linear`, or with its
            attributes.
        constraint: free parameters of W, with their theorem.
        activation: a name or an `Activation`; its slopes must suit the constraint's theorem.
        options: see `SolveOptions`.
    """

    @checked_options
    def __init__(
        self,
        injection: nn.Module,
        constraint: Constraint,
        *,
        activation: str | Activation = "relu",
        **options: Unpack[SolveOptions],
    ) -> None:
        super().__init__(**options)
        self.injection: Any = injection
        self.constraint = constraint
        self._check_sizes()
        self.activation = activation_named(activation)
        constraint.require_activation(self.activation)
        self._held: tuple[Operator, Guarantee | None] | None = None

    def _check_sizes(self) -> None:
        found, wanted = self.injection.out_features, self.state_features
        check(found == wanted, "injection.out_features", found, f"must equal the constraint's {wanted} state features")

    injections: ClassVar[tuple[type[nn.Module], ...]] = (nn.Linear,)
    outputs: ClassVar[tuple[type[nn.Module], ...]] = ()
    constraints: ClassVar[tuple[type[Constraint], ...]] = (Constraint,)

    def check_parts(self) -> None:
        """Raise an error if a part was replaced by one that the theorem of this layer is not about."""
        require_kind("injection", self.injection, self.injections)
        require_kind("constraint", self.constraint, self.constraints)
        for name, part in (("output", self.output), ("direct", self.direct)):
            if part is not None:
                require_kind(name, part, self.outputs)
        self.constraint.require_activation(self.activation)
        self._check_shapes()

    def _check_shapes(self) -> None:
        size = self.state_features
        check_map("injection", self.injection, self.injection.in_features, size)
        if self.output is not None:
            check_map("output", self.output, size, self.output.out_features)
        if self.direct is not None:
            check_map("direct", self.direct, self.injection.in_features, self.output.out_features)

    @property
    def in_features(self) -> int:
        """Number of input features."""
        return self.injection.in_features

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return (self.in_features,)

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of one equilibrium."""
        return (self.state_features,)

    def injection_norm(self) -> float:
        """Proved upper bound of ‖U‖₂ for the stored numbers."""
        return spectral_norm_upper_bound(self.injection.weight)

    @property
    def state_features(self) -> int:
        """Number of features of the equilibrium."""
        return self.constraint.state_features

    def operator(self) -> Operator:
        """W as it runs, with the graph back to the free parameters; ``operator().dense()`` is the matrix."""
        return self.materialise()[0]

    def materialise(self) -> tuple[Operator, Guarantee | None]:
        """W as it runs, with the graph back to the free parameters, and what is promised of it, if anything."""
        return self._form() if self._held is None else self._held

    def _form(self) -> tuple[Operator, Guarantee | None]:
        """W and its guarantee, formed from the free parameters."""
        return self.constraint.materialise()

    @torch.no_grad()
    def hold(self) -> None:
        """Form W for the last time: from now on the layer runs with the numbers that it has now, whatever its parameters are.

        For the private copies that networks keep: a layer that holds W can be trained and loaded no more.
        """
        operator, guarantee = self._form()
        self._held = operator.rebuild(tuple(tensor.detach().clone() for tensor in operator.tensors)), guarantee

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        if self._held is not None:
            operator, guarantee = self._held
            like = fn(torch.zeros((), dtype=operator.tensors[0].real.dtype, device=operator.tensors[0].device))
            moved = operator.to(like.dtype)
            moved = moved.rebuild(tuple(tensor.to(like.device) for tensor in moved.tensors))
            self._held = moved, None if guarantee is None else guarantee.on(moved)
        return self

    def guarantee(self) -> Guarantee:
        """What is promised of W as it runs.

        Raises:
            GuaranteeError: nothing is.
        """
        found = self.materialise()[1]
        if found is None:
            raise GuaranteeError(
                f"{type(self).__name__}: this layer has no guarantee; its equilibrium may not be unique"
            )
        return found

    def lipschitz(self) -> tuple[float, str]:
        """‖U‖₂ times what the guarantee proves for the offset."""
        with torch.no_grad():
            guarantee = self.guarantee()
        injection, sensitivity = self.injection_norm(), guarantee.offset_lipschitz()
        value = math.nextafter(injection * sensitivity, math.inf)
        return value, f"‖U‖₂ = {injection:.6g} times {sensitivity:.6g}, by {guarantee.lipschitz_theorem}"

    def state(self, x: Tensor) -> Tensor:  # noqa: D102
        return self._run(x, None, certified=False).value

    @checked_options
    def solve(self, x: Tensor, z0: Tensor | None = None) -> Solution[Tensor]:
        """The equilibrium with its evidence: per-sample status, steps, and a rigorous bound on the error of the value.

        The bound counts every rounding error on the way from the stored input, input map and bias, and from W as it was
        formed, to the value; it is evaluated in float64, and samples that need it are finished in float64. Under
        ``torch.func.vmap`` it takes U x + b as computed for exact.

        Args:
            x: shape (*, in_features).
            z0: first iterate of shape (*, state_features), to warm-start from a nearby solution.
        """
        return self._run(x, z0, certified=True)

    def _run(self, x: Tensor, z0: Tensor | None, *, certified: bool) -> Solution[Tensor]:
        self._check_input(x)
        self._check_start(x, z0)
        with full_precision(x.device):
            lead = x.shape[: x.ndim - len(self.input_shape)]
            rows = x.reshape(-1, *self.input_shape)
            offset = self.injection(rows)
            operator, guarantee = self.materialise()
            settings = Settings(
                solver=self.solver or solver_for(guarantee),
                tolerance=self.tolerance,
                max_steps=self.max_steps,
                on_failure=self.on_failure,
                gradient=self.gradient,
                certified=certified and guarantee is not None,
                name=f"solve of {type(self).__name__}",
            )
            exact = (lambda: self._checked_offset(rows, offset)) if settings.certified else None
            equation = AffineEquation(operator, self.activation, guarantee, settings, exact)
            start = None if z0 is None else z0.reshape(-1, *self.state_shape)
            self._check_finite(x, offset)
            unknowns = (*operator.tensors, offset, *self.activation.tensors)
            try:
                value, report = equation.run(start, unknowns, lambda: self._diagnose(x, offset))
            except InputError:
                self._diagnose(x, offset)  # knows the parameter's name, if it is a matter of NaN or infinity
                raise
        if len(lead) == 1:
            return Solution(*report.fields(), value, equation.adjoint_reports)
        return Solution(
            *report.reshape(lead).fields(), value.reshape(*lead, *self.state_shape), equation.adjoint_reports
        )

    def _checked_offset(self, rows: Tensor, offset: Tensor) -> ExactOffset:
        """U x + b with its error, which the offset that the input map gave must agree with."""
        exact = self._exact_offset(rows)
        if torch._C._functorch.is_functorch_wrapped_tensor(offset):
            return exact
        eps = torch.finfo(offset.dtype).eps
        size = 1.0 + self._cancelled() + euclidean(exact.value)
        allowed = 8.0 * exact.error * eps / torch.finfo(torch.float64).eps + 64.0 * eps * size
        if bool((euclidean(offset.detach().double() - exact.value) > allowed).any()):
            raise CertificateError(
                f"injection: {type(self.injection).__name__} gives something else than its weight and bias say, so that nothing "
                "is known of the error; was its forward replaced, or a hook registered?"
            )
        return exact

    def _cancelled(self) -> float:
        """Euclidean size of what the input map adds up and takes away again, beyond U x and b."""
        return 0.0

    def _exact_offset(self, rows: Tensor) -> ExactOffset:
        # torch.func wrappers cannot enter a closure, so plain storage is read here; see AffineEquation.batched.
        bias = self.injection.bias
        return exact_linear(
            rows, self.injection.weight.detach().double(), None if bias is None else bias.detach().double()
        )

    def _check_input(self, x: Tensor) -> None:
        self._check_shape(x)
        weight = self.injection.weight
        if weight.dtype not in (torch.float32, torch.float64):
            raise InputError(
                f"dtype={weight.dtype}: equilibria need float32 or float64 weights; autocast around them is fine"
            )
        if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
            raise InputError(f"x: has dtype {x.dtype}, the weights have {weight.dtype}; convert one of them")
        if x.device != weight.device:
            raise InputError(f"x: is on {x.device}, the weights are on {weight.device}; move one of them")

    def _check_shape(self, x: Tensor) -> None:
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise InputError(
                f"x: has shape {tuple(x.shape)}, but the layer takes {self.in_features} features in the last dimension; "
                "flatten or reshape the input"
            )

    def _check_start(self, x: Tensor, z0: Tensor | None) -> None:
        expected = (*x.shape[: x.ndim - len(self.input_shape)], *self.state_shape)
        if z0 is not None and (tuple(z0.shape) != expected or z0.dtype != self.injection.weight.dtype):
            raise InputError(
                f"z0: has shape {tuple(z0.shape)} and dtype {z0.dtype}; needs shape {expected} and dtype "
                f"{self.injection.weight.dtype}"
            )

    def _check_finite(self, x: Tensor, offset: Tensor) -> None:
        """Refuse NaN and infinity in the injected input; its sum, one number, shows whether to look closer."""
        if torch._C._functorch.is_functorch_wrapped_tensor(offset):
            return
        if not math.isfinite(float(offset.detach().sum())):
            self._diagnose(x, offset)

    def _diagnose(self, x: Tensor, offset: Tensor) -> None:
        """Raise the error that names the source of NaN or infinity, if there is one."""
        if not bool(torch.isfinite(x).all()):
            raise InputError("x: has NaN or infinite entries; an equilibrium for them means nothing")
        for name, parameter in self.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise InputError(f"{name}: the weights have NaN or infinite entries; was the learning rate too high?")
        if not bool(torch.isfinite(offset).all()):
            raise InputError("x: input and weights are finite but U x + b overflows their dtype; rescale the input")

    def extra_repr(self) -> str:
        """Shown inside ``repr``."""
        return f"activation={self.activation!r}, solver={self.solver!r}"


def exact_linear(rows: Tensor, weight: Tensor, bias: Tensor | None, *, roundings: int = 0) -> ExactOffset:
    """``rows·weightᵀ + bias`` in float64, with a bound on the Euclidean error of each row.

    Args:
        rows: inputs, shape (batch, in_features), any float dtype.
        weight: float64, shape (out_features, in_features).
        bias: float64, shape (out_features,), or None.
        roundings: how many roundings of float64 the weights and biases themselves may be off.
    """
    exact = rows.detach().double()
    value = exact @ weight.t()
    norm, frobenius = euclidean(exact), float(euclidean(weight.reshape(1, -1)))
    size = norm * frobenius
    if bias is not None:
        value = value + bias
        size = size + float(euclidean(bias[None]))
    outputs, inputs = weight.shape
    rounding = (inputs + 3 + roundings) * torch.finfo(torch.float64).eps * size
    return ExactOffset(value, rounding + product_underflow(rows.dtype, outputs, inputs, inputs, frobenius, norm))
