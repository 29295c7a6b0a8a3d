"""Sets of inputs on their way through a network: Euclidean balls up to the first linear map, boxes from there on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import CertificateError
from wellposed.network.kinds import Block
from wellposed.network.propagation import Errors, Point
from wellposed.numerics.outward import above, below, enlarged
from wellposed.verification.region import Region


class Images(ABC):
    """Sets that have the values of a network for all inputs of some regions inside, one for each region."""

    @abstractmethod
    def behind(self, block: Block) -> Images:
        """Sets that have the block's values inside.

        Raises:
            CertificateError: nothing is known of the block.
        """

    @abstractmethod
    def boxes(self) -> Boxes:
        """Boxes around the sets."""


@dataclass(frozen=True, eq=False, repr=False)
class Boxes(Images):
    """All values between two.

    Attributes:
        lower: least values, shape (batch, *shape), float64.
        upper: largest values, of the shape of ``lower``.
        known: for which regions that is proved, boolean, shape (batch,); the numbers of the others mean nothing.
    """

    lower: Tensor
    upper: Tensor
    known: Tensor

    def __repr__(self) -> str:
        return f"Boxes({tuple(self.lower.shape)})"

    @classmethod
    def of(cls, lower: Tensor, upper: Tensor, known: Tensor) -> Boxes:
        """Boxes that are not known where they have no ends, zero there."""
        known = known & torch.isfinite(upper - lower).flatten(1).all(1)
        rows = known.reshape(-1, *[1] * (lower.ndim - 1))
        return cls(lower.where(rows, 0.0), upper.where(rows, 0.0), known)

    @override
    def behind(self, block: Block) -> Boxes:
        return Boxes.of(*block.interval(self.lower, self.upper), self.known)

    @override
    def boxes(self) -> Boxes:
        return self


@dataclass(frozen=True, eq=False, repr=False)
class Balls(Images):
    """All values within a Euclidean distance of one.

    Attributes:
        centre: shape (batch, *shape), float64.
        radius: shape (batch,).
        known: for which regions that is proved, boolean, shape (batch,).
    """

    centre: Tensor
    radius: Tensor
    known: Tensor

    def __repr__(self) -> str:
        return f"Balls({tuple(self.centre.shape)})"

    @override
    def behind(self, block: Block) -> Images:
        found = block.interval_of_balls(self.centre, self.radius)
        if found is not None:
            return Boxes.of(*found, self.known)
        start = Point(self.centre, Errors.none(len(self.centre), self.centre.device), self.known)
        try:
            constant, _ = block.constant("2")
            point = block.through(start, forward=False)
        except CertificateError:  # which need not keep it from having an interval
            return self.boxes().behind(block)
        return Balls(point.value, enlarged(constant * self.radius + point.errors.here, 2), point.solved)

    @override
    def boxes(self) -> Boxes:
        radius = self.radius.reshape(-1, *[1] * (self.centre.ndim - 1))
        return Boxes.of(below(self.centre - radius), above(self.centre + radius), self.known)


def images_of(regions: Region, shape: Sequence[int]) -> Images:
    """The inputs of some regions, in the shape that the network takes.

    Args:
        regions: with a dimension for their number in front.
        shape: of one input.
    """
    known = torch.ones(len(regions.centre), dtype=torch.bool, device="cpu")
    centre = regions.centre.reshape(-1, *shape)
    if regions.widths is None:
        return Balls(centre, regions.radius, known)
    widths = regions.widths.reshape(-1, *shape)
    return Boxes.of(below(centre - widths), above(centre + widths), known)
