"""The families of positive concave equilibrium layers on images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from wellposed.errors import check
from wellposed.models.families.image import ConvFamily, pooled_head
from wellposed.models.families.positive import PositiveFamily

if TYPE_CHECKING:
    from torch import nn

    from wellposed.layers import ConvPcDEQ


@dataclass(frozen=True)
class PcDEQConvFamily(ConvFamily, PositiveFamily):
    """Convolutional positive concave DEQ (Gabor et al. 2024): nonnegative kernels of any size."""

    name: ClassVar[str] = "pcdeq-conv"

    def _block(
        self, channels: tuple[int, int], image: tuple[int, int], stride: int, padding: int | None
    ) -> tuple[ConvPcDEQ, tuple[nn.Module, ...]]:
        from torch import nn

        from wellposed.layers import ConvPcDEQ

        layer = ConvPcDEQ(
            channels[0], channels[1], image, taps=self.taps, input_taps=self.input_taps, stride=stride, padding=padding,
            **self.options(),
        )  # fmt: skip
        return layer, (layer, nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(channels[1]))

    @override
    def layer(self, channels: int, image: tuple[int, int]) -> ConvPcDEQ:
        return self._block((channels, self.width), image, self.stride, None)[0]

    @override
    def build(self, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, ...]:
        from torch import nn

        layer, block = self._block((shape[0], self.width), (shape[1], shape[2]), self.stride, None)
        return nn.Unflatten(1, shape), *block, *pooled_head(layer.state_shape, self.pool, classes)


@dataclass(frozen=True)
class PcDEQMultiFamily(PcDEQConvFamily):
    """Several positive concave layers one after the other, each on half the height and width (Gabor et al. 2024)."""

    name: ClassVar[str] = "pcdeq-multi"

    width: int = 12
    """Channels of the first layer."""
    further: tuple[int, ...] = (24, 48)
    """Channels of the further layers."""
    stride: int = 1
    """Stride of the first input convolution; the others have two."""
    pool: int = 4
    """Size of the windows that the last state is averaged over before the linear head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "further", tuple(self.further))  # TOML has lists
        check(all(channels > 0 for channels in self.further), "further", self.further, "must be positive")

    @override
    def build(self, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, ...]:
        from torch import nn

        layer, blocks = self._block((shape[0], self.width), (shape[1], shape[2]), self.stride, None)
        for channels in self.further:
            before, *image = layer.state_shape
            layer, more = self._block((before, channels), (image[0], image[1]), 2, 0)
            blocks = (*blocks, *more)
        return nn.Unflatten(1, shape), *blocks, *pooled_head(layer.state_shape, self.pool, classes)
