"""Positive concave equilibrium networks (Gabor, Piotrowski & Cavalcante 2024)."""

from __future__ import annotations

from typing import Any, Unpack

import torch

from wellposed.activations.concave import concave_activation
from wellposed.constraints.base import check_size
from wellposed.constraints.nonnegative import Nonnegative
from wellposed.errors import checked_options
from wellposed.layers.options import SolveOptions
from wellposed.layers.positive_equilibrium import PositiveEquilibrium, checked_floor
from wellposed.maps.positive import PositiveLinear


class PcDEQ(PositiveEquilibrium):
    """``z* = σ(W z* + p)``, W ≥ 0 and σ concave on the positive axis: one nonnegative fixed point for *every* W ≥ 0.

    Variant 1 has σ(0) = 0 and a strictly positive offset ``p = ε + softplus(U x + b)``; variant 2 has σ(0) > 0 (the sigmoid) and
    ``p = max(U x + b, 0)``. The published variant 1 has no floor ε and therefore no uniform rate of convergence.

    Args:
        in_features: size of the last dimension of the input.
        state_features: size of the equilibrium.
        activation: a name in `wellposed.activations.concave_names`; the sigmoid makes it variant 2, any other variant 1.
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
        check_size(in_features, "in_features")
        check_size(state_features)
        floor = checked_floor(activation, floor, sharpness, options.get("solver"))
        sigma = concave_activation(activation)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(
            PositiveLinear(in_features, state_features, floor, sharpness, batch_norm=batch_norm, bias=bias, **where),
            Nonnegative(state_features, activation, floor, parametrisation=parametrisation, **where),
            activation=sigma, **options,
        )  # fmt: skip
        self._name = activation
