"""The monotone equilibrium network (Winston & Kolter 2020)."""

from __future__ import annotations

import torch
from torch import nn

from wellposed.activations import Activation
from wellposed.constraints.monotone import Monotone
from wellposed.errors import check, checked_options
from wellposed.implicit import Gradient
from wellposed.layers.equilibrium import Equilibrium
from wellposed.solvers.base import Solver


class MonDEQ(Equilibrium):
    """``z* = σ(W z* + U x + b)`` with ``W = (1 − m)I − AᵀA + B − Bᵀ``: unique for every weight, and reached.

    The map x ↦ z* is Lipschitz with constant ‖U‖₂/m (Pabbaraju, Winston & Kolter 2021, Theorem 1).

    Args:
        in_features: size of the last dimension of the input.
        state_features: size of the equilibrium.
        m: strong-monotonicity constant, positive; larger is smoother.
        activation: a name or an `Activation` with slopes in [0, 1].
        bias: whether the injection has a bias.
        solver: None for Peaceman–Rachford with a step read off the weights.
        gradient: how to differentiate; None for `Exact`.
        rtol: relative tolerance on the Euclidean error of each sample; None for eps^(2/3) of the dtype.
        atol: absolute tolerance, likewise.
        max_steps: limit on the iterations of each sample.
        on_failure: ``"warn"`` or ``"raise"`` if a sample does not converge.
        device: where the weights are created.
        dtype: their dtype.

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
        solver: Solver | None = None,
        gradient: Gradient | None = None,
        rtol: float | None = None,
        atol: float | None = None,
        max_steps: int = 1000,
        on_failure: str = "warn",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check(in_features > 0, "in_features", in_features, "must be a positive integer")
        constraint = Monotone(state_features, m, device=device, dtype=dtype)
        super().__init__(
            nn.Linear(in_features, state_features, bias=bias, device=device, dtype=dtype), constraint,
            activation=activation, solver=solver, gradient=gradient, rtol=rtol, atol=atol, max_steps=max_steps,
            on_failure=on_failure,
        )  # fmt: skip
