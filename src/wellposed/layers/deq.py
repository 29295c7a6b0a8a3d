"""The plain deep equilibrium model, without any guarantee: a baseline."""

from __future__ import annotations

import torch
from torch import nn

from wellposed.activations import Activation
from wellposed.constraints.unconstrained import Unconstrained
from wellposed.errors import check, checked_options
from wellposed.implicit import Gradient
from wellposed.layers.equilibrium import Equilibrium
from wellposed.solvers.base import Solver


class DEQ(Equilibrium):
    """``z* = σ(W z* + U x + b)`` with any W: nothing says that z* exists, is unique, or is what the solver finds.

    Its solves stop on residuals, their ``error_bound`` is None, and `lipschitz` raises.

    Args:
        in_features: size of the last dimension of the input.
        state_features: size of the equilibrium.
        activation: a name or an `Activation`.
        bias: whether the injection has a bias.
        solver: None for `Anderson`.
        gradient: how to differentiate; None for `Exact`.
        rtol: relative tolerance on the residual of each sample; None for eps^(2/3) of the dtype.
        atol: absolute tolerance, likewise.
        max_steps: limit on the iterations of each sample.
        on_failure: ``"warn"`` or ``"raise"`` if a sample does not converge.
        device: where the weights are created.
        dtype: their dtype.
    """

    @checked_options
    def __init__(
        self,
        in_features: int,
        state_features: int,
        *,
        activation: str | Activation = "tanh",
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
        super().__init__(
            nn.Linear(in_features, state_features, bias=bias, device=device, dtype=dtype),
            Unconstrained(state_features, device=device, dtype=dtype),
            activation=activation, solver=solver, gradient=gradient, rtol=rtol, atol=atol, max_steps=max_steps,
            on_failure=on_failure,
        )  # fmt: skip
