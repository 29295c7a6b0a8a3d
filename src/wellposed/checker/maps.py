"""Linear maps between the entries of two edges, where a network has nothing else between them."""

import itertools
from dataclasses import dataclass

import numpy as np

from .node import Node
from .proofs import Array

_FOLDED = 3  # factors that are folded into one map at most


@dataclass
class Linear:
    """The value of an edge as that of an earlier one, times a matrix, plus a constant; row by row, whatever the shapes.

    Attributes:
        start: place of the node that the earlier edge leaves.
        matrix: shape (entries, earlier entries), or for a diagonal one (entries,).
        folded: how many factors its entries are products of, beside a stored matrix.
    """

    start: int
    matrix: Array
    folded: int = 0

    @property
    def dense(self) -> Array:
        """The matrix."""
        return self.matrix if self.matrix.ndim == 2 else np.diag(self.matrix)


def scale_of(node: Node) -> Array | None:
    """What a node multiplies each entry of its input with, beside adding constants; None if it does something else."""
    numbers = node.numbers
    if node.kind == "Affine":
        scale = numbers["scale"]
    elif node.kind == "Normalize":
        scale = 1.0 / numbers["std"]
    elif node.kind == "BatchNormalized":
        scale = numbers["weight"] / np.sqrt(numbers["variance"] + numbers["epsilon"])
    else:
        return None
    return np.broadcast_to(scale, node.shape, subok=True).reshape(-1)


def linear_maps(nodes: list[Node]) -> list[Linear]:
    """Of every edge the longest such map that ends in it: at least the identity."""
    found: list[Linear] = []
    for node in nodes:
        own, scale = Linear(node.place, np.ones(node.size)), scale_of(node)
        before = found[node.sources[0]] if node.sources else own
        if node.kind in ("Reshaped", "Leave"):
            own = before
        elif scale is not None:
            if before.folded >= _FOLDED:
                before = Linear(node.sources[0], np.ones(node.size))
            matrix = before.matrix * (scale if before.matrix.ndim == 1 else scale[:, None])
            own = Linear(before.start, matrix, before.folded + 1)
        elif node.kind == "Linear" and len(node.shape) == 1:
            if before.matrix.ndim == 2:  # products of matrices would round too much
                before = Linear(node.sources[0], np.ones(before.matrix.shape[0]))
            own = Linear(before.start, node.numbers["W"] * before.matrix, before.folded)
        found.append(own)
    return found


def margins(outputs: int) -> list[tuple[int, int]]:
    """The pairs of outputs, in the order of their rows."""
    return list(itertools.combinations(range(outputs), 2))
