"""A bound γ from the input to an output map of equilibria of images, in the metric of their W (Revay, Wang & Manchester 2020).

With the output map G and the input map ΨŨ it holds if 2s(C + FᵀF) ⪰ GᵀG/γ + s²ŨŨᵀ/γ for some s > 0 (their Condition 2). As
GᵀG ⪯ qFᵀF + r for G = κF + E, q = (1 + t)κ², r = (1 + 1/t)‖E‖², t = ‖E‖/(κ‖F‖), that follows from 2sγ ≥ q and
C + Cᴴ − (s/γ)ŨŨᴴ ⪰ r/(sγ) at every frequency.
"""

from typing import Any

import numpy as np

from .circulated import convolution, low_rank, metric
from .claim import Claim
from .frequencies import all_semidefinite, gram
from .image_segment import ImageSegment
from .maps import Linear
from .node import Node
from .proofs import FOLDED, UNIT, Array, require, rounding_constant
from .vectors import length


class BoundedSegment(ImageSegment):
    """A segment in multiples s of the metric of its W.

    Attributes:
        multipliers: how many a metric has: one, s.
        core: C + Cᴴ at the stored frequencies.
        squares: ŨŨᴴ there.
        square: q.
    """

    multipliers = 1

    def __init__(self, nodes: list[Node], maps: list[Linear], end: Node, claim: Claim) -> None:
        super().__init__(nodes, maps, end)
        alike = (self.scale == np.broadcast_to(metric(self.node), self.node.shape)).all()
        require(alike and self.circular, "metric", f"{self.name}: the metric does not scale a circular convolution")
        core, self._sizes = convolution(self.node)
        self.core = core + core.conj().swapaxes(2, 3)
        self.squares, self._missing = gram(self.kernel, self.grid, self.strides)
        factor, seen = low_rank(self.node), self.seen
        require(factor.shape == seen.shape and factor.any(), "metric", f"{self.name}: reads other rows than its W has")
        up = 1.0 + rounding_constant(factor.size + 8)
        norm = length(factor) * up
        ratio = (seen * factor).sum() / (norm * norm)
        require(ratio > 0.0, "metric", f"{self.name}: reads nothing that its W has")
        missed = length(seen - ratio * factor) * up
        missed = missed + rounding_constant(FOLDED + 8) * (length(seen) + ratio * norm) * up
        self.square = (1.0 + missed / (ratio * norm)) * ratio**2 * up
        self._rest = missed * (missed + ratio * norm) * up

    def proves(self, row: int | tuple[int, int] | slice, multipliers: Array, value: Any) -> bool:
        """Whether all outputs are proved to have a constant, and with them every one."""
        s = multipliers[0]
        if isinstance(row, tuple) or not 1e-100 < s < 1e100 or not 1e-100 < value < 1e100:
            return False
        if not 2.0 * s * value * (1.0 - 1e-14) >= self.square:
            return False
        ratio, short = s / value * (1.0 + 1e-15), self._rest / (s * value) * (1.0 + 1e-12)
        error = 16.0 * UNIT * (self._sizes + ratio * np.abs(self.squares).sum(3).max(2)) + 1.01 * ratio * self._missing
        return all_semidefinite(self.core - ratio * self.squares, error + short)
