"""When to look at iterations that must pay for it, and what changes of iterates say; nothing here is a proof."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from wellposed.numerics.euclidean import trusted_range
from wellposed.solvers.base import ROUNDINGS, Window, distance_left

# The worst sample's error bound is about this many times the error predicted for the whole batch.
_LOOK_MARGIN = 2.0
# Rates of convergence are taken to be within these limits when the next look is planned.
_LEAST_RATE, _LARGEST_RATE = 0.02, 0.98
# Typical rounding of iterates, in units in the last place of the largest: many small errors cancel for the most part.
_BLUR = 0.2
# Multiplications in a step that costs less than a look.
_CHEAP = 1 << 19
# Above these numbers limits are not touched by what underflows in squares.
TRUSTED = {dtype: trusted_range(dtype)[0] for dtype in (torch.float32, torch.float64)}


def rate_near(predicted: float) -> float:
    """A predicted rate, within the limits."""
    return min(max(predicted, _LEAST_RATE), _LARGEST_RATE)


def rate_seen(new: float, old: float, steps: int) -> float:
    """The rate of convergence by two errors, within the limits.

    Args:
        new: error at the later look.
        old: error at the earlier one.
        steps: taken in between.
    """
    ratio = new / old if old > 0.0 and math.isfinite(new) else 1.0
    return rate_near(max(ratio, 0.0) ** (1.0 / steps))


def wait(error: float, target: float, rate: float) -> int:
    """Steps at ``rate`` until ``error`` is ``target``; zero when it is there, or when nothing can be said."""
    if not math.isfinite(error) or error <= target or target <= 0.0:
        return 0
    return math.ceil((math.log(error) - math.log(target)) / -math.log(rate))  # whose quotient may be no number


def is_cheap(matrix: Tensor, states: Tensor) -> bool:
    """Whether the product of a matrix and a batch of states costs less than a look that comes too early."""
    return len(matrix) * states.numel() < _CHEAP


def first_look(rate: float, tolerance: float, *, cheap: bool) -> int:
    """After how many steps, from a start that is as good as one step from zero, to look; at least one.

    Args:
        rate: of convergence, as far as it is known.
        tolerance: relative to the values.
        cheap: whether a step more costs less than a look that comes too early.
    """
    return max(1, wait(_LOOK_MARGIN / (1.0 - rate), tolerance, rate) - 1) + cheap


def blurred(step: float, offset: Tensor, value: Tensor, limit: Tensor) -> Tensor:
    """Which values rounding may have moved by more than they may err, though the iterates of a splitting have settled.

    A step adds what is as large as αq, rounds the sum, and mixes its entries: units that the offset keeps at zero, or saturates,
    blur those that it does not reach. And defects come to be errors by about as much as the step that suits a map.

    Args:
        step: α.
        offset: norms of q, shape (batch,).
        value: those of the values.
        limit: on the errors.
    """
    return (offset + value) * (step * _BLUR * torch.finfo(limit.dtype).eps) > limit


def by_changes(
    last: Tensor, before: Tensor, earlier: Tensor, iterate: Tensor, value: Tensor, rtol: float, atol: float | Tensor,
    dtype: torch.dtype, window: Window | None = None,
) -> float | None:  # fmt: skip
    """The largest ratio of a sample's distance from its limit, by the last three changes, to its tolerance.

    Args:
        last: norms of the last changes in working precision, shape (batch,), on the CPU.
        before: those of the changes before.
        earlier: those of the changes before these.
        iterate: those of the iterates.
        value: those of the values.
        rtol: relative tolerance.
        atol: absolute tolerance, or one per sample.
        dtype: of the states.
        window: a change of many steps ago, if there is one.

    Returns:
        None where norms in working precision cannot tell: squares may have underflowed, or something is not finite.
    """
    limit = value * rtol + atol
    smallest, largest = torch.aminmax(limit)
    # What underflows in squares is far below such limits.
    if not (smallest.item() >= TRUSTED[dtype] and largest.item() < math.inf):
        return None
    fell, ratio = torch.aminmax((last + before) * last / ((earlier - last) * limit))
    worst = ratio.item()
    # A change may not have shrunk, or be rounding; and where there are many, the last do not suffice.
    if not (fell.item() >= 0.0 and worst < math.inf) or (window is not None and worst <= 1.0):
        rounding = iterate * (ROUNDINGS * torch.finfo(dtype).eps)
        with np.errstate(all="ignore"):
            left = distance_left(last.numpy(), before.numpy(), earlier.numpy(), rounding.numpy(), window)
            worst = float(np.maximum.reduce(left / limit.numpy()))
    return worst if worst < math.inf else None
