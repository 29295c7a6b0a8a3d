"""The numbers of strided convolutions, zero-padded and circular."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn
from typing_extensions import override

from wellposed.maps.affine import Affine
from wellposed.numerics.convolution_norms import convolution_norm, largest_singular_value
from wellposed.numerics.outward import enlarged, enlarged_entries, enlarged_norm
from wellposed.operators.fourier import transfer_function


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Convolution(Affine):
    """Numbers of a zero-padded convolution of images, with a kernel of shape (out, in, rows, columns) and b of shape (out, 1, 1).

    Attributes:
        image: height and width of the input.
        stride: of rows and of columns.
        padding: zeros above and below, and on the left and right, of the image.
    """

    image: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    @classmethod
    def of(cls, part: nn.Conv2d, image: tuple[int, int]) -> Convolution:
        """The numbers of a zero-padded convolution without groups and dilation, for images of a height and width."""
        weight = part.weight.detach().double()
        bias = weight.new_zeros(len(weight)) if part.bias is None else part.bias.detach().double()
        shift = bias[:, None, None]
        stride, padding = (part.stride[0], part.stride[1]), (int(part.padding[0]), int(part.padding[1]))
        return cls(weight=weight, bias=shift, bias_size=shift.abs(), image=image, stride=stride, padding=padding)

    @override
    def __call__(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight, stride=self.stride, padding=self.padding)

    @override
    def absolute(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight.abs(), stride=self.stride, padding=self.padding)

    @property
    @override
    def row_norms(self) -> Tensor:
        return enlarged_norm(self.weight.flatten(1).norm(dim=1), self.terms + self.roundings)[:, None, None]

    @override
    def norm_bound(self) -> float:
        """Proved upper bound of ‖U‖₂, frequency by frequency."""
        value = convolution_norm(self.weight, self.image, self.stride[0])
        return enlarged_entries(value, _ratio(self.weight), self.roundings) if self.roundings else value

    @override
    def absolute_norm(self) -> float:
        """Upper bound of ‖|U|‖₂: every tap of a channel is a map of norm at most its absolute value."""
        return _frobenius(self.weight, self.roundings)

    @override
    def as_convolution(self) -> Convolution:
        return self


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class CircularConvolution(Affine):
    """Numbers of ``Ψ(Ũ x) + b``, Ũ a strided circular convolution of the image in a canvas that the stride divides.

    Attributes:
        scale: Ψ, positive, to be broadcast over the outputs of one sample; one where nothing scales.
        outputs: height and width of the output.
        place: zeros on the left, right, top and bottom of the image in its canvas.
        stride: of rows and of columns, one number twice.
    """

    scale: Tensor
    outputs: tuple[int, int]
    place: tuple[int, int, int, int]
    stride: tuple[int, int]

    @override
    def __call__(self, x: Tensor) -> Tensor:
        return convolved(x, self.weight, self.place, self.stride[0]) * self.scale

    @override
    def absolute(self, x: Tensor) -> Tensor:
        return convolved(x, self.weight.abs(), self.place, self.stride[0]) * self.scale

    def transfer(self) -> Tensor:
        """Ũ at every frequency, see `transfer_function`."""
        return transfer_function(self.weight, *self.outputs, self.stride)

    @property
    @override
    def row_norms(self) -> Tensor:
        norms = self.weight.flatten(1).norm(dim=1)[:, None, None]
        return enlarged_norm(norms * self.scale, self.terms + self.roundings + 1)

    @override
    def norm_bound(self) -> float:
        """Proved upper bound of ‖ΨŨ‖₂: ‖Ũ‖₂, for every image in the canvas, times the largest entry of Ψ."""
        return enlarged(self._largest * largest_singular_value(self.transfer()), 1)

    @override
    def absolute_norm(self) -> float:
        return enlarged(_frobenius(self.weight, self.roundings) * self._largest, 1)

    @override
    def as_circular(self) -> CircularConvolution:
        return self

    @property
    def _largest(self) -> float:
        return float(self.scale.amax())

    @property
    @override
    def _amplified(self) -> float:
        return 1.0 + self._largest


def convolved(x: Tensor, kernel: Tensor, place: tuple[int, int, int, int], stride: int) -> Tensor:
    """A strided circular convolution of images, each put into a canvas first.

    Args:
        x: shape (batch, in_channels, height, width).
        kernel: shape (out_channels, in_channels, rows, columns), rows and columns odd.
        place: zeros on the left, right, top and bottom of the image in its canvas.
        stride: of rows and columns.
    """
    rows, columns = kernel.shape[2] // 2, kernel.shape[3] // 2
    canvas = nn.functional.pad(x, place)
    canvas = nn.functional.pad(canvas, (columns, columns, rows, rows), mode="circular")
    return nn.functional.conv2d(canvas, kernel, stride=stride)


def _ratio(kernel: Tensor) -> float:
    """At least ‖|U|‖₂/‖U‖₂ of a convolution: no tap has a larger norm than U, and |U| at most the sum over its taps.

    The absolute values of the numbers of one tap, a matrix, have at most its norm times the root of its smaller side.
    """
    return math.prod(kernel.shape[2:]) * min(kernel.shape[:2]) ** 0.5


def _frobenius(kernel: Tensor, roundings: int) -> float:
    """Upper bound of ‖|U|‖₂ of a convolution: by Cauchy's inequality at most the root of Σ|K|² over all, times the taps."""
    taps = math.prod(kernel.shape[2:])
    return enlarged_norm(float(kernel.norm()), kernel.numel() + roundings + 2) * taps**0.5
