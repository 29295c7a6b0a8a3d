"""The residual coupling with its direct path solved in closed form: the same equilibrium, from a map that contracts more.

For MaxMin S and a = κa₂ in [0, 1) the equation ``z = S(az + y)`` of one pair of features is solved by ``z = (y₁, y₂)/(1 − a)``
where y₁ ≤ y₂, and else by that with (y₁ − y₂)/((1 − a)(1 + a)) taken from the first and given to the second: the sum of the
pair is (y₁ + y₂)/(1 − a) and the difference |y₂ − y₁|/(1 + a). This map of y is 1/(1 − a) Lipschitz. So the equilibrium of
``z = κS(a₂z + (1 − a₂)(a₁h + (1 − a₁)g(z)))`` is that of a map of z with the constant κ(1 − a₂)(1 − a₁)/(1 − κa₂), for
1-Lipschitz g, which is 1 − a₁ at κ = 1 where the map itself has 1 − a₁(1 − a₂).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wellposed.layers.contractive_cell import LEAST_MIXING, mixing_numbers, mixing_weights
from wellposed.numerics.outward import enlarged

# Of the contraction: 1 − κa₂ is at least 1/20, so that its relative error is that of κa₂ twenty times.
_OPERATIONS = 48


def resolved_shares(free: nn.Parameter, kappa: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """What g(z) and the drive are multiplied with, 1/(1 − κa₂) included, and `resolved_max_min`'s share; with their graph."""
    first, second = mixing_weights(free, torch.float64)  # so that each is rounded once
    gain = kappa * (1.0 - second) / (1.0 - kappa * second)
    through, driven, share = gain * (1.0 - first), gain * first, 1.0 / (1.0 + kappa * second)
    return through.to(dtype), driven.to(dtype), share.to(dtype)


def resolved_contraction(free: nn.Parameter, kappa: float, norm: float) -> float:
    """κ(1 − a₂)(1 − a₁)‖g‖/(1 − κa₂), rounded up; under ``torch.func`` transforms the largest that there is.

    Args:
        free: the parameter of the mixing weights.
        kappa: κ.
        norm: a Lipschitz constant of g.
    """
    first, second = mixing_numbers(free)
    if torch._C._functorch.is_functorch_wrapped_tensor(free):
        second = LEAST_MIXING  # in which the constant falls
    return enlarged(kappa * (1.0 - second) * (1.0 - first) * norm / (1.0 - kappa * second), _OPERATIONS)


def resolved_max_min(value: Tensor, share: Tensor, dim: int) -> Tensor:
    """The solution z of ``z = S(az + (1 − a)·value)`` for MaxMin S; features i and i + n/2 are a pair.

    Args:
        value: any shape, with features along ``dim``.
        share: 1/(1 + a).
        dim: the dimension of the features.
    """
    first, second = value.chunk(2, dim)
    crossing = torch.relu(first - second) * share
    return torch.cat([first - crossing, second + crossing], dim)
