"""The plain deep equilibrium model, without any guarantee: a baseline."""

from __future__ import annotations

from typing import Unpack

import torch

from wellposed.activations import Activation
from wellposed.constraints.base import check_size
from wellposed.constraints.unconstrained import Unconstrained
from wellposed.errors import checked_options
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.options import SolveOptions
from wellposed.maps.linear import LinearMap


class DEQ(Equilibrium):
    """``z* = σ(W z* + U x + b)`` with any W: nothing says that z* exists, is unique, or is what the solver finds.

    Its solves stop on residuals, their ``error_bound`` is None, and `lipschitz` raises.

    Args:
        in_features: size of the last dimension of the input.
        state_features: size of the equilibrium.
        activation: a name or an `Activation`.
        bias: whether the injection has a bias.
        device: where the weights are created.
        dtype: their dtype.
        options: see `SolveOptions`; solver None is `Anderson`, and tolerances are about residuals.
    """

    @checked_options
    def __init__(
        self,
        in_features: int,
        state_features: int,
        *,
        activation: str | Activation = "tanh",
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[SolveOptions],
    ) -> None:
        check_size(in_features, "in_features")
        check_size(state_features)
        super().__init__(
            LinearMap(in_features, state_features, bias=bias, device=device, dtype=dtype),
            Unconstrained(state_features, device=device, dtype=dtype),
            activation=activation, **options,
        )  # fmt: skip
