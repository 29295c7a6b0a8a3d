"""What a family says of its layer, for the checks that every layer must pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import wellposed as wp
from wellposed.testing import tensors


class LayerHooks:
    """A layer of 7 input and 6 state features, and an independent solution of it.

    Attributes:
        largest_overestimate: how many times the error, in the median over samples, its bound may be.
    """

    largest_overestimate = 10.0

    def make_layer(self, dtype: torch.dtype = torch.float64, **options: Any) -> wp.Equilibrium:
        """The layer, the same weights at every call; options go to its constructor."""
        raise NotImplementedError

    def true_state(self, layer: wp.Equilibrium, x: Tensor) -> Tensor:
        """The equilibria in float64, shape (batch, 6), not by this library's solvers; x has shape (batch, 7), float64."""
        raise NotImplementedError

    def condition(self, layer: wp.Equilibrium) -> float:
        """By how much the stored numbers satisfy the theorem's condition on the matrix, in float64."""
        raise NotImplementedError

    def promised(self, layer: wp.Equilibrium) -> float:
        """What the guarantee says that `condition` is at least.

        Raises:
            GuaranteeError: it promises nothing.
        """
        guarantee: Any = layer.guarantee()
        return guarantee.m

    def inputs(self, count: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
        """Inputs of the layer, shape (count, 7)."""
        return tensors.randn(count, 7, seed=5, dtype=torch.float32).to(dtype)

    def exact_layer(self) -> wp.Equilibrium:
        """The layer with a smooth activation, solved to almost all digits of float64: for derivatives."""
        return self.make_layer(rtol=1e-13, atol=1e-13, activation="tanh")

    def as_function(self, layer: wp.Equilibrium) -> Callable[..., Tensor]:
        """The layer as a function of its inputs and parameters."""
        names = [name for name, _ in layer.named_parameters()]
        return lambda x, *p: torch.func.functional_call(layer, dict(zip(names, p, strict=True)), (x,))


def trained(layer: wp.Equilibrium, steps: int = 60) -> wp.Equilibrium:
    """The layer after some steps towards random targets, with weight decay; changed in place."""
    source = tensors.generator(9)
    x = tensors.randn(64, 7, generator=source, dtype=torch.float32).to(layer.injection.weight)
    target = tensors.randn(64, 6, generator=source, dtype=torch.float32).to(x)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=1e-2, weight_decay=1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        (layer(x) - target).square().mean().backward()
        optimiser.step()
    return layer
