"""Images of several sizes in one flat state, each half of the one before: halving, its adjoint, and places."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from wellposed.errors import InputError

Size = tuple[int, int]


def strides(size: Size) -> Size:
    """By how much a tier's height and width are divided for the next one."""
    return (2 if size[0] > 1 else 1, 2 if size[1] > 1 else 1)


def halved(size: Size) -> Size:
    """Height and width after keeping every second row and column."""
    rows, columns = strides(size)
    return size[0] // rows, size[1] // columns


def decimate(image: Tensor, size: Size) -> Tensor:
    """Every second row and column of an image of a tier."""
    rows, columns = strides(size)
    return image[..., ::rows, ::columns]


def spread(image: Tensor, size: Size) -> Tensor:
    """The adjoint of `decimate`: zeros in the other rows and columns."""
    rows, columns = strides(size)
    wide = torch.nn.functional.pad(image[..., :, None, :, None], (0, columns - 1, 0, 0, 0, rows - 1))
    return wide.flatten(-4, -3).flatten(-2, -1)


def embedded(image: Tensor, size: Size) -> Tensor:
    """An image in the upper left corner of a larger one, zeros elsewhere."""
    missing = (0, size[1] - image.shape[-1], 0, size[0] - image.shape[-2])
    return torch.nn.functional.pad(image, missing) if any(missing) else image


class Tiers:
    """Sizes of the tiers, and their places in the flat state.

    Args:
        channels: of every tier.
        images: height and width of every tier.

    Raises:
        InputError: a tier cannot be halved, or the next one cannot hold its half.
    """

    def __init__(self, channels: tuple[int, ...], images: tuple[Size, ...]) -> None:
        for size, following in itertools.pairwise(images):
            if any(extent > 1 and extent % 2 for extent in size):
                raise InputError(f"images: {size} has an odd extent, which cannot be halved")
            if any(a > b for a, b in zip(halved(size), following, strict=True)):
                raise InputError(f"images: a tier of {following} cannot hold half of {size}")
        self.channels, self.images = channels, images
        self.features = [count * size[0] * size[1] for count, size in zip(channels, images, strict=True)]

    def split(self, state: Tensor) -> list[Tensor]:
        """Shape (batch, features) to one image per tier."""
        parts = state.split(self.features, -1)
        return [
            part.unflatten(-1, (count, *size))
            for part, count, size in zip(parts, self.channels, self.images, strict=True)
        ]

    def join(self, images: list[Tensor]) -> Tensor:
        """The inverse of `split`."""
        return torch.cat([image.flatten(-3) for image in images], -1)


def act(transfer: Tensor, spectrum: Tensor, *, adjoint: bool = False) -> Tensor:
    """A circular convolution, or its adjoint, of images by their spectra, shape (frequencies, channels, batch)."""
    matrices = transfer.flatten(0, 1)
    return torch.bmm(matrices.mH if adjoint else matrices, spectrum)
