"""The iteration of the authors, which stops once a step changes little: where steps are short, far from the equilibrium.

Peaceman–Rachford splitting gives values and gradients, and the samples of a batch stop together. No solve of this library does
so: the module shows what published errors owe to values that are no equilibria.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.layers.lben import LBEN

_MOST_STEPS = 300  # as published


class StoppedEarly(nn.Module):
    """A trained layer with ReLU, evaluated and differentiated by an iteration that may end far from its equilibrium.

    Args:
        layer: with an output.
        length: α, of a step.
        change: of the state in a step, relative to the state, at which the iteration ends.
    """

    def __init__(self, layer: LBEN, length: float, change: float) -> None:
        super().__init__()
        self.layer, self.length, self.change = layer, length, change

    @override
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            weight = self.layer.operator().dense()
        state: Tensor = _State.apply(self.layer.injection(x), weight, self.length, self.change)
        assert self.layer.output is not None
        return self.layer.output(state)


class _State(torch.autograd.Function):
    """What the iteration ends at, for q = Ux + b; its derivative is that of the equilibrium, by the same iteration."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, weight: Tensor, length: float, change: float) -> Tensor:
        state = _iterated(q, weight, length, change, torch.relu)
        ctx.save_for_backward(weight, torch.addmm(q, state, weight.mT) > 0)
        ctx.settings = length, change
        return state

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        weight, active = ctx.saved_tensors
        length, change = ctx.settings
        found = _iterated(gradients[0], weight.mT, length, change, lambda state: state * active)
        return found, None, None, None


def _iterated(
    source: Tensor, weight: Tensor, length: float, change: float, resolvent: Callable[[Tensor], Tensor]
) -> Tensor:
    """The last state, shape (batch, n); `source` and `weight` say where it would end."""
    identity = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
    inverse = torch.linalg.inv(identity + length * (identity - weight)).mT
    state = moving = torch.zeros_like(source)
    for _ in range(_MOST_STEPS):
        half = 2.0 * state - moving
        moving = 2.0 * (half + length * source) @ inverse - half
        before, state = state, resolvent(moving)
        if (state - before).norm() <= change * state.norm():
            break
    return state
