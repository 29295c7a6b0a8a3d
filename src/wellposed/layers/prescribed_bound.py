"""What layers with a prescribed Lipschitz bound γ from input to output share."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.constraints.holding import Holding
from wellposed.errors import CertificateError, InputError, check
from wellposed.layers.equilibrium import Equilibrium


class ScaledLinear(Holding):
    """A linear map whose weight is √γ times its free parameters, which so keep one size for every γ.

    Args:
        in_features: inputs.
        out_features: outputs.
        log_gamma: logarithm of γ, shared with whatever else depends on it.
        bias: whether there is a bias, which is not scaled.
        where: device and dtype.
    """

    def __init__(
        self, in_features: int, out_features: int, log_gamma: nn.Parameter, *, bias: bool = True, **where: Any
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        free = nn.Linear(in_features, out_features, bias=bias, **where)
        self.free, self.bias = free.weight, free.bias
        self.log_gamma = log_gamma

    @property
    def weight(self) -> Tensor:
        """The weight as it runs, shape (out_features, in_features), with its graph."""
        return self.formed("weight", lambda: self.free * torch.exp(0.5 * self.log_gamma))

    def forward(self, x: Tensor) -> Tensor:
        """``x·weightᵀ + bias`` for x of shape (*, in_features)."""
        return nn.functional.linear(x, self.weight, self.bias)


class PrescribedBound(Equilibrium):
    """A layer whose ``output`` map, if it has one, holds the logarithm of the bound, ``log_gamma``."""

    @property
    def gamma(self) -> float | None:
        """The Lipschitz bound from input to output, or None."""
        return None if self.output is None else float(torch.exp(self.output.log_gamma.detach().double()))

    def check_bound(self) -> None:
        """Refuse parts that hold several logarithms of the bound, or none where there is an output."""
        parts = [part for part in (self.injection, self.output, self.direct) if part is not None]
        logarithms = [part.log_gamma for part in parts if hasattr(part, "log_gamma")]
        if self.output is not None and len(logarithms) < len(parts):
            raise CertificateError("log_gamma: a part of a layer with a Lipschitz bound does not depend on it")
        if any(not torch.equal(logarithm, logarithms[0]) for logarithm in logarithms):
            raise CertificateError("log_gamma: the parts of the layer have different ones; call set_gamma")

    @torch.no_grad()
    def set_gamma(self, gamma: float) -> None:
        """Change the bound: the weights change with it, so that it holds."""
        check(0.0 < gamma < math.inf, "gamma", gamma, "the Lipschitz bound must be positive and finite")
        if self.output is None:
            raise InputError(f"gamma={gamma!r}: the layer was built without a Lipschitz bound")
        for part in (self.injection, self.output):  # one parameter, unless a state dict was assigned to them
            part.log_gamma.fill_(math.log(gamma))


def checked_bound(gamma: float | None, out_features: int | None) -> None:
    """Refuse a bound without an output, or an output without a bound."""
    if (gamma is None) != (out_features is None):
        raise InputError(
            f"gamma={gamma!r}, out_features={out_features!r}: a Lipschitz bound is one from input to output; give both "
            "or neither"
        )
    if out_features is not None:
        check(out_features > 0, "out_features", out_features, "must be a positive integer")


def learned_logarithm(
    gamma: float | None, learned: bool, *, device: torch.device | str | None, dtype: torch.dtype | None
) -> nn.Parameter:
    """The logarithm of γ as a parameter; of one where there is no bound."""
    scale = 1.0 if gamma is None else gamma
    check(0.0 < scale < math.inf, "gamma", gamma, "the Lipschitz bound must be positive and finite")
    logarithm = torch.tensor(math.log(scale), device=device, dtype=dtype)
    return nn.Parameter(logarithm, requires_grad=learned and gamma is not None)
