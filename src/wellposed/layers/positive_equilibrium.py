"""What positive concave layers share: the positive part of the offset, and bounds of the equilibrium in every component."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.activations.concave import concave_activation, concave_names, thompson_modulus
from wellposed.errors import CertificateError, InputError, check, choices
from wellposed.layers.equilibrium import Equilibrium
from wellposed.maps.positive import PositiveInjection
from wellposed.numerics.euclidean import underflow
from wellposed.numerics.outward import enlarged, reduced
from wellposed.solvers.splitting import Splitting


class PositiveEquilibrium(Equilibrium):
    """``z* = σ(W z* + p)``, W ≥ 0, p at least a floor and σ concave on the positive axis."""

    injection: PositiveInjection
    _name: str
    injections = (PositiveInjection,)

    @override
    def _check_shapes(self) -> None:
        super()._check_shapes()
        part, floor = self.injection.positive_part, self.constraint.floor
        sharp = 0.0 < part.sharpness < math.inf
        if part.floor != floor or concave_activation(self._name) != self.activation or not sharp:
            raise CertificateError(
                f"injection.floor={part.floor!r}, injection.sharpness={part.sharpness!r}: are not those that the theorem was "
                "applied with; build the layer with them"
            )

    def get_extra_state(self) -> Tensor:
        """The floor, and β where it is not one: they decide what the weights mean and so must travel with them."""
        floor, sharpness = self.injection.floor, self.injection.sharpness
        return torch.tensor(floor if sharpness == 1.0 else [floor, sharpness], dtype=torch.float64, device="cpu")

    def set_extra_state(self, state: Any) -> None:
        """Refuse weights that were trained with another floor."""
        found = torch.as_tensor(state, dtype=torch.float64, device="cpu").reshape(-1).tolist()
        own = self.get_extra_state().reshape(-1).tolist()
        if found != own:
            raise InputError(f"floor, sharpness = {own}: the checkpoint was made with {found}; build the layer so")

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
        offset = self.injection.exact(rows)
        operator = self.operator().to(torch.float64)
        each = (-1, *[1] * len(self.state_shape))
        below = (offset.value - offset.error.reshape(each)).clamp_min(self.injection.floor)
        above = offset.value + offset.error.reshape(each)
        # Sums of nonnegative products, and σ of them, which does not amplify relative errors.
        operations = self.state_features + 24
        lost = underflow(torch.float64, 1, self.state_features)
        lower, upper = torch.zeros_like(point), torch.full_like(point, math.inf)
        width = torch.finfo(torch.float64).eps
        while width < 0.5 and not bool(torch.isfinite(upper).all() and (lower > 0.0).all()):
            low, high = point * (1.0 - width), point * (1.0 + width)
            is_low = reduced(self.activation(operator.apply(low) + below), operations) - lost >= low
            is_high = enlarged(self.activation(operator.apply(high) + above), operations) + lost <= high
            lower = torch.where(_every(is_low) & ~_every(lower > 0.0), low, lower)
            upper = torch.where(_every(is_high) & ~_every(torch.isfinite(upper)), high, upper)
            width *= 2.0
        shape = (*x.shape[: x.ndim - len(self.input_shape)], *self.state_shape)
        return lower.reshape(shape), upper.reshape(shape)

    @property
    def thompson_factor(self) -> float:
        """Contraction of one step in the Thompson metric, for every W ≥ 0 and every input; see `thompson_modulus`."""
        return thompson_modulus(self._name, self.injection.floor)


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
    if isinstance(solver, Splitting):
        raise InputError(
            f"solver={solver!r}: splits the operator I − W, which need not be monotone here; use Picard, "
            "Averaged, Anderson, Broyden, Newton or NewtonKrylov"
        )
    return floor
