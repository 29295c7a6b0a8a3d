"""The families that can be trained by name: their hyper-parameters, and how to build a layer from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from wellposed.activations import activation
from wellposed.errors import check
from wellposed.layers import MonDEQ


@dataclass(frozen=True)
class Family(ABC):
    """Hyper-parameters of one family of layers; a dataclass that checks itself before anything is built."""

    name: ClassVar[str]

    width: int = 40
    """Number of state features."""

    @abstractmethod
    def build(self, in_features: int) -> nn.Module:
        """The layer, with fresh weights."""


@dataclass(frozen=True)
class MonDEQFamily(Family):
    """Monotone DEQ (Winston & Kolter 2020): I − W ⪰ m·I."""

    name: ClassVar[str] = "mondeq"

    m: float = 20.0
    """Strong-monotonicity constant: larger is smoother, with smaller Lipschitz constants."""
    activation: str = "relu"
    """Activation with slopes in [0, 1]."""
    rtol: float = 1e-3
    """Relative tolerance of the solves while training."""

    def __post_init__(self) -> None:
        check(self.width > 0, "width", self.width, "must be a positive integer")
        check(self.m > 0, "m", self.m, "must be positive")
        check(self.rtol > 0, "rtol", self.rtol, "must be positive")
        activation(self.activation)

    def build(self, in_features: int) -> MonDEQ:  # noqa: D102
        return MonDEQ(in_features, self.width, m=self.m, activation=self.activation, rtol=self.rtol)


FAMILIES: dict[str, type[Family]] = {family.name: family for family in (MonDEQFamily,)}
