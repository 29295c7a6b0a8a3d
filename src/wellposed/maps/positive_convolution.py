"""The input map of positive concave layers on images."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from wellposed.errors import CertificateError
from wellposed.maps.checks import plain_convolution
from wellposed.maps.convolution import Convolution
from wellposed.maps.positive import PositiveInjection


class PositiveConv2d(nn.Conv2d, PositiveInjection):
    """A strided, zero-padded convolution of images with a positive part.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        image: height and width of the input.
        taps: rows and columns of the kernel.
        floor: at least zero.
        sharpness: β.
        batch_norm: normalise over the batch.
        options: as for `torch.nn.Conv2d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        image: tuple[int, int],
        taps: int,
        floor: float,
        sharpness: float = 1.0,
        *,
        batch_norm: bool,
        **options: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, taps, **options)
        self.image = (int(image[0]), int(image[1]))
        self.floor, self.sharpness = floor, sharpness
        where = {name: options[name] for name in ("device", "dtype") if name in options}
        self.norm = nn.BatchNorm2d(out_channels, **where) if batch_norm else None

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.normalised(super().forward(x))

    @property
    @override
    def input_shape(self) -> tuple[int, ...]:
        return (self.in_channels, *self.image)

    @property
    @override
    def output_shape(self) -> tuple[int, ...]:
        sizes = zip(self.image, self.weight.shape[2:], self.stride, map(int, self.padding), strict=True)
        return (len(self.weight), *((extent + 2 * pad - taps) // step + 1 for extent, taps, step, pad in sizes))

    @override
    def numbers(self) -> Convolution:
        return self.folded(Convolution.of(self, self.image))

    @override
    def spread(self, half: Tensor) -> Tensor:
        self.require_plain()
        return nn.functional.conv2d(half, self.weight.abs(), None, self.stride, self.padding)

    @override
    def check_numbers(self, name: str) -> None:
        square = all(sides[0] == sides[1] for sides in (self.weight.shape[2:], self.stride, self.padding))
        if not plain_convolution(self) or not square:
            raise CertificateError(f"{name}: {self} has other options than this layer's theorem is about")
        super().check_numbers(name)
