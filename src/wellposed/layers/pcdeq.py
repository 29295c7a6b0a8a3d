"""Positive concave equilibrium networks (Gabor, Piotrowski & Cavalcante 2024)."""

from __future__ import annotations

import math
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from wellposed.activations.concave import concave_activation, concave_names, thompson_modulus
from wellposed.constraints.nonnegative import Nonnegative
from wellposed.errors import CertificateError, InputError, check, checked_options, choices
from wellposed.layers.equilibrium import Equilibrium, exact_linear
from wellposed.layers.maps import require_kind
from wellposed.layers.normalize import batch_norm_map, require_fixed
from wellposed.layers.options import SolveOptions
from wellposed.numerics.euclidean import euclidean, underflow
from wellposed.numerics.outward import rounding_constant
from wellposed.numerics.verified import spectral_norm_upper_bound
from wellposed.solvers import DouglasRachford, ForwardBackward, PeacemanRachford
from wellposed.solvers.a_posteriori import ExactOffset


class PositiveInjection(nn.Module):
    """``floor + softplus(βv)/β``, or ``max(v, 0)`` where the floor is zero, of ``v = U x + b``: never below the floor.

    Attributes:
        floor: at least zero.
        sharpness: β.
        norm: normalises v over the batch, if it is not None; in eval mode that is a part of U and b.
        weight: U, outputs first.
        bias: b, or None.
    """

    floor: float
    sharpness: float
    norm: Any
    weight: Any
    bias: Any

    def positive(self, value: Tensor) -> Tensor:
        """The positive part; its slopes lie in [0, 1]."""
        if self.floor == 0.0:
            return torch.relu(value)
        if self.sharpness == 1.0:
            return self.floor + torch.logaddexp(value, torch.zeros_like(value))
        return self.floor + torch.logaddexp(self.sharpness * value, torch.zeros_like(value)) / self.sharpness

    def slope(self, value: Tensor) -> Tensor:
        """That of `positive`, which increases."""
        return (value > 0.0).to(value) if self.floor == 0.0 else torch.sigmoid(self.sharpness * value)

    def normalised(self, value: Tensor) -> Tensor:
        """The positive part of v, normalised where that is wanted."""
        return self.positive(value if self.norm is None else self.norm(value))

    def folded(self) -> tuple[Tensor, Tensor]:
        """U and b with the normalisation of eval mode in them, float64.

        Raises:
            InputError: in training mode, where the normalisation depends on the batch.
        """
        weight = self.weight.detach().double()
        bias = weight.new_zeros(len(weight)) if self.bias is None else self.bias.detach().double()
        if self.norm is None:
            return weight, bias
        if self.norm.training or self.norm.running_var is None:
            raise InputError("training=True: batch normalisation depends on the batch; call eval() first")
        scale, _ = batch_norm_map(self.norm)
        moved, shift = self._folded_bias(bias, scale)
        return weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), moved + shift

    def _folded_bias(self, bias: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """The two terms of the bias after normalisation; the difference of bias and mean rounds relative to itself."""
        moved = (bias - self.norm.running_mean.double()) * scale
        return moved, torch.zeros_like(moved) if self.norm.bias is None else self.norm.bias.detach().double()

    def fold_size(self) -> float:
        """Euclidean size of the terms that `folded` adds up in the bias: its rounding is relative to this."""
        if self.norm is None:
            return 0.0
        scale, _ = batch_norm_map(self.norm)
        bias = torch.zeros_like(scale) if self.bias is None else self.bias.detach().double()
        moved, shift = self._folded_bias(bias, scale)
        return float((moved.abs() + shift.abs()).norm())


class PositiveLinear(PositiveInjection, nn.Linear):
    """A linear map with a positive part.

    Args:
        in_features: inputs.
        out_features: outputs.
        floor: at least zero.
        sharpness: β.
        batch_norm: normalise v over the batch.
        options: as for `torch.nn.Linear`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        floor: float,
        sharpness: float = 1.0,
        *,
        batch_norm: bool = False,
        **options: Any,
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, **options)
        self.floor, self.sharpness = floor, sharpness
        where = {name: value for name, value in options.items() if name != "bias"}
        self.norm = nn.BatchNorm1d(out_features, **where) if batch_norm else None

    def forward(self, x: Tensor) -> Tensor:
        """Shape (*, in_features) to (*, out_features)."""
        return self.normalised(nn.functional.linear(x, self.weight, self.bias))


class PositiveEquilibrium(Equilibrium):
    """What positive concave layers share: bounds of the equilibrium in every component."""

    injection: PositiveInjection
    _name: str
    injections = (PositiveInjection,)

    def _check_shapes(self) -> None:
        super()._check_shapes()
        injection, constraint = self.injection, self.constraint
        sharp = 0.0 < injection.sharpness < math.inf
        if injection.floor != constraint.floor or concave_activation(self._name) != self.activation or not sharp:
            raise CertificateError(
                f"injection.floor={injection.floor!r}, injection.sharpness={injection.sharpness!r}: are not those that the "
                "theorem was applied with; build the layer with them"
            )
        norm = injection.norm
        if norm is not None:
            require_kind("injection.norm", norm, (nn.BatchNorm1d, nn.BatchNorm2d))
            require_fixed("injection.norm", norm, len(injection.weight))

    def get_extra_state(self) -> Tensor:
        """The floor, and β where it is not one: they decide what the weights mean and so must travel with them."""
        floor, sharpness = self.injection.floor, self.injection.sharpness
        return torch.tensor(floor if sharpness == 1.0 else [floor, sharpness], dtype=torch.float64)

    def set_extra_state(self, state: Any) -> None:
        """Refuse weights that were trained with another floor."""
        found = torch.as_tensor(state, dtype=torch.float64).reshape(-1).tolist()
        own = self.get_extra_state().reshape(-1).tolist()
        if found != own:
            raise InputError(f"floor, sharpness = {own}: the checkpoint was made with {found}; build the layer so")

    def _cancelled(self) -> float:
        injection = self.injection
        if injection.norm is None:
            return 0.0
        scale, _ = batch_norm_map(injection.norm)
        parts = [injection.norm.running_mean, *([] if injection.bias is None else [injection.bias.detach()])]
        size = sum((part.double().abs() for part in parts), torch.zeros_like(scale))
        copies = (self.state_features / len(injection.weight)) ** 0.5
        return float((scale.abs() * size).norm()) * copies

    @torch.no_grad()
    def enclosure(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Proved bounds of the equilibrium in every component, for the stored weights and input.

        A nonnegative l with l ≤ σ(Wl + p) is below the fixed point, and u with u ≥ σ(Wu + p) above it. Both are multiples
        (1 ∓ t)z of the solution z found, t as small as passes these two tests with every rounding counted; concavity sees to
        it that some t does.

        Args:
            x: shape (*, *input_shape).

        Returns:
            Lower and upper bounds, float64, shape (*, *state_shape); zero and infinity where no t was found.
        """
        rows = x.reshape(-1, *self.input_shape)
        point = self.solve(rows).value.double()
        offset = self._exact_offset(rows)
        operator = self.operator().to(torch.float64)
        each = (-1, *[1] * len(self.state_shape))
        below = (offset.value - offset.error.reshape(each)).clamp_min(self.injection.floor)
        above = offset.value + offset.error.reshape(each)
        # Sums of nonnegative products, and σ of them, which does not amplify relative errors.
        margin = 2.0 * rounding_constant(self.state_features + 24)
        lost = underflow(torch.float64, 1, self.state_features)
        lower, upper = torch.zeros_like(point), torch.full_like(point, math.inf)
        width = torch.finfo(torch.float64).eps
        while width < 0.5 and not bool(torch.isfinite(upper).all() and (lower > 0.0).all()):
            low, high = point * (1.0 - width), point * (1.0 + width)
            is_low = self.activation(operator.apply(low) + below) * (1.0 - margin) - lost >= low
            is_high = self.activation(operator.apply(high) + above) * (1.0 + margin) + lost <= high
            lower = torch.where(_every(is_low) & ~_every(lower > 0.0), low, lower)
            upper = torch.where(_every(is_high) & ~_every(torch.isfinite(upper)), high, upper)
            width *= 2.0
        shape = (*x.shape[: x.ndim - len(self.input_shape)], *self.state_shape)
        return lower.reshape(shape), upper.reshape(shape)

    @property
    def thompson_factor(self) -> float:
        """Contraction of one step in the Thompson metric, for every W ≥ 0 and every input; see `thompson_modulus`."""
        return thompson_modulus(self._name, self.injection.floor)

    def _positive_offset(self, exact: ExactOffset) -> ExactOffset:
        """The positive part of U x + b, with the errors of the folded bias and of the positive part."""
        # The folded bias is a difference of large numbers where the running mean is large.
        copies = (self.state_features / len(self.injection.weight)) ** 0.5
        cancelled = 8.0 * torch.finfo(torch.float64).eps * self.injection.fold_size() * copies
        value = self.injection.positive(exact.value)
        # With β a product rounds before the exponential: by at most an absolute 1/(eβ) units.
        product = 0.0 if self.injection.sharpness == 1.0 else 1.0 / self.injection.sharpness
        size = euclidean(value) + (self.injection.floor + product) * self.state_features**0.5
        return ExactOffset(value, exact.error + cancelled + 8.0 * torch.finfo(torch.float64).eps * size)


def _every(mask: Tensor) -> Tensor:
    """Whether all entries of a row are set, with dimensions to broadcast over it."""
    return mask.flatten(1).all(1).reshape(-1, *[1] * (mask.ndim - 1))


def checked_floor(activation: str, floor: float | None, sharpness: float, solver: object) -> float:
    """The floor of the offset that goes with an activation.

    Raises:
        InputError: it does not fit, there is no such activation, or the solver is a splitting.
    """
    choices("activation", activation, concave_names())
    check(0.0 < sharpness < math.inf, "sharpness", sharpness, "must be positive and finite")
    second = activation == "sigmoid"
    if floor is None:
        floor = 0.0 if second else 0.1
    fits = floor == 0.0 if second else 0.0 < floor < float("inf")
    check(fits, "floor", floor, "must be zero for the sigmoid" if second else "must be positive and finite")
    if isinstance(solver, ForwardBackward | PeacemanRachford | DouglasRachford):
        raise InputError(
            f"solver={solver!r}: splits the operator I − W, which need not be monotone here; use Picard, "
            "Averaged, Anderson, Broyden, Newton or NewtonKrylov"
        )
    return floor


class PcDEQ(PositiveEquilibrium):
    """``z* = σ(W z* + p)``, W ≥ 0 and σ concave on the positive axis: one nonnegative fixed point for *every* W ≥ 0.

    Variant 1 has σ(0) = 0 and a strictly positive offset ``p = ε + softplus(U x + b)``; variant 2 has σ(0) > 0 (the sigmoid) and
    ``p = max(U x + b, 0)``. The published variant 1 has no floor ε and therefore no uniform rate of convergence.

    Args:
        in_features: size of the last dimension of the input.
        state_features: size of the equilibrium.
        activation: one of `wellposed.activations.concave_names`; the sigmoid makes it variant 2, any other variant 1.
        floor: ε; None for 0.1 in variant 1. Variant 2 has none.
        sharpness: β of variant 1's offset ``ε + softplus(β(U x + b))/β``; 5 in the published networks.
        parametrisation: of W ≥ 0, see `Nonnegative`.
        batch_norm: normalise U x + b over the batch, as the published networks do.
        bias: whether the injection has a bias.
        device: where the weights are created.
        dtype: their dtype.
        options: see `SolveOptions`; solver None is `Picard`. Accelerated and Newton iterates are projected onto the
            states above the fixed point at the floor, where all solvers start; splittings do not apply.
    """

    injection: PositiveLinear
    constraint: Nonnegative
    injections = (PositiveLinear,)
    constraints = (Nonnegative,)

    @checked_options
    def __init__(
        self,
        in_features: int,
        state_features: int,
        *,
        activation: str = "tanh",
        floor: float | None = None,
        sharpness: float = 1.0,
        parametrisation: str = "square",
        batch_norm: bool = False,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[SolveOptions],
    ) -> None:
        check(in_features > 0, "in_features", in_features, "must be a positive integer")
        floor = checked_floor(activation, floor, sharpness, options.get("solver"))
        sigma = concave_activation(activation)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(
            PositiveLinear(in_features, state_features, floor, sharpness, batch_norm=batch_norm, bias=bias, **where),
            Nonnegative(state_features, activation, floor, parametrisation=parametrisation, **where),
            activation=sigma, **options,
        )  # fmt: skip
        self._name = activation

    def injection_norm(self) -> float:  # noqa: D102
        return spectral_norm_upper_bound(self.injection.folded()[0]) * (1.0 + 1e-12)

    def _exact_offset(self, rows: Tensor) -> ExactOffset:
        weight, bias = self.injection.folded()
        return self._positive_offset(exact_linear(rows, weight, bias, roundings=4))
