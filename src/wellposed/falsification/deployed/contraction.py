"""The fixed point of a contraction in float64, differentiable, for references that share nothing with the library."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_STEPS, _CARRIED, _UNSOLVED = 400, 60, 1e-11


def settled(step: Callable[[Tensor], Tensor], drive: Tensor) -> tuple[Tensor, Tensor]:
    """The fixed point, and for which samples it was not found to float64's precision.

    Derivatives are those of the last steps, which miss what a contraction leaves of them.

    Args:
        step: the map.
        drive: a tensor of the state's shape, whose size counts as that of the numbers in a step.
    """
    state = torch.zeros_like(drive)
    with torch.no_grad():
        for _ in range(_STEPS):
            state = step(state)
        missed = (step(state) - state).abs().flatten(1).amax(1)
    for _ in range(_CARRIED):
        state = step(state)
    size = 1.0 + drive.detach().abs().flatten(1).amax(1) + state.detach().abs().flatten(1).amax(1)
    return state, ~(missed <= _UNSOLVED * size)
