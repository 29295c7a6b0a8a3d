"""Constants of an equilibrium with the linear maps around it, in diagonal metrics: the theorem ``"metric"``."""

import math
from functools import cached_property
from typing import Any

import numpy as np

from .claim import Claim
from .dense import Driven, metric_proves
from .maps import Linear, margins
from .node import Node
from .proofs import Array, require, up


class Segment:
    """From the edge before an equilibrium's input map to an edge behind it, by linear maps only.

    Attributes:
        start: place of the node that the first edge leaves.
        layer: place of the equilibrium.
        name: of the node that the last edge leaves.
        matrix: W.
        driving: U.
        seen: C.
        direct: D, or None.
        multipliers: how many a metric has.
    """

    def __init__(self, nodes: list[Node], maps: list[Linear], end: Node) -> None:
        self._set(nodes, maps, end, maps[end.place])

    def _set(self, nodes: list[Node], maps: list[Linear], end: Node, seen: Linear, direct: Array | None = None) -> None:
        layer = nodes[seen.start]
        known = layer.kind == "ReflectedEquilibrium"
        require(known, "metric", f"no equilibrium stands before {end.name}, with nothing but a linear map between")
        driven = maps[layer.sources[0]]
        self.start, self.layer, self.name = driven.start, layer.place, end.name
        self.matrix, self.driving, self.seen = layer.numbers["W"], driven.dense, seen.dense
        self.direct, self.multipliers = direct, len(self.matrix)

    @cached_property
    def driven(self) -> Driven:
        """U with what proofs share."""
        return Driven(self.driving)

    def proves(
        self, row: int | tuple[int, int] | slice, metric: Array, value: Any, driven: Driven | None = None
    ) -> bool:
        """Whether an output, a margin, or all outputs are proved to have a constant, from all inputs or from others."""
        first, second = row if isinstance(row, tuple) else (row, None)
        seen, size = (np.atleast_2d(part[first]) for part in (self.seen, np.abs(self.seen)))
        direct = None if self.direct is None else np.atleast_2d(self.direct[first])
        if second is not None:
            seen, size = seen - self.seen[second], size + np.abs(self.seen[second])
            direct = None if direct is None or self.direct is None else direct - self.direct[second]
        return metric_proves(self.matrix, driven or self.driven, seen, size, metric, value, direct)


def segment_of(nodes: list[Node], maps: list[Linear], end: Node, claim: Claim) -> Any:
    """The segment that ends in an edge: of vectors, or of images, `image_segment.ImageSegment`."""
    first = nodes[maps[end.place].start]
    layer = nodes[first.sources[0]] if first.kind == "AveragePooling" else first
    of_images = getattr(layer.module, "segment", None)
    return of_images(layer, nodes, maps, end, claim) if of_images else Segment(nodes, maps, end)


def constants(nodes: list[Node], maps: list[Linear], end: Node, claim: Claim) -> tuple[int, Any, Array | None]:
    """Where a segment to an edge starts, its Euclidean constant, and those of margins where there is evidence for them."""
    segment = segment_of(nodes, maps, end, claim)
    values = claim.take(f"{end.place}/values", -1)
    rows, count = claim.take(f"{end.place}/multipliers", len(values), segment.multipliers), len(segment.seen)
    places: list[slice | tuple[int, int]] = [slice(None), *(margins(count) if len(values) > 1 else ())]
    require(len(places) == len(values), "metric", f"{segment.name}: {len(values)} values for {count} outputs")
    for place, metric, value in zip(places, rows, values, strict=True):
        follows = isinstance(place, tuple) and value >= up(math.sqrt(2.0) * (1.0 + 1e-15)) * values[0]
        proved = follows or segment.proves(place, metric, value)
        require(proved, "metric", f"{segment.name}: {value} is not proved for {place}")
    return segment.start, values[0], symmetric(count, values[1:]) if len(values) > 1 else None


def symmetric(count: int, values: Array) -> Array:
    """Constants of margins as a matrix."""
    rows, columns, place = *np.triu_indices(count, 1), np.zeros((count, count), int)
    place[rows, columns] = place[columns, rows] = 1 + np.arange(len(values))
    return np.concatenate([np.zeros(1), values])[place]
