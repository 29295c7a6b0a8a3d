"""The families of convolutional equilibrium layers on images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from wellposed.errors import check
from wellposed.layers import ConvMonDEQ
from wellposed.models.families.base import Family


@dataclass(frozen=True)
class MonDEQConvFamily(Family):
    """Monotone DEQ with one circular convolution (Winston & Kolter 2020)."""

    name: ClassVar[str] = "mondeq-conv"

    width: int = 32
    """Channels of the state."""
    m: float = 1.0
    """Strong-monotonicity constant: larger is smoother, with smaller Lipschitz constants."""
    taps: int = 3
    """Rows and columns of the kernels of the state map; odd."""
    stride: int = 2
    """Stride of the input convolution: the state has so many times fewer rows and columns."""
    pool: int = 2
    """Size of the windows that the state is averaged over before the linear head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.m > 0, "m", self.m, "must be positive")
        check(self.taps >= 1 and self.taps % 2 == 1, "taps", self.taps, "must be odd")
        check(self.stride >= 1, "stride", self.stride, "must be at least 1")
        check(self.pool >= 1, "pool", self.pool, "must be at least 1")

    def build(self, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, ...]:  # noqa: D102
        layer = ConvMonDEQ(
            shape[0], self.width, (shape[1], shape[2]), m=self.m, taps=self.taps, stride=self.stride, rtol=self.rtol
        )
        rows, columns = (extent // self.pool for extent in layer.state_shape[1:])
        check(min(rows, columns) >= 1, "pool", self.pool, f"is larger than the state of {layer.state_shape[1:]} pixels")
        head = nn.Linear(self.width * rows * columns, classes)
        return nn.Unflatten(1, shape), layer, nn.AvgPool2d(self.pool), nn.Flatten(), head
