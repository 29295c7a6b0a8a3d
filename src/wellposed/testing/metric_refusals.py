"""What every prover of bounds in a metric must refuse."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def check_refusals(problem: Any, seen: Tensor) -> None:
    """Assert that a problem proves its own bound, and nothing that is smaller, malformed, or about another output map.

    Args:
        problem: has ``bound(output)`` and ``proves(output, multipliers, value)``.
        seen: an output map, shape (outputs, n), float64.
    """
    found = problem.bound(seen)
    assert problem.proves(seen, found.multipliers, found.value)
    for factor in (0.99, 0.999, 0.0, -1.0, float("nan"), float("inf")):
        assert not problem.proves(seen, found.multipliers, factor * found.value)
    for multipliers in (found.multipliers.flip(0), -found.multipliers, found.multipliers[:1]):
        assert not problem.proves(seen, multipliers, found.value)
    for output in (seen * 1.01, seen * float("nan")):
        assert not problem.proves(output, found.multipliers, found.value)
