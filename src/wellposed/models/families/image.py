"""What the families of convolutional equilibrium layers share: an image for a state, and a head behind averages."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from wellposed.errors import check
from wellposed.models.families.base import Family

if TYPE_CHECKING:
    from torch import nn

    from wellposed.layers.conv_equilibrium import ImageLayer


@dataclass(frozen=True)
class ConvFamily(Family):
    """One equilibrium layer on images, then averages over windows and a linear head."""

    domains: ClassVar[tuple[str, ...]] = ("images",)

    width: int = 32
    """Channels of the state."""
    taps: int = 3
    """Rows and columns of the kernels; odd."""
    input_taps: int | None = None
    """Rows and columns of the input convolution; odd, by default as the others."""
    stride: int = 2
    """Stride of the input convolution: the state has so many times fewer rows and columns."""
    pool: int = 2
    """Size of the windows that the state is averaged over before the linear head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, taps in (
            ("taps", self.taps),
            ("input_taps", self.taps if self.input_taps is None else self.input_taps),
        ):
            check(taps >= 1 and taps % 2 == 1, name, taps, "must be odd")
        check(self.stride >= 1, "stride", self.stride, "must be at least 1")
        check(self.pool >= 1, "pool", self.pool, "must be at least 1")

    @abstractmethod
    def layer(self, channels: int, image: tuple[int, int]) -> ImageLayer:
        """The equilibrium layer for images of that many channels and that size."""

    @override
    def build(self, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, ...]:
        from torch import nn

        layer = self.layer(shape[0], (shape[1], shape[2]))
        return nn.Unflatten(1, shape), layer, *pooled_head(layer.value_shape, self.pool, classes)


def pooled_head(shape: tuple[int, ...], pool: int, classes: int) -> tuple[nn.Module, ...]:
    """Averages over windows of an image of that shape, then a linear map to the logits."""
    from torch import nn

    rows, columns = (extent // pool for extent in shape[1:])
    check(min(rows, columns) >= 1, "pool", pool, f"is larger than the state of {shape[1:]} pixels")
    return nn.AvgPool2d(pool), nn.Flatten(), nn.Linear(shape[0] * rows * columns, classes)
