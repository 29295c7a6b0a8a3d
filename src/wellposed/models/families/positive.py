"""The families of positive concave equilibrium layers (Gabor et al. 2024), on flat inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from wellposed.errors import check, choices
from wellposed.models.families.base import Family
from wellposed.names import CONCAVE_ACTIVATIONS, NONNEGATIVE

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class PositiveFamily(Family):
    """Positive concave layers of any kind: W ≥ 0 of any norm; variant 2 with the sigmoid, else variant 1."""

    activation: str = "tanh"
    """Activation that is concave on the positive axis; the sigmoid makes it variant 2."""
    floor: float = 0.1
    """Least value of the offset in variant 1."""
    sharpness: float = 1.0
    """β of the offset softplus(βv)/β in variant 1; 5 in the published networks."""
    parametrisation: str = "square"
    """How W ≥ 0 is made: square, softplus or projection."""

    def __post_init__(self) -> None:
        super().__post_init__()
        choices("activation", self.activation, CONCAVE_ACTIVATIONS)
        choices("parametrisation", self.parametrisation, NONNEGATIVE)
        check(self.floor > 0, "floor", self.floor, "must be positive")
        check(self.sharpness > 0, "sharpness", self.sharpness, "must be positive")

    def options(self) -> dict[str, Any]:
        """What layers of all kinds take."""
        return {
            "activation": self.activation, "parametrisation": self.parametrisation, "rtol": self.rtol, "batch_norm": True,
            "floor": None if self.activation == "sigmoid" else self.floor, "sharpness": self.sharpness,
        }  # fmt: skip


@dataclass(frozen=True)
class PcDEQFamily(PositiveFamily):
    """Positive concave DEQ (Gabor et al. 2024): W ≥ 0 of any norm; variant 2 with the sigmoid, else variant 1."""

    @override
    def build(self, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, ...]:
        from torch import nn

        from wellposed.layers import PcDEQ

        layer = PcDEQ(math.prod(shape), self.width, **self.options())
        return layer, nn.BatchNorm1d(self.width), nn.Linear(self.width, classes)


@dataclass(frozen=True)
class PcDEQ1Family(PcDEQFamily):
    """Positive concave DEQ, variant 1: σ(0) = 0 and a strictly positive offset (Gabor et al. 2024)."""

    name: ClassVar[str] = "pcdeq1"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.activation != "sigmoid", "activation", self.activation, "belongs to pcdeq2; here σ(0) must be zero")


@dataclass(frozen=True)
class PcDEQ2Family(PcDEQFamily):
    """Positive concave DEQ, variant 2: the sigmoid, and a nonnegative offset (Gabor et al. 2024)."""

    name: ClassVar[str] = "pcdeq2"

    activation: str = "sigmoid"
    """The sigmoid, which is positive at zero."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            self.activation == "sigmoid",
            "activation",
            self.activation,
            "must be the sigmoid, which is positive at zero",
        )
