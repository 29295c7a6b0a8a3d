"""Maps that scale with the Lipschitz bound γ of their layer, whose logarithm they share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.constraints.holding import Holding
from wellposed.maps.base import AffineMap, FlatMap, InputMap


class Scaled(Holding, AffineMap):
    """A map whose weight is √γ times its free parameters, which so keep one size for every γ; its bias is not scaled.

    Attributes:
        free: the free parameters, of the shape of the weight.
        log_gamma: logarithm of γ, shared with whatever else depends on it.
    """

    free: Tensor
    log_gamma: nn.Parameter

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight as it runs, with its graph."""
        return self.formed("weight", lambda: self.free * torch.exp(0.5 * self.log_gamma))

    @override
    def bound_logarithm(self) -> Tensor:
        return self.log_gamma


class ScaledLinear(Scaled, FlatMap, InputMap):
    """A matrix that is √γ times its free parameters, for the input and the output of dense layers.

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

    @override
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)

    @property
    @override
    def stored(self) -> Tensor:
        return self.free
