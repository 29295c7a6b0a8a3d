"""What every prover of metric bounds must refuse, and certificates with other metrics."""

from __future__ import annotations

import dataclasses

from torch import Tensor

import wellposed as wp
from wellposed.bounds.tail_bound import TailBound


def check_refusals(block: object, seen: Tensor) -> None:
    """A block proves its own bound, and nothing that is smaller, malformed, or about another output map.

    Args:
        block: has ``bound(output)`` and ``proves(output, multipliers, value)``.
        seen: an output map.
    """
    found = block.bound(seen)
    assert block.proves(seen, found.multipliers, found.value)
    for factor in (0.99, 0.999, 0.0, -1.0, float("nan"), float("inf")):
        assert not block.proves(seen, found.multipliers, factor * found.value)
    for multipliers in (found.multipliers.flip(0), -found.multipliers, found.multipliers[:1]):
        assert not block.proves(seen, multipliers, found.value)
    for output in (seen * 1.01, seen * float("nan")):
        assert not block.proves(output, found.multipliers, found.value)


def with_tail(certificate: wp.Certificate, tail: TailBound) -> wp.Certificate:
    """The certificate with another claim about the end of its network."""
    bounds = tuple(
        bound if bound.tail is None else dataclasses.replace(bound, tail=tail) for bound in certificate.bounds
    )
    return dataclasses.replace(certificate, bounds=bounds)
