"""The convolutional monotone equilibrium layer (Winston & Kolter 2020, single convolution)."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn

from wellposed.activations import Activation
from wellposed.constraints.circular_monotone import CircularMonotone
from wellposed.convolution_norms import convolution_norm
from wellposed.errors import InputError, check, checked_options
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.options import SolveOptions
from wellposed.norms import euclidean
from wellposed.solvers.evidence import ExactOffset
from wellposed.verified import gamma


class ConvMonDEQ(Equilibrium):
    """``z* = σ(W z* + U x + b)`` on images: W a circular convolution with I − W ⪰ mI, U a zero-padded, strided one.

    Args:
        in_channels: channels of the input.
        channels: channels of the equilibrium.
        image: height and width of the input.
        m: strong-monotonicity constant, positive; larger is smoother.
        taps: rows and columns of all kernels, odd.
        stride: of the input convolution; the equilibrium has ⌈height/stride⌉ × ⌈width/stride⌉ pixels.
        activation: a name or an `Activation` with slopes in [0, 1].
        bias: whether the input convolution has a bias.
        device: where the weights are created.
        dtype: their dtype.
        options: see `SolveOptions`; solver None is Peaceman–Rachford with a step read off the weights.

    Example:
        >>> layer = ConvMonDEQ(1, 8, (28, 28), stride=2)
        >>> layer(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 8, 14, 14])
    """

    constraint: CircularMonotone

    @checked_options
    def __init__(
        self,
        in_channels: int,
        channels: int,
        image: tuple[int, int],
        *,
        m: float = 1.0,
        taps: int = 3,
        stride: int = 1,
        activation: str | Activation = "relu",
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[SolveOptions],
    ) -> None:
        check(in_channels > 0, "in_channels", in_channels, "must be a positive integer")
        check(stride >= 1, "stride", stride, "must be at least 1")
        self._image = (int(image[0]), int(image[1]))
        state = (-(-self._image[0] // stride), -(-self._image[1] // stride))
        super().__init__(
            nn.Conv2d(
                in_channels, channels, taps, stride=stride, padding=taps // 2, bias=bias, device=device, dtype=dtype
            ),
            CircularMonotone(channels, state, m, taps=taps, device=device, dtype=dtype),
            activation=activation, **options,
        )  # fmt: skip

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
        return (self.constraint.channels, *self.constraint.image)

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
