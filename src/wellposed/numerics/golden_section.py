"""One-dimensional search."""

from __future__ import annotations

import math
from collections.abc import Callable


def golden_section(function: Callable[[float], float], low: float, high: float, tolerance: float) -> float:
    """Where a unimodal function on [low, high] is smallest, to within ``tolerance``."""
    ratio = 0.5 * (math.sqrt(5.0) - 1.0)
    while high - low > tolerance:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if function(left) <= function(right) else (left, high)
    return 0.5 * (low + high)
