"""Nonnegative weights, for positive concave maps (Gabor, Piotrowski & Cavalcante 2024)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.activations import Activation
from wellposed.activations.concave import concave_activation, thompson_modulus
from wellposed.constraints.base import Constraint, Projected, check_size
from wellposed.constraints.factorisations import factorisation_cache
from wellposed.errors import InputError, choices
from wellposed.guarantee.positive import PositiveConcave
from wellposed.names import NONNEGATIVE
from wellposed.operators.dense import Dense


def nonnegative(free: Tensor, parametrisation: str) -> Tensor:
    """Nonnegative numbers from free ones, in one of the ways of `NONNEGATIVE`."""
    if parametrisation == "square":
        return free.square()
    return nn.functional.softplus(free) if parametrisation == "softplus" else free.clamp_min(0.0)


class ConcaveConstraint(Constraint):
    """A constraint whose theorem is about one activation, concave on the positive axis, and offsets above a floor."""

    _activation: Activation
    _floor: float

    @override
    def require_activation(self, activation: Activation) -> None:
        if activation != self._activation:
            raise InputError(
                f"activation={activation!r}: the theorem was applied to {self._activation!r}; build the layer "
                "with this activation"
            )

    @property
    def floor(self) -> float:
        """The lower bound of every entry of the offset that the theorem was applied with."""
        return self._floor


class Nonnegative(ConcaveConstraint, Projected):
    """A free parameter V of shape (n, n) and W ≥ 0 made from it.

    Args:
        state_features: n.
        activation: σ, which the theorem is about, by name.
        floor: a lower bound of every entry of the offset.
        parametrisation: ``"square"`` (W = V∘V), ``"softplus"`` or ``"projection"`` (W = max(V, 0); call `project` after each
            optimiser step, or entries that left the orthant stay where they are).
    """

    def __init__(
        self,
        state_features: int,
        activation: str,
        floor: float,
        *,
        parametrisation: str = "square",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_size(state_features)
        choices("parametrisation", parametrisation, NONNEGATIVE)
        self.parametrisation = parametrisation
        self._activation, self._floor = concave_activation(activation), floor
        self._thompson = thompson_modulus(activation, floor)
        self.V = nn.Parameter(torch.empty(state_features, state_features, device=device, dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """W uniform, with row sums near 0.2."""
        nn.init.uniform_(self.V, 0.0, 0.4 / self.V.shape[0])
        if self.parametrisation == "square":
            self.V.sqrt_()
        elif self.parametrisation == "softplus":
            self.V.expm1_().clamp_min_(1e-6).log_()

    @property
    @override
    def state_features(self) -> int:
        return self.V.shape[0]

    @torch.no_grad()
    def project(self) -> None:
        """Set negative entries of V to zero, with the parametrisation ``"projection"``."""
        if self.parametrisation == "projection":
            self.V.clamp_min_(0.0)

    @override
    def materialise(self) -> tuple[Dense, PositiveConcave]:
        operator = Dense(nonnegative(self.V, self.parametrisation), factorisation_cache(self))
        return operator, PositiveConcave(operator, self._activation, self._floor, self._thompson)

    def extra_repr(self) -> str:
        """Shown inside ``repr``."""
        return f"state_features={self.state_features}, parametrisation={self.parametrisation!r}, floor={self._floor}"
