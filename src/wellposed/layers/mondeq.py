"""The monotone equilibrium network (Winston & Kolter 2020)."""

from __future__ import annotations

from typing import Unpack

import torch

from wellposed.activations import Activation
from wellposed.constraints.monotone import Monotone
from wellposed.errors import check, checked_options
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.options import SolveOptions
from wellposed.maps.linear import LinearMap


class MonDEQ(Equilibrium):
    """``z* = σ(W z* + U x + b)`` with ``W = (1 − m)I − AᵀA + B − Bᵀ``: unique for every weight, and reached.

    The map x ↦ z* is Lipschitz with constant ‖U‖₂/m (Pabbaraju, Winston & Kolter 2021, Theorem 1).

    Args:
        in_features: size of the last dimension of the input.
        state_features: size of the equilibrium.
        m: strong-monotonicity constant, positive; larger is smoother.
        activation: a name or an `Activation` with slopes in [0, 1].
        bias: whether the injection has a bias.
        device: where the weights are created.
        dtype: their dtype.
        options: see `SolveOptions`; solver None is Peaceman–Rachford with a step read off the weights.

    Example:
        >>> layer = MonDEQ(784, 100, m=1.0)
        >>> layer(torch.zeros(5, 784)).shape
        torch.Size([5, 100])
    """

    @checked_options
    def __init__(
        self,
        in_features: int,
        state_features: int,
        *,
        m: float = 1.0,
        activation: str | Activation = "relu",
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[SolveOptions],
    ) -> None:
        check(in_features > 0, "in_features", in_features, "must be a positive integer")
        constraint = Monotone(state_features, m, device=device, dtype=dtype)
        super().__init__(
            LinearMap(in_features, state_features, bias=bias, device=device, dtype=dtype), constraint,
            activation=activation, **options,
        )  # fmt: skip
