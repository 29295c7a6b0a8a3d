"""The input map of bounded layers on images: a circular, strided convolution, scaled by the metric of its layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.constraints.circular_monotone import circular_kernel
from wellposed.constraints.conv_lipschitz_bounded import ConvLipschitzBounded
from wellposed.errors import CertificateError
from wellposed.maps.base import InputMap
from wellposed.maps.convolution import CircularConvolution, convolved
from wellposed.maps.scaled import Scaled
from wellposed.operators.fourier import transfer_function


class CircularInjection(Scaled, InputMap):
    """``Ψ(Ũ x) + b`` or ``Ũ x + b``: a strided circular convolution of the image, put into a canvas that the stride divides.

    Ψ is not its own: it takes it from the constraint that it was made for, if any, so that the two cannot differ.

    Args:
        in_channels: channels of the input.
        image: height and width of the input.
        state: channels, height and width of the state.
        log_gamma: logarithm of γ, shared: Ũ is √γ times its free parameters.
        taps: rows and columns, odd; less where the canvas is smaller.
        stride: of the convolution.
        border: pixels of the state before the image.
        bias: whether there is a bias.
        where: device and dtype.
    """

    forms = ("weight", "scale")

    def __init__(
        self,
        in_channels: int,
        image: tuple[int, int],
        state: tuple[int, int, int],
        log_gamma: nn.Parameter,
        *,
        taps: int,
        stride: int,
        border: int,
        bias: bool,
        **where: Any,
    ) -> None:
        super().__init__()
        self.in_channels, self.stride, self.state = in_channels, stride, state
        self.image, self.border = (int(image[0]), int(image[1])), border
        self.free = circular_kernel(state[0], in_channels, (stride * state[1], stride * state[2]), taps, **where)
        self.bias = nn.Parameter(torch.zeros(state[0], **where)) if bias else None
        self.log_gamma = log_gamma
        self._owner: tuple[ConvLipschitzBounded, ...] = ()

    @property
    @override
    def input_shape(self) -> tuple[int, ...]:
        return (self.in_channels, *self.image)

    @property
    @override
    def output_shape(self) -> tuple[int, ...]:
        return self.state

    @property
    @override
    def stored(self) -> Tensor:
        return self.free

    @property
    def place(self) -> tuple[int, int, int, int]:
        """Zeros on the left, right, top and bottom of the image in its canvas."""
        start = self.stride * self.border
        below, right = (
            self.stride * extent - size - start for extent, size in zip(self.state[1:], self.image, strict=True)
        )
        return start, right, start, below

    @property
    def owner(self) -> ConvLipschitzBounded | None:
        """The constraint whose Ψ scales the map; None where nothing does."""
        return self._owner[0] if self._owner else None

    def take_metric(self, constraint: ConvLipschitzBounded) -> None:
        """Scale by the constraint's Ψ from now on."""
        self._owner = (constraint,)  # in a tuple: it is no part of this module

    @property
    def scale(self) -> Tensor | None:
        """Ψ as it runs, with its graph; None for the identity."""
        return self.formed("scale", lambda: torch.exp(self._owner[0].psi) if self._owner else None)

    def transfer(self, kernel: Tensor) -> Tensor:
        """The transfer function of such a convolution with another kernel, see `transfer_function`."""
        return transfer_function(kernel, *self.state[1:], (self.stride, self.stride))

    @override
    def forward(self, x: Tensor) -> Tensor:
        value = convolved(x, self.weight, self.place, self.stride)
        scale = self.scale
        if scale is not None:
            value = value * scale
        return value if self.bias is None else value + self.bias[:, None, None]

    @override
    def numbers(self) -> CircularConvolution:
        weight, scale = self.weight.detach().double(), self.scale
        bias = weight.new_zeros(len(weight)) if self.bias is None else self.bias.detach().double()
        return CircularConvolution(
            weight=weight, bias=bias[:, None, None], bias_size=bias.abs()[:, None, None], outputs=self.state[1:],
            scale=weight.new_ones(1, 1, 1) if scale is None else scale.detach().double(), place=self.place,
            stride=(self.stride, self.stride),
        )  # fmt: skip

    @override
    def check_numbers(self, name: str) -> None:
        kernel = self.free.ndim == 4 and self.free.shape[:2] == (self.state[0], self.in_channels)
        odd = all(taps % 2 == 1 for taps in self.free.shape[2:])
        biased = self.bias is None or self.bias.shape == self.state[:1]
        # Between the image, with its border, and the canvas is less than a stride.
        rest = [extent - 2 * self.stride * self.border for extent in (sum(self.place[:2]), sum(self.place[2:]))]
        if not (kernel and odd and biased and all(0 <= extent < self.stride for extent in rest)):
            raise CertificateError(
                f"{name}: does not fit images of {self.image} pixels and states of shape {self.state}"
            )
