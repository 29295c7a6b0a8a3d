"""What convolutional equilibrium layers share: images for states, and a zero-padded, strided input convolution."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor, nn

from wellposed.activations import Activation
from wellposed.convolution_norms import convolution_norm
from wellposed.errors import InputError, check
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.options import SolveOptions
from wellposed.norms import euclidean
from wellposed.solvers.evidence import ExactOffset
from wellposed.verified import gamma


class ConvEquilibrium(Equilibrium):
    """``z* = σ(W z* + U x + b)`` on images, U a zero-padded, strided convolution.

    Args:
        in_channels: channels of the input.
        image: height and width of the input.
        constraint: free parameters of W; it has ``channels`` and the ``image`` of the state, see `state_image`.
        taps: rows and columns of the input convolution, odd.
        stride: of the input convolution.
        activation: a name or an `Activation`.
        bias: whether the input convolution has a bias.
        device: where the weights are created.
        dtype: their dtype.
        options: see `SolveOptions`.
    """

    def __init__(
        self,
        in_channels: int,
        image: tuple[int, int],
        constraint: Any,
        *,
        taps: int,
        stride: int,
        activation: str | Activation,
        bias: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        **options: Unpack[SolveOptions],
    ) -> None:
        check(in_channels > 0, "in_channels", in_channels, "must be a positive integer")
        self._image = (int(image[0]), int(image[1]))
        channels: int = constraint.channels
        state: tuple[int, int] = constraint.image
        injection = nn.Conv2d(
            in_channels,
            channels,
            taps,
            stride=stride,
            padding=taps // 2,
            bias=bias,
            device=device,
            dtype=dtype,
        )
        super().__init__(injection, constraint, activation=activation, **options)
        self._state_shape = (channels, *state)

    def _check_sizes(self) -> None:
        pass  # both parts were made for each other

    @property
    def input_shape(self) -> tuple[int, ...]:  # noqa: D102
        return (self.injection.in_channels, *self._image)

    @property
    def in_features(self) -> int:  # noqa: D102
        return self.injection.in_channels * self._image[0] * self._image[1]

    @property
    def state_shape(self) -> tuple[int, ...]:  # noqa: D102
        return self._state_shape

    def injection_norm(self) -> float:  # noqa: D102
        return convolution_norm(self.injection.weight, self._image, self.injection.stride[0])

    def _check_shape(self, x: Tensor) -> None:
        if x.ndim < 3 or tuple(x.shape[-3:]) != self.input_shape:
            raise InputError(f"x: has shape {tuple(x.shape)}, but the layer takes images of shape {self.input_shape}")

    def _exact_offset(self, rows: Tensor) -> ExactOffset:
        convolution = self.injection
        exact, weight = rows.detach().double(), convolution.weight.detach().double()
        bias = None if convolution.bias is None else convolution.bias.detach().double()

        def apply(image: Tensor, kernel: Tensor, shift: Tensor | None) -> Tensor:
            return nn.functional.conv2d(image, kernel, shift, convolution.stride, convolution.padding)

        value = apply(exact, weight, bias)
        size = euclidean(apply(exact.abs(), weight.abs(), None if bias is None else bias.abs()))
        terms = weight[0].numel() + 4
        return ExactOffset(value, 2.0 * gamma(terms) * size)


def state_image(image: tuple[int, int], stride: int) -> tuple[int, int]:
    """Height and width of the state: those of the input divided by the stride, rounded up."""
    check(len(image) == 2 and min(image) >= 1, "image", image, "must be a positive height and width")
    check(stride >= 1, "stride", stride, "must be at least 1")
    return -(-int(image[0]) // stride), -(-int(image[1]) // stride)
