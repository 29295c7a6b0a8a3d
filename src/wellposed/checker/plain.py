"""Kinds of nodes that hand entries on one by one, in the same shape or in another."""

import math
from typing import Any

from .claim import Claim
from .node import Node
from .proofs import require
from .shapes import Shape, target


def shape(node: Node, given: Shape) -> Shape:
    """The shape of what a node gives, of as many entries as it takes."""
    found = target(node.numbers["shape"], node.name) if node.kind == "Reshaped" else given
    require(math.prod(found) == math.prod(given), "shapes", f"{node.name} makes {found} of {given}")
    return found


def constant(node: Node, nodes: list[Node], claim: Claim) -> Any:
    """The Euclidean constant of an entry's change."""
    return node.slope
