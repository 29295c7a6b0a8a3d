"""A network under attack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from wellposed.layers.equilibrium import Equilibrium

Draw = Callable[[int], int]


@dataclass(frozen=True, eq=False)
class Subject:
    """A network under attack.

    Attributes:
        model: in eval mode.
        inputs: size of its input.
        spread: size of inputs at which its pre-activations are of size one, roughly.
        head: whether a linear layer comes last, so that a metric for both is looked for.
        layer: the first block, where it is an equilibrium layer whose very weights `Network.exact` has; or None.
    """

    model: nn.Sequential
    inputs: int
    spread: float
    head: bool = True
    layer: Equilibrium | None = None


def drawing(generator: torch.Generator) -> Draw:
    """Draws whole numbers from zero on, below its argument."""
    return lambda high: int(torch.randint(high, (1,), generator=generator, device="cpu"))
