"""Sums and differences of two edges, and the constants of an equilibrium with what is added to it."""

from typing import Any

from .claim import Claim
from .maps import Linear
from .metric import Segment
from .node import Node
from .plain import constant as constant
from .plain import shape as shape
from .proofs import require


class DirectSegment(Segment):
    """A segment to the sum of what is seen of an equilibrium and a linear map of the edge from which it is driven."""

    def __init__(self, nodes: list[Node], maps: list[Linear], end: Node) -> None:
        first, second = (maps[source] for source in end.sources)
        if end.kind == "DifferenceOfTwo":
            second = Linear(second.start, -second.matrix)
        seen, direct = (first, second) if first.start > second.start else (second, first)
        self._set(nodes, maps, end, seen, direct.dense)
        require(direct.start == self.start, "metric", f"{end.name} adds something of another edge")


def segment(node: Node, nodes: list[Node], maps: list[Linear], end: Node, claim: Claim) -> Any:
    """The segment that ends in a sum; one that begins there has no equilibrium, see `metric.segment_of`."""
    return DirectSegment(nodes, maps, end) if node is end else Segment(nodes, maps, end)
