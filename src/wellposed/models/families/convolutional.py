"""The families of convolutional equilibrium layers on images."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from wellposed.errors import check
from wellposed.layers import ConvMonDEQ, ConvNEMON
from wellposed.layers.conv_equilibrium import ConvEquilibrium
from wellposed.models.families.base import Family


@dataclass(frozen=True)
class _ConvFamily(Family):
    width: int = 32
    """Channels of the state."""
    taps: int = 3
    """Rows and columns of the kernels; odd."""
    stride: int = 2
    """Stride of the input convolution: the state has so many times fewer rows and columns."""
    pool: int = 2
    """Size of the windows that the state is averaged over before the linear head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.taps >= 1 and self.taps % 2 == 1, "taps", self.taps, "must be odd")
        check(self.stride >= 1, "stride", self.stride, "must be at least 1")
        check(self.pool >= 1, "pool", self.pool, "must be at least 1")

    @abstractmethod
    def layer(self, channels: int, image: tuple[int, int]) -> ConvEquilibrium:
        """The equilibrium layer for images of that many channels and that size."""

    def build(self, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, ...]:
        layer = self.layer(shape[0], (shape[1], shape[2]))
        rows, columns = (extent // self.pool for extent in layer.state_shape[1:])
        check(min(rows, columns) >= 1, "pool", self.pool, f"is larger than the state of {layer.state_shape[1:]} pixels")
        head = nn.Linear(self.width * rows * columns, classes)
        return nn.Unflatten(1, shape), layer, nn.AvgPool2d(self.pool), nn.Flatten(), head


@dataclass(frozen=True)
class MonDEQConvFamily(_ConvFamily):
    """Monotone DEQ with one circular convolution (Winston & Kolter 2020)."""

    name: ClassVar[str] = "mondeq-conv"

    m: float = 1.0
    """Strong-monotonicity constant: larger is smoother, with smaller Lipschitz constants."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.m > 0, "m", self.m, "must be positive")

    def layer(self, channels: int, image: tuple[int, int]) -> ConvEquilibrium:  # noqa: D102
        return ConvMonDEQ(channels, self.width, image, m=self.m, taps=self.taps, stride=self.stride, rtol=self.rtol)


@dataclass(frozen=True)
class NEMONConvFamily(_ConvFamily):
    """Non-Euclidean monotone network with one zero-padded convolution (Jafarpour et al. 2021)."""

    name: ClassVar[str] = "nemon-conv"

    mu: float = 0.0
    """Bound of the log norm, below one: larger is more expressive and less smooth."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.mu < 1, "mu", self.mu, "must be below one")

    def layer(self, channels: int, image: tuple[int, int]) -> ConvEquilibrium:  # noqa: D102
        return ConvNEMON(channels, self.width, image, mu=self.mu, taps=self.taps, stride=self.stride, rtol=self.rtol)
