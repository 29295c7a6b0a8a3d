"""The non-Euclidean monotone operator network (Jafarpour, Davydov, Proskurnikov & Bullo 2021)."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from wellposed.activations import Activation
from wellposed.activations import activation as activation_named
from wellposed.constraints.base import check_size
from wellposed.constraints.log_norm import LogNorm
from wellposed.errors import check, checked_options
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.options import SolveOptions
from wellposed.maps.linear import LinearMap
from wellposed.numerics.norm import norm_named


class NEMON(Equilibrium):
    """``z* = σ(W z* + U x + b)`` with ``μ_∞,η(W) ≤ μ < 1``: unique for every weight, and reached; robust in ℓ∞.

    Args:
        in_features: size of the last dimension of the input.
        state_features: size of the equilibrium.
        mu: bound of the log norm, below one; larger is more expressive and less smooth.
        activation: a name or an `Activation`; slopes outside [0, 1], as of gelu and silu, are allowed here.
        bias: whether the injection has a bias.
        device: where the weights are created.
        dtype: their dtype.
        options: see `SolveOptions`; solver None is forward–backward with the diagonal step 1/(1 − W_ii)
            or, for slopes outside [0, 1], the published one, ``Averaged()``.
    """

    constraint: LogNorm

    @checked_options
    def __init__(
        self,
        in_features: int,
        state_features: int,
        *,
        mu: float = 0.0,
        activation: str | Activation = "relu",
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[SolveOptions],
    ) -> None:
        check_size(in_features, "in_features")
        check_size(state_features)
        super().__init__(
            LinearMap(in_features, state_features, bias=bias, device=device, dtype=dtype),
            LogNorm(state_features, mu, slopes=activation_named(activation).slope_range, device=device, dtype=dtype),
            activation=activation, **options,
        )  # fmt: skip

    @checked_options
    def gain(self, output_weight: Tensor | None = None, *, norm: float | str = "inf") -> Tensor:
        """Lipschitz bound from x to z*, or to ``output_weight``·z*, differentiable: a regulariser.

        The largest row (ℓ∞) or column (ℓ1) sum of ``|C|G|U|``, G = (I − M(W))⁻¹ for slopes in [0, 1], never above the
        published bound ``‖C[η]‖‖[η]⁻¹U‖/(1 − max(μ, 0))`` and often far below. Evaluated in the weights' dtype;
        rounding is not counted.

        Args:
            output_weight: C, shape (outputs, state_features); None for the identity.
            norm: ``"inf"`` or ``"1"``, of inputs and outputs.
        """
        named = norm_named(norm, ("inf", "1"))
        states = self.injection.weight.shape[0]
        fits = output_weight is None or (output_weight.ndim == 2 and output_weight.shape[1] == states)
        check(fits, "output_weight", output_weight, f"must have shape (outputs, {states})")
        matrix = self.operator().dense()
        diagonal = matrix.diagonal()
        ends = [end for end in self.activation.slope_range if end != 0.0]
        gaps = torch.stack([(1.0 - end * diagonal) / abs(end) for end in ends]).amin(0)
        away = torch.diag(gaps + diagonal.abs()) - matrix.abs()
        through = torch.linalg.solve(away, self.injection.weight.abs())
        if output_weight is not None:
            through = output_weight.abs() @ through
        return through.sum(1 if named == "inf" else 0).amax()
