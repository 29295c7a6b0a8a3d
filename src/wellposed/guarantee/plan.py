"""How algorithms run under a guarantee, and the choice among them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from wellposed.numerics.brief import Brief

S = TypeVar("S")


@dataclass(frozen=True)
class Algorithms(Generic[S]):
    """One algorithm for each kind of iteration, for a guarantee to choose from."""

    picard: S
    averaged: S
    forward_backward: S
    peaceman_rachford: S


@dataclass(frozen=True, eq=False, repr=False)
class Plan(Brief):
    """How one algorithm runs under a guarantee.

    Attributes:
        step: the step size (a damping, for the averaged iteration); a tensor (n,) where every coordinate has its own.
        factor: upper bound of the contraction per iteration, in the guarantee's own norm.
        distortion: largest ratio of that norm's unit balls: an error in the Euclidean norm times its inverse.
    """

    step: float | Tensor
    factor: float
    distortion: float = 1.0

    def iterations(self, first_change: float, tolerance: float) -> int:
        """Iterations after which the distance to the fixed point is surely at most ``tolerance``.

        Args:
            first_change: Euclidean distance between the first two iterates.
            tolerance: the Euclidean distance wanted.
        """
        start = self.distortion * first_change / (1.0 - self.factor)
        if start <= tolerance:
            return 1
        if self.factor <= 0.0:
            return 2
        return 1 + math.ceil(math.log(tolerance / start) / math.log(self.factor))
