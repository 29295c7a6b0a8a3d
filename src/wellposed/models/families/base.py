"""What training by name needs of a family of networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from wellposed.errors import check


@dataclass(frozen=True)
class Family(ABC):
    """Hyper-parameters of one family of networks; a dataclass that checks itself before anything is built."""

    name: ClassVar[str]
    domain: ClassVar[str] = "images"  # or graphs
    scales_input: ClassVar[bool] = True  # whether pixels are divided by their standard deviation
    has_intervals: ClassVar[bool] = False  # whether its networks can be trained by bounds of intervals

    width: int = 40
    """Number of state features."""

    rtol: float = 1e-3
    """Relative tolerance of the solves while training."""

    max_steps: int = 1000
    """Limit on the iterations of a solve."""

    def __post_init__(self) -> None:
        check(self.width > 0, "width", self.width, "must be a positive integer")
        check(self.rtol > 0, "rtol", self.rtol, "must be positive")
        check(self.max_steps >= 1, "max_steps", self.max_steps, "must be at least 1")

    @abstractmethod
    def build(self, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, ...]:
        """The blocks from flat inputs (node features, for graphs) to logits, with fresh weights; the limit on steps is set later.

        Args:
            shape: of one image, (channels, height, width), before it was flattened; of one node's features, (features,).
            classes: number of logits.
        """
