"""The convolutional positive concave equilibrium layer (Gabor, Piotrowski & Cavalcante 2024)."""

from __future__ import annotations

from typing import Any, Unpack

import torch

from wellposed.activations.concave import concave_activation
from wellposed.constraints.base import check_size
from wellposed.constraints.conv_nonnegative import ConvNonnegative
from wellposed.errors import check, checked_options
from wellposed.layers.conv_equilibrium import ImageLayer, input_side
from wellposed.layers.options import SolveOptions
from wellposed.layers.positive_equilibrium import PositiveEquilibrium, checked_floor
from wellposed.maps.positive_convolution import PositiveConv2d


class ConvPcDEQ(ImageLayer, PositiveEquilibrium):
    """``z* = σ(W z* + p)`` on images, W a zero-padded convolution with a nonnegative kernel of any size.

    See `PcDEQ` for the two variants; p is the positive part of a strided convolution of the input.

    Args:
        in_channels: channels of the input.
        channels: channels of the equilibrium.
        image: height and width of the input.
        activation: one of `wellposed.activations.concave_names`; the sigmoid makes it variant 2, any other variant 1.
        floor: ε; None for 0.1 in variant 1. Variant 2 has none.
        sharpness: see `PcDEQ`.
        parametrisation: of W ≥ 0, see `ConvNonnegative`.
        batch_norm: normalise U x + b over the batch, as the published networks do.
        taps: rows and columns of all kernels, odd.
        input_taps: rows and columns of the input convolution, odd; None for ``taps``.
        stride: of the input convolution.
        padding: of the input convolution; None for what keeps the size at stride one.
        bias: whether the injection has a bias.
        device: where the weights are created.
        dtype: their dtype.
        options: see `SolveOptions`; solver None is `Picard`.

    Example:
        >>> layer = ConvPcDEQ(1, 8, (28, 28), stride=2)
        >>> layer(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 8, 14, 14])
    """

    injection: PositiveConv2d
    constraint: ConvNonnegative
    injections = (PositiveConv2d,)
    constraints = (ConvNonnegative,)

    @checked_options
    def __init__(
        self,
        in_channels: int,
        channels: int,
        image: tuple[int, int],
        *,
        activation: str = "tanh",
        floor: float | None = None,
        sharpness: float = 1.0,
        parametrisation: str = "square",
        batch_norm: bool = False,
        taps: int = 3,
        input_taps: int | None = None,
        stride: int = 1,
        padding: int | None = None,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[SolveOptions],
    ) -> None:
        check_size(in_channels, "in_channels")
        check_size(channels, "channels")
        check(taps >= 1 and taps % 2 == 1, "taps", taps, "must be odd")
        side = input_side(taps, input_taps)
        check(stride >= 1, "stride", stride, "must be at least 1")
        padding = side // 2 if padding is None else padding
        check(padding >= 0, "padding", padding, "must not be negative")
        rows, columns = ((extent + 2 * padding - side) // stride + 1 for extent in image)
        check(min(rows, columns) >= 1, "image", image, f"is too small for {side} × {side} taps with padding {padding}")
        floor = checked_floor(activation, floor, sharpness, options.get("solver"))
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        injection = PositiveConv2d(
            in_channels, channels, image, side, floor, sharpness, batch_norm=batch_norm, stride=stride, padding=padding,
            bias=bias, **where,
        )  # fmt: skip
        constraint = ConvNonnegative(
            channels, (rows, columns), activation, floor, parametrisation=parametrisation, taps=taps, **where
        )
        super().__init__(injection, constraint, activation=concave_activation(activation), **options)
        self._name = activation
