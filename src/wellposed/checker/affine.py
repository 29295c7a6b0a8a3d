"""Linear maps of vectors, rows of vectors and single entries, with what is added; their norms are those of paths, see `maps`."""

from typing import Any

import numpy as np

from .claim import Claim
from .node import Node
from .proofs import norm_of, require
from .shapes import Shape, fits_into, outputs_of


def shape(node: Node, given: Shape) -> Shape:
    """The shape of what a node gives; it divides by nothing that is not positive."""
    numbers = node.numbers
    if node.kind == "Linear":
        return (*given[:-1], outputs_of(node, "W", "b", given[-1]))
    good = all(fits_into(part, given) for part in numbers.values())
    require(good, "shapes", f"{node.name} takes numbers of other shapes than {given}")
    good = bool((numbers.get("std", np.ones(1)) > 0.0).all() and (numbers.get("variance", np.ones(1)) >= 0.0).all())
    require(good, "options", f"{node.name}: a standard deviation is not positive, or a variance negative")
    return given


def constant(node: Node, nodes: list[Node], claim: Claim) -> Any:
    """The Euclidean constant of a map of rows; None of others, which belong to paths."""
    return norm_of(node.numbers["W"]) if node.kind == "Linear" and len(node.shape) > 1 else None
