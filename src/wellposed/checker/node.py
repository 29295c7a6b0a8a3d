"""One node of a deployed network."""

import math
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from .proofs import Array, Refuted

# The modules that know the kinds of nodes: by their functions "shape" and, where there is something to say, "check" (what the
# bound of errors relies on), "constant" (Euclidean, from an edge to the next), "joint" (with what stands before) and "segment".
_MODULES = {
    kind: module
    for module, kinds in {
        ".plain": "Enter Leave Reshaped Activation",
        ".sums": "SumOfTwo DifferenceOfTwo",
        ".affine": "Affine Normalize BatchNormalized Linear",
        ".dense": "ReflectedEquilibrium",
        ".positive": "PositivePart PositiveEquilibrium PositiveConvolvedEquilibrium",
        ".explicit": "Sandwich Residual GroupSort SortedGroups",
        ".windows": "Convolution AveragePooling MaximumPooling",
        ".placed": "Placed",
        ".circular": "Circular",
        ".channelwise": "ConvolvedEquilibrium",
        ".circulated": "CirculatedEquilibrium ScaledEquilibrium",
        ".tiers": "TierEquilibrium",
        ".cells": "FeatureCellEquilibrium ChannelCellEquilibrium",
        ".graphs": "EnterGraphs GraphEquilibrium NodeSum",
    }.items()
    for kind in kinds.split()
}


@dataclass
class Node:
    """One node of the network.

    Attributes:
        place: among all nodes, by which edges are named after the node that they leave.
        kind: of its function, without the activation.
        sigma: the activation that its function depends on, "" without one.
        slope: the largest slope of that activation.
        sources: places of the nodes whose values it takes.
        numbers: by the names of the function's inputs, in float64 or int64.
        shape: of a sample of its value, or of that of one node of graphs.
        nodewise: whether its value has a row for every node of graphs.
    """

    place: int
    kind: str
    sigma: str
    slope: Any
    sources: tuple[int, ...]
    numbers: dict[str, Array]
    shape: tuple[int, ...] = ()
    nodewise: bool = False

    @property
    def name(self) -> str:
        """For messages."""
        return f"node {self.place} ({self.kind}{self.sigma and '_' + self.sigma})"

    @property
    def size(self) -> int:
        """How many entries a sample of its value has."""
        return math.prod(self.shape)

    @property
    def module(self) -> Any:
        """The module that knows its kind."""
        if self.kind not in _MODULES:
            raise Refuted("functions", f"nothing is known of {self.name}")
        return import_module(_MODULES[self.kind], __package__)
