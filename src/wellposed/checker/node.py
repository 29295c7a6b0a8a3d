"""One node of a deployed network."""

import math
from dataclasses import dataclass
from typing import Any

from .proofs import Array

# Kinds of equilibria whose bounds of errors rely on a sensitivity, and the modules that prove it.
EQUILIBRIA = {
    "ReflectedEquilibrium": ".dense", "PositiveEquilibrium": ".positive", "ConvolvedEquilibrium": ".channelwise",
    "PositiveConvolvedEquilibrium": ".positive", "CirculatedEquilibrium": ".circulated", "ScaledEquilibrium": ".circulated",
    "TierEquilibrium": ".tiers",
}  # fmt: skip
# Those of contractions, whose constants depend on more than one number.
CONTRACTIONS = {"FeatureCellEquilibrium": ".cells", "ChannelCellEquilibrium": ".cells", "GraphEquilibrium": ".graphs"}
# All kinds whose bounds of errors rely on something that is proved.
CHECKED = {**EQUILIBRIA, **CONTRACTIONS, "Circular": ".circular"}


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
