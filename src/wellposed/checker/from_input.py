"""Constants in ℓ∞ and ℓ1 by diagonal metrics, of a network that is one equilibrium with linear maps around it."""

import math
from typing import Any

import numpy as np

from .claim import Claim
from .dense import Driven
from .maps import Linear, margins
from .metric import Segment, symmetric
from .node import Node
from .proofs import Array, require


def constants(nodes: list[Node], maps: list[Linear], claim: Claim) -> tuple[Any, Array | None]:
    """Constants in ℓ∞ or ℓ1 of all outputs and of their margins, of a network that is a segment from its input.

    ‖Δx‖_∞ ≤ 1 implies Σ d·Δx² ≤ Σ d for shares d > 0, an ellipsoid for each output and margin; a change of ‖Δx‖₁ ≤ 1 may be made
    coordinate by coordinate, and ‖Δy‖₁ ≤ √k‖Δy‖₂ for k outputs.
    """
    end = nodes[nodes[-1].sources[0]]
    segment = Segment(nodes, maps, end)
    require(segment.start == 0 and segment.direct is None, "metric", f"{segment.name}: not from the input")
    outputs, largest = len(segment.seen), claim.norm == "inf"
    values, wholes = claim.take(f"{end.place}/values", -1), outputs if largest else 1
    places: list[Any] = [
        *(range(outputs) if largest else [slice(None)]),
        *(margins(outputs) if len(values) > 1 else ()),
    ]
    rows = claim.take(f"{end.place}/multipliers", len(places), len(segment.matrix))
    require(len(values) == 1 + len(places) - wholes, "metric", f"{segment.name}: {len(values)} values")
    columns = [] if largest else [Driven(part) for part in np.split(segment.driving, segment.driving.shape[1], 1)]
    each = values[0] if largest else values[0] / math.sqrt(outputs) * (1.0 - 1e-15)
    shares = claim.take(f"{end.place}/shares", len(rows), segment.driving.shape[1]) if largest else rows
    for place, metric, share, value in zip(places, rows, shares, [each] * wholes + list(values[1:]), strict=True):
        follows = isinstance(place, tuple) and value >= (2.0 if largest else math.sqrt(2.0)) * each * (1.0 + 1e-15)
        if follows:
            continue
        if largest:
            usable = share.min() > 1e-50 and share.max() < 1e50
            inner = value / np.sqrt(share.sum()) * (1.0 - 1e-12)
            good = usable and segment.proves(place, metric, inner, Driven(segment.driving / np.sqrt(share)))
        else:
            good = all(segment.proves(place, metric, value, column) for column in columns)
        require(good, "metric", f"{segment.name}: {value} is not proved for {place}")
    return values[0], symmetric(outputs, values[1:]) if len(values) > 1 else None
