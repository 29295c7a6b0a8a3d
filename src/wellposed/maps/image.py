"""The input map of layers on images: a zero-padded, strided convolution, put into the state."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.errors import CertificateError, check
from wellposed.maps.affine import Affine
from wellposed.maps.base import InputMap
from wellposed.maps.checks import is_centred
from wellposed.maps.convolution import Convolution
from wellposed.solvers.a_posteriori import ExactOffset


class ImageInjection(nn.Conv2d, InputMap):
    """A zero-padded, strided convolution whose image is put into the state: inside its border, before other tiers.

    Args:
        in_channels: channels of the input.
        image: height and width of the input.
        tiers: channels, height and width of the images of the state; the first one receives the convolution.
        taps: rows and columns, odd.
        stride: of the convolution.
        border: pixels of the state above and to the left of what the convolution gives.
        bias: whether there is a bias, one for every channel of every tier.
        where: device and dtype.
    """

    def __init__(
        self,
        in_channels: int,
        image: tuple[int, int],
        tiers: tuple[tuple[int, int, int], ...],
        *,
        taps: int,
        stride: int,
        border: int,
        bias: bool,
        **where: Any,
    ) -> None:
        super().__init__(in_channels, tiers[0][0], taps, stride=stride, padding=taps // 2, bias=bias, **where)
        self.image = (int(image[0]), int(image[1]))
        self.tiers, self.border = tiers, border
        others = tiers[1:] if bias else ()
        self.others = nn.ParameterList([torch.zeros(channels, **where) for channels, _, _ in others])

    @property
    @override
    def input_shape(self) -> tuple[int, ...]:
        return (self.in_channels, *self.image)

    @property
    @override
    def output_shape(self) -> tuple[int, ...]:
        return self.tiers[0] if len(self.tiers) == 1 else (sum(map(math.prod, self.tiers)),)

    @property
    @override
    def stored(self) -> Tensor:
        return self.weight

    def placed(self, image: Tensor) -> Tensor:
        """The convolution's image as an offset of the state."""
        _, height, width = self.tiers[0]
        below, right = height - image.shape[-2] - self.border, width - image.shape[-1] - self.border
        if self.border or below or right:
            image = nn.functional.pad(image, (self.border, right, self.border, below))
        if len(self.tiers) == 1:
            return image
        rest = [
            (image.new_zeros(channels) if not self.others else self.others[index].to(image))[:, None]
            .expand(channels, height * width)
            .flatten()
            for index, (channels, height, width) in enumerate(self.tiers[1:])
        ]
        driven = torch.cat(rest)
        return torch.cat([image.flatten(1), driven.expand(len(image), len(driven))], 1)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.placed(super().forward(x))

    @override
    def numbers(self) -> Convolution:
        """The numbers of the convolution, before its image is put into the state."""
        return Convolution.of(self, self.image)

    @override
    def affine(self) -> Affine | None:
        return self.convolution() if self.border == 0 and len(self.tiers) == 1 else None

    @override
    def convolution(self) -> Convolution | None:
        return self.numbers() if is_centred(self) else None

    @override
    def exact(self, rows: Tensor) -> ExactOffset:
        found = super().exact(rows)
        return ExactOffset(self.placed(found.value).detach(), found.error)

    @override
    def spread(self, half: Tensor) -> Tensor:
        away = nn.functional.conv2d(half, self.weight.abs(), None, self.stride, self.padding)
        return self.placed(away) if len(self.tiers) == 1 else super().spread(half)

    @override
    def check_numbers(self, name: str) -> None:
        if not is_centred(self):
            raise CertificateError(f"{name}: {self} has other options than this layer's theorem is about")
        rows, columns = state_image(self.image, self.stride[0])
        tier = (len(self.weight), rows + 2 * self.border, columns + 2 * self.border)
        biases = [tuple(part.shape) for part in self.others]
        if self.tiers[0] != tier or biases not in ([], [(channels,) for channels, _, _ in self.tiers[1:]]):
            raise CertificateError(f"{name}.tiers={self.tiers}: do not fit images of {self.image} pixels")


def state_image(image: tuple[int, int], stride: int) -> tuple[int, int]:
    """Height and width of what a stride makes of an image: those of the input divided by it, rounded up."""
    check(len(image) == 2 and min(image) >= 1, "image", image, "must be a positive height and width")
    check(stride >= 1, "stride", stride, "must be at least 1")
    return -(-int(image[0]) // stride), -(-int(image[1]) // stride)
